"""Putting a finished run's detector on the Hugging Face Hub."""

import re
from pathlib import Path
from typing import NamedTuple

from denseteacher.data.splits import read_split_sizes
from denseteacher.detectors import DETECTOR_FILE, load_detector
from denseteacher.detectors.hub import HubPlace, refusals_explained
from denseteacher.errors import InputError
from denseteacher.evaluation.gain import read_gain
from denseteacher.runs.damage import damage_explained
from denseteacher.runs.evaluate import read_evaluation
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.model_card import model_card, public_recipe

_REPO = re.compile(r"(?:hf://)?(\w[\w.-]*/\w[\w.-]*)")


class Pushed(NamedTuple):
    """What is on the hub now."""

    place: str
    """What ``load`` takes."""
    url: str
    """Page of the commit."""
    public: bool
    """Whether everybody can read it, as far as was asked for."""
    files: list[str]


def push_run(
    run: str | Path,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    license: str | None = None,
) -> Pushed:
    """Puts a finished run's detector on the Hugging Face Hub, with a generated page; ``load`` reads it from there.

    Detector, recipe and page come in one commit.

    Args:
        run: Folder of the run.
        repo: ``OWNER/NAME``, which is made if it is not there.
        public: Whether a new repository can be read by everybody; one that is there stays as it is.
        revision: Branch, which is made if it is not there; the main one if not given.
        license: SPDX name of the license of the weights, as ``apache-2.0``.

    Raises:
        InputError: If there is no detector, the name is not one, or the hub does not let this account write.
        RunError: If the hub can't be reached.
    """
    named = _REPO.fullmatch(repo)
    if named is None:
        raise InputError(f"{repo!r} is not a name of a repository on the hub: OWNER/NAME is, as alice/cells")
    place = HubPlace(named[1], revision)
    contents = _contents(RunFolder(Path(run)), place, license)
    with refusals_explained(place):
        from huggingface_hub import CommitOperationAdd, HfApi, get_token

        if get_token() is None:
            raise InputError("push needs a token of the hub that may write: hf auth login, or the variable HF_TOKEN")
        api = HfApi(library_name="denseteacher")
        api.create_repo(place.repo, private=not public, exist_ok=True)
        if revision is not None:
            api.create_branch(place.repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        message = "A detector, trained with denseteacher"
        commit = api.create_commit(place.repo, operations, commit_message=message, revision=revision)
    return Pushed(str(place), str(commit.commit_url), public, sorted(contents))


def _contents(folder: RunFolder, place: HubPlace, license: str | None) -> dict[str, bytes | Path]:
    """Names and contents of the files."""
    if not folder.detector.is_file() or not folder.exists:
        raise InputError(f"{folder} is not the folder of a finished run: it holds no {DETECTOR_FILE} and recipe")
    _, card = load_detector(folder.detector)  # refuses what load would refuse
    recipe = folder.recipe()
    with damage_explained(folder.split):
        sizes = read_split_sizes(folder.split)
    with damage_explained(folder.gain):
        gain = read_gain(folder.gain)
    page = model_card(place, card, recipe, sizes=sizes, evaluation=read_evaluation(folder), gain=gain, license=license)
    return {
        "README.md": page.encode(),
        folder.recipe_file.name: public_recipe(recipe).encode(),
        DETECTOR_FILE: folder.detector,
    }
