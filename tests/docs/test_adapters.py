"""The scripts of the page on other libraries, with stand-ins that take what the libraries take.

They were tried with supervision 0.31.2 itself.
"""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from denseteacher.structures import Detections

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r'^```python title="(.+?)"\n(.*?)^```$', PAGE, re.M | re.S))
FOUND = Detections(torch.tensor([[8.0, 6, 40, 30], [0, 0, 80, 60]]), torch.tensor([0.75, 0.5]), torch.tensor([1, 0]))


@pytest.fixture
def detector(monkeypatch, tmp_path):
    asked = []
    loaded = SimpleNamespace(class_names=["cat", "dog"], predict=lambda images: asked.append(images) or [FOUND])
    monkeypatch.setattr("denseteacher.api.load", lambda path: loaded)
    monkeypatch.chdir(tmp_path)
    return asked


def module(monkeypatch, name, **content):
    made = ModuleType(name)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)


def run(script):
    scope = {}
    exec(compile(SCRIPTS[script], script, "exec"), scope)
    return scope


def test_supervision(detector, monkeypatch):
    try:
        import supervision as sv
    except ImportError:
        module(monkeypatch, "supervision", Detections=lambda **fields: SimpleNamespace(**fields))
        sv = None
    detections = run("to_supervision.py")["detections"]
    assert sv is None or isinstance(detections, sv.Detections)
    np.testing.assert_array_equal(detections.xyxy, FOUND.boxes)
    np.testing.assert_array_equal(detections.confidence, FOUND.scores)
    np.testing.assert_array_equal(detections.class_id, [1, 0])
    assert detections.data["class_name"].tolist() == ["dog", "cat"]


def test_fiftyone(detector, monkeypatch, tmp_path):
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")

    class Sample(dict):
        filepath = str(tmp_path / "a.png")

    sample = Sample()

    class Dataset:
        @staticmethod
        def from_images_dir(folder):
            return Dataset()

        def iter_samples(self, *, autosave):
            return [sample]

    def made(**fields):
        return SimpleNamespace(**fields)

    module(monkeypatch, "fiftyone", Dataset=Dataset, Detections=made, Detection=made)
    run("to_fiftyone.py")
    first, second = sample["denseteacher"].detections
    assert (first.label, first.confidence, first.bounding_box) == ("dog", 0.75, pytest.approx([0.1, 0.1, 0.4, 0.4]))
    assert (second.label, second.bounding_box) == ("cat", [0, 0, 1, 1])
    (image,) = detector[0]
    assert image.size == (80, 60)
