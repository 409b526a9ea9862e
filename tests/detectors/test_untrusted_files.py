"""A file of weights from elsewhere is data: it loads, or is refused by one sentence; nothing else is opened or run."""

import json
import os
import socket
import warnings
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from denseteacher.detectors import FCOS, DetectorCard, FCOSConfig, find_initial, load_detector, save_detector
from denseteacher.detectors.backbone import PyramidBackbone
from denseteacher.detectors.weight_files import read_state_dict
from denseteacher.errors import InputError
from denseteacher.training.checkpoint import CheckpointFolder

SMALL = {"backbone": "test_byobnet", "channels": 8, "levels": (4, 6), "head_convs": 1}
FUZZ = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Path, card as a dict (without hash) and tensors of a detector file."""
    torch.manual_seed(0)
    detector = FCOS(num_classes=2, **SMALL)
    card = DetectorCard(detector=detector.config, categories=((1, "cat"), (3, "dog")), short_side=64, max_side=96)
    path = tmp_path_factory.mktemp("whole") / "detector.safetensors"
    save_detector(path, detector.state_dict(), card)
    return path, card.model_dump(mode="json"), detector.state_dict()


@pytest.fixture
def alone(monkeypatch):
    """Without network."""

    def refuse(*arguments, **named):
        raise AssertionError("a file of weights asked for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(path, card, weights):
    """A file without a hash, as whoever means harm would write it too (a hash keeps nobody out)."""
    text = card if isinstance(card, str) else json.dumps(card)
    path.write_bytes(save({key: value.contiguous() for key, value in weights.items()}, {"denseteacher": text}))
    return path


def load(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the note that there is no hash
        return load_detector(path)


def changed(card, key, value):
    return card | {key: value} if key in card else card | {"detector": card["detector"] | {key: value}}


HOSTILE_CARDS = {
    "hub": ("backbone", "hf-hub:someone/model"),
    "hub2": ("backbone", "hf_hub:someone/model"),
    "folder": ("backbone", "local-dir:/etc"),
    "path": ("backbone", "../../model"),
    "unknown": ("backbone", "resnet5000"),
    "tag": ("backbone", "resnet18.of_nobody"),
    "no features": ("backbone", "gmixer_24_224"),
    "giant": ("backbone", "eva_giant_patch14_224"),
    "long name": ("backbone", "a" * 1_000_000),
    "many convolutions": ("head_convs", 100_000),
    "a few convolutions": ("head_convs", 40),
    "wide": ("channels", 10**9),
    "wider": ("channels", 16_384),
    "huge": ("channels", 10**300),
    "wide head": ("head_channels", 16_000),
    "levels": ("levels", [3, 8]),
    "levels of nothing": ("levels", [10**20, 10**21]),
    "frozen": ("frozen_stages", 10**20),
    "candidates": ("top_k", 10**30),
    "detections": ("max_detections", 10**30),
    "division": ("std", [1e-300, 1, 1]),
    "text": ("channels", "8; rm -rf /"),
    "no number": ("score_floor", None),
    "another detector": ("name", "retinanet"),
    "unknown detector": ("name", "__class__"),
    "unknown key": ("__init__", 1),
    "classes": ("categories", [[number, "x"] for number in range(100_000)]),
    "no classes": ("categories", []),
    "class id": ("categories", [[10**400, "x"], [2, "y"]]),
    "class name": ("categories", [[1, "x"], [2, "\ud800"]]),
    "class shape": ("categories", [[1], [2]]),
    "side": ("short_side", 10**9),
    "no side": ("short_side", 0),
    "long side": ("max_side", 10**40),
    "trained": ("trained", {"AP": {"deep": 1}}),
}


@pytest.mark.parametrize(("key", "value"), HOSTILE_CARDS.values(), ids=HOSTILE_CARDS)
def test_a_hostile_card_is_refused_before_anything_is_built(key, value, whole, tmp_path, alone, monkeypatch):
    _, card, weights = whole
    path = write(tmp_path / "d.safetensors", changed(card, key, value), weights)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_nothing_of_the_claimed_size_is_built(whole, tmp_path, monkeypatch):
    made = []
    empty = torch.empty

    def watched(*arguments, **named):
        made.append(empty(*arguments, **named))
        return made[-1]

    _, card, weights = whole
    path = write(tmp_path / "d.safetensors", changed(card, "channels", 16_384), weights)
    monkeypatch.setattr(torch, "empty", watched)
    with pytest.raises(InputError, match="another architecture"):
        load(path)
    assert made  # of layers
    assert all(one.is_meta for one in made)


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/etc", "../x", "a/b", "no_such_net"])
def test_a_recipe_names_networks_of_timms_own_alone(name, alone):
    with pytest.raises(InputError, match=r"timm can't make .*list_models"):
        FCOS(num_classes=2, **SMALL | {"backbone": name}, pretrained=True)


TEXTS = {
    "lists": "[" * 200_000,
    "mappings": '{"a":' * 200_000,
    "closed": "[" * 50_000 + "]" * 50_000,
    "a list": "[1, 2]",
    "null": "null",
    "text": '"card"',
    "nothing": "",
    "cut": '{"detector": {"name": "fc',
    "digits": '{"short_side": ' + "9" * 10_000 + "}",
    "no number": '{"short_side": NaN}',
    "infinite": '{"short_side": Infinity}',
    "twice": '{"short_side": 64, "short_side": 65}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_card_is_refused(text, whole, tmp_path):
    path = write(tmp_path / "d.safetensors", text, whole[2])
    with pytest.raises(InputError, match=r"d\.safetensors is not a detector file"):
        load(path)


def with_tensor(weights, key, change):
    return weights | {key: change(weights[key])}


def put(number):
    def change(value):
        value = value.clone()
        value.view(-1)[-1] = number
        return value

    return change


TENSORS = {
    "nan": (put(float("nan")), "not finite"),
    "infinity": (put(float("inf")), "not finite"),
    "too large": (lambda value: put(1e300)(value.double()), "not finite"),
    "whole": (lambda value: value.to(torch.int32), "holds int32 where floating-point numbers belong"),
    "bool": (lambda value: value.bool(), "holds bool where floating-point numbers belong"),
    "float8": (lambda value: value.to(torch.float8_e4m3fn), "holds another type"),
    "shape": (lambda value: value[:-1], "another architecture"),
    "flat": (lambda value: value.reshape(-1), "another architecture"),
    "empty": (lambda value: value[:0], "another architecture"),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS)
def test_a_tensor_that_is_no_weight_is_named(change, message, whole, tmp_path):
    _, card, weights = whole
    path = write(tmp_path / "d.safetensors", card, with_tensor(weights, "head.box.weight", change))
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert "'head.box.weight'" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(dtype, whole, tmp_path):
    _, card, weights = whole
    path = write(
        tmp_path / "d.safetensors",
        card,
        {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()},
    )
    detector, _ = load(path)
    wanted = weights["head.box.weight"].to(dtype).float()
    assert torch.equal(detector.head.box.weight, wanted)


def test_a_file_has_a_hash_and_the_same_bytes_each_time(whole, tmp_path):
    path, card, weights = whole
    detector, read = load_detector(path)
    assert read.model_dump(mode="json") == card
    for number in range(5):
        save_detector(tmp_path / f"{number}.safetensors", detector.state_dict(), read)
        assert (tmp_path / f"{number}.safetensors").read_bytes() == path.read_bytes()
    with safe_open(path, framework="pt") as file:
        assert len(json.loads(file.metadata()["denseteacher"])["sha256"]) == 64
    assert list(weights) == list(detector.state_dict())


def test_a_file_without_a_hash_loads_with_one_note(whole, tmp_path):
    _, card, weights = whole
    path = write(tmp_path / "old.safetensors", card, weights)
    with pytest.warns(UserWarning, match=r"old\.safetensors was written before detector files had a hash") as notes:
        detector, _ = load_detector(path)
    assert len(notes) == 1
    assert torch.equal(detector.head.box.weight, weights["head.box.weight"])


def test_a_swapped_card_is_noticed(whole, tmp_path):
    path, card, weights = whole
    with safe_open(path, framework="pt") as file:
        stated = json.loads(file.metadata()["denseteacher"])["sha256"]
    mirrored = card | {"categories": card["categories"][::-1], "sha256": stated}
    with pytest.raises(InputError, match="is damaged: its content is not what its hash describes"):
        load_detector(write(tmp_path / "d.safetensors", mirrored, weights))


def test_every_flipped_bit_is_noticed(whole, tmp_path):
    path = whole[0]
    data = bytearray(path.read_bytes())
    random = torch.Generator().manual_seed(0)
    header = int.from_bytes(data[:8], "little") + 8
    bits = torch.randint(8 * len(data), (20,), generator=random).tolist()
    bits += torch.randint(8 * header, (40,), generator=random).tolist()
    damaged, accepted = tmp_path / "d.safetensors", []
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        try:
            load_detector(damaged)
        except InputError as error:
            assert str(damaged) in str(error)  # noqa: PT017
        else:
            accepted.append(bit)
    # JSON has two spellings of some characters, and the padding behind it is not a content
    for bit in accepted:
        assert bit < 8 * header
        detector, card = load_detector(path)
        data[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        again, same = load_detector(damaged)
        assert same == card
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in detector.state_dict().items())


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, 1e308, 1e-308, "auto", "", "hf-hub:a/b", "test_resnet", "giou"]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))


@seed(14)
@FUZZ
@given(data=st.data())
def test_any_card_is_refused_or_loads(data, whole, tmp_path, alone):
    _, card, weights = whole
    card = json.loads(json.dumps(card))
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([card, card["detector"]])) if isinstance(card.get("detector"), dict) else card
        key = data.draw(st.sampled_from(sorted(part)) | st.text(max_size=6)) if part else "detector"
        part[key] = data.draw(values)
    try:
        load(write(tmp_path / "d.safetensors", card, weights))
    except InputError as error:
        assert "\n" not in str(error).strip()  # noqa: PT017


@seed(14)
@FUZZ
@given(start=st.integers(0, 10**6), piece=st.binary(min_size=1, max_size=12), cut=st.integers(0, 40))
def test_any_bytes_are_refused_or_load(start, piece, cut, whole, tmp_path):
    data = bytearray(whole[0].read_bytes())
    start %= len(data)
    data[start : start + len(piece)] = piece
    path = tmp_path / "d.safetensors"
    path.write_bytes(data[: len(data) - cut if cut > 30 else None])
    try:
        load(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


def body(path):
    return PyramidBackbone("test_byobnet", pretrained=str(path), levels=(4, 5), channels=8)


def compressed(path):
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def body_state():
    torch.manual_seed(0)
    return FCOS(num_classes=2, **SMALL).backbone.body.state_dict()


def save_as(content):
    return lambda path: torch.save(content() if callable(content) else content, path)


def first(change):
    def content():
        weights = body_state()
        key = next(iter(weights))
        return weights | {key: change(weights[key])}

    return content


NO_STATE_DICTS = {
    "a tensor": (save_as(torch.zeros(3)), "it holds a Tensor"),
    "a list": (save_as([torch.zeros(3)]), "it holds a list"),
    "null": (save_as(None), "it holds a NoneType"),
    "null inside": (save_as({"state_dict": None}), "it holds a NoneType"),
    "a list inside": (save_as({"model": [1]}), "it holds a list"),
    "text": (lambda path: path.write_text("no weights"), "not a state dict of tensors, or a damaged one"),
    "nothing": (lambda path: path.write_bytes(b""), "not a state dict of tensors, or a damaged one"),
    "compressed": (compressed, "unpacks to more than it holds"),
    "a pipe": (os.mkfifo, "there is no file"),
    "a folder": (lambda path: path.mkdir(), "there is no file"),
    "empty": (save_as({}), "lacks"),
    "whole numbers": (save_as(first(lambda value: value.long())), "holds int64 where floating-point numbers belong"),
    "complex": (save_as(first(lambda value: value.cfloat())), "where floating-point numbers belong"),
    "nan": (save_as(first(put(float("nan")))), "not finite"),
    "sparse": (save_as(first(lambda value: value.to_sparse())), "lacks 1 "),
    "spread": (save_as(first(lambda value: torch.zeros(1).expand(value.shape))), "lacks 1 "),
    "texts": (save_as(first(lambda value: "x")), "lacks 1 "),
    "shape": (save_as(first(lambda value: value[:1])), "other shapes"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(("make", "message"), NO_STATE_DICTS.values(), ids=NO_STATE_DICTS)
def test_pretrained_weights_are_a_state_dict_of_the_backbone(make, message, tmp_path, alone):
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(InputError, match=rf"^detector\.pretrained: .*{message}"):
        body(path)


def test_pretrained_weights_may_be_safetensors_or_wrapped(tmp_path):
    weights = body_state()
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"epoch": 3, "state_dict": weights | {"head.fc.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        assert all(torch.equal(value, weights[key]) for key, value in body(tmp_path / name).body.state_dict().items())
    (tmp_path / "long.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="not a safetensors file"):
        body(tmp_path / "long.safetensors")


def test_an_initial_detector_is_compared_before_it_is_built(tmp_path, alone):
    from torchvision.models.detection import retinanet_resnet50_fpn

    with torch.device("meta"):
        names = retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    tiny = {key: torch.zeros((1,) * value.ndim) for key, value in names.items()}
    sizes = {
        "backbone.fpn.layer_blocks.0.0.weight": (9000, 1, 1, 1),
        "head.classification_head.cls_logits.weight": (1, 9000, 1, 1),
        "head.classification_head.cls_logits.bias": (9 * 5,),
        "head.regression_head.bbox_reg.bias": (36,),
    }
    torch.save(tiny | {key: torch.zeros(size) for key, size in sizes.items()}, tmp_path / "wide.pth")
    with pytest.raises(InputError, match=r"wide\.pth holds another architecture"):
        find_initial(FCOSConfig(init=str(tmp_path / "wide.pth")))
    torch.save(tiny, tmp_path / "tiny.pth")
    with pytest.raises(InputError, match=r"tiny\.pth is not an FCOS or RetinaNet of torchvision's"):
        find_initial(FCOSConfig(init=str(tmp_path / "tiny.pth")))


def test_a_checkpoint_is_data_too(tmp_path):
    folder = CheckpointFolder(tmp_path)
    compressed(tmp_path / "step_00000001.pt")
    with pytest.raises(InputError, match="unpacks to more than it holds"):
        folder.load(tmp_path / "step_00000001.pt")
    os.mkfifo(tmp_path / "step_00000002.pt")
    with pytest.raises(InputError, match="not a regular file"):
        folder.load(tmp_path / "step_00000002.pt")
    with pytest.raises(InputError, match="not a regular file"):
        read_state_dict(tmp_path / "step_00000002.pt")
