"""What detectors on a feature pyramid have in common: the options, the network below the head, the towers in it."""

import math
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from denseteacher.detectors.backbone import BodyTraining, PyramidBackbone
from denseteacher.detectors.base import OneStageConfig, OneStageDetector
from denseteacher.detectors.half_view import StatisticsKept, half_size
from denseteacher.ops.anchors import valid_locations
from denseteacher.ops.padding import real_area
from denseteacher.structures import DenseOutput, ImageBatch, take

MOST_CHANNELS = 16_384
_PRIOR_SCORE = 0.01  # what an untrained head says of every class at every location (Lin et al., 2017)

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of pixels of 0 to 255, as torchvision's networks and most of timm's were trained."""

_Pixel = Annotated[float, Field(ge=0, le=255)]
Channels = tuple[_Pixel, _Pixel, _Pixel]
_Spread = Annotated[float, Field(ge=1e-3, le=1e6)]
PositiveChannels = tuple[_Spread, _Spread, _Spread]


class PyramidConfig(OneStageConfig):
    """The options that every detector on a feature pyramid has."""

    architecture: ClassVar[tuple[str, ...]] = (
        "name",
        "backbone",
        "mean",
        "std",
        "levels",
        "channels",
        "extra_from",
        "head_convs",
        "head_channels",
        "head_norm",
    )
    """Options that must be those of the weights: others have other tensors, or give their numbers another meaning. One
    of a part is ``part.option``."""
    learned: ClassVar[tuple[str, ...]] = ()
    """Other options that weights bring along: what they say is learned, but can be learned anew."""

    name: str
    """Which detector it is."""
    backbone: str = "resnet50.tv_in1k"
    """A model of timm's that has ``features_only``, or a plain ViT of its ``vision_transformer`` or ``eva``."""
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
    channels: int = Field(256, gt=0, le=MOST_CHANNELS)
    """Width of the pyramid."""
    head_convs: int = Field(4, ge=0, le=64)
    """Convolutions in each tower of the head."""
    head_channels: int | None = Field(None, gt=0, le=MOST_CHANNELS)
    """Width of the towers; the pyramid's if not given."""
    head_norm: Literal["group", "none"] = "group"
    """Normalization in the towers: ``group`` normalization, or ``none``."""
    frozen_stages: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """Leading stages of the backbone that are not trained: 0 none, 1 the stem, 2 also the next, ...; of a plain
    transformer 1 the embedding, 2 also the first block, ... Of ``all`` the backward pass is saved."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Probability that a step leaves the backbone's last residual branch of an image out; it rises to that from 0 at
    the first one (stochastic depth)."""
    freeze_batch_norm: bool = False
    """Batch normalization of the backbone uses its stored statistics and is not trained."""
    finer_level: bool = False
    """The pyramid has one more level below the finest, which nothing but the half-size views of ``method.half_view``
    uses: it is trained, and no part of a detection."""

    @abstractmethod
    def build(self, num_classes: int) -> "PyramidDetector":
        """See ``OneStageConfig``."""

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


class PyramidDetector(OneStageDetector):
    """Backbone, pyramid and normalization of pixels; a detector adds its head, anchors, assigner and box coding."""

    config: PyramidConfig
    head: nn.Module
    """Pyramid features to (B, N, K) logits, (B, N, D) deltas, and (B, N) quality logits or None; all fp32."""
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
            finer_level=config.finer_level,
            training=BodyTraining(config.frozen_stages, config.freeze_batch_norm, config.drop_path),
        )
        self.config = config = _with_pixel_statistics(config, self.backbone)
        self.strides: list[int] = self.backbone.strides
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: ImageBatch, halved: int = 0) -> DenseOutput:
        """See ``DenseDetector``: uint8 canvas in, raw fp32 predictions out."""
        levels, sizes = self.features(images), images.sizes
        if halved:
            seen = take(images, slice(-halved, None))
            with StatisticsKept(self.backbone):
                finer = self.features(half_size(seen), finer=True)
            levels = [torch.cat(pair) for pair in zip(levels, finer, strict=True)]
            sizes = torch.cat((sizes, seen.sizes))
        logits, deltas, quality = self.head(levels)
        if not halved and self.backbone.finer is not None and torch.is_grad_enabled():
            # a gradient of 0, since DDP waits for one of every parameter
            deltas = deltas + 0 * torch.stack([value.sum() for value in self.backbone.finer.parameters()]).sum().float()
        height, width = images.pixels.shape[-2:]
        anchors = self.anchors((height, width), logits.device)
        return DenseOutput(logits, deltas, quality, anchors, valid_locations(anchors, sizes))

    def features(self, images: ImageBatch, *, finer: bool = False) -> list[Tensor]:
        """The pyramid of uint8 images. Padding becomes 0, the value that convolutions pad with themselves.

        Args:
            images: B of them.
            finer: Begin one level below the finest, which ``finer_level`` adds.
        """
        pixels = (images.pixels.to(self.mean.dtype) - self.mean) / self.std
        pixels = pixels * real_area(images.sizes, *pixels.shape[-2:])
        found: list[Tensor] = self.backbone(pixels.contiguous(memory_format=torch.channels_last), finer=finer)
        return found

    def stages(self) -> list[list[nn.Parameter]]:
        """See ``OneStageDetector``: those of the network below the pyramid."""
        return self.backbone.stages()

    def shapes(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level's feature map on a canvas of this height and width."""
        height, width = canvas
        return [((height + stride - 1) // stride, (width + stride - 1) // stride) for stride in self.strides]


def shape_detector(config: PyramidConfig, num_classes: int) -> PyramidDetector:
    """The detector without weights: for its shapes, anchors and assigner.

    Raises:
        InputError: If there is not such a network.
    """
    with torch.device("meta"):
        detector = config.model_copy(update={"pretrained": False}).build(num_classes)
    return detector.to(memory_format=torch.channels_last)
