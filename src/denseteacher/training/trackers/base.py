"""What a tracker is, and what it is told of a run when it begins."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from PIL import Image

Ending = Literal["finished", "stopped", "failed"]
"""How a run ended: to go on later it was ``stopped``."""


PICTURES = "previews"
"""What a tracker calls the pictures, as the run folder and TensorBoard do."""


class RunFacts(NamedTuple):
    """What a tracker is told of a run when it begins."""

    title: str
    """What people call the run."""
    recipe: Mapping[str, Any]
    """The resolved recipe, nested."""
    folder: Path
    """Where the tracker may keep files; exists."""
    known_as: str | None
    """What the tracker called this run before; None for a run that it has not seen."""


class Tracker(Protocol):
    """One run in a tracker. Any method may raise anything: the run goes on."""

    id: str
    """What the tracker calls the run, with which a resumed run goes on."""
    is_new: bool
    """Whether it knows nothing of the run yet."""
    place: str
    """A sentence on where the user finds it."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers, which are finite."""

    def show(self, step: int, picture: Image.Image) -> None:
        """Adds a picture of what the teacher says."""

    def close(self, ending: Ending, files: Sequence[Path]) -> None:
        """Adds files, waits until all has arrived, and says how the run ended."""
