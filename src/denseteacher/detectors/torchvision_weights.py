"""Loads torchvision's pretrained one-stage detectors into this package's own."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

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
}
_FCOS_PARTS = _PYRAMID_PARTS | {"head.regression_head.bbox_ctrness.": "head.quality."}
_NESTED_CONV = re.compile(r"(head\.\w+\.conv\.)(\d+)\.0\.(weight|bias)")


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
    renamed = _renamed(weights, _FCOS_PARTS)
    scales = detector.state_dict()["head.scales"]
    _load(detector, renamed | {"head.scales": scales.new_ones(scales.shape)}, "fcos_resnet50_fpn")


def load_torchvision_retinanet(detector: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fills a RetinaNet from a state dict of ``torchvision.models.detection.retinanet_resnet50_fpn``.

    The detector must be built as torchvision's: ``RetinaNet(num_classes=91, backbone="resnet50.tv_in1k")`` with
    the other options at their defaults. Raw outputs are torchvision's; boxes differ by a pixel at most per
    anchor, as torchvision rounds its anchors. Class index 0 is its unused background.

    Args:
        detector: A ``RetinaNet``.
        weights: The state dict; those saved before torchvision 0.13 name their towers differently and fit too.

    Raises:
        InputError: If a tensor is missing or has another shape.
    """
    # a layer of a tower is a block (convolution, ReLU) there and two modules here
    flat = {
        _NESTED_CONV.sub(lambda found: f"{found[1]}{2 * int(found[2])}.{found[3]}", key): value
        for key, value in weights.items()
    }
    _load(detector, _renamed(flat, _PYRAMID_PARTS), "retinanet_resnet50_fpn")


def _renamed(weights: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        part = next((part for part in parts if key.startswith(part)), None)
        if part is not None:
            renamed[parts[part] + key.removeprefix(part)] = value
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
