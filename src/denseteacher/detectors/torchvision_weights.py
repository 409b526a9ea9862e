"""Reads state dicts of torchvision's one-stage detectors as those of this package's own."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import Tensor, nn

from denseteacher.detectors.fcos import FCOSConfig
from denseteacher.detectors.pyramid import IMAGENET_MEAN, IMAGENET_STD, group_count
from denseteacher.detectors.retinanet import RetinaNetConfig
from denseteacher.errors import InputError

_PYRAMID_PARTS = {
    "backbone.body.": "backbone.body.",
    "backbone.fpn.inner_blocks.": "backbone.fpn.inner_blocks.",
    "backbone.fpn.layer_blocks.": "backbone.fpn.layer_blocks.",
    "backbone.fpn.extra_blocks.p6.": "backbone.extra.0.",
    "backbone.fpn.extra_blocks.p7.": "backbone.extra.1.",
    "head.classification_head.conv.": "head.cls_tower.",
    "head.classification_head.cls_logits.": "head.cls.",
    "head.regression_head.conv.": "head.box_tower.",
    "head.regression_head.bbox_reg.": "head.box.",
    "head.regression_head.bbox_ctrness.": "head.quality.",
}
_NESTED_LAYER = re.compile(r"(head\.\w+\.conv\.)(\d+)\.([01])\.(weight|bias)")
_OLD_PYRAMID = re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)")
_TOWER_CONV = re.compile(r"head\.(?:cls|box)_tower\.\d+\.weight")
_GROUPS = 32
_BLOCKS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet18.tv_in1k",
    (3, 4, 6, 3): "resnet50.tv_in1k",
    (3, 4, 23, 3): "resnet101.tv_in1k",
    (3, 8, 36, 3): "resnet152.tv_in1k",
}
"""Networks by the blocks of their stages; ResNet-34 has those of ResNet-50, but no third convolution in a block."""


class TorchvisionDetector(NamedTuple):
    """A detector of torchvision's, detected by its tensors."""

    config: FCOSConfig | RetinaNetConfig
    num_classes: int
    """Number of classes, with the background that torchvision counts as class 0."""
    weights: dict[str, Tensor]
    """Tensors by this package's names."""


def read_torchvision(weights: Mapping[str, Tensor]) -> TorchvisionDetector | None:
    """An FCOS or a RetinaNet of either version; None if the tensors are neither.

    Args:
        weights: A state dict of ``fcos_resnet50_fpn``, ``retinanet_resnet50_fpn``, ``retinanet_resnet50_fpn_v2``, or
            of the same on another ResNet.

    Raises:
        InputError: If it is one that this package can't build.
    """
    own = _renamed(weights)
    try:
        config = _config(own)
        rows, boxes, width = (
            own["head.cls.bias"].shape[0],
            own["head.box.bias"].shape[0],
            own["head.cls.weight"].shape[1],
        )
    except (KeyError, IndexError, ValidationError):
        return None
    anchors = config.anchors_per_location
    if rows % anchors:
        return None
    if boxes != 4 * anchors:
        raise InputError(f"a detector with {boxes // 4} anchors at a location can't be built here")
    if config.head_norm == "group" and config.head_convs and group_count(width) != _GROUPS:
        raise InputError(f"a head with {_GROUPS} groups in {width} channels can't be built here")
    if isinstance(config, FCOSConfig):
        own["head.scales"] = own["head.cls.bias"].new_ones(config.levels[1] - config.levels[0] + 1)
    return TorchvisionDetector(config, rows // anchors, own)


def load_torchvision_fcos(detector: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fills an FCOS from a state dict of ``torchvision.models.detection.fcos_resnet50_fpn``.

    The detector must be built as torchvision's: ``FCOS(num_classes=91, backbone="resnet50.tv_in1k",
    quality="centerness")`` with the other options at their defaults. torchvision has no scale per level, so
    the scales are set to 1; class index 0 is its unused background.

    Args:
        detector: An ``FCOS``.
        weights: The state dict.

    Raises:
        InputError: If a tensor is missing or has another shape.
    """
    scales = detector.state_dict()["head.scales"]
    _load(detector, _renamed(weights) | {"head.scales": scales.new_ones(scales.shape)}, "fcos_resnet50_fpn")


def load_torchvision_retinanet(detector: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fills a RetinaNet from a state dict of ``torchvision.models.detection.retinanet_resnet50_fpn``.

    The detector must be built as torchvision's: ``RetinaNet(num_classes=91, backbone="resnet50.tv_in1k")`` with
    the other options at their defaults; for ``retinanet_resnet50_fpn_v2`` with ``head_norm="group"`` and
    ``extra_from="backbone"`` too. Raw outputs are torchvision's; boxes differ by a pixel at most per
    anchor, as torchvision rounds its anchors. Class index 0 is its unused background.

    Args:
        detector: A ``RetinaNet``.
        weights: The state dict; those saved before torchvision 0.13 name their layers differently and fit too.

    Raises:
        InputError: If a tensor is missing or has another shape.
    """
    _load(detector, _renamed(weights), "retinanet_resnet50_fpn")


def with_epsilon(weights: Mapping[str, Tensor], *, trained: float, used: float) -> dict[str, Tensor]:
    """The weights of a backbone for another epsilon of its batch norms, which changes no output.

    Args:
        weights: By either's names.
        trained: What was added to the variances when they were trained.
        used: What will be added.
    """
    changed = dict(weights)
    for key, variance in weights.items():
        if key.startswith("backbone.body.") and key.endswith(".running_var"):
            weight = key.replace(".running_var", ".weight")
            # the weight and not the variance takes it up: a channel that is nearly dead has less than the epsilon
            least = variance.clamp(min=1e-12)
            changed[weight] = weights[weight] * ((least + used) / (least + trained)).sqrt()
    return changed


def _config(own: Mapping[str, Tensor]) -> FCOSConfig | RetinaNetConfig:
    """What a detector is, by its tensors.

    Raises:
        KeyError: If a tensor is missing.
        IndexError: If one has too few dimensions.
    """
    channels = own["backbone.fpn.layer_blocks.0.0.weight"].shape[0]
    finest = 6 - sum(bool(re.fullmatch(r"backbone\.fpn\.inner_blocks\.\d+\.0\.weight", key)) for key in own)
    above = own["backbone.extra.0.weight"], own["backbone.extra.1.weight"]
    tower = [value.ndim for key, value in own.items() if key.startswith("head.cls_tower.") and key.endswith("weight")]
    width = own["head.cls.weight"].shape[1]
    options: dict[str, Any] = {
        "backbone": _backbone(own),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "levels": (finest, 5 + len(above)),
        "channels": channels,
        "head_convs": tower.count(4),
        "head_channels": None if width == channels else width,
        "head_norm": "group" if 1 in tower else "none",
        "extra_from": "pyramid" if above[0].shape[1] == channels else "backbone",
    }
    if "head.quality.weight" in own:
        return FCOSConfig(**options, quality="centerness")
    return RetinaNetConfig(**options)


def _backbone(own: Mapping[str, Tensor]) -> str:
    """The timm name of a ResNet.

    Raises:
        InputError: If it is none that is known.
    """
    blocks = [
        {key.split(".")[3] for key in own if key.startswith(f"backbone.body.layer{stage}.")} for stage in range(1, 5)
    ]
    counts = tuple(len(stage) for stage in blocks)
    name = _BLOCKS.get(counts)
    if name == "resnet50.tv_in1k" and "backbone.body.layer1.0.conv3.weight" not in own:
        name = "resnet34.tv_in1k"
    if name is None:
        raise InputError(f"its backbone, with {counts} blocks in four stages, is not a ResNet")
    return name


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a detector by this package's names; what has none is left out."""
    normed = any(key.startswith("head.classification_head.conv.0.1.") for key in weights)
    layers = 3 if normed else 2  # a block (convolution, norm, ReLU) there is as many modules here
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        flat = _NESTED_LAYER.sub(lambda found: f"{found[1]}{layers * int(found[2]) + int(found[3])}.{found[4]}", key)
        flat = _OLD_PYRAMID.sub(r"\1.0.\2", flat) if _OLD_PYRAMID.fullmatch(flat) else flat
        part = next((part for part in _PYRAMID_PARTS if flat.startswith(part)), None)
        if part is not None:
            renamed[_PYRAMID_PARTS[part] + flat.removeprefix(part)] = value
    for key in [key for key in renamed if _TOWER_CONV.fullmatch(key)]:  # before a norm, convolutions have no bias there
        renamed.setdefault(key.replace(".weight", ".bias"), renamed[key].new_zeros(renamed[key].shape[:1]))
    return renamed


def _load(detector: nn.Module, renamed: dict[str, Tensor], name: str) -> None:
    own = detector.state_dict()
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            renamed.setdefault(key, value)  # frozen batch norms of torchvision don't count
        elif key not in renamed:
            raise InputError(f"torchvision weights: there is nothing for {key!r}: not a {name}")
        elif renamed[key].shape != value.shape:
            raise InputError(
                f"torchvision weights: {key!r} has shape {tuple(renamed[key].shape)}, this detector needs "
                f"{tuple(value.shape)}: build it with num_classes=91 and the default head"
            )
    detector.load_state_dict({key: renamed[key] for key in own})
