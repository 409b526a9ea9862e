"""The head of a dense detector: what it says at each location of a feature pyramid."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denseteacher.detectors.feature_alignment import FeatureAlignment, layers_of
from denseteacher.detectors.pyramid import flatten, initialize_head, tower, tower_features

if TYPE_CHECKING:
    from denseteacher.detectors.composed import ComposedConfig


class DenseHead(nn.Module):
    """Two towers shared by all levels: classes on one, boxes and, if asked for, quality on the other."""

    def __init__(self, config: "ComposedConfig", num_classes: int, num_levels: int) -> None:
        super().__init__()
        self.num_classes, self.coding = num_classes, config.coding
        self.cls_tower = tower(config)
        self.box_tower = tower(config)
        channels, anchors = tower_features(config), config.anchors_per_location
        self.cls = nn.Conv2d(channels, anchors * num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, anchors * self.coding.outputs, 3, padding=1)
        self.quality = nn.Conv2d(channels, anchors, 3, padding=1) if config.quality != "none" else None
        if self.coding.scaled:
            self.scales = nn.Parameter(torch.ones(num_levels), requires_grad=config.scale_per_level)
        initialize_head(self, self.cls)
        nn.init.constant_(self.box.bias, self.coding.initial_bias)  # type: ignore[arg-type]
        self.config, self.width = config, channels
        self.align = FeatureAlignment(2 * config.head_convs * channels) if config.align == "fam3d" else None

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pyramid features to fp32 (B, N, K) logits, (B, N, D) numbers of the coding, (B, N) quality logits or None."""
        if self.align is None:
            cls_features = [self.cls_tower(feature) for feature in features]
            box_features = [self.box_tower(feature) for feature in features]
        else:
            cls_layers = [layers_of(self.cls_tower, feature) for feature in features]
            box_layers = [layers_of(self.box_tower, feature) for feature in features]
            cls_features = [level[:, -self.width :] for level in cls_layers]
            box_features = [level[:, -self.width :] for level in box_layers]
        logits = [flatten(self.cls(feature), self.num_classes) for feature in cls_features]
        box_maps = [self.box(feature) for feature in box_features]
        deltas = torch.cat([self._numbers(boxes, level) for level, boxes in enumerate(box_maps)], 1)
        if self.align is not None:
            deltas = self._aligned([torch.cat(pair, 1) for pair in zip(cls_layers, box_layers, strict=True)], deltas)
        quality = None
        if self.quality is not None:
            quality = torch.cat([flatten(self.quality(feature), 1) for feature in box_features], 1).float()[..., 0]
        return torch.cat(logits, 1).float(), deltas, quality

    def _aligned(self, layers: list[Tensor], deltas: Tensor) -> Tensor:
        """(B, N, 4) numbers of the coding of the aligned boxes."""
        assert self.align is not None
        finest, coarsest = self.config.levels
        shapes = [(level.shape[-2], level.shape[-1]) for level in layers]
        anchors = self.config.anchors(shapes, [2**level for level in range(finest, coarsest + 1)], deltas.device)
        boxes = self.align.of_locations(layers, self.coding.decode(deltas, anchors))
        return self.coding.encode(boxes, anchors)

    def _numbers(self, boxes: Tensor, level: int) -> Tensor:
        """(B, n, D) fp32 numbers of the coding from (B, A * D, h, w) of a level."""
        deltas = flatten(boxes, self.coding.outputs).float()
        return self.coding.activate(deltas * self.scales[level] if self.coding.scaled else deltas)
