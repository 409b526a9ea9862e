"""Sizes that follow the data: against objects laid out by hand, and through a run's own files."""

import json

import numpy as np
import pytest
import yaml

from denseteacher.data.objects import objects_of
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.detectors import shape_detector
from denseteacher.recipes.object_scales import measure_scales
from denseteacher.recipes.schema import dump_recipe, load_recipe
from denseteacher.recipes.view_sizes import resolve_sizes


def images_of(height, width, side, count=30):
    """Images without files, ten square objects of this side in each."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, (count, 10, 2)) * (np.array([width, height]) - side)
    boxes = [np.concatenate([one, one + side], axis=1).astype(np.float32) for one in corner]
    records = [ImageRecord(number, None, height, width) for number in range(count)]
    return LabeledImages(records, boxes, [np.zeros(10, np.int64)] * count, [Category(1, "thing")])


def sizes(recipe):
    weak, evaluation = recipe.augment.weak, recipe.evaluation
    return weak.short_side, weak.max_side, evaluation.short_side, evaluation.max_side


@pytest.mark.parametrize(
    ("recipe", "data", "expected"),
    [
        ("custom", (1200, 1600, 200), ((480, 800), 1333, 800, 1333)),
        ("custom", (150, 200, 40), ((173, 288), 480, 288, 480)),  # twice the images, in steps of 32
        ("custom", (20, 30, 15), ((19, 32), 53, 32, 53)),
        ("custom_small", (480, 640, 100), ((192, 256), 426, 256, 426)),
        ("custom_small", (100, 640, 50), ((144, 192), 320, 192, 320)),
        ("coco_standard", (100, 100, 3), ((640, 672, 704, 736, 768, 800), 1333, 800, 1333)),  # not auto
    ],
)
def test_sizes_follow_the_images(recipe, data, expected):
    assert sizes(resolve_sizes(load_recipe(recipe), images_of(*data))) == expected


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_the_smallest_view_that_keeps_small_objects_is_taken(detector):
    recipe = load_recipe("custom", [f"detector.name={detector}"])
    labeled = images_of(1200, 1600, {"fcos": 13, "retinanet": 27}[detector])
    resolved = resolve_sizes(recipe, labeled)
    low, high = resolved.augment.weak.short_side
    assert 800 < high < 1312
    assert low == round(0.6 * high)

    def missed(side):
        view = resolved.augment.weak.model_copy(update={"short_side": (round(0.6 * side), side), "max_side": 1333})
        return measure_scales(objects_of(labeled), view, shape_detector(resolved.detector, 1)).missed

    few = {"fcos": 0.02, "retinanet": 0.1}[detector] * 300
    best = len(missed(1312))
    assert len(missed(high)) - best <= few
    assert all(len(missed(side)) - best > few for side in range(800, high, 32))


def test_objects_that_no_allowed_size_keeps_cost_nothing():
    """3 px of 640: at 1333 px still too small for stride 8, so that larger views would only take longer."""
    labeled = images_of(2000, 2000, 0.5)
    assert sizes(resolve_sizes(load_recipe("custom"), labeled))[0] == (480, 800)


def test_without_objects_or_images_they_are_the_usual_ones():
    empty = LabeledImages([], [], [], [])
    blank = LabeledImages([ImageRecord(1, None, 900, 900)], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)], [])
    for labeled in (empty, blank):
        assert sizes(resolve_sizes(load_recipe("custom"), labeled)) == ((480, 800), 1333, 800, 1333)


def test_evaluation_follows_what_is_set_by_hand():
    labeled = images_of(1200, 1600, 200)
    by_hand = ["augment.weak.short_side=[300,500]"]
    assert sizes(resolve_sizes(load_recipe("custom", by_hand), labeled)) == ((300, 500), 833, 500, 833)
    by_hand = ["augment.weak.max_side=900", "evaluation.short_side=600"]
    assert sizes(resolve_sizes(load_recipe("custom", by_hand), labeled)) == ((480, 800), 900, 600, 1000)


def test_what_is_still_auto_is_refused():
    recipe = load_recipe("custom")
    for use in (lambda: recipe.augment.weak.sides, lambda: recipe.augment.weak.bound, lambda: recipe.evaluation.view):
        with pytest.raises(ValueError, match="still 'auto'"):
            use()


def test_resolved_sizes_survive_being_written(tmp_path):
    resolved = resolve_sizes(load_recipe("custom"), images_of(150, 200, 40))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(resolved))
    assert sizes(load_recipe(tmp_path / "recipe.yaml")) == sizes(resolved)


def test_a_run_its_check_and_its_use_have_the_same_sizes(call, coco, unlabeled, tiny, tmp_path):
    own = [one for one in tiny if "_side=" not in one]
    options = [part for one in [*own, "schedule.max_steps=2", "method.burn_in=1"] for part in ("--set", one)]
    code, out, err = call("check", coco, "--unlabeled", unlabeled, "--json", tmp_path / "found.json", *options)
    assert code == 0, err
    checked = json.loads((tmp_path / "found.json").read_text())["recipe"]
    short, longest = checked["augment"]["weak"]["short_side"], checked["augment"]["weak"]["max_side"]
    assert short == [77, 128]  # twice the images' 60 to 64 px
    assert f"short side 77 to 128 px, long side up to {longest}; evaluation 128, up to {longest}" in out

    run = tmp_path / "run"
    train = ["train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--val", coco, "--output", run, *options]
    code, _, err = call(*train)
    assert code == 0, err
    written = yaml.safe_load((run / "recipe.yaml").read_text())
    for part in ("sizes", "evaluation", "augment"):
        assert written[part] == checked[part]
    assert written["evaluation"]["short_side"] == 128
    assert call(*train, "--resume")[0] == 0
    code, _, err = call("evaluate", run, "--data", coco)
    assert code == 0, err
