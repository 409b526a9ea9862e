"""What the trackers of a run are told when it ends."""

from collections.abc import Iterator
from contextlib import contextmanager

from denseteacher.runs.folder import RunFolder
from denseteacher.training.progress import tell
from denseteacher.training.trackers import Ending, Trackers


@contextmanager
def tracked(trackers: Trackers | None, folder: RunFolder) -> Iterator[None]:
    """Ends a run in its trackers when the block ends, however that is: with its report and recipe where it is finished.

    Args:
        trackers: Of the run.
        folder: Of the run.
    """
    ending: Ending = "failed"
    try:
        yield
        ending = "finished" if folder.is_finished else "stopped"
    except KeyboardInterrupt:
        ending = "stopped"
        raise
    finally:
        files = [folder.report, folder.recipe_file] if ending == "finished" else []
        for note in trackers.close(ending, files) if trackers is not None else ():
            tell(note)
