"""A detector on the hub and back, against a server on this machine that plays the hub's part."""

import json

import huggingface_hub.constants
import pytest
import torch
import yaml

import denseteacher
from denseteacher.detectors.hub import HubPlace, parse_place
from denseteacher.errors import InputError, RunError
from support.finished_runs import trained
from support.hub import Hub


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco, unlabeled):
    return trained(tmp_path_factory.mktemp("pushed") / "run", coco, unlabeled)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its tries
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield hub
    hub.stop()


@pytest.fixture
def pushed(hub, run, call):
    code, out, err = call("push", run, "alice/cells", "--license", "apache-2.0")
    assert code == 0, err
    assert 'denseteacher.load("hf://alice/cells")' in out
    return hub


def test_what_was_pushed_comes_back_the_same(pushed, run, coco, call, tmp_path):
    assert pushed.private["alice/cells"]
    assert pushed.files("alice/cells")["detector.safetensors"] == (run / "detector.safetensors").read_bytes()
    there, here = denseteacher.load("hf://alice/cells"), denseteacher.load(run)
    assert there.class_names == here.class_names
    picture = next((coco.parent / "images").iterdir())
    for one, other in zip(there.predict([picture])[0], here.predict([picture])[0], strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    asked = {path for _, path in pushed.asked if "resolve" in path}
    assert asked == {"/alice/cells/resolve/main/detector.safetensors"}  # the one file, and nothing else
    code, _, err = call("predict", "hf://alice/cells", picture, "--output", tmp_path / "found")
    assert code == 0, err


def test_the_page_says_what_it_is_and_where_nothing_lies(pushed, run, coco, unlabeled):
    files = pushed.files("alice/cells")
    assert set(files) == {"README.md", "recipe.yaml", "detector.safetensors"}
    page = files["README.md"].decode()
    metadata = yaml.safe_load(page.split("---")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["pipeline_tag"] == "object-detection"
    evaluation = json.loads((run / "evaluation.json").read_text())
    (result,) = metadata["model-index"][0]["results"]
    found = {one["type"]: one["value"] for one in result["metrics"]}
    assert found["AP"] == round(evaluation["metrics"]["AP"], 2)
    assert "3 kinds of objects: FCOS on test_byobnet" in page
    assert "12 labeled and 6 unlabeled images" in page
    assert f"| labeled images | 12, of {coco.name} |" in page
    assert f"| unlabeled images | 6, of {unlabeled.name} |" in page
    assert f"| validation images | 12, of {coco.name} |" in page
    assert "| recipe | `custom`" in page
    assert all(f"| {name} |" in page for name in ("red", "green", "blue"))
    assert 'denseteacher.load("hf://alice/cells")' in page
    assert "zhou2022dense" in page
    best = evaluation["best"]
    assert best is None or f"Scores above {best['score']:.2f} give the best F1" in page
    recipe = files["recipe.yaml"].decode()
    assert yaml.safe_load(recipe)["data"]["labeled"] == coco.name
    for text in (page, recipe):
        assert str(coco.parent) not in text
        assert str(run.parent) not in text


def test_a_revision_is_a_branch_of_its_own(pushed, run, call):
    code, out, err = call("push", run, "hf://alice/cells", "--revision", "second")
    assert code == 0, err
    assert "hf://alice/cells@second" in out
    pushed.files("alice/cells").clear()  # of the main branch
    assert denseteacher.load("hf://alice/cells@second").class_names == ["red", "green", "blue"]
    with pytest.raises(InputError, match="has no branch, tag or commit 'third'"):
        denseteacher.load("hf://alice/cells@third")


def test_without_a_network_the_cache_serves(pushed, monkeypatch):
    denseteacher.load("hf://alice/cells")
    pushed.stop()
    assert denseteacher.load("hf://alice/cells").class_names == ["red", "green", "blue"]
    with pytest.raises(RunError, match=r"hf://alice/other is not in the hub's cache, and the hub can't be reached"):
        denseteacher.load("hf://alice/other")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert denseteacher.load("hf://alice/cells").class_names == ["red", "green", "blue"]


def test_a_damaged_file_on_the_hub_is_refused_as_any_other(pushed):
    content = bytearray(pushed.files("alice/cells")["detector.safetensors"])
    content[-3] ^= 1
    pushed.files("alice/cells")["detector.safetensors"] = bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        denseteacher.load("hf://alice/cells")


def test_refusals_are_sentences(hub, run, call, monkeypatch):
    hub.repos["alice/empty"], hub.private["alice/empty"] = {"main": {"README.md": b""}}, False
    for command, words in {
        ("push", run, "cells and more"): "'cells and more' is not a name of a repository on the hub: OWNER/NAME is",
        ("push", run.parent, "alice/cells"): "is not the folder of a finished run",
        ("evaluate", "hf://alice/none", "--data", "x.json"): "there is no hf://alice/none, or it is private",
        ("evaluate", "hf://alice/empty", "--data", "x.json"): "holds no detector.safetensors",
        ("evaluate", "hf://alice", "--data", "x.json"): "names no repository on the hub",
    }.items():
        code, _, err = call(*command)
        assert code == 2, err
        assert words in err
        assert err.count("\n") == 1
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = call("push", run, "alice/cells")
    assert code == 2
    assert "wants a token" in err
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = call("push", run, "alice/cells")
    assert code == 2
    assert "push needs a token of the hub that may write" in err
    assert "alice/cells" not in hub.repos


def test_a_hub_that_is_not_there_is_a_sentence(hub, run, call):
    hub.stop()
    code, _, err = call("push", run, "alice/cells")
    assert code == 1
    assert "the hub can't be reached for hf://alice/cells" in err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf://a/b", HubPlace("a/b")),
        ("hf:/a/b", HubPlace("a/b")),
        ("hf://a/b.c@v1.0", HubPlace("a/b.c", "v1.0")),
        ("hf://a/b@some/branch", HubPlace("a/b", "some/branch")),
        ("runs/a", None),
        ("hf", None),
        ("/hf://a/b", None),
    ],
)
def test_a_text_names_a_place_or_a_path(text, place):
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text", ["hf://", "hf://a", "hf://a/b/c", "hf://../b", "hf://a/b@", "hf://a/b@-x", "hf:///a/b"]
)
def test_a_text_that_names_none_is_refused(text):
    with pytest.raises(InputError, match="hf://OWNER/NAME"):
        parse_place(text)
