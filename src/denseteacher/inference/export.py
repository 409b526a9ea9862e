"""Detectors as ONNX files: uint8 images in, detections (or boxes and scores at every location) out."""

import importlib.util
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from denseteacher.detectors import PyramidDetector
from denseteacher.errors import InputError, RunError
from denseteacher.files import refusal_explained, write_bytes
from denseteacher.inference.onnx_card import METADATA_KEY, OnnxCard, write_card
from denseteacher.inference.onnx_content import network_hash
from denseteacher.inference.predictor import Predictor
from denseteacher.ops.boxes import clip_boxes
from denseteacher.ops.postprocess import not_empty
from denseteacher.structures import DenseOutput, ImageBatch

_MULTIPLE = 32
_MOST = 1024  # images, and thirty-seconds of a side: bounds that the tracing asks for
_NO_CANDIDATE = -1.0  # below every score


class DenseNetwork(nn.Module):
    """What a file without NMS computes."""

    def __init__(self, detector: PyramidDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores at every location.

        Args:
            pixels: (B, 3, H, W) uint8 RGB; padding lies right and below.
            sizes: (B, 2) int64 height and width of each image without its padding.

        Returns:
            (B, N, 4) xyxy boxes cut to the image, and (B, N, K) scores, 0 in the padding.
        """
        decoded = self.detector.decode(self.detector(ImageBatch(pixels, sizes)))
        return _cut(decoded.boxes, sizes), decoded.scores


class DetectionNetwork(DenseNetwork):
    """What a file with NMS computes: ``PyramidDetector.detect``, in arrays whose sizes don't depend on values."""

    def forward(self, pixels: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Detections of each image, by falling score.

        Args:
            pixels: (B, 3, H, W) uint8 RGB; padding lies right and below.
            sizes: (B, 2) int64 height and width of each image without its padding.

        Returns:
            (B, D, 6) rows of x1, y1, x2, y2, score and class index, 0 beyond an image's detections, and their
            (B,) counts.
        """
        config, classes = self.detector.config, self.detector.num_classes
        output = self.detector(ImageBatch(pixels, sizes))
        class_scores, pair = self._candidates(output, pixels)
        location, label = pair // classes, pair % classes
        decoded = self.detector.decode(output)
        boxes, scores = _rows(decoded.boxes, location), decoded.scores.flatten(1).gather(1, pair)
        scores = scores.masked_fill(class_scores <= config.score_floor, _NO_CANDIDATE)
        own_class = label[:, None] == torch.arange(classes, device=label.device)[:, None]
        kept = nms_by_class(
            boxes,
            scores[:, None].masked_fill(~own_class, _NO_CANDIDATE),
            config.nms_threshold,
            config.max_detections,
        )
        best, index = scores.masked_fill(~kept, _NO_CANDIDATE).topk(min(config.max_detections, pair.shape[1]))
        boxes = _cut(_rows(boxes, index), sizes)
        # those of which nothing is left come last: as if they were no candidates
        best, order = best.masked_fill(~not_empty(boxes), _NO_CANDIDATE).topk(best.shape[1])
        found, label = best > _NO_CANDIDATE, label.gather(1, index).gather(1, order)
        rows = torch.cat((_rows(boxes, order), best[..., None], label[..., None].float()), -1)
        return rows * found[..., None], found.sum(1)

    def _candidates(self, output: DenseOutput, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The highest (location, class) pairs of every level: (B, M) class scores, and places in the flattened ones."""
        class_scores = self.detector.class_scores(output).flatten(1)
        top_k, classes = self.detector.config.top_k, self.detector.num_classes
        found, pairs, start = [], [], 0
        rank = torch.arange(top_k, device=pixels.device)
        for height, width in self.detector.shapes((pixels.shape[2], pixels.shape[3])):
            anchors = height * width * self.detector.anchors_per_location
            level = class_scores[:, start * classes : (start + anchors) * classes]
            # a small level has fewer pairs than top_k, how many is known only when an image comes
            best, index = F.pad(level, (0, top_k), value=_NO_CANDIDATE).topk(top_k)
            on_image = output.valid[:, start : start + anchors].sum(1, keepdim=True)
            found.append(best.masked_fill(rank >= on_image, _NO_CANDIDATE))
            pairs.append(index.clamp(max=anchors * classes - 1) + start * classes)
            start += anchors
        return torch.cat(found, 1), torch.cat(pairs, 1)


def _cut(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(B, M, 4) boxes cut to images of (B, 2) heights and widths."""
    height, width = sizes.float()[:, :, None, None].unbind(1)
    return clip_boxes(boxes, height, width)


def _rows(boxes: Tensor, index: Tensor) -> Tensor:
    """(B, M, 4) of (B, N, 4) boxes those at (B, M) places."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


@torch.library.custom_op("denseteacher::nms_by_class", mutates_args=())
def nms_by_class(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Which boxes non-maximum suppression keeps, class by class; an operator, so that ONNX's can stand for it.

    Args:
        boxes: (B, M, 4) xyxy.
        scores: (B, K, M), below 0 where a box is not a candidate of a class.
        iou_threshold: Of two boxes of a class that overlap more, the lower-scored one goes.
        most: Boxes kept of a class.

    Returns:
        (B, M) bool.
    """
    kept = torch.zeros_like(scores[:, 0], dtype=torch.bool)
    for row, own_boxes, own_scores in zip(kept, boxes, scores, strict=True):
        for of_class in own_scores:
            candidates = (of_class >= 0).nonzero()[:, 0]
            best = torchvision.ops.nms(own_boxes[candidates], of_class[candidates], iou_threshold)[:most]
            row[candidates[best]] = True
    return kept


@nms_by_class.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    return torch.empty_like(scores[:, 0], dtype=torch.bool)


def _nms_nodes(boxes: Any, scores: Any, iou_threshold: float, most: int) -> Any:
    """What stands for ``nms_by_class`` in an ONNX file."""
    from onnx import TensorProto
    from onnxscript import opset18

    op: Any = opset18  # its annotations are those of a script's variables, not of Python's values
    found = op.NonMaxSuppression(boxes, scores, most, iou_threshold, _NO_CANDIDATE / 2)  # rows of image, class, box
    places = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(found, end=1))
    nobody = op.Mul(op.ReduceMax(scores, op.Constant(value_ints=[1]), keepdims=0), op.Constant(value_floats=[0.0]))
    return op.Cast(op.ScatterND(nobody, places, ones), to=TensorProto.BOOL)


def export_onnx(detector: Path, output: Path, *, nms: bool = True, opset: int | None = None) -> None:
    """Writes a detector as an ONNX file with any number of images of any size.

    Inputs are ``pixels`` (B, 3, H, W) uint8, H and W multiples of 32, and ``sizes`` (B, 2) int64; outputs those of
    ``DetectionNetwork`` (``detections``, ``counts``) or ``DenseNetwork`` (``boxes``, ``scores``).

    Args:
        detector: Detector file or run folder.
        output: File to write.
        nms: Whether the file ends in detections.
        opset: Version of ONNX's operators; torch's choice if not given.

    Raises:
        InputError: If there is no detector, ``output`` is there already, or the extra ``onnx`` is not installed.
        RunError: If torch can't export the network, or the disk refuses.
    """
    if output.exists():
        raise InputError(f"{output} is there already: choose another --output; nothing was changed")
    _require_onnx()
    predictor = Predictor.load(detector, device=torch.device("cpu"))
    network = (DetectionNetwork if nms else DenseNetwork)(cast(PyramidDetector, predictor.detector))
    program = _traced(network, opset)
    config, best = predictor.card.detector, predictor.card.best_scores
    card = OnnxCard(
        version=version("dense-teacher"),
        categories=list(predictor.card.categories),
        short_side=predictor.card.short_side,
        max_side=predictor.card.max_side,
        multiple=_MULTIPLE,
        score_floor=config.score_floor,
        nms=nms,
        trained=predictor.card.trained,
        best_scores=None if best is None else best.by_class,
    )
    own_hash = network_hash(program.model_proto.SerializeToString())
    program.model.metadata_props[METADATA_KEY] = write_card(card, own_hash)
    with refusal_explained(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, program.model_proto.SerializeToString())


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f'an export to ONNX needs {" and ".join(missing)}: pip install "dense-teacher[onnx]"')


def _traced(network: DenseNetwork, opset: int | None) -> torch.onnx.ONNXProgram:
    """The ONNX form of a network.

    Raises:
        InputError: If torch can't make one of this opset.
        RunError: If torch can't make one.
    """
    top = max(network.detector.strides[-1], _MULTIPLE)
    # sizes that differ on every level and are 1 on none: torch takes what is equal or 1 here for so always
    height, width = 2 * top + _MULTIPLE, 3 * top + _MULTIPLE
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height, width], [height - 1, width - 1]])
    batch, rows, columns = (torch.export.Dim(name, min=1, max=_MOST) for name in ("batch", "rows", "columns"))
    shapes = {"pixels": {0: batch, 2: _MULTIPLE * rows, 3: _MULTIPLE * columns}, "sizes": {0: batch}}
    outputs = ["detections", "counts"] if isinstance(network, DetectionNetwork) else ["boxes", "scores"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (pixels, sizes),
                dynamo=True,
                verbose=False,
                input_names=["pixels", "sizes"],
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=opset,
                custom_translation_table={torch.ops.denseteacher.nms_by_class.default: _nms_nodes},
            )
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(f"torch {torch.__version__} can't export this detector ({reason})") from error
    assert program is not None  # it is where no file is named
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise InputError(f"torch {torch.__version__} wrote opset {written} in place of {opset}: choose another --opset")
    return program
