"""Functions that train: a recipe, what it becomes on the user's data, and how it goes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from denseteacher.api.arguments import as_texts, given_data, given_paths, given_runtime
from denseteacher.data.choices import Format
from denseteacher.methods import Method
from denseteacher.recipes.schema import Recipe, dump_recipe, load_recipe
from denseteacher.runs.demo import DemoOutcome, run_demo
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.monitor import Monitor, monitor_run
from denseteacher.runs.train import TrainResult, train_run


def train(
    recipe: str | Path = "custom",
    *,
    labeled: str | Path | None = None,
    images: str | Path | None = None,
    unlabeled: str | Path | Sequence[str | Path] | None = None,
    val: str | Path | None = None,
    root: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    val_subset: str | None = None,
    output: str | Path | None = None,
    method: Method | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    resume: bool = False,
    burn_in_from: str | Path | None = None,
    baseline: bool = False,
    monitor: bool = False,
    devices: int | None = None,
    nodes: int | None = None,
    log: Sequence[str] = (),
) -> TrainResult:
    """Trains a detector.

    Args:
        recipe: Name of a built-in recipe, or path of a YAML file.
        labeled: Annotations of the labeled images, of any format (see ``data.formats.read_annotations``).
        images: Their folder; found near the annotations if not given.
        unlabeled: Folder, tar shards, COCO image-info JSON, VOC image set or text list of unlabeled images, or
            several of them; or a LitData data set, its folder or URL.
        val: Annotations to evaluate on.
        root: Folder of the recipe's data set in its published layout.
        format: The format of ``labeled`` and ``val``; detected if not given.
        subset: The part of ``labeled``, where it has several.
        val_subset: The part of ``val``, where it has several.
        output: The run folder; a new one below ``runs`` if not given.
        method: A method of your own in place of the recipe's (``docs/add-a-method.md``).
        overrides: ``{"optim.lr": 0.02}`` or ``["optim.lr=0.02"]``.
        resume: Continue the run in ``output``, or the newest run of this recipe. What torchrun or SLURM restarts
            goes on unasked.
        burn_in_from: Another run of the same recipe and seed but for the method, whose burn-in to start from.
        baseline: Also train without unlabeled images, from the same burn-in and for as many steps, into ``baseline`` of
            the run folder, and say what they were worth: ``TrainResult.gain`` and the top of the report.
        monitor: Serve a live view of the run to this machine's browser while it lasts (``monitor``).
        devices: Processes, one a device, on each node.
        nodes: Machines.
        log: Trackers that get the run's numbers, previews and report: ``wandb``, ``mlflow``.

    Raises:
        InputError: If something given is wrong.
        RunError: If the run can't go on.
    """
    given = given_paths(labeled=labeled, unlabeled=unlabeled, val=val, images=images, root=root)
    options = given_data(format=format, subset=subset, val_subset=val_subset)
    options |= given_runtime(devices=devices, nodes=nodes, log=list(log))
    keys = [*as_texts(given), *as_texts(overrides), *as_texts(options)]
    return train_run(
        recipe, keys, output, method, resume=resume, burn_in_from=burn_in_from, baseline=baseline, monitor=monitor
    )


def monitor(run: str | Path, *, host: str = "127.0.0.1", port: int = 0) -> Monitor:
    """Serves a live view of a run that goes on, is finished or has not begun, until it is closed.

    One page that refreshes itself: curves, what the run says of its health, the latest previews. It can only be read.

    Args:
        run: Folder of the run.
        host: Where to listen; other machines reach the page only if their network reaches this address.
        port: Port; 0 for any that is free.

    Raises:
        InputError: If ``run`` is a file, or there can't be listened.
    """
    return monitor_run(RunFolder(Path(run)), host=host, port=port)


def demo(
    output: str | Path = "demo", *, steps: int = 2400, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> DemoOutcome:
    """Trains Supervised and Dense Teacher on the built-in Digits data, and compares them.

    Args:
        output: Folder for the two runs and the report.
        steps: Training steps of each run.
        overrides: As for ``train``.

    Raises:
        InputError: If ``output`` is not empty.
    """
    return run_demo(Path(output), steps=steps, overrides=as_texts(overrides))


def show_recipe(recipe: str | Path | Recipe, overrides: Mapping[str, Any] | Iterable[str] = ()) -> str:
    """A recipe with all its values, as YAML that ``train`` reads.

    Args:
        recipe: Name of a built-in recipe, path of a YAML file, or a recipe that was read.
        overrides: As for ``train``; of a recipe that was read there are none.

    Raises:
        InputError: If there is not such a recipe, or a key or value is wrong.
    """
    return dump_recipe(recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides))
