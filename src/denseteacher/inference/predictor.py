"""A trained detector, ready to use."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from denseteacher.data.augment.weak import EvalView, pad_batch
from denseteacher.data.choices import Precision
from denseteacher.data.records import Category
from denseteacher.detectors import DETECTOR_FILE, DenseDetector, DetectorCard, PyramidDetector, load_detector
from denseteacher.detectors.hub import local_detector
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import detect_batch
from denseteacher.hardware import check_bf16, check_compiler, chosen_precision, this_machine
from denseteacher.inference.inputs import Picture, batches_by_shape, picture_size, to_array
from denseteacher.structures import Detections

T = TypeVar("T")


class Predictor:
    """Finds objects in images."""

    def __init__(
        self,
        detector: PyramidDetector,
        card: DetectorCard,
        *,
        device: torch.device | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        """Moves the detector to ``device``; see ``load``."""
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = chosen_precision(precision, self.device.type, this_machine())
        detector = detector.to(memory_format=torch.channels_last).to(self.device)
        if self.precision == "bf16":
            check_bf16(self.device)
            # of the forward alone, so that boxes are decoded in fp32, whoever calls the detector
            autocast = torch.autocast(self.device.type, torch.bfloat16)
            detector.forward = autocast(detector.forward)  # type: ignore[method-assign]
        if compile:
            check_compiler(self.device)
            detector.compile()
        self.detector = cast(DenseDetector, detector)
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
    def load(
        cls,
        path: Path,
        *,
        device: torch.device | None = None,
        score_floor: float | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> "Predictor":
        """Reads a detector file, or the one of a run folder.

        Args:
            path: The file or the folder; or ``hf://OWNER/NAME@REVISION``, which is fetched from the hub.
            device: Where to compute; the GPU if there is one and none is given.
            score_floor: Class scores at or below are not detections; the detector's own if not given.
            precision: Autocast of the network; its outputs are fp32. ``auto``: bf16 on a GPU made for it, else fp32.
                See ``RuntimeConfig.precision`` for bf16 on a CPU.
            compile: Whether torch compiles the network at its first image, which takes about a minute and pays
                for thousands of images.

        Raises:
            InputError: If there is none.
            RunError: If the hub can't be reached.
        """
        path = local_detector(path)
        file = path / DETECTOR_FILE if path.is_dir() else path
        if path.is_dir() and not file.is_file():
            raise InputError(f"{path} holds no {DETECTOR_FILE}: it is not a finished run of denseteacher")
        detector, card = load_detector(file, score_floor=score_floor)
        return cls(detector, card, device=device, precision=precision, compile=compile)

    def predict(self, images: Sequence[Picture], *, batch_size: int = 8) -> list[Detections]:
        """Detections of each image, in order, in the image's own pixels.

        Images of similar shape are computed together, with little padding. A head's GroupNorm sees the padding too,
        so with it the scores of an image depend a little on the other shapes of its batch.

        Args:
            images: Paths, PIL images, or uint8 RGB arrays of shape (H, W, 3). EXIF orientation of files is
                applied.
            batch_size: Images a forward.

        Raises:
            InputError: If a file can't be read, or an array has another shape or type.
        """
        found: dict[int, Detections] = {}
        for positions in batches_by_shape(len(images), lambda position: picture_size(images[position]), batch_size):
            tensors = [_to_tensor(images[position]) for position in positions]
            batch = pad_batch([self.view.apply(tensor) for tensor in tensors])
            sizes = [(tensor.shape[1], tensor.shape[2]) for tensor in tensors]
            found |= zip(positions, detect_batch(self.detector, batch, sizes, self.device), strict=True)
        return [found[position] for position in range(len(images))]


def predict_readable(
    predictor: Predictor,
    images: Sequence[T],
    read: Callable[[T], Tensor],
    size: Callable[[T], tuple[int, int]],
    unreadable: list[str],
    *,
    batch_size: int = 8,
) -> Iterator[tuple[int, npt.NDArray[np.uint8], Detections]]:
    """Goes through images of which some may be damaged: each that can be read, with its pixels and detections.

    Args:
        predictor: Finds the objects.
        images: See ``readable_batches``, as for all else.
        read: Gives (3, H, W) uint8 RGB.
        size: Gives height and width.
        unreadable: Gets a sentence for each image that can't be read.
        batch_size: Images a forward.
    """
    for arrays in readable_batches(images, read, size, unreadable, batch_size=batch_size):
        detections = predictor.predict(list(arrays.values()), batch_size=batch_size)
        yield from zip(arrays.keys(), arrays.values(), detections, strict=True)


def readable_batches(
    images: Sequence[T],
    read: Callable[[T], Tensor],
    size: Callable[[T], tuple[int, int]],
    unreadable: list[str],
    *,
    batch_size: int = 8,
) -> Iterator[dict[int, npt.NDArray[np.uint8]]]:
    """Reads images of which some may be damaged, in batches of similar shape: (H, W, 3) pixels by position.

    Args:
        images: Whatever ``read`` and ``size`` take.
        read: Gives (3, H, W) uint8 RGB, or raises InputError.
        size: Gives height and width, or raises InputError.
        unreadable: Gets, at the end, a sentence for each image that can't be read, in their order.
        batch_size: Images a batch.
    """

    def known_size(position: int) -> tuple[int, int]:
        try:
            return size(images[position])
        except InputError:  # whose reason is told when it is read
            return 1, 1

    problems: dict[int, str] = {}
    stderr = Console(stderr=True)
    batches = track(
        batches_by_shape(len(images), known_size, batch_size),
        "Detecting",
        total=-(-len(images) // batch_size),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
    for positions in batches:
        arrays = {}
        for position in positions:
            try:
                arrays[position] = read(images[position]).permute(1, 2, 0).contiguous().numpy()
            except InputError as error:
                problems[position] = str(error)
        yield arrays
    unreadable.extend(problems[position] for position in sorted(problems))


def _to_tensor(image: Picture) -> Tensor:
    """(3, H, W) uint8 RGB."""
    return torch.from_numpy(to_array(image)).permute(2, 0, 1)
