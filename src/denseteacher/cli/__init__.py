"""The command line: parses, calls what does the work, prints. Exit codes: 0 done, 2 wrong usage or input, 1 failure."""

import sys

from denseteacher.cli import datasets, detectors, experiments, training
from denseteacher.cli.app import app
from denseteacher.errors import InputError, RunError

__all__ = ["app", "datasets", "detectors", "experiments", "main", "training"]


def main() -> None:
    """The console script. Wrong input is one sentence on stderr, never a traceback."""
    try:
        app()
    except InputError as error:
        _fail(error, code=2)
    except RunError as error:
        _fail(error, code=1)
    except KeyboardInterrupt:
        print("denseteacher: interrupted", file=sys.stderr)
        sys.exit(1)


def _fail(error: Exception, *, code: int) -> None:
    print(f"denseteacher: {error}", file=sys.stderr)
    sys.exit(code)
