"""An exported detector, used without torch: onnxruntime, NumPy and Pillow are all that is imported."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from denseteacher.data.sizes import common_canvas, resized_size
from denseteacher.errors import InputError
from denseteacher.inference.inputs import Picture, batches_by_shape, picture_size, to_array

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METADATA_KEY = "denseteacher"
"""Key of the entry in an ONNX file's metadata that holds an ``OnnxCard`` as JSON."""
_COLUMNS = 4  # of a box; score and label follow


class OnnxCard(NamedTuple):
    """What an exported file says about itself."""

    version: str
    """Version of denseteacher, which wrote it."""
    categories: list[tuple[int, str]]
    """(id, name) of each class, by class index."""
    short_side: int
    """Pixels that the shorter side of an image is resized to."""
    max_side: int
    multiple: int
    """Height and width of the canvas are multiples of this."""
    score_floor: float
    """Class scores at or below are not detections."""
    nms: bool
    """Whether it gives detections, or boxes and scores at every location."""
    trained: dict[str, str | int | float]
    """Where the detector comes from: recipe, step, teacher or student, AP."""


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
    def load(cls, path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> "OnnxPredictor":
        """Reads an exported detector.

        Args:
            path: The file.
            providers: Where onnxruntime computes, the best first: ``CUDAExecutionProvider``, for example.

        Raises:
            InputError: If there is none, or it can't be used for detection.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no ONNX file {path}")
        session = _open_session(path, providers)
        entry = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if entry is None:
            raise InputError(
                f"{path} says nothing of classes and image sizes: give a file that denseteacher export wrote"
            )
        try:
            card = OnnxCard(**json.loads(entry))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path} was exported by another version of denseteacher: export the detector anew"
            ) from error
        if not card.nms:
            raise InputError(
                f"{path} was exported with --no-nms and gives no detections: export the detector with --nms, or run "
                "the file with onnxruntime itself"
            )
        return cls(session, card)

    def predict(self, images: Sequence[Picture], *, batch_size: int = 8) -> list[OnnxDetections]:
        """Detections of each image, in order, in the image's own pixels; as ``Predictor.predict``.

        Args:
            images: Paths, PIL images, or uint8 RGB arrays of shape (H, W, 3). EXIF orientation of files is
                applied.
            batch_size: Images a forward.

        Raises:
            InputError: If a file can't be read, or an array has another shape or type.
        """
        found: dict[int, OnnxDetections] = {}
        for positions in batches_by_shape(len(images), lambda position: picture_size(images[position]), batch_size):
            arrays = [to_array(images[position]) for position in positions]
            pixels, sizes = self._canvas(arrays)
            rows, counts = self.session.run(None, {"pixels": pixels, "sizes": sizes})
            for position, array, (height, width), own, count in zip(
                positions, arrays, sizes, rows, counts, strict=True
            ):
                x, y = array.shape[1] / width, array.shape[0] / height
                boxes = own[:count, :_COLUMNS] * np.array([x, y, x, y], dtype=np.float32)
                found[position] = OnnxDetections(boxes, own[:count, 4], own[:count, 5].astype(np.int64))
        return [found[position] for position in range(len(images))]

    def _canvas(self, arrays: Sequence[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """(B, 3, H, W) resized images on the smallest common canvas, and their (B, 2) sizes."""
        sides = self.card.short_side, self.card.max_side
        sizes = [resized_size(array.shape[0], array.shape[1], *sides) for array in arrays]
        pixels = np.zeros((len(arrays), 3, *common_canvas(sizes, multiple=self.card.multiple)), dtype=np.uint8)
        for row, array, (height, width) in zip(pixels, arrays, sizes, strict=True):
            row[:, :height, :width] = _resize(array, height, width).transpose(2, 0, 1)
        return pixels, np.array(sizes, dtype=np.int64)


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
        return onnxruntime.InferenceSession(str(path), providers=list(providers))
    except Exception as error:  # onnxruntime has an exception for each of its status codes
        raise InputError(f"{path} is not an ONNX file that onnxruntime can read, or is damaged") from error


def _resize(array: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resizes as torchvision does uint8 (bilinear, averaging where it shrinks), but for some values by 1."""
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
