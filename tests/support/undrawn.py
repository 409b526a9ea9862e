"""Training as it is but for what it draws at the end, which takes longer than a run of a few small steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def undrawn() -> Iterator[None]:
    """Leaves out reports and figures; other tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("denseteacher.runs.build.draw_labels", lambda *_: None)
        patch.setattr("denseteacher.runs.build.report_run", lambda *_: None)
        patch.setattr("denseteacher.runs.report.write_figures", lambda *_: None)
        yield
