"""A run in MLflow, through its own client: on a server, or in a data base in the run folder."""

import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from denseteacher.training.trackers.base import PICTURES, Ending, RunFacts

_EXPERIMENT = "denseteacher"
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LONGEST = 6000  # characters of a parameter, which MLflow refuses beyond
_AT_ONCE = 100  # parameters that one call may log


class MlflowTracker:
    """A run in MLflow.

    Without ``MLFLOW_TRACKING_URI`` it is kept in an SQLite data base in the run folder, as MLflow itself does by
    default. The client's own variables hold (``MLFLOW_EXPERIMENT_NAME``, ...).
    """

    def __init__(self, facts: RunFacts) -> None:
        """Begins the run, or goes on with it."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow, self._entities = import_module("mlflow"), import_module("mlflow.entities")
        given = os.environ.get("MLFLOW_TRACKING_URI")
        own = facts.folder.absolute()
        store = given or f"sqlite:///{own / 'mlflow.db'}"
        self._client: Any = mlflow.MlflowClient(tracking_uri=store)
        self.is_new = facts.known_as is None or not self._goes_on(facts.known_as)
        if self.is_new:
            artifacts = None if given else (own / "artifacts").as_uri()
            self.id = self._client.create_run(self._experiment(artifacts), run_name=facts.title).info.run_id
            self._describe(facts.recipe)
        else:
            self.id = str(facts.known_as)
        where = f"{store}; mlflow ui --backend-store-uri {store} shows it" if given is None else store
        self.place = f"mlflow: run {self.id} in {where}"

    def _goes_on(self, known_as: str) -> bool:
        """Takes up a run; False where it was deleted, or another server is asked."""
        try:
            self._client.update_run(known_as, status="RUNNING")
        except Exception as error:
            if getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"):
                return False
            raise
        return True

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def _describe(self, recipe: Mapping[str, Any]) -> None:
        params = [self._entities.Param(key, str(value)[:_LONGEST]) for key, value in _flat(recipe).items()]
        for first in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self.id, params=params[first : first + _AT_ONCE])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers."""
        now = int(time.time() * 1000)
        self._client.log_batch(
            self.id, metrics=[self._entities.Metric(name, value, now, step) for name, value in values.items()]
        )

    def show(self, step: int, picture: Image.Image) -> None:
        """Adds a picture."""
        self._client.log_image(self.id, picture, key=PICTURES, step=step)

    def close(self, ending: Ending, files: Sequence[Path]) -> None:
        """Adds files as artifacts of the run."""
        try:
            for file in files:
                self._client.log_artifact(self.id, str(file))
        finally:
            self._client.set_terminated(self.id, _STATUS[ending])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
