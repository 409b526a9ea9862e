"""What a check measures, against the parts of training that it stands for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from denseteacher.check.cost import step_memory, worst_canvas
from denseteacher.check.fit import scale_findings
from denseteacher.data.augment.weak import WeakView, pad_targets
from denseteacher.data.formats import read_labeled
from denseteacher.data.loading.steps import StepDataset
from denseteacher.data.objects import Objects
from denseteacher.data.open import TrainingData
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.detectors import FCOSConfig, RetinaNetConfig, shape_detector
from denseteacher.ops.boxes import iou
from denseteacher.recipes.object_scales import measure_scales
from denseteacher.recipes.resolve import recipe_foreground
from denseteacher.recipes.schema import load_recipe

VIEW = WeakView(short_side=(256,), max_side=512)
"""Leaves an image of 256 x 320 as it is."""


def random_objects(count, seed=0):
    """Boxes of 1 to 250 px, most of them small, in images of 256 x 320 pixels."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(0, np.log(250), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([320, 256]) - sides)
    boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32).astype(np.float64)
    return Objects(boxes, np.zeros(count, np.int64), np.arange(count), np.tile([256.0, 320.0], (count, 1)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"center_radius": 0.0},
        {"size_factor": 4.0, "location_offset": 0.5},
        {"levels": (3, 5), "center_radius": 1.0},
    ],
    ids=str,
)
def test_the_level_of_an_object_is_where_fcos_trains_it_most(options):
    config = FCOSConfig(backbone="test_byobnet", channels=16, **options)
    objects = random_objects(300)
    detector = shape_detector(config, 1)
    scales = measure_scales(objects, VIEW, detector)
    anchors = detector.anchors((256, 320), torch.device("cpu"))
    targets = pad_targets(list(objects.boxes[:, None]), list(objects.labels[:, None]))
    foreground = detector.foreground(targets, anchors)
    strides = anchors[:, 2] - anchors[:, 0]
    counts = torch.stack([foreground[:, strides == stride].sum(1) for stride in scales.strides], dim=1)
    expected = torch.where(counts.sum(1) > 0, counts.argmax(1), -1)
    assert scales.level.tolist() == expected.tolist()
    assert 0 < len(scales.missed) < 300


def test_retinanet_misses_what_no_anchor_overlaps_enough():
    config = RetinaNetConfig(backbone="test_byobnet", channels=16)
    objects = random_objects(200)
    detector = shape_detector(config, 1)
    scales = measure_scales(objects, VIEW, detector)
    anchors = detector.anchors((256, 320), torch.device("cpu"))
    boxes = torch.from_numpy(objects.boxes).float()
    best = torch.stack([iou(box[None].expand_as(anchors), anchors) for box in boxes]).amax(1)
    sure = (best - 0.4).abs() > 1e-4
    assert ((scales.level >= 0) == (best >= 0.4).numpy())[sure.numpy()].all()
    assert scales.misses_many


def test_of_many_objects_a_thousand_are_looked_at():
    objects, detector = random_objects(2500), shape_detector(FCOSConfig(backbone="test_byobnet", channels=16), 1)
    scales = measure_scales(objects, VIEW, detector)
    assert (len(scales.level), scales.looked_at[0], scales.looked_at[-1]) == (1000, 0, 2499)
    assert np.array_equal(scales.boxes, objects.boxes[scales.looked_at])
    images = [ImageRecord(number, Path(f"{number}.png"), 256, 320) for number in range(2500)]
    labeled = LabeledImages(images, list(objects.boxes[:, None]), list(objects.labels[:, None]), [])
    (found,) = scale_findings(labeled, scales)
    assert found.count == len(scales.missed)
    assert found.examples[0].startswith(f"{scales.looked_at[scales.missed[0]]}.png: ")
    assert "1,000 of 2,500 objects were looked at" in found.meaning


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_foreground_is_that_of_the_runs_own_batches(coco, tiny, name):
    recipe = load_recipe("custom", [*tiny, f"detector.name={name}", "data.labeled_batch=4"])
    labeled = read_labeled(coco)
    detector = shape_detector(recipe.detector, 3)
    keys = {"seed": recipe.seed, "needs_unlabeled": lambda step: False}
    steps = StepDataset(TrainingData(labeled, []), recipe.data, recipe.augment, **keys)
    found = locations = 0
    for step in range(3):
        loaded = steps.load(step)
        anchors = detector.anchors(loaded.labeled.pixels.shape[-2:], torch.device("cpu"))
        foreground = detector.foreground(loaded.targets, anchors)
        found, locations = found + int(foreground.sum()), locations + foreground.numel()
    measured = recipe_foreground(recipe, detector, labeled)
    assert measured.images == 12
    assert measured.share == pytest.approx(found / locations, rel=1e-12)
    assert measured.positives == pytest.approx(found / 12)
    assert measured.ratio == pytest.approx(2.5 * found / locations, rel=5e-3)


def test_memory_grows_with_what_it_should(tiny):
    recipe = load_recipe("custom", [*tiny, "data.labeled_batch=8", "data.unlabeled_batch=8"])
    detector = shape_detector(recipe.detector, 3)
    memory = step_memory(recipe, detector, (128, 128), 5)
    assert list(memory.parts) == [1, 2, 4, 8]
    changing = [size - memory.fixed for size in memory.parts.values()]
    assert changing == sorted(changing, reverse=True)
    assert changing[0] > 3 * changing[2]
    weights = sum(4 * one.numel() for one in detector.parameters())
    assert memory.fixed == pytest.approx(3 * weights, rel=0.01)  # student, teacher, momentum
    larger = step_memory(recipe, detector, (256, 256), 5)
    assert larger.parts[1] - larger.fixed == pytest.approx(4 * changing[0], rel=0.1)
    assert memory.fitting(8) == 1
    assert memory.fitting(1) is None


def test_supervised_needs_less_memory(tiny):
    sizes = []
    for name in ("dense_teacher", "supervised"):
        recipe = load_recipe("custom", [*tiny, f"method.name={name}"])
        sizes.append(step_memory(recipe, shape_detector(recipe.detector, 3), (96, 96), 5).parts[1])
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dense_teacher", "method.half_view=true"),
        ("dense_teacher_plus", "method.mix=mosaic"),
        ("unbiased_teacher", "method.half_view=true"),
    ],
)
def test_more_views_need_more_memory(tiny, method, more):
    sizes = []
    for options in ([], [more]):
        recipe = load_recipe(
            "custom",
            [*tiny, f"method.name={method}", "detector.finer_level=true", "data.unlabeled_batch=8", *options],
        )
        sizes.append(step_memory(recipe, shape_detector(recipe.detector, 3), (96, 96), 5).parts[1])
    assert 1.05 * sizes[0] < sizes[1] < 2 * sizes[0]


def test_the_worst_canvas_holds_the_widest_and_the_tallest_view():
    images = [ImageRecord(1, None, 640, 480), ImageRecord(2, None, 300, 900)]
    assert worst_canvas(WeakView(short_side=(400, 800), max_side=1333), images) == (1344, 1088)


def test_the_published_detector_has_shapes_without_weights():
    """Its frozen normalizations are folded by looking at values, of which there are none here."""
    detector = shape_detector(load_recipe("coco_standard").detector, 3)
    assert all(value.is_meta for value in detector.state_dict().values())
    assert detector.anchors((64, 96), torch.device("cpu")).shape == (8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1, 4)
