"""FCOS (Tian et al., 2019) as Dense Teacher uses it: GroupNorm head, IoU quality on the box tower."""

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from denseteacher.config import Config
from denseteacher.detectors.backbone import PyramidBackbone
from denseteacher.ops.anchors import location_anchors, valid_locations
from denseteacher.ops.assigners import BACKGROUND, Assignment, assign_fcos
from denseteacher.ops.boxes import decode_ltrb, encode_ltrb, iou
from denseteacher.ops.canvas import real_area
from denseteacher.ops.losses import giou_loss, quality_loss, sigmoid_focal_loss
from denseteacher.ops.postprocess import candidates_per_level, non_maximum_suppression
from denseteacher.ops.reduction import mean_over_processes
from denseteacher.structures import DenseOutput, Detections, ImageBatch, LossDict, Targets

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_PRIOR_SCORE = 0.01  # what an untrained head says of every class at every location (Lin et al., 2017)
_INITIAL_DISTANCE = 2.0  # strides; above 0, or half of the rectified distances would start without gradient


class FCOSConfig(Config):
    """Everything that makes one FCOS differ from another, apart from the classes."""

    name: Literal["fcos"] = "fcos"
    backbone: str = "resnet50.tv_in1k"
    pretrained: bool | str = False
    """True: timm's weights; a path: a state dict file; false: random."""
    levels: tuple[int, int] = (3, 7)
    """Finest and coarsest pyramid level; level l has stride 2**l."""
    channels: int = Field(256, gt=0)
    head_convs: int = Field(4, ge=0)
    head_channels: int | None = Field(None, gt=0)
    """Width of the towers; the pyramid's if not given."""
    head_norm: Literal["group", "none"] = "group"
    scale_per_level: bool = True
    quality: Literal["iou", "centerness"] = "iou"
    center_radius: float = Field(1.5, ge=0)
    """Strides around a box's center that are trained on it; 0 takes the whole box."""
    size_factor: float = Field(8.0, gt=0)
    """Largest distance to a box's side that a level is trained on, in its strides."""
    location_offset: float = Field(0.0, ge=0, lt=1)
    frozen_stages: int = Field(0, ge=0)
    freeze_batch_norm: bool = False
    score_floor: float = Field(0.05, ge=0, lt=1)
    """Class scores at or below are no detections. Published numbers use 0.05; others report with 0.001."""
    top_k: int = Field(1000, gt=0)
    """Candidates a level before NMS."""
    nms_threshold: float = Field(0.6, gt=0, le=1)
    max_detections: int = Field(100, gt=0)

    @model_validator(mode="after")
    def _check_levels(self) -> "FCOSConfig":
        finest, coarsest = self.levels
        if not 1 <= finest <= 5 or not finest <= coarsest <= 8:
            raise ValueError(
                f"levels are the finest (1 to 5) and the coarsest (up to 8) pyramid level, not {self.levels}"
            )
        return self


def _tower(channels: int, width: int, depth: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers.append(nn.Conv2d(channels if index == 0 else width, width, 3, padding=1))
        if norm == "group":
            layers.append(nn.GroupNorm(math.gcd(32, max(1, width // 8)), width))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class FCOSHead(nn.Module):
    """Two towers shared by all levels: classes on one, distances and quality on the other."""

    def __init__(self, config: FCOSConfig, num_classes: int, num_levels: int) -> None:
        super().__init__()
        width = config.head_channels or config.channels
        self.cls_tower = _tower(config.channels, width, config.head_convs, config.head_norm)
        self.box_tower = _tower(config.channels, width, config.head_convs, config.head_norm)
        features = width if config.head_convs else config.channels
        self.cls = nn.Conv2d(features, num_classes, 3, padding=1)
        self.box = nn.Conv2d(features, 4, 3, padding=1)
        self.quality = nn.Conv2d(features, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(num_levels), requires_grad=config.scale_per_level)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.cls.bias, -math.log((1 - _PRIOR_SCORE) / _PRIOR_SCORE))  # type: ignore[arg-type]
        nn.init.constant_(self.box.bias, _INITIAL_DISTANCE)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Pyramid features to fp32 (B, N, K) logits, (B, N, 4) distances in strides, (B, N) quality logits."""
        logits, distances, quality = [], [], []
        for level, feature in enumerate(features):
            cls_feature, box_feature = self.cls_tower(feature), self.box_tower(feature)
            logits.append(_flatten(self.cls(cls_feature)))
            distances.append((_flatten(self.box(box_feature)).float() * self.scales[level]).relu())
            quality.append(_flatten(self.quality(box_feature)))
        return torch.cat(logits, 1).float(), torch.cat(distances, 1), torch.cat(quality, 1).float()[..., 0]


def _flatten(feature: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w, C)."""
    return feature.permute(0, 2, 3, 1).flatten(1, 2)


class FCOS(nn.Module):
    """A dense detector (``detectors.base.DenseDetector``) whose anchors are locations."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, num_classes: int, **options: Any) -> None:
        """Builds the detector.

        Args:
            num_classes: K.
            **options: The fields of ``FCOSConfig``.
        """
        super().__init__()
        self.config = FCOSConfig(**options)
        self.num_classes = num_classes
        self.backbone = PyramidBackbone(
            self.config.backbone,
            pretrained=self.config.pretrained,
            levels=self.config.levels,
            channels=self.config.channels,
            frozen_stages=self.config.frozen_stages,
            freeze_batch_norm=self.config.freeze_batch_norm,
        )
        self.strides: list[int] = self.backbone.strides
        self.head = FCOSHead(self.config, num_classes, len(self.strides))
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: ImageBatch) -> DenseOutput:
        """See ``DenseDetector``: uint8 canvas in, raw fp32 predictions out."""
        features = self.backbone(self._normalize(images))
        logits, distances, quality = self.head(features)
        height, width = images.pixels.shape[-2:]
        anchors = self.anchors((height, width), logits.device)
        return DenseOutput(logits, distances, quality, anchors, valid_locations(anchors, images.sizes))

    def _normalize(self, images: ImageBatch) -> Tensor:
        """Standardizes the pixels and sets padding to 0, the value that convolutions pad with themselves."""
        pixels = (images.pixels.to(self.mean.dtype) - self.mean) / self.std
        pixels = pixels * real_area(images.sizes, *pixels.shape[-2:])
        return pixels.contiguous(memory_format=torch.channels_last)

    def assign(self, anchors: Tensor, targets: Targets) -> Assignment:
        """Which location is trained on which box; see ``ops.assigners.assign_fcos``."""
        return assign_fcos(
            anchors,
            targets,
            center_radius=self.config.center_radius,
            size_factor=self.config.size_factor,
        )

    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """See ``DenseDetector``: (N, 4) squares around the locations."""
        height, width = canvas
        shapes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in self.strides]
        return location_anchors(shapes, self.strides, self.config.location_offset, device)

    def foreground(self, anchors: Tensor, targets: Targets) -> Tensor:
        """See ``DenseDetector``: (B, N) bool."""
        return self.assign(anchors, targets).labels != BACKGROUND

    def supervised_losses(self, output: DenseOutput, targets: Targets) -> LossDict:
        """Focal, GIoU and quality BCE, each summed and divided by the foreground count of all processes."""
        views = output.logits.shape[0] // targets.boxes.shape[0]
        labels, boxes = self.assign(output.anchors, targets)
        labels, boxes = labels.repeat(views, 1), boxes.repeat(views, 1, 1)
        foreground = labels != BACKGROUND
        count = mean_over_processes(foreground.sum().float()).clamp(min=1)

        one_hot = torch.zeros_like(output.logits)
        one_hot.scatter_(2, labels.clamp(min=0)[..., None], foreground[..., None].to(one_hot.dtype))
        predicted = self.decode_boxes(output)
        losses = {
            "cls": sigmoid_focal_loss(output.logits, one_hot).sum() / count,
            "box": (giou_loss(predicted, boxes) * foreground).sum() / count,
        }
        if output.quality is not None:
            target = self._quality_target(predicted.detach(), boxes, output.anchors)
            losses["quality"] = (quality_loss(output.quality, target) * foreground).sum() / count
        return losses

    def _quality_target(self, predicted: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        """(B, N) in [0, 1]: the IoU of the predicted with the assigned box, or the location's centerness."""
        if self.config.quality == "iou":
            return iou(predicted, boxes)
        distances = encode_ltrb(boxes, anchors).clamp(min=0)  # background rows lie outside their box
        x, y = distances[..., 0::2], distances[..., 1::2]
        ratio = (x.amin(-1) * y.amin(-1)) / (x.amax(-1) * y.amax(-1)).clamp(min=1e-7)
        return ratio.sqrt()

    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``: (B, N, 4) xyxy pixels."""
        return decode_ltrb(output.deltas, output.anchors)

    def scores(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``: the root of class score times quality."""
        scores = output.logits.sigmoid() * output.valid[..., None]
        if output.quality is None:
            return scores
        return (scores * output.quality.sigmoid()[..., None]).sqrt()

    def detect(self, output: DenseOutput, sizes: Tensor) -> list[Detections]:
        """See ``DenseDetector``. Candidates are chosen by class score alone, as published."""
        config = self.config
        strides = output.anchors[:, 2] - output.anchors[:, 0]
        level_sizes = torch.unique_consecutive(strides, return_counts=True)[1].tolist()
        boxes = self.decode_boxes(output)
        class_scores = output.logits.sigmoid() * output.valid[..., None]
        scores = self.scores(output)
        detections = []
        for index, (height, width) in enumerate(sizes.tolist()):
            location, label = candidates_per_level(
                class_scores[index], level_sizes, score_floor=config.score_floor, top_k=config.top_k
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
