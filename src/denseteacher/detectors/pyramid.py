"""What FCOS and RetinaNet have in common: a feature pyramid, two towers over all levels, and detection."""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from denseteacher.config import Config
from denseteacher.detectors.backbone import PyramidBackbone
from denseteacher.ops.padding import real_area
from denseteacher.ops.postprocess import candidates_per_level, non_maximum_suppression
from denseteacher.structures import DenseOutput, Detections, ImageBatch

_PRIOR_SCORE = 0.01  # what an untrained head says of every class at every location (Lin et al., 2017)

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of pixels of 0 to 255, as torchvision's networks and most of timm's were trained."""

_Pixel = Annotated[float, Field(ge=0, le=255)]
Channels = tuple[_Pixel, _Pixel, _Pixel]
PositiveChannels = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class PyramidConfig(Config):
    """The options that every detector on a feature pyramid has."""

    backbone: str = "resnet50.tv_in1k"
    """A model of timm that has ``features_only``."""
    pretrained: bool | str = False
    """True: timm's weights; a path: a state dict file; false: random."""
    mean: Channels | Literal["auto"] = "auto"
    """What is subtracted from red, green and blue pixels of 0 to 255; ``auto`` is what the backbone's weights were
    trained with, as timm says."""
    std: PositiveChannels | Literal["auto"] = "auto"
    """What they are divided by after that."""
    init: str = "backbone"
    """What a run starts from: ``backbone``, a new detector on the backbone's weights (``pretrained``); ``coco``,
    torchvision's detector of that architecture; ``auto``, that one where there is one and it can be had; or the path
    of a detector: torchvision's ``.pth``, a ``detector.safetensors`` or a run folder."""
    levels: tuple[PositiveInt, PositiveInt] = (3, 7)
    """Finest and coarsest pyramid level; level l has stride 2**l."""
    extra_from: Literal["pyramid", "backbone"] = "pyramid"
    """What level 6 is made from: level 5 of the ``pyramid``, or the ``backbone``'s features of that size."""
    channels: int = Field(256, gt=0)
    """Width of the pyramid."""
    head_convs: int = Field(4, ge=0)
    """Convolutions in each tower of the head."""
    head_channels: int | None = Field(None, gt=0)
    """Width of the towers; the pyramid's if not given."""
    head_norm: Literal["group", "none"] = "group"
    """Normalization in the towers: ``group`` normalization, or ``none``."""
    frozen_stages: int = Field(0, ge=0)
    """Leading stages of the backbone that are not trained: 0 none, 1 the stem, 2 also the next, ..."""
    freeze_batch_norm: bool = False
    """Batch normalization of the backbone uses its stored statistics and is not trained."""
    score_floor: float = Field(0.05, ge=0, lt=1)
    """Class scores at or below are no detections. Published numbers use 0.05; others report with 0.001."""
    top_k: int = Field(1000, gt=0)
    """Candidates a level before NMS."""
    nms_threshold: float = Field(0.6, gt=0, le=1)
    """IoU above which, of two detections of a class, the one with the lower score is dropped."""
    max_detections: int = Field(100, gt=0)
    """Most detections an image."""

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        finest, coarsest = self.levels
        if not 1 <= finest <= 5 or not finest <= coarsest <= 8:
            raise ValueError(
                f"levels are the finest (1 to 5) and the coarsest (up to 8) pyramid level, not {self.levels}"
            )
        return self


def _with_pixel_statistics(config: PyramidConfig, backbone: PyramidBackbone) -> PyramidConfig:
    """The config with the backbone's own mean and std where it leaves them open."""
    own = zip(("mean", "std"), backbone.pixel_statistics(), strict=True)
    return config.model_copy(update={key: value for key, value in own if getattr(config, key) == "auto"})


def tower(config: PyramidConfig) -> nn.Sequential:
    """The convolutions of one branch of a head, the same for all levels."""
    width = head_width(config)
    layers: list[nn.Module] = []
    for index in range(config.head_convs):
        layers.append(nn.Conv2d(config.channels if index == 0 else width, width, 3, padding=1))
        if config.head_norm == "group":
            layers.append(nn.GroupNorm(group_count(width), width))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def group_count(width: int) -> int:
    """Groups of the normalization of a tower with this many channels: 32, or as many as have eight channels."""
    return math.gcd(32, max(1, width // 8))


def head_width(config: PyramidConfig) -> int:
    """Channels inside the towers."""
    return config.head_channels or config.channels


def tower_features(config: PyramidConfig) -> int:
    """Channels that come out of a tower: the pyramid's where it has no convolution."""
    return head_width(config) if config.head_convs else config.channels


@torch.no_grad()
def initialize_head(head: nn.Module, cls: nn.Conv2d) -> None:
    """Small random weights, and a class branch that says ``_PRIOR_SCORE`` everywhere."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    nn.init.constant_(cls.bias, -math.log((1 - _PRIOR_SCORE) / _PRIOR_SCORE))  # type: ignore[arg-type]


def flatten(feature: Tensor, width: int) -> Tensor:
    """(B, A * width, h, w) to (B, h * w * A, width): rows, then columns, then the A anchors of a location."""
    return feature.permute(0, 2, 3, 1).reshape(feature.shape[0], -1, width)


class PyramidDetector(nn.Module, ABC):
    """Backbone, normalization and detection; a detector adds its head, its anchors and its losses."""

    anchors_per_location: ClassVar[int] = 1
    config: PyramidConfig
    """Nothing in it is ``auto``."""
    mean: Tensor
    std: Tensor

    def __init__(self, config: PyramidConfig, num_classes: int) -> None:
        """Builds all but the head.

        Args:
            config: Everything but the classes.
            num_classes: K.
        """
        super().__init__()
        self.num_classes = num_classes
        self.backbone = PyramidBackbone(
            config.backbone,
            pretrained=config.pretrained,
            levels=config.levels,
            channels=config.channels,
            extra_from=config.extra_from,
            frozen_stages=config.frozen_stages,
            freeze_batch_norm=config.freeze_batch_norm,
        )
        self.config = config = _with_pixel_statistics(config, self.backbone)
        self.strides: list[int] = self.backbone.strides
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def features(self, images: ImageBatch) -> list[Tensor]:
        """The pyramid of uint8 images. Padding becomes 0, the value that convolutions pad with themselves."""
        pixels = (images.pixels.to(self.mean.dtype) - self.mean) / self.std
        pixels = pixels * real_area(images.sizes, *pixels.shape[-2:])
        found: list[Tensor] = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        return found

    def shapes(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level's feature map on a canvas of this height and width."""
        height, width = canvas
        return [((height + stride - 1) // stride, (width + stride - 1) // stride) for stride in self.strides]

    @abstractmethod
    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``: (B, N, 4) xyxy pixels."""

    def scores(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``: class scores, or where there is a quality branch the root of their product."""
        scores = output.logits.sigmoid() * output.valid[..., None]
        if output.quality is None:
            return scores
        return (scores * output.quality.sigmoid()[..., None]).sqrt()

    def detect(self, output: DenseOutput, sizes: Tensor) -> list[Detections]:
        """See ``DenseDetector``. Candidates are chosen by class score alone, as published."""
        config = self.config
        level_sizes = self._level_sizes(output.anchors)
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

    def _level_sizes(self, anchors: Tensor) -> list[int]:
        """Anchors of each level: the first anchor of a location doubles its side from one level to the next."""
        first = anchors[:: self.anchors_per_location]
        octaves = ((first[:, 2] - first[:, 0]) / (first[0, 2] - first[0, 0])).log2().round()
        counts: Any = torch.unique_consecutive(octaves, return_counts=True)[1]
        return [count * self.anchors_per_location for count in counts.tolist()]
