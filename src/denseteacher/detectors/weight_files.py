"""Weights from elsewhere, read as data: nothing in a file is run, and nothing it says of its sizes is believed."""

import hashlib
import json
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from denseteacher.errors import InputError

_MOST_HEADER = 2**24  # bytes; the names of 1,200 tensors and 1,200 classes take a hundredth of it
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys under which training checkpoints keep their weights
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""What safetensors calls the types that a network can have."""


class TensorKind(NamedTuple):
    """What is known of a tensor before it is read."""

    dtype: torch.dtype | None
    """Type of the values; None where a network can't have it."""
    shape: tuple[int, ...]


class WeightFile(NamedTuple):
    """An open safetensors file, of which only the header was read."""

    metadata: dict[str, str]
    kinds: dict[str, TensorKind]
    read: Callable[[], dict[str, Tensor]]
    """All tensors."""


@contextmanager
def open_weights(path: Path) -> Iterator[WeightFile]:
    """Opens a safetensors file.

    Raises:
        InputError: If it is none, here or while it is read.
    """
    require_regular(path)
    damaged = InputError(f"{path} is not a safetensors file, or is damaged")
    with path.open("rb") as stream:
        if int.from_bytes(stream.read(8), "little") > _MOST_HEADER:
            raise damaged
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            kinds = {}
            for name in names:
                part = file.get_slice(name)
                kinds[name] = TensorKind(_DTYPES.get(str(part.get_dtype())), tuple(part.get_shape()))
            yield WeightFile(file.metadata() or {}, kinds, lambda: {name: file.get_tensor(name) for name in names})
    except (SafetensorError, OSError) as error:
        raise damaged from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, bare or inside a training checkpoint: ``.safetensors``, or what torch saves.

    Raises:
        InputError: If the file holds none.
    """
    if path.suffix == ".safetensors":
        with open_weights(path) as file:
            return file.read()
    return state_dict_in(path, read_pickled(path))


def state_dict_in(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, bare or inside a training checkpoint.

    Args:
        path: Where it is from, for messages.
        content: What torch has loaded.

    Raises:
        InputError: If it holds none.
    """
    for key in _WRAPPERS:
        content = content[key] if isinstance(content, dict) and key in content else content
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a state dict of tensors: it holds a {type(content).__name__}")
    return {key: value for key, value in content.items() if isinstance(key, str) and _is_plain(value)}


def read_pickled(path: Path) -> Any:
    """What a file of torch's holds. Never runs code from it.

    Raises:
        InputError: If it can't be read, or holds more than tensors and plain values.
    """
    require_regular(path)
    require_stored(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:  # bytes that are not a checkpoint make the unpickler raise anything
        raise InputError(f"{path} is not a state dict of tensors, or a damaged one") from error


def require_regular(path: Path) -> None:
    """Refuses what is not a regular file: a pipe has no end, and is waited for without one.

    Raises:
        InputError: If it is one, or there is nothing.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        reason = "Is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise InputError(f"{path} can't be read: {reason}")


def require_stored(path: Path) -> None:
    """Refuses an archive that unpacks to more than its own size. torch compresses nothing.

    Raises:
        InputError: If it is one.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is not a state dict of tensors, or a damaged one") from error
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{path} unpacks to more than it holds: torch did not write it")


def require_fitting(build: Callable[[], nn.Module], kinds: Mapping[str, TensorKind], *, source: str) -> None:
    """Compares tensors with those of a network, before memory or time is spent on either.

    Args:
        build: Makes the network.
        kinds: Kinds of the tensors; there may be more.
        source: Where they are from, for messages.

    Raises:
        InputError: If the network can't be built, or has others.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            own = build().state_dict()
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except Exception as error:  # what timm raises where options of a network contradict each other
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{source} describes a detector that can't be built ({reason})") from error
    for key, value in own.items():
        # torchvision's frozen batch norms don't count their batches
        if key in kinds or not key.endswith("num_batches_tracked"):
            _require_kind(key, kinds.get(key), value, len(own), source)


def _require_kind(key: str, kind: TensorKind | None, value: Tensor, count: int, source: str) -> None:
    if kind is None or kind.shape != tuple(value.shape):
        found = "is missing" if kind is None else f"has the shape {kind.shape}, not {tuple(value.shape)}"
        raise InputError(
            f"{source} holds another architecture than it describes, or than the recipe (detector, number of classes) "
            f"has: of {count} tensors {key!r} {found}"
        )
    _require_type(key, kind.dtype, value, source)


def _require_type(key: str, dtype: torch.dtype | None, value: Tensor, source: str) -> None:
    if dtype is None or dtype.is_floating_point != value.is_floating_point():
        wanted = "floating-point numbers" if value.is_floating_point() else "whole numbers"
        held = "another type" if dtype is None else str(dtype).removeprefix("torch.")
        raise InputError(f"{source}: {key!r} holds {held} where {wanted} belong: give weights as they were trained")


def require_like(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], *, source: str) -> None:
    """Refuses tensors that are of another type than a network's, and NaN and infinity.

    Args:
        weights: Those of ``own`` among others.
        own: Tensors of the network.
        source: Where the weights are from, for messages.

    Raises:
        InputError: If one is refused.
    """
    for key, value in own.items():
        _require_type(key, weights[key].dtype, value, source)
    require_finite({key: weights[key] for key in own}, source=source)


def require_finite(weights: Mapping[str, Tensor], *, source: str) -> None:
    """Refuses NaN and infinity.

    Raises:
        InputError: If there is any in fp32.
    """
    for key, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise InputError(
                f"{source}: {key!r} holds values that are not finite (NaN or infinite): its training diverged, or the "
                "file is damaged; use another one"
            )


def kinds_of(weights: Mapping[str, Tensor]) -> dict[str, TensorKind]:
    """Types and shapes of tensors."""
    return {key: TensorKind(value.dtype, tuple(value.shape)) for key, value in weights.items()}


def content_hash(description: Any, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a detector file says: its description, and names, types, shapes and values of its tensors.

    Args:
        description: What JSON can hold.
        weights: On the CPU.
    """
    sha256 = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for key in sorted(weights):
        value = weights[key]
        sha256.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        sha256.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether a value is a tensor with all its numbers in memory: a few bytes can be spread over a large shape."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta or value.is_nested:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
