"""Steps: what their images have in common, and that it depends on nothing but seed and step."""

from pathlib import Path

import numpy as np
import pytest
import torch

from denseteacher.check.cost import worst_canvas
from denseteacher.data.loading.steps import step_loader
from denseteacher.data.open import TrainingData, open_data
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.detectors import shape_detector
from denseteacher.recipes.resolve import recipe_foreground
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import build_steps

BATCH = ["augment.weak.scale_per=batch"]
BUCKET = ["augment.weak.canvas=bucket"]
KEYS = ["data.labeled_batch=4", "data.unlabeled_batch=4", "data.orientation_group=null", "augment.weak.canvases=1"]


@pytest.fixture(scope="module")
def images():
    """Sizes as in COCO, one too long for its short side; there are no files."""
    shapes = [(480, 640), (640, 480), (427, 640), (640, 427), (640, 640), (300, 900)] * 6
    records = [ImageRecord(number, Path(f"{number}.jpg"), w, h) for number, (h, w) in enumerate(shapes, start=1)]
    boxes = [np.array([[10, 20, 200, 250]], np.float32) for _ in records]
    return LabeledImages(records, boxes, [np.zeros(1, np.int64) for _ in records], [Category(1, "a")])


def dataset(images, *overrides, rank=0, world_size=1):
    recipe = load_recipe("coco_standard", [*KEYS, *overrides])
    return build_steps(recipe, TrainingData(images, images.images), rank, world_size).with_unlabeled()


def sides(view):
    return min(view.geometry[:2]), max(view.geometry[:2])


def test_images_of_a_step_share_their_scale_where_a_batch_has_one(images):
    steps = dataset(images, *BATCH)
    seen = set()
    for step in range(60):
        plan = steps.plan(step)
        short = steps.augment.weak.step_side(steps.seed, step)
        views = [*plan.labeled, *plan.unlabeled]
        assert len(views) == 8
        assert {sides(view)[0] for view in views if sides(view)[1] < 1333} <= {short}
        assert all(sides(view)[0] < short for view in views if sides(view)[1] == 1333)
        seen.add(short)
    assert seen == {640, 672, 704, 736, 768, 800}


def test_flips_and_images_are_those_of_a_scale_per_image(images):
    alone, shared = dataset(images), dataset(images, *BATCH)
    scales = set()
    for step in range(20):
        one, other = alone.plan(step), shared.plan(step)
        for views, others in ((one.labeled, other.labeled), (one.unlabeled, other.unlabeled)):
            assert [view.record for view in views] == [view.record for view in others]
            assert [view.geometry.flip for view in views] == [view.geometry.flip for view in others]
        scales.add(len({sides(view)[0] for view in one.labeled}))
    assert max(scales) > 2


@pytest.mark.parametrize("overrides", [[], BATCH, [*BATCH, *BUCKET]])
def test_processes_see_the_scale_of_the_whole_batch(images, overrides):
    whole = dataset(images, *overrides)
    halves = [dataset(images, *overrides, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(20):
        plans = [half.plan(step) for half in halves]
        assert plans[0].labeled + plans[1].labeled == whole.plan(step).labeled
        assert plans[0].unlabeled + plans[1].unlabeled == whole.plan(step).unlabeled


def test_buckets_are_few(images):
    canvases = {
        (scale, name): {dataset(images, *scale, *name).plan(step).canvas for step in range(40)}
        for scale in ((), tuple(BATCH))
        for name in ((), tuple(BUCKET))
    }
    assert canvases[(), tuple(BUCKET)] == {(800, 1344), (1344, 800)}
    assert len(canvases[tuple(BATCH), tuple(BUCKET)]) < len(canvases[tuple(BATCH), ()])
    assert all(max(canvas) == 1344 for canvas in canvases[tuple(BATCH), tuple(BUCKET)])


def test_memory_and_foreground_are_counted_on_the_bucket(images):
    recipe = load_recipe("coco_standard", [*KEYS, *BATCH, *BUCKET, "detector.pretrained=false"])
    assert worst_canvas(recipe.augment.weak, images.images) == (1344, 1344)
    detector = shape_detector(recipe.detector, 1)
    steps = dataset(images, *BATCH, *BUCKET)
    locations = sum(4 * len(detector.anchors(steps.plan(step).canvas, torch.device("cpu"))) for step in range(2))
    measured = recipe_foreground(recipe, detector, images, steps=2)
    assert measured.images == 8
    assert measured.share == pytest.approx(measured.positives * 8 / locations)


def test_loader_processes_do_not_change_a_shared_scale(coco, unlabeled, tiny):
    keys = [*tiny, *BATCH, *BUCKET, f"data.labeled={coco}", f"data.unlabeled={unlabeled}", "method.burn_in=1"]
    recipe = load_recipe("custom", keys)
    data = open_data(recipe.data)
    steps = build_steps(recipe, data)
    streams = [list(step_loader(steps, range(6), workers=count, pin_memory=False)) for count in (0, 2)]
    for alone, together in zip(*streams, strict=True):
        assert alone.files == together.files
        assert torch.equal(alone.labeled.pixels, together.labeled.pixels)
        assert tuple(alone.labeled.pixels.shape[-2:]) == steps.plan(alone.step).canvas
        assert torch.equal(alone.labeled.sizes, together.labeled.sizes)


def test_labeled_images_come_in_groups_of_one_orientation_and_unlabeled_ones_freely(images):
    steps = dataset(images, "data.orientation_group=2")
    mixed = {"labeled": 0, "unlabeled": 0}
    for step in range(60):
        plan = steps.plan(step)
        for kind, views in (("labeled", plan.labeled), ("unlabeled", plan.unlabeled)):
            tall = [view.record.height > view.record.width for view in views]
            mixed[kind] += sum(one != other for one, other in zip(tall[::2], tall[1::2], strict=True))
    assert mixed == {"labeled": 0, "unlabeled": pytest.approx(2 * 60 * 4 / 9, rel=0.4)}  # a third is tall


def test_images_share_few_canvases_and_less_padding(images):
    one, few = (dataset(images, "data.orientation_group=2", f"augment.weak.canvases={most}") for most in (1, 3))
    computed = {1: 0, 3: 0}
    for step in range(20):
        whole, plan = one.plan(step), few.plan(step)
        assert whole.canvases is None
        assert whole.canvas == plan.canvas
        canvases = plan.canvases or (plan.canvas,) * 8
        for view, canvas in zip([*plan.labeled, *plan.unlabeled], canvases, strict=True):
            assert all(side <= most and most % 32 == 0 for side, most in zip(view.geometry[:2], canvas, strict=True))
        assert len(set(canvases)) <= 3
        computed[1] += 8 * whole.canvas[0] * whole.canvas[1]
        computed[3] += sum(height * width for height, width in canvases)
    assert computed[3] < 0.75 * computed[1]
