"""An ONNX file from elsewhere: what can be told before it runs is told, and what it gives is looked at."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from denseteacher.errors import InputError
from denseteacher.inference.onnx_card import METADATA_KEY
from denseteacher.inference.onnx_content import network_hash
from denseteacher.inference.onnx_predictor import OnnxPredictor

IMAGE = np.zeros((40, 60, 3), dtype=np.uint8)
CARD = {
    "version": "0.1",
    "categories": [[1, "cat"], [4, "dog"]],
    "short_side": 64,
    "max_side": 96,
    "multiple": 32,
    "score_floor": 0.05,
    "nms": True,
    "trained": {"recipe": "custom", "AP": 41.5},
}
ROWS = [[[1.0, 2, 30, 40, 0.9, 1], [0, 0, 0, 0, 0, 0]]]
FUZZ = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def constant(name, value, dtype):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, dtype)))


def model(rows=ROWS, counts=(1,), *, card=CARD, nodes=(), inputs=None, outputs=None, initializers=()):
    """A network that finds the same whatever it sees."""
    given = {"pixels": (TensorProto.UINT8, ["b", 3, "h", "w"]), "sizes": (TensorProto.INT64, ["b", 2])}
    found = {"detections": (TensorProto.FLOAT, ["b", "d", 6]), "counts": (TensorProto.INT64, ["b"])}
    graph = helper.make_graph(
        [*nodes, constant("detections", rows, np.float32), constant("counts", counts, np.int64)],
        "network",
        [helper.make_tensor_value_info(name, *kind) for name, kind in (given | (inputs or {})).items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in (found | (outputs or {})).items()],
        list(initializers),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        made.metadata_props.add(key=METADATA_KEY, value=card if isinstance(card, str) else json.dumps(card))
    return made


@pytest.fixture(autouse=True)
def no_note(recwarn):
    """These files have no hash, so that each check is met and not that one alone."""


def write(folder, made):
    path = folder / "detector.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_the_network_of_these_tests_is_taken(tmp_path):
    predictor = OnnxPredictor.load(write(tmp_path, model()))
    boxes, scores, labels = predictor.predict([IMAGE])[0]
    np.testing.assert_allclose(boxes, np.array([[1, 2, 30, 40]]) * 40 / 64, rtol=1e-6)
    assert (scores.tolist(), labels.tolist()) == ([np.float32(0.9)], [1])
    assert predictor.class_names == ["cat", "dog"]


def test_a_network_that_was_changed_is_noticed(tmp_path):
    network = network_hash(model(card=None).SerializeToString())
    path = write(tmp_path, model(card=CARD | {"sha256": network}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OnnxPredictor.load(path)
    random = np.random.default_rng(0)
    data = bytearray(path.read_bytes())
    end = data.index(METADATA_KEY.encode()) - 8
    for bit in random.integers(8 * end, size=60).tolist():
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / "flipped.onnx").write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError, match=r"flipped\.onnx"):
            OnnxPredictor.load(tmp_path / "flipped.onnx")


def test_a_network_that_its_owner_changed_can_be_asked_for(tmp_path):
    path = write(tmp_path, model(card=CARD | {"sha256": "0" * 64}))
    with pytest.raises(InputError, match="changed=True"):
        OnnxPredictor.load(path)
    assert OnnxPredictor.load(path, changed=True).class_names == ["cat", "dog"]


def test_a_file_without_a_hash_is_taken_with_a_note(tmp_path):
    with pytest.warns(UserWarning, match="was exported before ONNX files had a hash") as notes:
        OnnxPredictor.load(write(tmp_path, model()))
    assert len(notes) == 1


WRONG_FIELDS = [
    ("version", 3),
    ("categories", []),
    ("categories", {"1": "cat"}),
    ("categories", [[1, "cat", 2]]),
    ("categories", [["1", "cat"]]),
    ("categories", [[10**30, "cat"]]),
    ("categories", [[1, None]]),
    ("short_side", 0),
    ("short_side", 10**12),
    ("short_side", "64"),
    ("short_side", True),
    ("short_side", 64.5),
    ("max_side", -1),
    ("max_side", 10**30),
    ("multiple", 0),
    ("multiple", 10**9),
    ("multiple", None),
    ("score_floor", "low"),
    ("score_floor", 2),
    ("nms", "yes"),
    ("trained", []),
    ("trained", {"AP": [1]}),
    ("trained", {"AP": 10**30}),
]


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS)
def test_a_field_of_the_card_that_no_export_has_is_named(field, value, tmp_path):
    path = write(tmp_path, model(card=CARD | {field: value}))
    with pytest.raises(InputError, match=f"says of itself that {field} is .*, which no export has") as caught:
        OnnxPredictor.load(path)
    assert str(path) in str(caught.value)


TEXTS = {
    "deep": "[" * 200_000,
    "list": "[]",
    "number": "3",
    "missing": json.dumps({key: value for key, value in CARD.items() if key != "nms"}),
    "too much": json.dumps(CARD | {"more": 1}),
    "not finite": json.dumps(CARD | {"score_floor": float("nan")}),
    "surrogate": json.dumps(CARD | {"categories": [[1, "\ud800"]]}),
    "twice": json.dumps(CARD)[:-1] + ', "nms": true}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_card_is_refused(text, tmp_path):
    with pytest.raises(InputError, match="exported by another version of denseteacher"):
        OnnxPredictor.load(write(tmp_path, model(card=text)))


ARRAYS = {
    "gray": ({"inputs": {"pixels": (TensorProto.UINT8, ["b", 1, "h", "w"])}}, "has no input 'pixels'"),
    "floats": ({"inputs": {"pixels": (TensorProto.FLOAT, ["b", 3, "h", "w"])}}, "has no input 'pixels'"),
    "flat": ({"inputs": {"pixels": (TensorProto.UINT8, ["b"])}}, "has no input 'pixels'"),
    "more": ({"inputs": {"token": (TensorProto.INT64, [1])}}, "has other inputs than pixels, sizes"),
    "columns": ({"rows": [[[1.0, 2, 3, 4, 0.5]]], "outputs": {"detections": (1, ["b", "d", 5])}}, "has no output"),
}


@pytest.mark.parametrize(("changes", "message"), ARRAYS.values(), ids=ARRAYS)
def test_other_arrays_are_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        OnnxPredictor.load(write(tmp_path, model(**changes)))


RESULTS = {
    "nan": ({"rows": [[[1.0, 2, 3, float("nan"), 0.5, 0]]]}, "not detections"),
    "infinite": ({"rows": [[[1.0, 2, 3, float("inf"), 0.5, 0]]]}, "not detections"),
    "class": ({"rows": [[[1.0, 2, 3, 4, 0.5, 7]]]}, "not detections"),
    "class below": ({"rows": [[[1.0, 2, 3, 4, 0.5, -1]]]}, "not detections"),
    "count": ({"counts": [5]}, "not detections"),
    "count below": ({"counts": [-1]}, "not detections"),
    "images": ({"rows": ROWS * 2, "counts": [1, 1]}, "not detections"),
}


@pytest.mark.parametrize(("changes", "message"), RESULTS.values(), ids=RESULTS)
def test_numbers_that_are_no_detections_are_refused(changes, message, tmp_path):
    predictor = OnnxPredictor.load(write(tmp_path, model(**changes)))
    with pytest.raises(InputError, match=message):
        predictor.predict([IMAGE])


def test_a_network_that_fails_on_an_image_is_one_sentence(tmp_path):
    made = model()
    made.graph.node.remove(made.graph.node[-1])
    made.graph.node.extend(
        [constant("shape", [7], np.int64), helper.make_node("Reshape", ["sizes", "shape"], ["counts"])]
    )
    predictor = OnnxPredictor.load(write(tmp_path, made))
    with pytest.raises(InputError, match=r"can't be computed on images of 96 x 64 px \(.*Reshape"):
        predictor.predict([IMAGE])


def elsewhere(name):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    return tensor


def endless():
    """A loop whose condition stays true."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info("number", TensorProto.INT64, []), helper.make_tensor_value_info("go", 9, [])],
        [helper.make_tensor_value_info("on", 9, [])],
    )
    return [constant("yes", True, np.bool_), helper.make_node("Loop", ["", "yes"], [], body=body)]


def within(nodes):
    """The nodes in a branch."""
    branch = helper.make_graph(
        [*nodes, constant("x", 1, np.int64)], "branch", [], [helper.make_tensor_value_info("x", 7, [])]
    )
    return [
        constant("chosen", True, np.bool_),
        helper.make_node("If", ["chosen"], ["of_branch"], then_branch=branch, else_branch=branch),
    ]


OTHERS = {
    "weights in a file beside": (lambda: model(initializers=[elsewhere("w.bin")]), "keeps weights in other files"),
    "weights in a file above": (lambda: model(initializers=[elsewhere("../../etc/passwd")]), "keeps weights in other"),
    "a constant elsewhere": (
        lambda: model(nodes=[helper.make_node("Constant", [], ["w"], value=elsewhere("/etc/passwd"))]),
        "keeps weights in other files",
    ),
    "loop": (lambda: model(nodes=endless()), "holds the operator Loop, which can run without end"),
    "loop in a branch": (lambda: model(nodes=within(endless())), "holds the operator Loop"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS)
def test_other_files_and_endless_operators_are_refused_unread(make, message, tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(InputError, match=message):
        OnnxPredictor.load(write(tmp_path, make()))


def field(tag, content):
    """A field of protocol buffers: its tag, its length in seven bits a byte, its content."""
    length, size = len(content), b""
    while length >= 0x80:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([tag]) + size + bytes([length]) + content


def test_messages_in_one_another_end(tmp_path):
    data = b""
    for _ in range(1000):  # an attribute's graph's node's attribute's ...
        data = field(0x0A, field(0x2A, field(0x32, data)))
    (tmp_path / "deep.onnx").write_bytes(field(0x3A, data))
    with pytest.raises(InputError, match="not an ONNX file"):
        OnnxPredictor.load(tmp_path / "deep.onnx")


@seed(14)
@FUZZ
@given(start=st.integers(0, 10**6), piece=st.binary(min_size=1, max_size=6), cut=st.integers(0, 400))
def test_any_bytes_are_refused_or_predict(start, piece, cut, tmp_path):
    data = bytearray(model().SerializeToString())
    start %= len(data)
    data[start : start + len(piece)] = piece
    path = tmp_path / "d.onnx"
    path.write_bytes(data[: len(data) - cut if cut > 300 else None])
    try:
        found = OnnxPredictor.load(path).predict([IMAGE])
    except InputError as error:
        assert str(error)  # noqa: PT017
    else:
        assert len(found) == 1
