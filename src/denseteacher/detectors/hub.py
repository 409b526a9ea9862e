"""Detectors on the Hugging Face Hub: which one a text names, fetching its one file, and what its refusals mean."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from denseteacher.detectors.files import DETECTOR_FILE
from denseteacher.errors import InputError, RunError

_PREFIX = re.compile(r"hf:/{1,2}")  # a Path has one slash left
_PLACE = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
_TOKEN = "a token of an account that may (hf auth login, or the variable HF_TOKEN)"


class HubPlace(NamedTuple):
    """A repository on the hub, at a revision."""

    repo: str
    """``OWNER/NAME``."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""

    def __str__(self) -> str:
        """The text that names it."""
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_place(text: str) -> HubPlace | None:
    """What a text ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION`` names; None where it is a path.

    Raises:
        InputError: If it begins like one and names none.
    """
    prefix = _PREFIX.match(text)
    if prefix is None:
        return None
    found = _PLACE.fullmatch(text, prefix.end())
    if found is None:
        given = f"hf://{text[prefix.end() :]}"  # a path has lost one of the slashes
        raise InputError(f"{given!r} names no repository on the hub: hf://OWNER/NAME or hf://OWNER/NAME@REVISION does")
    return HubPlace(found["repo"], found["revision"])


def local_detector(path: Path) -> Path:
    """The path itself, or where the detector that it names on the hub lies once it is fetched.

    Of a repository that one file is asked for and nothing else; without a network the hub's cache serves.

    Args:
        path: A path, or ``hf://OWNER/NAME@REVISION``.

    Raises:
        InputError: If there is none, or this account may not read it.
        RunError: If the hub can't be reached and nothing is in the cache.
    """
    place = parse_place(str(path))
    if place is None:
        return path
    with refusals_explained(place):
        from huggingface_hub import errors, hf_hub_download

        try:
            return Path(hf_hub_download(place.repo, DETECTOR_FILE, revision=place.revision))
        except (errors.HfHubHTTPError, errors.EntryNotFoundError, errors.HFValidationError):
            raise
        except Exception:  # a connection that breaks is nothing for which the client would look into its cache
            return Path(hf_hub_download(place.repo, DETECTOR_FILE, revision=place.revision, local_files_only=True))


@contextmanager
def refusals_explained(place: HubPlace) -> Iterator[None]:
    """Turns what the hub's client raises into one sentence.

    Args:
        place: What it was asked about.

    Raises:
        InputError: If the name, the revision or the rights are wrong.
        RunError: If the hub can't be reached, or fails.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # its client's transport raises errors of several libraries
        raise _explained(place, error) from error


def _explained(place: HubPlace, error: Exception) -> InputError | RunError:
    """A sentence on an error of the hub's client, whose classes extend each other: the narrower come first."""
    from huggingface_hub import errors

    missing = f"{place} holds no {DETECTOR_FILE}: no detector of denseteacher was pushed there"
    sentences: dict[type[Exception], InputError | RunError] = {
        errors.GatedRepoError: InputError(f"{place} asks for its terms to be accepted on its page, and for {_TOKEN}"),
        errors.RepositoryNotFoundError: InputError(f"there is no {place}, or it is private and wants {_TOKEN}"),
        errors.RevisionNotFoundError: InputError(f"{place.repo} has no branch, tag or commit {place.revision!r}"),
        errors.LocalEntryNotFoundError: RunError(f"{place} is not in the hub's cache, and the hub can't be reached"),
        errors.EntryNotFoundError: InputError(missing),
        errors.HFValidationError: InputError(f"{place.repo!r} is not a name of a repository: {_first(error)}"),
    }
    for kind, sentence in sentences.items():
        if isinstance(error, kind):
            return sentence
    if not isinstance(error, errors.HfHubHTTPError):
        return RunError(f"the hub can't be reached for {place} ({type(error).__name__}: {_first(error)})")
    if getattr(error.response, "status_code", None) in (401, 403):
        return InputError(f"the hub refuses access to {place}: it wants {_TOKEN}")
    return RunError(f"the hub failed on {place} ({_first(error)}); try again later")


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no message")[:200]
