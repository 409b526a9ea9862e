"""Instant-Teaching: whose labels are believed, how they are rectified, and what is mixed with what."""

import numpy as np
import pytest
import torch

from denseteacher.data.augment.mix import mixup, mosaic
from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import InstantTeaching, PseudoBoxTeacher
from denseteacher.pseudo_labels.boxes import PseudoBoxes, pseudo_boxes
from denseteacher.pseudo_labels.rectify import rectify
from denseteacher.structures import METHOD_RANDOM, Targets, take
from support import image_batch, semi_batch, student_and_teacher, tensors_of
from support.closeness import assert_close_to_scale

AFTER = 20


class Boxes(PseudoBoxTeacher):
    """What the family learns without mixing."""


def numbers(count=2000, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((count, METHOD_RANDOM), dtype=np.float32))


@pytest.fixture(params=[FCOS, RetinaNet])
def pair(request):
    """A student and a teacher that see different things."""
    student, teacher = student_and_teacher(request.param)
    with torch.no_grad():
        for detector in (student, teacher):
            detector.head.cls.bias += 3
            spread = detector(image_batch(5, batch=2, height=64, width=64)).logits.std()
            detector.head.cls.weight *= 2 / spread  # confident in places
    return student, teacher


# --- rectification ---------------------------------------------------------------------------------------


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (area - common) if area > common else 0.0


def rectified_by_hand(box, score, label, boxes, scores, size, floor, candidates):
    """One box against all of the other's predictions that are among its best."""
    height, width = size
    best, partner = 0.5, None
    for place in np.argsort(-scores.max(1))[:candidates]:
        clipped = np.clip(boxes[place], 0, [width, height, width, height])
        found = overlap(box, clipped)
        if found > best and scores[place, label] > floor:
            best, partner = found, (clipped, scores[place, label])
    if partner is None:
        return box, score / 2
    return (score * box + partner[1] * partner[0]) / (score + partner[1]), (score + partner[1]) / 2


def predictions(seed, batch=3, locations=80, classes=3):
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, locations, 2, generator=rng) * 60 - 10
    boxes = torch.cat([corner, corner + 12 + torch.rand(batch, locations, 2, generator=rng) * 20], dim=2)
    return (
        boxes,
        torch.rand(batch, locations, classes, generator=rng) ** 2,
        torch.tensor([[64, 48], [48, 64], [40, 40]]),
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("candidates", [1000, 30])
def test_rectification_agrees_with_a_loop(seed, candidates):
    boxes, scores, sizes = predictions(seed)
    found = pseudo_boxes(*predictions(seed + 100)[:2], sizes, threshold=0.6, nms_threshold=0.5)
    new = rectify(found, boxes, scores, sizes, score_floor=0.1, candidates=candidates)
    assert torch.equal(new.mask, found.mask)
    assert torch.equal(new.labels, found.labels)
    met = 0
    for index in range(3):
        for row in range(found.mask.shape[1]):
            if not found.mask[index, row]:
                assert not new.boxes[index, row].any()
                assert new.scores[index, row] == 0
                continue
            box, score = rectified_by_hand(
                found.boxes[index, row].double().numpy(),
                float(found.scores[index, row]),
                int(found.labels[index, row]),
                boxes[index].double().numpy(),
                scores[index].numpy(),
                sizes[index].numpy(),
                0.1,
                candidates,
            )
            met += score != float(found.scores[index, row]) / 2
            assert_close_to_scale(new.boxes[index, row], box)
            assert_close_to_scale(new.scores[index, row], score)
    assert 0 < met < int(found.mask.sum())


def test_a_model_that_asks_itself_changes_nothing():
    boxes, scores, _ = predictions(3)
    sizes = torch.full((3, 2), 100)  # no two boxes are cut to the same one
    found = pseudo_boxes(boxes, scores, sizes, threshold=0.6, nms_threshold=0.5)
    assert found.mask.any()
    for new, old in zip(rectify(found, boxes, scores, sizes), found, strict=True):
        assert_close_to_scale(new, old)


def test_two_that_agree_keep_a_box_and_its_score():
    box = torch.tensor([[[4.0, 4.0, 24.0, 20.0]]])
    found = PseudoBoxes(box, torch.tensor([[1]]), torch.tensor([[True]]), torch.tensor([[0.8]]))
    same = rectify(found, box, torch.tensor([[[0.0, 0.8]]]), torch.tensor([[32, 32]]))
    assert_close_to_scale(same.boxes, box)
    assert_close_to_scale(same.scores, found.scores)
    other_class = rectify(found, box, torch.tensor([[[0.8, 0.0]]]), torch.tensor([[32, 32]]))
    assert_close_to_scale(other_class.boxes, box)
    assert_close_to_scale(other_class.scores, found.scores / 2)


# --- whose labels ----------------------------------------------------------------------------------------


def test_the_student_labels_for_itself_and_the_teacher_is_not_asked(pair):
    student, _ = pair
    batch = semi_batch()
    method = InstantTeaching(burn_in=10, threshold=0.3, co_rectify=False, mix_probability=0)
    expected = Boxes(burn_in=10, threshold=0.3, cls_weight=1, box=True).losses(student, student, batch, AFTER)
    assert expected.metrics["pseudo/boxes"] > 0

    def refuse(images):
        raise AssertionError("the teacher was asked")

    found = method.losses(student, refuse, batch, AFTER)
    assert found.losses.keys() == expected.losses.keys()
    assert_close_to_scale(found.losses, expected.losses)


def test_the_students_labels_have_no_gradient(pair):
    student, teacher = pair
    method = InstantTeaching(burn_in=10, threshold=0.3, mix_probability=1)
    seen = []
    hook = student.register_forward_hook(lambda module, images, output: seen.append(output.logits.requires_grad))
    method.losses(student, teacher, semi_batch(), AFTER)
    hook.remove()
    assert seen == [False, True]


def test_co_rectified_labels_are_what_both_believe(pair):
    student, teacher = pair
    batch = semi_batch()
    method = InstantTeaching(threshold=0.4)
    with torch.no_grad():
        both = method.labels(student, method.teacher_output(student, teacher, batch.unlabeled), batch.unlabeled.weak)
        swapped = method.labels(student, method.teacher_output(teacher, student, batch.unlabeled), batch.unlabeled.weak)
    assert both.mask.any()
    assert (both.scores[both.mask] > 0.4).all()
    # who comes first decides nothing but between equal scores
    assert_close_to_scale(both.scores.sort().values, swapped.scores.sort().values)


def test_what_the_other_does_not_see_goes(pair):
    student, teacher = pair
    batch = semi_batch()
    method = InstantTeaching(threshold=0.5)  # of a single score no more than 0.5 is left
    with torch.no_grad():
        assert method.labels(
            student, method.teacher_output(student, student, batch.unlabeled), batch.unlabeled.weak
        ).mask.any()
        teacher.head.cls.bias -= 100
        for one, other in ((student, teacher), (teacher, student)):
            assert not method.labels(
                student, method.teacher_output(one, other, batch.unlabeled), batch.unlabeled.weak
            ).mask.any()


# --- what is mixed ---------------------------------------------------------------------------------------


def test_decisions_have_the_published_frequencies():
    method = InstantTeaching()
    blended, tiled = method.pairs(numbers(40000), partners=3)
    assert abs(len(blended.rows) / 40000 - 0.25) < 0.01
    assert abs(len(tiled.rows) / 40000 - 0.25) < 0.01
    assert not set(blended.rows.tolist()) & set(tiled.rows.tolist())
    for pairs in (blended, tiled):
        counts = pairs.partners.bincount(minlength=3) / len(pairs.partners)
        assert (counts - 1 / 3).abs().max() < 0.02
    edges = torch.linspace(0, 1, 5)
    assert (torch.histogram(blended.share, edges).hist / len(blended.share) - 0.25).abs().max() < 0.02
    assert 0.25 <= tiled.share.min() < 0.26
    assert 0.74 < tiled.share.max() <= 0.75
    assert abs(tiled.beside.float().mean() - 0.5) < 0.02


def test_decisions_are_functions_of_an_images_own_numbers():
    method = InstantTeaching()
    many = numbers(64)
    whole = method.pairs(many, partners=5)
    for row in range(64):
        alone = method.pairs(many[row : row + 1], partners=5)
        for one, all_ in zip(alone, whole, strict=True):
            mine = all_.rows == row
            assert len(one.rows) == int(mine.sum())
            for found, expected in zip(one[1:], all_[1:], strict=True):
                assert torch.equal(found, expected[mine])


def test_a_partner_is_always_there():
    most = torch.full((4, METHOD_RANDOM), 1 - 2**-24)
    most[:, :2] = 0
    for partners in (1, 2, 3, 1000, 2**20):
        assert InstantTeaching().pairs(most, partners=partners)[1].partners.tolist() == [partners - 1] * 4


def mixing_batch(labeled=3, unlabeled=5, seed=0):
    """Labeled and unlabeled images of different number and size, on one canvas."""
    batch = semi_batch(seed, labeled=labeled, unlabeled=unlabeled)
    sizes = [(64, 40), (48, 64), (64, 64)]
    strong = image_batch(9, batch=labeled, height=64, width=64, sizes=sizes[:labeled])
    return batch._replace(labeled=batch.labeled._replace(strong=strong))


def some_boxes(images):
    return Targets(
        torch.tensor([[[4.0, 6.0, 30.0, 28.0], [8.0, 30.0, 60.0, 62.0]]]).repeat(images, 1, 1),
        torch.tensor([[1, 2]]).repeat(images, 1),
        torch.ones(images, 2, dtype=torch.bool),
    )


def test_each_image_becomes_what_its_decision_says():
    batch = mixing_batch()
    # no mixing, mixup with the first, mosaic with the last side by side, mosaic on top of another, mixup
    decisions = [[0.5, 0, 0, 0], [0, 0.9, 0.1, 0.3], [0, 0.1, 0.9, 0.5], [0.1, 0, 0.4, 0.2], [0.49, 0.5, 0.4, 1]]
    chance = torch.full((5, METHOD_RANDOM), 0.1)
    chance[:, :4] = torch.tensor(decisions)
    chance[3, 4] = 0.9
    batch = batch._replace(unlabeled=batch.unlabeled._replace(random=chance))
    found = some_boxes(5)
    mixed = InstantTeaching().mix(found, *batch)

    def single(row):
        return take(batch.unlabeled.strong, slice(row, row + 1)), take(found, slice(row, row + 1))

    def partner(row):
        return take(batch.labeled.strong, slice(row, row + 1)), take(batch.labeled.targets, slice(row, row + 1))

    expected = {
        1: mixup(*single(1), *partner(0), torch.tensor([0.3])),
        2: mosaic(*single(2), *partner(2), torch.tensor([0.5]), torch.tensor([True])),
        3: mosaic(*single(3), *partner(1), torch.tensor([0.35]), torch.tensor([False])),
        4: mixup(*single(4), *partner(1), torch.tensor([1.0])),
    }
    for row, one in expected.items():
        for whole, part in zip(tensors_of(mixed), tensors_of(one), strict=True):
            assert_close_to_scale(whole[row], part[0])
    assert torch.equal(mixed.images.pixels[0], batch.unlabeled.strong.pixels[0])
    assert torch.equal(mixed.targets.boxes[0, :2], found.boxes[0])
    assert mixed.targets.mask[0].tolist() == [True, True, False, False, False]
    assert torch.equal(mixed.weights[0], torch.ones(5))


def test_without_mixing_the_strong_views_are_shown(pair):
    student, teacher = pair
    batch = mixing_batch()
    method = InstantTeaching(burn_in=10, threshold=0.3, mix_probability=0)
    found = some_boxes(5)
    mixed = method.mix(found, *batch)
    assert torch.equal(mixed.images.pixels, batch.unlabeled.strong.pixels)
    assert torch.equal(mixed.targets.boxes[:, :2], found.boxes)
    assert not mixed.targets.mask[:, 2:].any()
    assert torch.equal(mixed.weights, torch.ones_like(mixed.weights))
    always = method.model_copy(update={"mix_probability": 1.0})
    losses = [one.losses(student, teacher, batch, AFTER).losses for one in (method, always)]
    assert losses[0]["unsup/cls"] != losses[1]["unsup/cls"]
    assert losses[0]["sup/cls"] == losses[1]["sup/cls"]


def test_boxes_move_with_the_strong_view_before_they_are_mixed(pair):
    student, teacher = pair
    batch = semi_batch()
    shift = torch.eye(3).repeat(2, 1, 1)
    shift[:, 0, 2] = 10
    method = InstantTeaching(burn_in=10, threshold=0.3, mix_probability=0)
    with torch.no_grad():
        teacher_output = method.teacher_output(student, teacher, batch.unlabeled)
        tasks = [
            method.student_task(
                student, teacher_output, batch.labeled, batch.unlabeled._replace(to_strong=matrix), None
            )
            for matrix in (None, shift)
        ]
    still, moved = (task.loss.args[1] for task in tasks)
    inside = still.mask & (still.boxes[..., 2] < 50)
    assert inside.any()
    assert_close_to_scale(moved.boxes[inside], still.boxes[inside] + torch.tensor([10.0, 0, 10, 0]))
