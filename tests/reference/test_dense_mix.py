"""Dense pseudo-labels of mixed images: maxima of two, and maps of four one level down."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import DenseTeacher
from denseteacher.pseudo_labels.dense import DensePseudoLabels
from denseteacher.pseudo_labels.dense_mix import DenseTargets, maximum, mixed_partners, mixed_tiles, shifted
from denseteacher.structures import METHOD_RANDOM, ImageBatch
from support import image_batch, semi_batch
from support.closeness import assert_close_to_scale

CANVAS = (96, 160)
CLASSES = 3


def detector_of(kind, offset=0.0):
    options = {"backbone": "test_byobnet", "levels": (3, 6), "channels": 16, "head_convs": 1}
    if kind is FCOS:
        options["location_offset"] = offset
    return kind(num_classes=CLASSES, **options)


def random_numbers(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((count, METHOD_RANDOM), dtype=np.float32))


def random_dense(seed, batch, locations, *, groups=1, ignored=False):
    rng = torch.Generator().manual_seed(seed)
    selected = torch.rand(batch, locations, generator=rng) < 0.3
    scores = torch.rand(batch, locations, CLASSES, generator=rng) * selected[..., None]
    labels = DensePseudoLabels(scores, selected, scores.amax(-1).view(groups, -1).sum(1))
    boxes = torch.rand(batch, locations, 4, generator=rng) * 90
    quality = torch.rand(batch, locations, generator=rng)
    left_out = torch.rand(batch, locations, generator=rng) < 0.2 if ignored else None
    return DenseTargets(labels, boxes, quality, left_out)


# --- mixup -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_pair_is_taught_what_either_is(groups):
    targets = random_dense(groups, 4, 50, groups=groups, ignored=True)
    partners = torch.tensor([2, 0, 3, 1])
    found = maximum(targets, partners)
    scores, selected, boxes, quality, ignored = (
        value.double().numpy()
        for value in (targets.labels.targets, targets.labels.selected, targets.boxes, targets.quality, targets.ignored)
    )
    sums = np.zeros(groups)
    for row, other in enumerate(partners.tolist()):
        for place in range(50):
            own, its = scores[row, place], scores[other, place]
            richer = other if its.max() > own.max() else row
            assert_close_to_scale(found.labels.targets[row, place], np.maximum(own, its), scale=1)
            assert found.labels.selected[row, place] == bool(selected[row, place] or selected[other, place])
            assert found.boxes[row, place].tolist() == boxes[richer, place].tolist()
            assert float(found.quality[row, place]) == quality[richer, place]
            taught = any(selected[one, place] and not ignored[one, place] for one in (row, other))
            left_out = any(ignored[one, place] for one in (row, other))
            assert found.ignored[row, place] == (left_out and not taught)
            sums[row * groups // 4] += max(own.max(), its.max())
    assert_close_to_scale(found.labels.normalizer, sums)


def test_images_are_halves_of_two():
    sizes = [(64, 40), (48, 64), (64, 64), (20, 30)]
    images = image_batch(1, batch=4, height=64, width=64, sizes=sizes)
    images = images._replace(canvases=((64, 64), (64, 64), (64, 64), (32, 32)))
    random = random_numbers(4)
    mixed, _ = mixed_partners(images, random_dense(0, 4, 5), random)
    order = np.argsort(random[:, 0].numpy())
    mean = np.array([124, 116, 104])[:, None, None]
    for place, row in enumerate(order):
        other = order[(place + 1) % 4]
        halves = []
        for one in (row, other):
            height, width = sizes[one]
            shown = np.broadcast_to(mean, (3, 64, 64)).astype(float)
            shown[:, :height, :width] = images.pixels[one, :, :height, :width].numpy()
            halves.append(shown)
        height, width = np.maximum(sizes[row], sizes[other])
        expected = np.floor((halves[0] + halves[1]) / 2 + 0.5)
        expected[:, height:] = expected[:, :, width:] = 0
        assert mixed.pixels[row].numpy().tolist() == expected.tolist()
        assert mixed.canvases[row] == tuple(max(images.canvases[one][axis] for one in (row, other)) for axis in (0, 1))


def test_one_image_is_mixed_with_itself():
    images = image_batch(1, batch=1, height=32, width=32)
    mixed, _ = mixed_partners(images, random_dense(0, 1, 5), random_numbers(1))
    assert torch.equal(mixed.pixels, images.pixels)


# --- mosaic ----------------------------------------------------------------------------------------------


class Equivariant:
    """Says at each location what it sees of one object of its size, as a function of the distance in strides."""

    def __init__(self, detector, canvas):
        anchors = detector.anchors(canvas, torch.device("cpu")).numpy().astype(np.float64)
        self.centers = ((anchors[:, :2] + anchors[:, 2:]) / 2).round(2)
        self.shapes = anchors[:, 2:] - anchors[:, :2]
        self.levels = detector.levels(torch.from_numpy(anchors).float()).numpy()
        self.strides = np.array(detector.strides)[self.levels]

    def __call__(self, objects, area):
        """Scores, boxes and quality; of an area alone, an object's range of sizes being one level's."""
        count = len(self.centers)
        scores, boxes, quality = np.zeros((count, CLASSES)), np.zeros((count, 4)), np.zeros(count)
        inside = ((self.centers >= area[:2]) & (self.centers < area[2:])).all(1)
        for label, box in objects:
            middle, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max()
            fits = inside & (side >= 2 * self.strides) & (side < 4 * self.strides)
            near = np.exp(-(((self.centers - middle) / self.strides[:, None]) ** 2).sum(1) / 3)
            near = near * (1 + (self.shapes / self.strides[:, None])[:, 0] / 20) / 2
            chosen = fits & (near > 0.01)
            scores[chosen, label] = near[chosen]
            boxes[chosen] = box
            quality[chosen] = near[chosen] / 2
        return scores, boxes, quality


def objects_on(rng, sizes):
    found = []
    for _ in range(4):
        sides = rng.uniform(16, 90, 2)
        corner = rng.uniform(0, 1, 2) * (sizes - sides).clip(min=0)
        found.append((int(rng.integers(CLASSES)), np.concatenate([corner, corner + sides])))
    return found


@pytest.mark.parametrize("canvas", [(96, 160), (128, 128), (160, 224)])
@pytest.mark.parametrize(("kind", "offset"), [(FCOS, 0.0), (FCOS, 0.5), (RetinaNet, 0.0)])
def test_maps_one_level_down_are_those_of_the_mosaic(kind, offset, canvas):
    detector = detector_of(kind, offset)
    says, rng = Equivariant(detector, canvas), np.random.default_rng(canvas[1])
    whole = np.array([canvas[1], canvas[0]], dtype=float)
    middle = np.array([canvas[1] // 2 // 32 * 32, canvas[0] // 2 // 32 * 32], dtype=float)
    images = [objects_on(rng, whole) for _ in range(5)]
    chosen = [3, 0, 4, 1]
    outputs = [says(objects, np.concatenate([np.zeros(2), whole])) for objects in images]
    scores, boxes, quality = (torch.from_numpy(np.stack(field)).float() for field in zip(*outputs, strict=True))
    selected = scores.amax(-1) > 0
    labels = DensePseudoLabels(scores, selected, scores.amax(-1).sum()[None])
    targets = DenseTargets(labels, boxes, quality, None)
    found = shifted(detector, targets, [torch.tensor([one]) for one in chosen], canvas)

    expected = [np.zeros_like(field) for field in outputs[0]]
    for tile, one in enumerate(chosen):
        start = middle * [tile % 2, tile // 2]
        end = np.where([tile % 2, tile // 2], whole, middle)
        moved = [(label, box / 2 + np.tile(start, 2)) for label, box in images[one]]
        # what is smaller than the finest level's range at half size belonged to the teacher's finest level
        area = np.concatenate([start, np.minimum(end, start + whole / 2)])
        for total, part in zip(expected, says(moved, area), strict=True):
            total += part
    assert expected[0].any()
    assert_close_to_scale(found.labels.targets[0], expected[0])
    taught = expected[0].max(1) > 0
    assert_close_to_scale(found.boxes[0, taught], expected[1][taught], scale=max(canvas))
    assert_close_to_scale(found.quality[0], expected[2])
    assert found.labels.selected[0].numpy().tolist() == (expected[0].max(1) > 0).tolist()
    quarter = scores[chosen].amax(-1).sum() / 4
    assert_close_to_scale(found.labels.normalizer, [max(expected[0].max(1).sum(), float(quarter))])
    assert not found.labels.selected[0, torch.from_numpy(says.levels) == 3].any()

    teachers = (says.levels == 0) & (selected.numpy()[chosen]).any(0)
    assert found.ignored.any() == bool(teachers.any())
    for place in range(len(says.centers)):
        point = says.centers[place]
        tile = int(point[0] >= middle[0]) + 2 * int(point[1] >= middle[1])
        if says.levels[place] or not selected.any():
            assert not found.ignored[0, place]
            continue
        start = middle * [tile % 2, tile // 2]
        low = np.floor((point - start) / 8) * 16  # of the cell at full size
        cell = (says.centers >= low - 1e-6).all(1) & (says.centers < low + 16 - 1e-6).all(1) & (says.levels == 0)
        had = selected[chosen[tile]].numpy()[cell].any()
        assert bool(found.ignored[0, place]) == bool(had and not found.labels.selected[0, place])


def test_a_mosaic_shows_half_sized_images_around_the_middle():
    detector, random = detector_of(FCOS), random_numbers(9)
    images = image_batch(2, batch=9, height=CANVAS[0], width=CANVAS[1])
    locations = sum(height * width for height, width in detector.shapes(CANVAS))
    mosaics, targets = mixed_tiles(detector, images, random_dense(0, 9, locations), random)
    assert mosaics.sizes.tolist() == [list(CANVAS)] * 2
    assert len(targets.boxes) == 2
    assert len(targets.labels.normalizer) == 1
    order = np.argsort(random[:, 1].numpy())[:8].reshape(4, 2)
    for mosaic in range(2):
        for tile, one in enumerate(order[:, mosaic]):
            full = images.pixels[one].double().numpy()
            half = (full[:, ::2, ::2] + full[:, 1::2, ::2] + full[:, ::2, 1::2] + full[:, 1::2, 1::2]) / 4
            top, left = 32 * (tile // 2), 64 * (tile % 2)
            height, width = (48, 32)[tile < 2], (80, 64)[tile % 2 == 0]
            shown = mosaics.pixels[mosaic, :, top : top + height, left : left + width].double().numpy()
            assert np.abs(shown - np.floor(half[:, :height, :width] + 0.5)).max() <= 1
    padding = mosaics.pixels[0, :, 81:].reshape(3, -1)
    assert (padding == torch.tensor([[124], [116], [104]])).all()


def test_few_images_are_there_again():
    detector = detector_of(FCOS)
    images = image_batch(2, batch=2, height=64, width=64)
    locations = sum(height * width for height, width in detector.shapes((64, 64)))
    mosaics, _ = mixed_tiles(detector, images, random_dense(0, 2, locations), random_numbers(2))
    assert len(mosaics.sizes) == 1


# --- in a step -------------------------------------------------------------------------------------------


@pytest.fixture(params=[FCOS, RetinaNet])
def pair(request):
    torch.manual_seed(0)
    student, teacher = (detector_of(request.param).eval() for _ in range(2))
    with torch.no_grad():
        teacher.head.cls.bias += 3
    return student, teacher


def losses_of(method, pair, batch):
    return {name: float(value.detach()) for name, value in method.losses(*pair, batch, 20).losses.items()}


def test_the_parts_are_summed_with_their_weights(pair):
    batch = semi_batch(unlabeled=4)
    base = DenseTeacher(burn_in=10, ratio=0.1, cls_weight=1)
    plain = losses_of(base, pair, batch)
    mosaic = losses_of(base.model_copy(update={"mix": "mosaic", "mosaic_weight": 0.0}), pair, batch)
    assert_close_to_scale(mosaic, plain)
    one, two = (
        losses_of(base.model_copy(update={"mix": "mosaic", "mosaic_weight": weight}), pair, batch)
        for weight in (1.0, 2.0)
    )
    for name, value in plain.items():
        assert_close_to_scale(two[name] - value, 2 * (one[name] - value), scale=abs(value), share=1e-3)
        assert name.startswith("unsup/") or one[name] == value
    assert one["unsup/cls"] > plain["unsup/cls"]


def test_equal_images_that_are_mixed_are_the_image(pair):
    batch = semi_batch(unlabeled=4)
    unlabeled = batch.unlabeled
    weak, strong = (
        ImageBatch(images.pixels[:1].repeat(4, 1, 1, 1), images.sizes) for images in (unlabeled.weak, unlabeled.strong)
    )
    batch = batch._replace(unlabeled=unlabeled._replace(weak=weak, strong=strong))
    base = DenseTeacher(burn_in=10, ratio=0.1, group_size=1)
    found = losses_of(base.model_copy(update={"mix": "mixup"}), pair, batch)
    assert_close_to_scale(found, losses_of(base, pair, batch))
