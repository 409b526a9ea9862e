"""ISMT's memory against a plain NumPy one that keeps lists of boxes in the pixels of the files."""

import numpy as np
import torch

from denseteacher.data.augment.weak import Geometry
from denseteacher.pseudo_labels.boxes import PseudoBoxes, fuse
from denseteacher.pseudo_labels.label_memory import empty_memory, memorize, recall
from support.closeness import assert_close_to_scale

FILE = (60, 90)  # height and width of every image file


def _views(rng, count):
    """Resized and flipped views of the files: their maps and sizes."""
    drawn = [
        Geometry(int(rng.integers(30, 130)), int(rng.integers(40, 160)), bool(rng.integers(2))) for _ in range(count)
    ]
    matrices = torch.stack([one.matrix(*FILE) for one in drawn])
    return matrices, torch.tensor([[one.height, one.width] for one in drawn])


def _found(rng, sizes, most, classes):
    """Boxes on views, the best first."""
    count = len(sizes)
    mask = np.arange(most)[None] < rng.integers(0, most + 1, count)[:, None]
    height, width = sizes.numpy()[:, :, None].transpose(1, 0, 2)
    x, y = (
        np.sort(rng.uniform(0, width[..., None], (count, most, 2))),
        np.sort(rng.uniform(0, height[..., None], (count, most, 2))),
    )
    boxes = np.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=2)
    scores = -np.sort(-rng.uniform(0.3, 1, (count, most)))
    labels = rng.integers(0, classes, (count, most))
    return PseudoBoxes(
        torch.from_numpy(boxes * mask[..., None]).float(),
        torch.from_numpy(labels * mask),
        torch.from_numpy(mask),
        torch.from_numpy(scores * mask).float(),
    )


def _to_file(box, matrix):
    corners = np.linalg.inv(matrix) @ np.array([[box[0], box[2]], [box[1], box[3]], [1, 1]])
    return np.concatenate([corners[:2].min(1), corners[:2].max(1)])


def _overlap(one, other):
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    total = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - np.prod(sides)
    return np.prod(sides) / total if total else 0.0


def _nms(rows, threshold):
    kept = []
    for row in sorted(rows, key=lambda row: -row[0]):
        if all(row[1] != other[1] or _overlap(row[2], other[2]) <= threshold for other in kept):
            kept.append(row)
    return kept


def test_a_history_agrees_with_numpy():
    rng = np.random.default_rng(0)
    images, room, classes, threshold, forget, nms = 5, 4, 3, 0.4, 0.8, 0.5
    memory = empty_memory(images, room)
    expected = {image: [] for image in range(images)}
    recalled_ever = 0
    for _ in range(30):
        positions = torch.from_numpy(rng.permutation(images)[:3])
        matrices, sizes = _views(rng, 3)
        found = _found(rng, sizes, most=6, classes=classes)
        remembered = recall(memory, positions, matrices, sizes, threshold=threshold, forget=forget)
        fused = fuse(found, remembered, classes=classes, nms_threshold=nms)
        memory = memorize(memory, positions, matrices, fused)
        for row, image in enumerate(positions.tolist()):
            faded = [(forget * score, label, box) for score, label, box in expected[image]]
            faded = [one for one in faded if one[0] > threshold]
            recalled_ever += len(faded)
            new = [
                (float(score), int(label), _to_file(box.double().numpy(), matrices[row].double().numpy()))
                for box, label, mask, score in zip(*(field[row] for field in found), strict=True)
                if mask
            ]
            union = _nms(new + faded, nms)
            assert int(remembered.mask[row].sum()) == len(faded)
            assert fused.labels[row][fused.mask[row]].tolist() == [label for _, label, _ in union]
            on_file = [_to_file(box, matrices[row].double().numpy()) for box in fused.boxes[row].double().numpy()]
            for (score, _, box), actual, own in zip(union, on_file, fused.scores[row].tolist(), strict=False):
                assert_close_to_scale(actual, box, scale=max(FILE))
                assert_close_to_scale(own, score)
            expected[image] = union[:room]
        for image, rows in expected.items():
            assert int((memory["scores"][image] > 0).sum()) == len(rows)
            for place, (score, label, box) in enumerate(rows):
                assert_close_to_scale(memory["scores"][image, place], score)
                assert int(memory["labels"][image, place]) == label
                assert_close_to_scale(memory["boxes"][image, place], box, scale=max(FILE))
    assert recalled_ever > 100


def test_boxes_come_back_from_any_view_unchanged():
    rng = np.random.default_rng(1)
    memory = empty_memory(1, 3)
    matrices, sizes = _views(rng, 1)
    found = _found(rng, sizes, most=3, classes=2)._replace(mask=torch.ones(1, 3, dtype=torch.bool))
    found = found._replace(scores=torch.tensor([[0.9, 0.8, 0.7]]))
    first = memory = memorize(memory, torch.tensor([0]), matrices, found)
    for _ in range(200):
        matrices, sizes = _views(rng, 1)
        back = recall(memory, torch.tensor([0]), matrices, sizes, threshold=0.1, forget=1.0)
        assert back.mask.all()
        memory = memorize(memory, torch.tensor([0]), matrices, back)
    assert_close_to_scale(memory["boxes"], first["boxes"], scale=max(FILE))
    assert torch.equal(memory["scores"], first["scores"])
    assert torch.equal(memory["labels"], first["labels"])


def test_an_unconfirmed_box_fades_away_and_a_new_one_takes_over():
    box = torch.tensor([[[10.0, 10, 50, 40]]])
    one = PseudoBoxes(
        box, torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool), torch.full((1, 1), 0.9)
    )
    eye, sizes, place = torch.eye(3)[None], torch.tensor([FILE]), torch.tensor([0])
    memory, visits = memorize(empty_memory(1, 2), place, eye, one), 0
    while True:
        back = recall(memory, place, eye, sizes, threshold=0.5, forget=0.9)
        if not back.mask.any():
            break
        visits += 1
        memory = memorize(memory, place, eye, back)
    assert visits == 5  # 0.9 ** 6 is above 0.5, 0.9 ** 7 is not
    stronger = one._replace(boxes=box + 1, scores=torch.full((1, 1), 0.85))
    fused = fuse(stronger, one._replace(scores=torch.full((1, 1), 0.81)), classes=3, nms_threshold=0.6)
    assert fused.mask.sum() == 1
    assert torch.equal(fused.boxes[0, 0], box[0, 0] + 1)
    other_class = one._replace(labels=torch.zeros(1, 1, dtype=torch.int64))
    assert fuse(one, other_class, classes=3, nms_threshold=0.6).mask.sum() == 2


def test_an_image_that_occurs_twice_is_remembered_as_found_last():
    rng = np.random.default_rng(2)
    positions = torch.tensor([3, 1, 3])
    matrices, sizes = _views(rng, 3)
    found = _found(rng, sizes, most=5, classes=2)
    memory = empty_memory(6, 3)
    before = {name: value.clone() for name, value in memory.items()}
    together = memorize(memory, positions, matrices, found)
    alone = memorize(memory, positions[1:], matrices[1:], PseudoBoxes(*(field[1:] for field in found)))
    for name in memory:
        assert_close_to_scale(together[name], alone[name], scale=max(FILE) if name == "boxes" else 1, what=name)
        assert torch.equal(memory[name], before[name])  # what was given is not changed
    assert together["boxes"][[0, 2, 4, 5]].abs().sum() == 0
