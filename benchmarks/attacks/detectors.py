"""Damaged and hostile detector files: each loads as what was saved, or is refused by a sentence."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save

from attacks.damage import damage_file, damaged_bytes, damaged_text, damaged_value
from attacks.judge import FileAttack, command, require_sound, result
from attacks.kind import HELD, REFUSED, FailureError
from attacks.small_data import write_images
from denseteacher.detectors import FCOS, DetectorCard, load_detector, save_detector
from denseteacher.inference.onnx_card import METADATA_KEY
from denseteacher.inference.onnx_content import network_hash
from denseteacher.inference.onnx_predictor import OnnxPredictor

_HOSTILE = (
    *(("backbone", "hf-hub:someone/model"), ("backbone", "local-dir:/etc"), ("backbone", "../../model")),
    *(("backbone", "eva_giant_patch14_224"), ("head_convs", 100_000), ("channels", 10**9), ("channels", 16_384)),
    *(("head_channels", 16_000), ("levels", [3, 8]), ("levels", [10**20, 10**21]), ("frozen_stages", 10**20)),
    *(
        ("top_k", 10**30),
        ("max_detections", 10**30),
        ("std", [1e-300, 1, 1]),
        ("std", [0, 0, 0]),
        ("name", "retinanet"),
    ),
    *(("pretrained", True), ("init", "/etc/passwd"), ("init", "coco"), ("dropout", 3)),
)
"""Options that ask for much, or for something elsewhere."""


class DetectorFiles(FileAttack):
    """``detector.safetensors``: its bytes damaged, or its card and tensors written by whoever means harm."""

    label = "detector files"
    share = 1.5

    def prepare(self, folder: Path) -> None:
        """Saves a small detector."""
        torch.manual_seed(0)
        detector = FCOS(num_classes=2, backbone="test_byobnet", channels=8, levels=(4, 6), head_convs=1)
        categories = ((1, "cat"), (3, "dog"))
        card = DetectorCard(detector=detector.config, categories=categories, short_side=64, max_side=96)
        file = folder / "detector.safetensors"
        save_detector(file, detector.state_dict(), card)
        self._sound, self._card = file.read_bytes(), card.model_dump(mode="json")
        self._weights = detector.state_dict()
        self._images = write_images(folder / "images")

    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Damages a file or makes a hostile one, loads it, and detects with it."""
        file = folder / "detector.safetensors"
        is_ours = rng.random() < 0.5
        if is_ours:
            file.write_bytes(self._sound)
            damage_file(file, rng)
        else:
            file.write_bytes(self._hostile(rng))
        loaded = result(lambda: load_detector(file))
        if loaded is not None and is_ours:
            state = loaded[0].state_dict()
            if any(not torch.equal(value, state[key]) for key, value in self._weights.items()):
                raise FailureError("let in: damaged weights")
        if loaded is not None or rng.random() < 0.1:
            require_sound(command("predict", file, self._images, "--output", folder / "predicted"))
        return REFUSED if loaded is None else HELD

    def _hostile(self, rng: random.Random) -> bytes:
        """A file without a hash, which keeps out nobody who means harm."""
        card, weights = json.loads(json.dumps(self._card)), dict(self._weights)
        if rng.random() < 0.3:
            key, value = rng.choice(_HOSTILE)
            card["detector"][key] = value
        else:
            card = damaged_value(card, rng)
        if rng.random() < 0.3:
            weights = _changed(weights, rng)
        text = json.dumps(card)
        if rng.random() < 0.1:
            text = rng.choice(("[" * 100_000, '{"a":' * 100_000, "null", "[]", "", text[:-9], '{"a": 1, "a": 2}'))
        return save({key: value.contiguous() for key, value in weights.items()}, {"denseteacher": text})


def _changed(weights: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """Weights with one that is missing, too much, of another shape or type, or not finite."""
    key = rng.choice(sorted(weights))
    value = weights[key]
    changed = {
        "nan": torch.full_like(value, float("nan")) if value.is_floating_point() else value,
        "inf": torch.full_like(value, float("inf")) if value.is_floating_point() else value,
        "large": value * 1e30 if value.is_floating_point() else value,
        "ints": value.to(torch.int64),
        "half": value.half(),
        "shape": value.reshape(-1)[None, None],
        "empty": value.new_zeros(0),
    }
    way = rng.choice((*changed, "gone", "more"))
    if way in changed:
        return weights | {key: changed[way]}
    return (
        {name: one for name, one in weights.items() if name != key}
        if way == "gone"
        else weights | {"more": value.clone()}
    )


class OnnxFiles(FileAttack):
    """ONNX files: their bytes damaged, or card and network written by whoever means harm."""

    label = "ONNX files"
    share = 1.5

    def prepare(self, folder: Path) -> None:
        """Makes a network that finds the same whatever it sees."""
        self._image = np.zeros((40, 60, 3), dtype=np.uint8)
        card = {
            "version": "0.1",
            "categories": [[1, "cat"], [4, "dog"]],
            "short_side": 64,
            "max_side": 96,
            "multiple": 32,
            "score_floor": 0.05,
            "nms": True,
            "trained": {"recipe": "custom", "AP": 41.5},
        }
        self._card = card
        hashed = card | {"sha256": network_hash(_network().SerializeToString())}
        self._sound = _network(hashed).SerializeToString()
        (folder / "sound.onnx").write_bytes(self._sound)
        self._expected = OnnxPredictor.load(folder / "sound.onnx").predict([self._image])[0]

    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Damages a file or makes a hostile one, loads it, and detects with it."""
        file = folder / "detector.onnx"
        is_ours = rng.random() < 0.5
        if is_ours:
            file.write_bytes(self._sound)
            damage_file(file, rng)
        else:
            content = _hostile_network(rng, damaged_value(self._card, rng) if rng.random() < 0.4 else self._card)
            file.write_bytes(damaged_bytes(content, rng) if rng.random() < 0.3 else content)
        predictor = result(lambda: OnnxPredictor.load(file))
        if predictor is None:
            return REFUSED
        found = result(lambda: predictor.predict([self._image]))
        if is_ours and found is not None and not np.array_equal(found[0].boxes, self._expected.boxes):
            raise FailureError("let in: a damaged network")
        return REFUSED if found is None else HELD


def _network(card: Any = None, *, rows: Any = None, counts: Any = (1,), nodes: Any = (), domain: str = "") -> Any:
    shapes = {"pixels": (TensorProto.UINT8, ["b", 3, "h", "w"]), "sizes": (TensorProto.INT64, ["b", 2])}
    found = {"detections": (TensorProto.FLOAT, ["b", "d", 6]), "counts": (TensorProto.INT64, ["b"])}
    rows = [[[1.0, 2, 30, 40, 0.9, 1], [0, 0, 0, 0, 0, 0]]] if rows is None else rows
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, kind)))
        for name, value, kind in (("detections", rows, np.float32), ("counts", counts, np.int64))
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()] for kinds in (shapes, found)
    )
    graph = helper.make_graph([*nodes, *constants], "network", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 18)], ir_version=9)
    if card is not None:
        text = card if isinstance(card, str) else json.dumps(card)
        made.metadata_props.add(key=METADATA_KEY, value=text)
    return made


def _hostile_network(rng: random.Random, card: Any) -> bytes:
    """A file without a hash: strange numbers, operators without end, other files."""
    strange = float(rng.choice(("nan", "inf", "-1", "1e30", "7")))
    rows = [[[strange if rng.random() < 0.2 else 1.0 for _ in range(6)] for _ in range(rng.randint(0, 3))]]
    shaped: Any = rows if rows[0] else np.zeros((1, 0, 6))
    counts = rng.choice(((1,), (1,), (0,), (-1,), (10**9,), (1, 1), (-(2**63),)))
    nodes: list[Any] = []
    if rng.random() < 0.3:
        nodes = [helper.make_node(rng.choice(("Loop", "Scan", "If", "NoSuch", "RandomNormal")), ["pixels"], ["x"])]
    made = _network(card, rows=shaped, counts=counts, nodes=nodes, domain="com.nobody" if rng.random() < 0.1 else "")
    if rng.random() < 0.2:
        tensor = made.graph.node[-1].attribute[0].t
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", rng.choice(("/etc/passwd", "../x", "x.bin"))), ("offset", "0")):
            tensor.external_data.add(key=key, value=value)
    content: bytes = made.SerializeToString()
    return damaged_text("[1, 2, 3]", rng) if rng.random() < 0.03 else content
