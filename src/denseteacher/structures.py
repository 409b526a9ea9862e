"""The values that travel between the rooms of the package: typed tuples, no logic.

Letters used for shapes everywhere: B images, H x W canvas in pixels, N locations (or anchors) over all
pyramid levels, K classes, G padded ground-truth boxes of an image, D detections of an image. Boxes are
``(x1, y1, x2, y2)`` in pixels of the canvas, fp32. Sizes are ``(height, width)``.
"""

from typing import NamedTuple

from torch import Tensor

LossDict = dict[str, Tensor]
"""Named scalar tensors."""


class ImageBatch(NamedTuple):
    """Images on one padded canvas."""

    pixels: Tensor
    """(B, 3, H, W) uint8 RGB; padding lies right and below and is 0."""
    sizes: Tensor
    """(B, 2) int64: height and width of each image without its padding."""


class Targets(NamedTuple):
    """Ground truth of a batch, padded to the largest number of boxes."""

    boxes: Tensor
    """(B, G, 4) fp32 xyxy; rows beyond an image's boxes are 0."""
    labels: Tensor
    """(B, G) int64 class indices in [0, K)."""
    mask: Tensor
    """(B, G) bool, True where there is a box."""


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
    """(B, N, 4) box regression in the detector's own coding."""
    quality: Tensor | None
    """(B, N) IoU or centerness logit; None for a detector without that branch."""
    anchors: Tensor
    """(N, 4) reference boxes; for FCOS squares of side stride around the locations."""
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


class Provenance(NamedTuple):
    """What is known of a step's B unlabeled images besides their pixels."""

    positions: Tensor
    """(B,) int64 places in the list of unlabeled images."""
    to_weak: Tensor
    """(B, 3, 3) fp32: homogeneous pixel coordinates of the image file to those of the weak view."""
    to_strong: Tensor | None
    """(B, 3, 3) fp32: those of the weak view to those of the strong one; None where they are the same."""
    numbers: Tensor
    """(B, ``METHOD_NUMBERS``) uniform in [0, 1), on the host: all that a method decides by chance comes from them."""
    hidden: Targets | None
    """Labels that the images have after all, on the weak view; only in analyses that ask for them."""


METHOD_NUMBERS = 16
"""Uniform numbers a step and unlabeled image that a method may use."""


class SemiBatch(NamedTuple):
    """All views of one step. The unlabeled ones are None while a method does not need them (burn-in).

    A strong view is a photometric change of its weak view: same canvas, same sizes, same boxes. Only those of
    unlabeled images may have moved, where the run says so (``Provenance.to_strong``).
    """

    labeled_weak: ImageBatch
    labeled_strong: ImageBatch
    targets: Targets
    unlabeled_weak: ImageBatch | None
    unlabeled_strong: ImageBatch | None
    provenance: Provenance | None = None


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
