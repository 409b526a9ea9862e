"""An exported detector, used without torch: onnxruntime, NumPy and Pillow are all that is imported."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from denseteacher.data.sizes import common_canvas, resized_size
from denseteacher.errors import InputError
from denseteacher.inference.inputs import Picture, batches_by_shape, picture_size, to_array
from denseteacher.inference.onnx_card import METADATA_KEY, OnnxCard, read_card
from denseteacher.inference.onnx_content import require_closed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_COLUMNS = 4  # of a box; score and label follow
_ROW = _COLUMNS + 2
_Arrays = Mapping[str, tuple[str, Sequence[int | str | None]]]
"""Types and shapes by name."""
_INPUTS: _Arrays = {"pixels": ("tensor(uint8)", (None, 3, None, None)), "sizes": ("tensor(int64)", (None, 2))}
_OUTPUTS: _Arrays = {"detections": ("tensor(float)", (None, None, _ROW)), "counts": ("tensor(int64)", (None,))}
"""Names, types and shapes of what it gives; None is any length."""


class OnnxDetections(NamedTuple):
    """Final boxes of one image, by falling score."""

    boxes: npt.NDArray[np.float32]
    """(D, 4) xyxy in the image's own pixels."""
    scores: npt.NDArray[np.float32]
    """(D,) in [0, 1]."""
    labels: npt.NDArray[np.int64]
    """(D,) class indices."""


class OnnxPredictor:
    """Finds objects in images, as ``Predictor`` does, with the file that ``denseteacher export`` wrote."""

    def __init__(self, session: "InferenceSession", card: OnnxCard) -> None:
        self.session = session
        self.card = card

    @property
    def class_names(self) -> list[str]:
        """Names by class index."""
        return [name for _, name in self.card.categories]

    @classmethod
    def load(
        cls, path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), changed: bool = False
    ) -> "OnnxPredictor":
        """Reads an exported detector.

        Args:
            path: The file.
            providers: Where onnxruntime computes, the best first: ``CUDAExecutionProvider``, for example.
            changed: Take a network that is not the exported one, as a quantized or simplified one is.

        Raises:
            InputError: If there is none, it can't be used for detection, asks for other files or holds an operator that
                can run without end.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no ONNX file {path}")
        network = require_closed(Path(path))
        session = _open_session(path, providers)
        try:
            entry = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
            inputs, outputs = _arrays(session.get_inputs()), _arrays(session.get_outputs())
        except ValueError as error:  # names that are no UTF-8
            raise InputError(f"{path} is not an ONNX file that onnxruntime can read, or is damaged") from error
        if entry is None:
            raise InputError(
                f"{path} says nothing of classes and image sizes: give a file that denseteacher export wrote"
            )
        card = read_card(path, entry, None if changed else network)
        if not card.nms:
            raise InputError(
                f"{path} was exported with --no-nms and gives no detections: export the detector with --nms, or run "
                "the file with onnxruntime itself"
            )
        _require_arrays(path, "input", _INPUTS, inputs)
        _require_arrays(path, "output", _OUTPUTS, outputs)
        return cls(session, card)

    def predict(self, images: Sequence[Picture], *, batch_size: int = 8) -> list[OnnxDetections]:
        """Detections of each image, in order, in the image's own pixels; as ``Predictor.predict``.

        Args:
            images: Paths, PIL images, or uint8 RGB arrays of shape (H, W, 3). EXIF orientation of files is
                applied.
            batch_size: Images a forward.

        Raises:
            InputError: If a file can't be read, an array has another shape or type, or the ONNX file gives what are no
                detections.
        """
        found: dict[int, OnnxDetections] = {}
        for positions in batches_by_shape(len(images), lambda position: picture_size(images[position]), batch_size):
            arrays = [to_array(images[position]) for position in positions]
            pixels, sizes = self._canvas(arrays)
            rows, counts = self._run(pixels, sizes)
            for position, array, (height, width), own, count in zip(
                positions, arrays, sizes, rows, counts, strict=True
            ):
                x, y = array.shape[1] / width, array.shape[0] / height
                boxes = own[:count, :_COLUMNS] * np.array([x, y, x, y], dtype=np.float32)
                found[position] = OnnxDetections(boxes, own[:count, 4], own[:count, 5].astype(np.int64))
        return [found[position] for position in range(len(images))]

    def _run(
        self, pixels: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(B, D, 6) rows and (B,) counts, with which the file keeps what it promises."""
        try:
            rows, counts = self.session.run(list(_OUTPUTS), {"pixels": pixels, "sizes": sizes})
        except Exception as error:  # onnxruntime has an exception for each of its status codes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the ONNX file can't be computed on images of {pixels.shape[3]} x {pixels.shape[2]} px ({reason}): "
                "export the detector anew"
            ) from error
        if rows.shape[0] != len(pixels) or rows.shape[2:] != (_ROW,) or counts.shape != (len(pixels),):
            raise InputError(
                f"the ONNX file gives arrays of shapes {rows.shape} and {counts.shape}, which are not detections"
            )
        used = np.arange(rows.shape[1]) < counts[:, None]
        labels = rows[used][:, -1]
        if not (
            (counts >= 0).all()
            and (counts <= rows.shape[1]).all()
            and np.isfinite(rows[used]).all()
            and ((labels >= 0) & (labels < len(self.card.categories))).all()
        ):
            raise InputError(
                "the ONNX file gives numbers that are not detections: it is damaged, export the detector anew"
            )
        return rows, counts

    def _canvas(self, arrays: Sequence[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """(B, 3, H, W) resized images on the smallest common canvas, and their (B, 2) sizes."""
        sides = self.card.short_side, self.card.max_side
        sizes = [resized_size(array.shape[0], array.shape[1], *sides) for array in arrays]
        pixels = np.zeros((len(arrays), 3, *common_canvas(sizes, multiple=self.card.multiple)), dtype=np.uint8)
        for row, array, (height, width) in zip(pixels, arrays, sizes, strict=True):
            row[:, :height, :width] = _resize(array, height, width).transpose(2, 0, 1)
        return pixels, np.array(sizes, dtype=np.int64)


def _arrays(given: Sequence[Any]) -> _Arrays:
    return {one.name: (one.type, one.shape) for one in given}


def _require_arrays(path: str | Path, what: str, wanted: _Arrays, arrays: _Arrays) -> None:
    """Refuses a network with other inputs or outputs than ``DetectionNetwork`` has."""
    for name, (kind, shape) in wanted.items():
        if name not in arrays or arrays[name][0] != kind or not _has_shape(arrays[name][1], shape):
            raise InputError(
                f"{path} has no {what} {name!r} as an export of denseteacher has it: give a file that denseteacher "
                "export wrote"
            )
    if len(arrays) != len(wanted):
        raise InputError(
            f"{path} has other {what}s than {', '.join(wanted)}: give a file that denseteacher export wrote"
        )


def _has_shape(shape: Sequence[int | str | None], wanted: Sequence[int | str | None]) -> bool:
    return len(shape) == len(wanted) and all(right in (None, own) for own, right in zip(shape, wanted, strict=True))


def _open_session(path: str | Path, providers: Sequence[str]) -> "InferenceSession":
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} needs onnxruntime: pip install onnxruntime (or onnxruntime-gpu)") from error
    unknown = set(providers) - set(onnxruntime.get_available_providers())
    if unknown:
        raise InputError(
            f"this onnxruntime has no {sorted(unknown)[0]}; it has {', '.join(onnxruntime.get_available_providers())}"
        )
    try:
        # without another provider to fall back to, its second try would be printed and end as the first
        return onnxruntime.InferenceSession(str(path), providers=list(providers), enable_fallback=len(providers) > 1)
    except Exception as error:  # onnxruntime has an exception for each of its status codes
        raise InputError(f"{path} is not an ONNX file that onnxruntime can read, or is damaged") from error


def _resize(array: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resizes as torchvision does uint8 (bilinear, averaging where it shrinks), but for some values by 1."""
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
