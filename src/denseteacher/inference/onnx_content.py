"""What is inside an ONNX file, looked at before it is run: imports neither torch nor onnx.

The file is a message of protocol buffers, whose fields are told by number (``onnx.proto``). Only those are followed
that lead to operators and tensors.
"""

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from denseteacher.errors import InputError

_METADATA = 14  # field of a model
_ENDLESS = (b"Loop", b"Scan")
_MOST_NODES = 100_000
_DEEPEST = 16  # messages in one another; a graph within a graph is three
_OPERATOR, _PLACE, _LOCATION = 4, 13, 14  # fields: a node's operator, a tensor's external file, whether it has one
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Kinds of messages, and those within them by their field."""


class _Field(NamedTuple):
    number: int
    begin: int
    """Start of the field, its number included."""
    start: int
    """Start of the content."""
    end: int
    value: int
    """Value of a whole number."""


def require_closed(path: Path) -> str:
    """Refuses a file that asks for other files, or holds an operator that can run without end.

    What ``denseteacher export`` writes does neither.

    Returns:
        Its ``network_hash``.

    Raises:
        InputError: If it does, or is not an ONNX file.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            nodes = 0
            for kind, field in _contents(data, "model", 0, len(data), _DEEPEST):
                if kind == "tensor" and (field.number == _PLACE or (field.number == _LOCATION and field.value)):
                    raise InputError(
                        f"{path} keeps weights in other files, which are not read: export the detector anew"
                    )
                if kind == "node" and field.number == _OPERATOR:
                    nodes += 1
                    operator = data[field.start : field.end]
                    if operator in _ENDLESS:
                        raise InputError(
                            f"{path} holds the operator {operator.decode()}, which can run without end: give a file "
                            "that denseteacher export wrote"
                        )
                    if nodes > _MOST_NODES:
                        raise ValueError("too many operators")
            return network_hash(data)
    except ValueError as error:  # an empty file can't be mapped either
        raise InputError(f"{path} is not an ONNX file that onnxruntime can read, or is damaged") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error


def network_hash(data: bytes | mmap.mmap) -> str:
    """SHA-256 of all of an ONNX file but its metadata, in which it stands.

    Raises:
        ValueError: If it is not an ONNX file.
    """
    sha256 = hashlib.sha256()
    for field in _fields(data, 0, len(data)):
        if field.number != _METADATA:
            sha256.update(data[field.begin : field.end])
    return sha256.hexdigest()


def _contents(data: bytes | mmap.mmap, kind: str, start: int, end: int, depth: int) -> Iterator[tuple[str, _Field]]:
    """The fields of a message and of those within it, each with the kind of its message."""
    if depth == 0:
        raise ValueError("nested too deep")
    for field in _fields(data, start, end):
        yield kind, field
        inner = _INSIDE[kind].get(field.number)
        if inner is not None:
            yield from _contents(data, inner, field.start, field.end, depth - 1)


def _fields(data: bytes | mmap.mmap, place: int, end: int) -> Iterator[_Field]:
    while place < end:
        begin = place
        tag, place = _varint(data, place, end)
        number, wire = tag >> 3, tag & 7
        value = 0
        if wire == 0:
            start = place
            value, place = _varint(data, place, end)
        elif wire == 2:
            length, start = _varint(data, place, end)
            place = start + length
        elif wire in (1, 5):
            start = place
            place += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if place > end:
            raise ValueError("a field ends beyond its message")
        yield _Field(number, begin, start, place, value)


def _varint(data: bytes | mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number does not end")
