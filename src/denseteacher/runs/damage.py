"""Files of a run that were changed or cut short: one sentence that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from denseteacher.errors import InputError


@contextmanager
def damage_explained(file: Path) -> Iterator[None]:
    """Turns whatever a file's content leads to into one sentence.

    Args:
        file: What is read inside, and what is made of it alone.

    Raises:
        InputError: In place of an error of the file system, a parser, or code that met something unexpected.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(_sentence(file)) from error
    except yaml.YAMLError as error:
        raise InputError(_sentence(file)) from error


def _sentence(file: Path) -> str:
    return f"{file} is damaged, or not what a run writes there: put back a copy of it, or take another run"
