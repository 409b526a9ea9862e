"""What every detector of the package offers, and what is the same in all of them: decoding and detection."""

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from denseteacher.config import Config
from denseteacher.detectors.assigners.base import Misses
from denseteacher.ops.assignment import BACKGROUND, Assignment, centers_inside, leave_out, with_regions
from denseteacher.ops.postprocess import candidates_per_level, non_maximum_suppression
from denseteacher.structures import Decoded, DenseOutput, Detections, ImageBatch, LossDict, LossWeights, Targets


class DenseDetector(Protocol):
    """A one-stage detector: one forward that uses weights, and pure functions of what it returns."""

    strides: list[int]
    """Strides of the pyramid's levels, finest first."""
    num_classes: int
    """K."""

    def __call__(self, images: ImageBatch, halved: int = 0) -> DenseOutput:
        """Raw predictions at every location; uint8 pixels in, normalized inside, fp32 out.

        Args:
            images: B of them.
            halved: How many of the last images are also seen at half size, by the pyramid's levels of half the stride:
                B + halved images come out, all in pixels of the full canvas. See ``detectors.half_view``.
        """

    def supervised_losses(self, output: DenseOutput, targets: Targets, weights: LossWeights | None = None) -> LossDict:
        """Losses against ground truth, each already normalized: ``cls``, ``box`` and, if there, ``quality``.

        Args:
            output: Predictions of B = v * b images: v views of the same b images, one view after the other.
            targets: Ground truth of the b images, valid for all their views.
            weights: Weights of the images' boxes and locations; they change the sums, not the normalizers.
        """

    def decode(self, output: DenseOutput) -> Decoded:
        """Boxes in pixels and final scores at every location; gradients flow through."""

    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """(B, N, 4) the boxes of ``decode`` alone, for losses that need no scores."""

    def class_logits(self, output: DenseOutput) -> Tensor:
        """(B, N, K) logits of the scores that the class loss trains; gradients flow through.

        They are those of the classes alone, ``output.logits``, or of the product with the quality where the two are
        trained as one.
        """

    def box_uncertainty(self, output: DenseOutput) -> Tensor | None:
        """(B, N) in [0, 1] how unsure the predicted boxes are; None where the coding can't say."""

    def box_divergence(self, output: DenseOutput, wanted: Tensor) -> Tensor | None:
        """(B, N) divergence of predicted distributions of boxes from others; None where boxes are not distributions.

        Args:
            output: Predictions on B images; gradients flow through.
            wanted: (B, N, D) the others, in the same coding.
        """

    def detect(self, output: DenseOutput, sizes: Tensor) -> list[Detections]:
        """Final detections of each image; sizes is (B, 2), height and width without padding."""

    def shapes(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level's feature map on a canvas of this height and width."""

    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """(N, 4) the anchors that a forward on a canvas of this height and width has."""

    def levels(self, anchors: Tensor) -> Tensor:
        """(N,) int64 the pyramid level of each anchor, 0 the finest."""

    def assign(
        self, targets: Targets, anchors: Tensor, levels: Tensor, output: DenseOutput | None = None
    ) -> Assignment:
        """What this detector trains each anchor on; computed for the whole batch, without waiting for the device.

        Args:
            targets: Ground truth of b images.
            anchors: (N, 4) as ``anchors`` gives them.
            levels: (N,) as ``levels`` gives them.
            output: Predictions on B = v * b views of the images, for an assigner that looks at them. It assigns each
                view, another one each image: the assignment has B rows or b.
        """

    def foreground(self, targets: Targets, anchors: Tensor, output: DenseOutput | None = None) -> Tensor:
        """(B, N) bool, which anchors ``assign`` trains on a box."""


class OneStageConfig(Config, ABC):
    """The options that every detector has, and what makes it of them."""

    score_floor: float = Field(0.05, ge=0, lt=1)
    """Class scores at or below are not detections. Published numbers use 0.05; others report with 0.001."""
    top_k: int = Field(1000, gt=0, le=1_000_000)
    """Most candidates a level before NMS; where it has fewer locations on the image, as many as those."""
    nms_threshold: float = Field(0.6, gt=0, le=1)
    """IoU above which, of two detections of a class, the one with the lower score is dropped."""
    max_detections: int = Field(100, gt=0, le=1_000_000)
    """Most detections an image."""

    ignore_rule: Literal["covered", "assigned"] = "covered"
    """Which background locations a region to ignore leaves out of the class loss: those that it covers (on RetinaNet
    anchors at least half inside), or, as published for CrowdHuman, those that an object with its box would get."""

    @abstractmethod
    def build(self, num_classes: int) -> "OneStageDetector":
        """The detector of this config with new weights.

        Raises:
            InputError: If there is not such a network, or its weights can't be had.
        """


class OneStageDetector(nn.Module, ABC):
    """Decoding and detection; a detector adds its network, its anchors, its assigner, its box coding and its losses."""

    anchors_per_location: int
    """Anchors side by side at a location."""
    misses: Misses
    """What it means to be missed by the assigner."""
    config: OneStageConfig
    """Options; nothing in them is ``auto``."""
    strides: list[int]
    """See ``DenseDetector``."""
    num_classes: int
    """K."""

    @abstractmethod
    def shapes(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """See ``DenseDetector``."""

    @abstractmethod
    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """See ``DenseDetector``."""

    @abstractmethod
    def assign(
        self, targets: Targets, anchors: Tensor, levels: Tensor, output: DenseOutput | None = None
    ) -> Assignment:
        """See ``DenseDetector``."""

    @abstractmethod
    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """(B, N, 4) xyxy pixels of the canvas, not cut to it: the inverse of the detector's box coding."""

    @abstractmethod
    def box_uncertainty(self, output: DenseOutput) -> Tensor | None:
        """See ``DenseDetector``."""

    def box_divergence(self, output: DenseOutput, wanted: Tensor) -> Tensor | None:
        """See ``DenseDetector``."""
        return None

    @abstractmethod
    def supervised_losses(self, output: DenseOutput, targets: Targets, weights: LossWeights | None = None) -> LossDict:
        """See ``DenseDetector``."""

    def stages(self) -> list[list[nn.Parameter]]:
        """Parameters of each stage of the backbone, first to last, for rates that fall towards the first one."""
        return []

    def levels(self, anchors: Tensor) -> Tensor:
        """See ``DenseDetector``: the first anchor of a location doubles its side from one level to the next."""
        first = anchors[:: self.anchors_per_location]
        sides = first[:, 2] - first[:, 0]
        return (sides / sides[0]).log2().round().long().repeat_interleave(self.anchors_per_location)

    def foreground(self, targets: Targets, anchors: Tensor, output: DenseOutput | None = None) -> Tensor:
        """See ``DenseDetector``."""
        return self.assignment(targets, anchors, output).labels > BACKGROUND

    def assignment(self, targets: Targets, anchors: Tensor, output: DenseOutput | None = None) -> Assignment:
        """What ``assign`` gives, less the regions to ignore; see there, and ``OneStageConfig.ignore_rule``."""
        levels = self.levels(anchors)
        if targets.ignored is None:
            return self.assign(targets, anchors, levels, output)
        if self.config.ignore_rule == "assigned":
            return self.assign(with_regions(targets), anchors, levels, output)
        covered = self.covered(anchors, targets.boxes, targets.ignored)
        return leave_out(self.assign(targets, anchors, levels, output), covered)

    def covered(self, anchors: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
        """(B, N) bool, which anchors (N, 4) lie in one of an image's boxes (B, G, 4) that count, by mask (B, G)."""
        return centers_inside(anchors, boxes, mask)

    def fitting(self, targets: Targets, anchors: Tensor) -> Tensor:
        """(B, N) bool, which anchors fit a box by themselves: without those that are trained lest it have none."""
        return self.foreground(targets, anchors)

    def class_logits(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``: those of the classes alone."""
        return output.logits

    def class_scores(self, output: DenseOutput) -> Tensor:
        """(B, N, K) in [0, 1] the scores by which candidates are chosen: those of the classes alone, as published."""
        return output.logits.sigmoid() * output.valid[..., None]

    def decode(self, output: DenseOutput) -> Decoded:
        """See ``DenseDetector``: scores are class scores, or with a quality branch the root of their product."""
        scores = output.logits.sigmoid() * output.valid[..., None]
        quality = None if output.quality is None else output.quality.sigmoid()
        if quality is not None:
            scores = (scores * quality[..., None]).sqrt()
        return Decoded(self.decode_boxes(output), scores, quality, output.valid)

    def detect(self, output: DenseOutput, sizes: Tensor) -> list[Detections]:
        """See ``DenseDetector``.

        As published, candidates are chosen by ``class_scores``, and of a level there are ``top_k``, or as many as it
        has locations (anchors) on the image where they are fewer.
        """
        config = self.config
        levels = self.levels(output.anchors)
        counts: Any = levels.new_zeros(len(self.strides)).index_add_(0, levels, torch.ones_like(levels))
        level_sizes = counts.tolist()
        boxes, scores, *_ = self.decode(output)
        class_scores = self.class_scores(output)
        on_image = levels.new_zeros(len(sizes), len(self.strides)).index_add_(1, levels, output.valid.long())
        most: Any = on_image.clamp(max=config.top_k).tolist()
        detections = []
        for index, (height, width) in enumerate(sizes.tolist()):
            location, label = candidates_per_level(
                class_scores[index], level_sizes, most[index], score_floor=config.score_floor
            )
            detections.append(
                non_maximum_suppression(
                    boxes[index, location],
                    scores[index, location, label],
                    label,
                    size=(height, width),
                    iou_threshold=config.nms_threshold,
                    max_detections=config.max_detections,
                )
            )
        return detections
