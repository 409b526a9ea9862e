"""Pictures while a run goes on: there, true to the run, and without any part in it."""

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TINY
from denseteacher.data.loading.strong_views import with_strong_views
from denseteacher.data.open import open_data
from denseteacher.errors import InputError
from denseteacher.recipes.schema import load_recipe
from denseteacher.report.previews import first_views, unlabeled_examples
from denseteacher.runs.build import build_steps
from denseteacher.runs.folder import RunFolder
from denseteacher.training.metrics_log import MetricsLog, read_metrics
from support import TIMING, assert_same, last_state
from support.finished_runs import trained

FIRST = {f"{images}_{view}.jpg" for images in ("labeled", "unlabeled") for view in ("weak", "strong")}


def _names(run):
    return {file.name for file in (run / "previews").iterdir()}


def _numbers(run):
    return [{key: row[key] for key in row if key not in TIMING} for row in read_metrics(run / "metrics.jsonl")]


def test_they_change_nothing(tmp_path, coco, unlabeled, monkeypatch):
    """A run with a picture at every step, one with few, and one that can't write any are the same."""
    rarely = "schedule.checkpoint_every=8"
    runs = [trained(tmp_path / "many", coco, unlabeled, "schedule.preview_every=1", rarely, val=False)]
    assert _names(runs[0]) == FIRST | {f"step_{step:06d}.jpg" for step in range(1, 9)}
    runs.append(trained(tmp_path / "few", coco, unlabeled, rarely, val=False))
    assert _names(runs[1]) == FIRST | {"step_000004.jpg", "step_000008.jpg"}

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "show", refuse)
        runs.append(trained(tmp_path / "none", coco, unlabeled, rarely, val=False))
    for other in runs[1:]:
        assert _numbers(other) == _numbers(runs[0])
        assert_same(last_state(other), last_state(runs[0]))


def test_a_run_without_unlabeled_images_has_those_of_the_labeled_ones(tmp_path, coco):
    run = trained(tmp_path / "run", coco, None, "method.name=supervised")
    assert _names(run) == {"labeled_weak.jpg", "labeled_strong.jpg"}


def test_an_image_that_can_not_be_read_is_told_by_the_run(tmp_path, coco, unlabeled):
    broken = tmp_path / "unlabeled"
    broken.mkdir()
    for file in unlabeled.iterdir():
        (broken / file.name).write_bytes(b"no image")
    with pytest.raises(InputError, match="can't be read"):
        trained(tmp_path / "run", coco, broken)


@pytest.fixture(scope="module")
def dataset(coco, unlabeled):
    overrides = [*TINY, f"data.labeled={coco}", f"data.unlabeled={unlabeled}", "method.burn_in=2", "method.ramp=1"]
    recipe = load_recipe("custom", overrides)
    data = open_data(recipe.data)
    return recipe, build_steps(recipe, data)


def test_the_first_views_are_those_of_the_first_step(dataset):
    recipe, steps = dataset
    views = first_views(steps)
    trained_on = with_strong_views(steps.load(0), recipe.augment, seed=recipe.seed, device=torch.device("cpu"))
    for shown, seen in zip(views.labeled[:2], trained_on.labeled[:2], strict=True):
        assert torch.equal(shown.sizes, seen.sizes)
        for one, other, (height, width) in zip(shown.pixels, seen.pixels, seen.sizes.tolist(), strict=True):
            # unlabeled images, which a burn-in leaves out, may have made the canvas larger
            assert torch.equal(one[:, :height, :width], other[:, :height, :width])
    assert views.unlabeled.weak.pixels.shape[0] == 2
    assert len(first_views(steps, most=1).labeled.weak.sizes) == 1


@pytest.mark.parametrize(
    "name",
    ["dense_teacher", "soft_teacher", "dynamic_threshold", "consistent_teacher", "humble_teacher", "csd", "ismt"],
)
def test_every_method_can_be_shown(dataset, tiny, name):
    recipe, steps = dataset
    method = load_recipe("custom", [*tiny, f"method.name={name}"]).method
    if getattr(method, "ratio", None) == "auto":
        method = method.model_copy(update={"ratio": 0.1})
    detector = recipe.detector.build(3).eval()
    views = first_views(steps)
    told = unlabeled_examples(method, detector, views, torch.device("cpu"))
    assert len(told) == 2
    for one, (height, width) in zip(told, views.unlabeled.weak.sizes.tolist(), strict=True):
        assert one.weak.shape == one.strong.shape == (height, width, 3)
        assert one.scores.shape == (height, width)
        assert (one.region is not None) == (name == "dense_teacher")
        assert (one.pseudo_boxes is not None) == (
            name in ("soft_teacher", "dynamic_threshold", "consistent_teacher", "ismt")
        )
        if one.region is not None:
            assert 0 < (one.region > 0).mean() < 1
            assert np.all(one.region <= one.scores + 1e-6)


def test_tensorboard_has_the_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunFolder(tmp_path).training_files(keep=1).log
    picture = Image.new("RGB", (30, 20), "red")
    log.show(0, picture)  # before any row: only the file
    log.write(1, {"loss": 1.0})
    log.show(1, picture)
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["previews"]
    assert [(one.step, one.width, one.height) for one in events.Images("previews")] == [(1, 30, 20)]
    assert {file.name for file in (tmp_path / "previews").iterdir()} == {"step_000000.jpg", "step_000001.jpg"}
