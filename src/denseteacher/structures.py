"""The tensors that travel between the rooms of the package: typed tuples, and four verbs on them.

``to``, ``take``, ``cat`` and ``chunk`` work on any of the tuples and on tuples of them. A field that is None stays
None; ``anchors``, which all images of a batch share, stay as they are.

Letters used for shapes everywhere: B images, H x W canvas in pixels, N locations (or anchors) over all
pyramid levels, K classes, G padded ground-truth boxes of an image, D detections of an image. Boxes are
``(x1, y1, x2, y2)`` in pixels of the canvas, fp32. Sizes are ``(height, width)``.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

Tree = TypeVar("Tree", bound=NamedTuple)
"""A named tuple of tensors, None and other such tuples."""

LossDict = dict[str, Tensor]
"""Named scalar tensors."""

Canvases = tuple[tuple[int, int], ...]
"""Height and width, one an image."""


class ImageBatch(NamedTuple):
    """Images on one padded canvas."""

    pixels: Tensor
    """(B, 3, H, W) uint8 RGB; padding lies right and below and is 0."""
    sizes: Tensor
    """(B, 2) int64: height and width of each image without its padding."""
    canvases: Canvases | None = None
    """Height and width of the part of the canvas that a network computes of each image, so that padding is saved;
    None stands for all of it. Numbers of the host, since shapes can't wait for a device."""

    @property
    def computed(self) -> int:
        """Pixels that a network computes of all images."""
        if self.canvases is None:
            return self.pixels.numel() // 3
        return sum(height * width for height, width in self.canvases)


class Targets(NamedTuple):
    """Ground truth of a batch, padded to the largest number of boxes."""

    boxes: Tensor
    """(B, G, 4) fp32 xyxy; rows beyond an image's boxes are 0."""
    labels: Tensor
    """(B, G) int64 class indices in [0, K)."""
    mask: Tensor
    """(B, G) bool, True where there is an object's box."""
    ignored: Tensor | None = None
    """(B, G) bool, True where the box is a region to ignore instead, in which locations count neither way; None where
    the data have no such regions."""


class LossWeights(NamedTuple):
    """How much parts of the supervised losses count; None stands for 1 everywhere."""

    boxes: Tensor | None = None
    """(B, G) of each box, in the class, box and quality loss of the locations trained on it."""
    background: Tensor | None = None
    """(B, N) of each location, in the class loss where it is background."""


class DenseOutput(NamedTuple):
    """What a dense detector says at every location, raw and in fp32; levels are concatenated along N."""

    logits: Tensor
    """(B, N, K) class logits."""
    deltas: Tensor
    """(B, N, D) box regression in the detector's own coding: D is 4, or 4 times the bins of a distribution."""
    quality: Tensor | None
    """(B, N) IoU or centerness logit; None for a detector without that branch."""
    anchors: Tensor
    """(N, 4) reference boxes; for FCOS squares of side stride around the locations."""
    valid: Tensor
    """(B, N) bool, False where the location lies in padding."""


class Decoded(NamedTuple):
    """What a dense detector says at every location, whatever its coding; levels are concatenated along N."""

    boxes: Tensor
    """(B, N, 4) xyxy pixels of the canvas, not cut to it."""
    scores: Tensor
    """(B, N, K) final scores in [0, 1], those that detections carry; 0 in the padding."""
    quality: Tensor | None
    """(B, N) IoU or centerness in [0, 1]; None for a detector without that branch."""
    valid: Tensor
    """(B, N) bool, False where the location lies in padding."""


class Detections(NamedTuple):
    """Final boxes of one image, by falling score."""

    boxes: Tensor
    """(D, 4) fp32 xyxy."""
    scores: Tensor
    """(D,) fp32 in [0, 1]."""
    labels: Tensor
    """(D,) int64 class indices."""


METHOD_RANDOM = 16
"""Uniform random numbers a step and unlabeled image that a method may use."""


class LabeledBatch(NamedTuple):
    """The labeled images of a step.

    A strong view is a photometric change of its weak view: same canvas, same sizes, same boxes.
    """

    weak: ImageBatch
    strong: ImageBatch
    targets: Targets
    """Boxes and classes of the objects on both views."""
    sure_score: Tensor | None = None
    """(B,) fp32 class score above which a teacher is sure of an object that nobody has labeled; None where all objects
    have labels."""


class UnlabeledBatch(NamedTuple):
    """The B unlabeled images of a step.

    A strong view is a photometric change of its weak view, and may have moved where the run says so.
    """

    weak: ImageBatch
    """What the teacher sees."""
    strong: ImageBatch
    """What the student sees."""
    positions: Tensor
    """(B,) int64 places in the list of unlabeled images."""
    to_weak: Tensor
    """(B, 3, 3) fp32: homogeneous pixel coordinates of the image file to those of the weak view."""
    to_strong: Tensor | None
    """(B, 3, 3) fp32: those of the weak view to those of the strong one; None where they are the same."""
    random: Tensor
    """(B, ``METHOD_RANDOM``) uniform in [0, 1), on the host: all that a method decides by chance comes from them."""
    hidden_targets: Targets | None
    """Labels that the images have after all, on the weak view; only in analyses that ask for them."""


class SemiBatch(NamedTuple):
    """All views of one step, on one canvas."""

    labeled: LabeledBatch
    unlabeled: UnlabeledBatch | None
    """Unlabeled images; None while the method does not need them (burn-in)."""


MethodState = dict[str, Tensor]
"""What a method remembers from step to step, the same in all processes."""


class MethodOutput(NamedTuple):
    """What a method returns for a step."""

    losses: LossDict
    """Weighted terms (``sup/cls``, ``unsup/box``, ...) whose sum is differentiated."""
    metrics: LossDict
    """Detached numbers that are only watched."""
    state: MethodState | None = None
    """What the next step is given; None leaves it as it is."""


_SHARED = frozenset({"anchors"})
"""Fields without a row an image."""
_ON_HOST = frozenset({"canvases"})
"""Fields with a row an image that are a tuple."""


def to(tree: Tree, device: torch.device) -> Tree:
    """All tensors on a device; a copy from pinned memory is not waited for."""
    return _map(lambda fields: fields[0].to(device, non_blocking=True), tree, shared=True)


def take(tree: Tree, rows: Tensor | slice) -> Tree:
    """Some of the images.

    Args:
        tree: A batch of B images.
        rows: (n,) int64 of the wanted ones, on the tensors' device; or a slice. With the former images lose their
            ``canvases``, which the host can't choose from without waiting for the device.
    """
    return _map(lambda fields: fields[0][rows], tree, on_host=_chosen(rows))


def cat(*trees: Tree) -> Tree:
    """Several batches of one canvas as one, so that a step costs one pass and one all-reduce."""
    return _map(torch.cat, *trees, on_host=_chained)


def chunk(tree: Tree, parts: int | Sequence[int]) -> list[Tree]:
    """A batch cut into consecutive ones.

    All are cut in one go: the gradients of single slices would each be a whole tensor of zeros, and their sum.

    Args:
        tree: A batch of B images.
        parts: How many equal ones, or how many images each has.
    """
    count = parts if isinstance(parts, int) else len(parts)
    columns: list[Sequence[object]] = []
    for name, value in zip(tree._fields, tree, strict=True):
        if value is None or name in _SHARED:
            columns.append([value] * count)
        elif name in _ON_HOST:
            ends = [0, *accumulate(len(cast(Tensor, rows)) for rows in columns[0])]
            columns.append([value[start:end] for start, end in pairwise(ends)])
        elif isinstance(value, Tensor):
            columns.append(value.chunk(parts) if isinstance(parts, int) else torch.split(value, list(parts)))
        else:
            columns.append(chunk(value, parts))
    return [tree._make(fields) for fields in zip(*columns, strict=True)]


def _chosen(rows: Tensor | slice) -> Callable[[Sequence[Canvases | None]], Canvases | None]:
    def choose(fields: Sequence[Canvases | None]) -> Canvases | None:
        return fields[0][rows] if fields[0] is not None and isinstance(rows, slice) else None

    return choose


def _chained(fields: Sequence[Canvases | None]) -> Canvases | None:
    """All, where each batch has them."""
    return None if None in fields else tuple(chain.from_iterable(field for field in fields if field is not None))


def _unchanged(fields: Sequence[Canvases | None]) -> Canvases | None:
    return fields[0]


def _map(
    change: Callable[[tuple[Tensor, ...]], Tensor],
    *trees: Tree,
    shared: bool = False,
    on_host: Callable[[Sequence[Canvases | None]], Canvases | None] = _unchanged,
) -> Tree:
    """Tuples of one form as one of that form, each tensor made from those in its place.

    Args:
        change: What becomes of them.
        *trees: The tuples.
        shared: Change fields of ``_SHARED`` too; else the first tuple's stay.
        on_host: What becomes of fields of ``_ON_HOST``.
    """
    fields: list[object] = []
    for name, values in zip(trees[0]._fields, zip(*trees, strict=True), strict=True):
        if name in _ON_HOST:
            fields.append(on_host(values))
        elif values[0] is None or (name in _SHARED and not shared):
            fields.append(values[0])
        elif isinstance(values[0], Tensor):
            fields.append(change(values))
        else:
            fields.append(_map(change, *values, shared=shared, on_host=on_host))
    return trees[0]._make(fields)
