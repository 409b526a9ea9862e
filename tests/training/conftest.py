"""Trainings here are about what is learned, not about what is drawn of it."""

import pytest

from support.undrawn import undrawn


@pytest.fixture(autouse=True, scope="module")
def without_drawings():
    """Trains without reports and figures."""
    with undrawn():
        yield
