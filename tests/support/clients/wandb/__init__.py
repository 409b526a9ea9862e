"""A client of the name and the calls of ``wandb`` that remembers what it is told; a stand-in for tests."""

import os
from pathlib import Path
from types import SimpleNamespace

CALLS = []
"""Every call, in order: name and arguments."""
FAIL = set()
"""Names of calls that fail."""


def _call(name, /, **arguments):
    if name in FAIL:
        raise OSError(28, "No space left on device")
    CALLS.append((name, arguments))


class Settings(SimpleNamespace):
    pass


class Image:
    def __init__(self, picture):
        self.size = picture.size


class Artifact:
    def __init__(self, name, type):
        self.name, self.files = name, []

    def add_file(self, file):
        self.files.append(Path(file).name)


class Run:
    url = "https://tracker.example/run"

    def define_metric(self, name, step_metric):
        _call("define_metric", name=name, step_metric=step_metric)

    def log(self, values):
        _call("log", **values)

    def log_artifact(self, artifact):
        _call("log_artifact", name=artifact.name, files=artifact.files)

    def finish(self, exit_code):
        _call("finish", exit_code=exit_code)


def setup():
    mode = os.environ.get("WANDB_MODE", "online")
    key = os.environ.get("WANDB_API_KEY")
    url = "https://api.tracker.example"
    return SimpleNamespace(settings=Settings(mode=mode, api_key=key, identity_token_file=None, base_url=url))


def init(**arguments):
    _call("init", **arguments)
    return Run()
