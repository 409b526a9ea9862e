"""Choosing the folder of a run: a new one that is free, or that of the run to continue."""

import re
from pathlib import Path

from denseteacher.errors import InputError
from denseteacher.files import refusal_explained
from denseteacher.runs.folder import RunFolder
from denseteacher.training.launcher import may_be_restarted


def choose_folder(name: str, output: str | Path | None, *, resume: bool) -> RunFolder:
    """The folder of a new run, which must be free, or of the one to continue, which must be there.

    Args:
        name: Name of the recipe.
        output: What the user asked for; without it ``runs/NAME-1``, ``runs/NAME-2``, ...
        resume: Whether to continue.

    Raises:
        InputError: If the folder is not free, or holds no run to continue.
        RunError: If the folder can't be one, or can't be looked at.
    """
    if output is not None:
        folder = RunFolder(Path(output))
    else:
        known = (re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name) for path in Path("runs").glob("*"))
        newest = max((int(match[1]) for match in known if match), default=0)
        folder = RunFolder(Path("runs") / f"{name}-{newest if resume else newest + 1}")
    with refusal_explained(folder.path, "used as a run folder"):
        if resume and not folder.exists:
            raise InputError(f"there is no run to resume in {folder}: give its folder with --output")
        if not resume:
            require_free(folder)
    return folder


def require_free(folder: RunFolder) -> None:
    """Sees whether a new run may have a folder.

    Raises:
        InputError: If it may not.
        OSError: If the folder can't be looked at.
    """
    if not folder.is_free:
        raise InputError(
            f"{folder} is not empty: continue its run with --resume, or choose another --output; nothing was changed"
        )


def goes_on_by_itself(output: str | Path | None) -> bool:
    """Whether a run is to be continued unasked: its processes are restarted where one dies, and it has begun.

    Args:
        output: What the user asked for.

    Raises:
        InputError: If a restarted run could not tell which folder is its own.
    """
    if not may_be_restarted():
        return False
    if output is None:
        raise InputError("torchrun or SLURM restarts this run, which must find its folder then: give it with --output")
    with refusal_explained(Path(output), "used as a run folder"):
        return RunFolder(Path(output)).exists
