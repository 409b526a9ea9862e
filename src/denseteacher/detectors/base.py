"""What every detector of the package offers."""

from typing import Protocol

import torch
from torch import Tensor

from denseteacher.ops.assigners import Assignment
from denseteacher.structures import DenseOutput, Detections, ImageBatch, LossDict, LossWeights, Targets


class DenseDetector(Protocol):
    """A one-stage detector: one forward that uses weights, and pure functions of what it returns."""

    strides: list[int]
    """Of the pyramid's levels, finest first."""
    num_classes: int
    """K."""

    def __call__(self, images: ImageBatch) -> DenseOutput:
        """Raw predictions at every location; uint8 pixels in, normalized inside, fp32 out."""

    def supervised_losses(self, output: DenseOutput, targets: Targets, weights: LossWeights | None = None) -> LossDict:
        """Losses against ground truth, each already normalized: ``cls``, ``box`` and, if there, ``quality``.

        Args:
            output: Predictions of B = v * b images: v views of the same b scenes, one view after the other.
            targets: Ground truth of the b scenes, valid for all their views.
            weights: Of the scenes' boxes and locations; they change the sums, not the normalizers.
        """

    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """(B, N, 4) xyxy pixels of the canvas, not cut to it."""

    def scores(self, output: DenseOutput) -> Tensor:
        """(B, N, K) final scores in [0, 1], those that detections carry; 0 in the padding."""

    def detect(self, output: DenseOutput, sizes: Tensor) -> list[Detections]:
        """Final detections of each image; sizes is (B, 2), height and width without padding."""

    def shapes(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level's feature map on a canvas of this height and width."""

    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """(N, 4) the anchors that a forward on a canvas of this height and width has."""

    def assign(self, anchors: Tensor, targets: Targets) -> Assignment:
        """What this detector's assigner trains each anchor on."""

    def foreground(self, anchors: Tensor, targets: Targets) -> Tensor:
        """(B, N) bool, which anchors this detector's assigner trains on a box."""
