"""A run in Weights & Biases, through its own client: on its server, or offline in the run folder."""

import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from denseteacher.training.trackers.base import PICTURES, Ending, RunFacts

_PROJECT = "denseteacher"


class WandbTracker:
    """A run in Weights & Biases.

    Steps are a value of their own (``step``): the client's counter can't go back to where a resumed run goes on.
    Without a key it works offline, and never asks for one. The client's own variables (``WANDB_MODE``,
    ``WANDB_PROJECT``, ``WANDB_BASE_URL``, ...) hold.
    """

    def __init__(self, facts: RunFacts) -> None:
        """Begins the run, or goes on with it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb: Any = import_module("wandb")
        mode = _mode(self._wandb.setup().settings)
        self.is_new = facts.known_as is None
        self.id = facts.known_as or uuid.uuid4().hex[:12]
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=facts.title,
            id=self.id,
            resume="allow",
            mode=mode,
            dir=str(facts.folder),
            config=dict(facts.recipe),
            reinit="create_new",  # a run and its baseline are two in one process
            settings=self._wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")
        offline = mode == "offline"
        kept = f"kept in {facts.folder}; wandb sync {facts.folder}/wandb/offline-run-*-{self.id} sends it"
        self.place = f"wandb: {kept}" if offline else f"wandb: {self._run.url}"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers."""
        self._run.log({"step": step, **values})

    def show(self, step: int, picture: Image.Image) -> None:
        """Adds a picture."""
        self._run.log({"step": step, PICTURES: self._wandb.Image(picture)})

    def close(self, ending: Ending, files: Sequence[Path]) -> None:
        """Adds files as an artifact ``run-ID``, and waits until all has arrived."""
        try:
            if files:
                artifact = self._wandb.Artifact(f"run-{self.id}", type="run")
                for file in files:
                    artifact.add_file(str(file))
                self._run.log_artifact(artifact)
        finally:
            self._run.finish(exit_code=0 if ending == "finished" else 1)


def _mode(settings: Any) -> str:
    """What the user has set; offline where the client would ask for a key."""
    asked = str(settings.mode)
    known = settings.api_key or settings.identity_token_file or _in_netrc(str(settings.base_url))
    return "offline" if asked == "online" and not known else asked


def _in_netrc(url: str) -> bool:
    """Whether the user has logged in to a server before."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):  # there is none
        return False
