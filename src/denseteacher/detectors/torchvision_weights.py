"""Loads torchvision's pretrained one-stage detectors into this package's own."""

from collections.abc import Mapping

from torch import Tensor, nn

from denseteacher.errors import InputError

_FCOS_PARTS = {
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
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        part = next((part for part in _FCOS_PARTS if key.startswith(part)), None)
        if part is not None:
            renamed[_FCOS_PARTS[part] + key.removeprefix(part)] = value
    own = detector.state_dict()
    for key, value in own.items():
        if key == "head.scales":
            renamed[key] = value.new_ones(value.shape)
        elif key.endswith("num_batches_tracked"):
            renamed.setdefault(key, value)  # frozen batch norms of torchvision don't count
        elif key not in renamed:
            raise InputError(f"torchvision weights: there is nothing for {key!r}: not an fcos_resnet50_fpn")
        elif renamed[key].shape != value.shape:
            raise InputError(
                f"torchvision weights: {key!r} has shape {tuple(renamed[key].shape)}, this detector needs "
                f"{tuple(value.shape)}: build it with num_classes=91 and the default head"
            )
    detector.load_state_dict({key: renamed[key] for key in own})
