"""A detector's forward in pieces: images on canvases of their own, and parts that are computed anew in the backward.

A piece is a forward of its own, and what the pieces say is put together as if one forward had said it. So losses and
pseudo-labels, with all their normalizers, are those of the whole batch however it was cut.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from denseteacher.detectors.base import DenseDetector
from denseteacher.detectors.half_view import StatisticsKept
from denseteacher.ops.anchors import valid_locations
from denseteacher.structures import DenseOutput, ImageBatch

_LOGIT_BEYOND = -20.0  # 2e-9 of every class: nothing is found there, and nothing learned
_DELTA_BEYOND = 1.0  # a box that has an area, in any coding


class _Piece(NamedTuple):
    """Images that go through the network together."""

    rows: list[int]
    """Places in the batch."""
    canvas: tuple[int, int]
    """Height and width."""


class ForwardInPieces(nn.Module):
    """A detector's forward as a module, since DDP must see one call a step."""

    def __init__(self, detector: nn.Module, parts: int = 1) -> None:
        """Takes the detector.

        Args:
            detector: A ``DenseDetector``.
            parts: See ``forward_in_pieces``.
        """
        super().__init__()
        self.detector, self.parts = detector, parts

    def forward(self, images: ImageBatch, halved: int = 0) -> DenseOutput:
        """See ``forward_in_pieces``."""
        return forward_in_pieces(self.detector, images, self.parts, halved)


def forward_in_pieces(detector: nn.Module, images: ImageBatch, parts: int = 1, halved: int = 0) -> DenseOutput:
    """The predictions of a ``DenseDetector``; the detector's own forward where there is nothing to cut.

    Args:
        detector: The network.
        images: B images; each is computed on its canvas of ``ImageBatch.canvases``. Beyond it no location has a score,
            a gradient or is ``valid``.
        parts: How many parts the batch is cut into at least. Of all but the last the activations are not kept: they
            are computed again when the backward pass needs them, one part at a time (gradient checkpointing).
        halved: See ``DenseDetector``.
    """
    pieces = _cut(images, parts)
    if len(pieces) == 1 and images.canvases is None:
        return cast(DenseOutput, detector(images, halved) if halved else detector(images))
    first = len(images.sizes) - halved
    outputs, seen = [], []
    for number, piece in enumerate(pieces, start=1):
        halves = [row + halved for row in piece.rows if row >= first]  # their places behind all images
        given = (_images_of(images, piece), len(halves)) if halves else (_images_of(images, piece),)
        seen.append(piece._replace(rows=piece.rows + halves))
        if parts == 1 or number == len(pieces) or not torch.is_grad_enabled():
            outputs.append(detector(*given))
        else:
            outputs.append(
                checkpoint(
                    detector, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), StatisticsKept(detector))
                )
            )
    sizes = torch.cat((images.sizes, images.sizes[first:])) if halved else images.sizes
    return _join(cast(DenseDetector, detector), images._replace(sizes=sizes), seen, outputs)


def _cut(images: ImageBatch, parts: int) -> list[_Piece]:
    count, common = len(images.sizes), (images.pixels.shape[-2], images.pixels.shape[-1])
    by_canvas: dict[tuple[int, int], list[int]] = {}
    for row, (height, width) in enumerate(images.canvases or (common,) * count):  # tuples leave a loader as lists
        by_canvas.setdefault((height, width), []).append(row)
    most = -(-count // parts)
    return [
        _Piece(rows[start : start + most], canvas)
        for canvas, rows in by_canvas.items()
        for start in range(0, len(rows), most)
    ]


def _images_of(images: ImageBatch, piece: _Piece) -> ImageBatch:
    rows, (height, width) = piece
    if all(after == before + 1 for before, after in pairwise(rows)):
        chosen = slice(rows[0], rows[-1] + 1)
        return ImageBatch(images.pixels[chosen, :, :height, :width], images.sizes[chosen])
    # row by row: an index would have to be brought to the device
    pixels = torch.stack([images.pixels[row, :, :height, :width] for row in rows])
    return ImageBatch(pixels, torch.stack([images.sizes[row] for row in rows]))


def _join(
    detector: DenseDetector, images: ImageBatch, pieces: Sequence[_Piece], outputs: Sequence[DenseOutput]
) -> DenseOutput:
    common = (images.pixels.shape[-2], images.pixels.shape[-1])
    whole = detector.shapes(common)

    def together(field: str, beyond: float) -> Tensor | None:
        rows: dict[int, Tensor] = {}
        for piece, output in zip(pieces, outputs, strict=True):
            values: Tensor | None = getattr(output, field)
            if values is None:
                return None
            if piece.canvas != common:
                values = _spread(values, detector.shapes(piece.canvas), whole, beyond)
            rows |= zip(piece.rows, values.unbind(), strict=True)
        return torch.stack([rows[row] for row in range(len(rows))])

    anchors = detector.anchors(common, images.pixels.device)
    logits, deltas = together("logits", _LOGIT_BEYOND), together("deltas", _DELTA_BEYOND)
    assert logits is not None
    assert deltas is not None
    return DenseOutput(logits, deltas, together("quality", 0.0), anchors, valid_locations(anchors, images.sizes))


def _spread(values: Tensor, own: Sequence[tuple[int, int]], whole: Sequence[tuple[int, int]], beyond: float) -> Tensor:
    """(B, n, ...) values at the locations of a canvas as (B, N, ...) at those of a larger one.

    Args:
        values: Levels concatenated, rows before columns, the anchors of a location side by side.
        own: Height and width of each level on their canvas.
        whole: Height and width of each level on the larger one.
        beyond: What stands at the other locations.
    """
    batch, count = values.shape[:2]
    locations = [height * width for height, width in own]
    anchors = count // sum(locations)
    levels = []
    for level, (height, width), (rows, columns) in zip(
        torch.split(values, [anchors * places for places in locations], 1), own, whole, strict=True
    ):
        grid = level.reshape(batch, height, width, -1)
        grid = F.pad(grid, (0, 0, 0, columns - width, 0, rows - height), value=beyond)
        levels.append(grid.reshape(batch, rows * columns * anchors, *values.shape[2:]))
    return torch.cat(levels, 1)
