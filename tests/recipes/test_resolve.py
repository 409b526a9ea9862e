"""What a recipe is after ``resolve``: nothing in it is ``auto``, and nothing was decided by chance."""

from pathlib import Path

import numpy as np
import pytest

from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.errors import InputError
from denseteacher.hardware import Machine
from denseteacher.pseudo_labels.foreground import Foreground
from denseteacher.recipes import load_recipe, resolve
from denseteacher.recipes.differences import flat_recipe
from denseteacher.recipes.files import builtin_names
from denseteacher.training.launcher import Launch

CPU = Machine("cpu", has_bf16=lambda: pytest.fail("a CPU asks no GPU"))
AMPERE, TURING = Machine("cuda", has_bf16=lambda: True), Machine("cuda", has_bf16=lambda: False)
EVERYTHING_AUTO = [
    "schedule.max_steps=auto", "method.burn_in=auto", "method.ratio=auto", "ema.decay=auto", "ema.start=auto",
    "augment.weak.short_side=auto", "augment.weak.max_side=auto", "augment.weak.sampling=range",
    "evaluation.short_side=auto", "evaluation.max_side=auto", "detector.init=auto", "detector.mean=auto",
    "detector.std=auto", "runtime.device=auto", "runtime.precision=auto",
]  # fmt: skip


def images_of(count, height=60, width=80, boxes=((10, 10, 40, 40),)):
    """Images that are nowhere, with the same boxes each."""
    records = [ImageRecord(number, Path(f"{number}.jpg"), width=width, height=height) for number in range(count)]
    objects = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(objects), np.int64)
    return LabeledImages(records, [objects] * count, [labels] * count, [Category(1, "cat")])


def left(recipe):
    return [key for key, value in flat_recipe(recipe.model_dump(mode="json")).items() if value == "auto"]


@pytest.mark.parametrize("machine", [CPU, AMPERE, TURING], ids=["cpu", "ampere", "turing"])
@pytest.mark.parametrize("name", builtin_names())
def test_nothing_is_auto_afterwards(name, machine):
    resolved = resolve(load_recipe(name), labeled=images_of(20), unlabeled=100, machine=machine)
    assert left(resolved) == []
    expected = {"cpu": ("cpu", "fp32"), "cuda": ("cuda", "bf16" if machine is AMPERE else "fp32")}
    asked = load_recipe(name).runtime
    if (asked.device, asked.precision) == ("auto", "auto"):
        assert (resolved.runtime.device, resolved.runtime.precision) == expected[machine.device]


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
@pytest.mark.parametrize("images", [images_of(20), images_of(3, boxes=()), images_of(0)], ids=["some", "bare", "none"])
def test_every_auto_at_once(detector, images):
    recipe = load_recipe("custom", [*EVERYTHING_AUTO, f"detector.name={detector}"])
    assert len(left(recipe)) == len(EVERYTHING_AUTO) - 1  # all but the sampling
    resolved = resolve(recipe, labeled=images, unlabeled=100, machine=AMPERE)
    assert left(resolved) == []
    assert resolve(recipe, labeled=images, unlabeled=100, machine=AMPERE) == resolved
    assert resolve(resolved, labeled=images, unlabeled=7, machine=CPU) == resolved  # there is nothing left to decide


def test_the_device_decides_the_precision_and_who_sets_one_keeps_it():
    def precision(machine, *overrides):
        return resolve(
            load_recipe("digits", overrides), labeled=images_of(4), unlabeled=4, machine=machine
        ).runtime.precision

    assert [precision(machine) for machine in (CPU, TURING, AMPERE)] == ["fp32", "fp32", "bf16"]
    assert precision(AMPERE, "runtime.device=cpu") == "fp32"
    assert precision(CPU, "runtime.precision=bf16") == "bf16"
    assert precision(AMPERE, "runtime.precision=fp32") == "fp32"


def test_the_share_is_measured_under_the_resolved_recipe_unless_it_is_given():
    seen = []

    def foreground(recipe):
        seen.append(recipe)
        return Foreground(images=4, positives=10.0, share=0.02, multiple=recipe.method.foreground_multiple)

    recipe = load_recipe("custom", ["method.ratio_multiple=3"])
    resolved = resolve(recipe, labeled=images_of(4), unlabeled=4, foreground=foreground, machine=CPU)
    assert resolved.method.ratio == pytest.approx(0.06)
    assert len(seen) == 1
    assert seen[0].augment.weak == resolved.augment.weak  # without 'auto' sizes
    by_hand = load_recipe("custom", ["method.ratio=0.3"])
    assert resolve(by_hand, labeled=images_of(4), unlabeled=4, foreground=foreground, machine=CPU).method.ratio == 0.3
    assert len(seen) == 1


def test_the_detectors_start_and_statistics():
    def detector(*overrides):
        return resolve(load_recipe("custom", overrides), labeled=images_of(4), unlabeled=4, machine=CPU).detector

    assert detector().init == "coco"
    other = detector("detector.backbone=test_resnet")
    assert other.init == "backbone"
    assert other.mean == pytest.approx((127.5,) * 3)
    assert detector("detector.mean=[1,2,3]").mean == (1, 2, 3)


def test_who_started_the_processes_says_how_many():
    def runtime(*overrides):
        recipe = load_recipe("custom", ["data.labeled_batch=16", "data.unlabeled_batch=16", *overrides])
        launch = Launch("srun", devices=4, nodes=2)
        return resolve(recipe, labeled=images_of(4), unlabeled=4, launch=launch, machine=CPU).runtime

    assert (runtime().devices, runtime().nodes) == (4, 2)
    with pytest.raises(InputError, match=r"runtime\.nodes is 1, but srun started"):
        runtime("runtime.nodes=1")
