"""A trained detector, ready to use."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from denseteacher.data.geometry import EvalView, pad_batch
from denseteacher.data.images import decode_image
from denseteacher.data.records import Category
from denseteacher.detectors import FCOS, DenseDetector, DetectorCard, RetinaNet, load_detector
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import detect_batch
from denseteacher.structures import Detections

Picture = str | Path | Image.Image | npt.NDArray[np.uint8]
_DETECTOR_FILE = "detector.safetensors"


class Predictor:
    """Finds objects in images."""

    def __init__(self, detector: FCOS | RetinaNet, card: DetectorCard, *, device: torch.device | None = None) -> None:
        """Moves the detector to ``device``; to the GPU if there is one and none is given."""
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.detector = cast(DenseDetector, detector.to(memory_format=torch.channels_last).to(self.device))
        self.card = card
        self.view = EvalView(short_side=card.short_side, max_side=card.max_side)

    @property
    def categories(self) -> list[Category]:
        """The classes, by class index."""
        return [Category(id_, name) for id_, name in self.card.categories]

    @property
    def class_names(self) -> list[str]:
        """Names by class index."""
        return [name for _, name in self.card.categories]

    @classmethod
    def load(cls, path: Path, *, device: torch.device | None = None, score_floor: float | None = None) -> "Predictor":
        """Reads a detector file, or the one of a run folder.

        Args:
            path: The file or the folder.
            device: Where to compute; the GPU if there is one and none is given.
            score_floor: Class scores at or below are no detections; the detector's own if not given.

        Raises:
            InputError: If there is none.
        """
        file = path / _DETECTOR_FILE if path.is_dir() else path
        if path.is_dir() and not file.is_file():
            raise InputError(f"{path} holds no {_DETECTOR_FILE}: it is no finished run of denseteacher")
        return cls(*load_detector(file, score_floor=score_floor), device=device)

    def predict(self, images: Sequence[Picture], *, batch_size: int = 8) -> list[Detections]:
        """Detections of each image, in order, in the image's own pixels.

        Args:
            images: Paths, PIL images, or uint8 RGB arrays of shape (H, W, 3). EXIF orientation of files is
                applied.
            batch_size: Images a forward.

        Raises:
            InputError: If a file can't be read, or an array has another shape or type.
        """
        detections: list[Detections] = []
        for start in range(0, len(images), batch_size):
            tensors = [_to_tensor(image) for image in images[start : start + batch_size]]
            batch = pad_batch([self.view.apply(tensor) for tensor in tensors])
            sizes = [(tensor.shape[1], tensor.shape[2]) for tensor in tensors]
            detections.extend(detect_batch(self.detector, batch, sizes, self.device))
        return detections


def _to_tensor(image: Picture) -> Tensor:
    """(3, H, W) uint8 RGB."""
    if isinstance(image, str | Path):
        return decode_image(Path(image))
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"an image array is uint8 RGB of shape (height, width, 3), not {image.dtype} {image.shape}")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
