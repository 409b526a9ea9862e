"""Feature pyramids: any timm network below, torchvision's FPN on top, stride-2 convolutions above."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from denseteacher.detectors import frozen_norm
from denseteacher.detectors.weight_files import read_state_dict, require_like
from denseteacher.errors import InputError

COARSEST_BACKBONE_LEVEL = 5
_LISTED_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SHOWN = 80  # characters of a name


class PyramidBackbone(nn.Module):
    """A backbone with a feature pyramid: level l has stride 2**l and ``channels`` channels."""

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str,
        levels: tuple[int, int],
        channels: int,
        extra_from: Literal["pyramid", "backbone"] = "pyramid",
        frozen_stages: int,
        freeze_batch_norm: bool,
        finer_level: bool = False,
    ) -> None:
        """Builds the network.

        Args:
            name: A timm model name, ``resnet50.tv_in1k`` for example.
            pretrained: True fetches timm's weights, a path loads a state dict from that file, False starts
                from random weights.
            levels: Finest and coarsest pyramid level. Levels past 5 come from level 5 by convolution.
            channels: Channels of every level.
            extra_from: What level 6 comes from: level 5 of the pyramid, or the backbone's features of that level.
            frozen_stages: Leading stages that stay as they are: 0 none, 1 the stem, 2 also the next, ...
            freeze_batch_norm: Batch normalization uses its stored statistics and is not trained.
            finer_level: Whether ``forward`` can give a pyramid that begins one level below the finest.

        Raises:
            InputError: If there is no such model, or its weights can't be had.
        """
        super().__init__()
        self.body = _create_body(name, pretrained)
        stages: Any = self.body.feature_info
        strides = stages.reduction()
        finest, coarsest = levels
        top = min(coarsest, COARSEST_BACKBONE_LEVEL)
        missing = [2**level for level in range(finest, top + 1) if 2**level not in strides]
        if missing:
            raise InputError(
                f"backbone {name!r} has features of strides {strides}, but pyramid levels {finest} to {top} "
                f"need strides {missing}: choose another backbone or other detector.levels"
            )
        self.indices = [strides.index(2**level) for level in range(finest, top + 1)]
        widths = stages.channels()
        self.fpn = FeaturePyramidNetwork([widths[i] for i in self.indices], channels)
        self.extra_from = extra_from
        first = widths[self.indices[-1]] if extra_from == "backbone" else channels
        self.extra = nn.ModuleList(_extra_level(first if i == 0 else channels, channels) for i in range(coarsest - top))
        if freeze_batch_norm:
            self.body = frozen_norm.freeze_batch_norm(self.body)
        _freeze_stages(self.body, frozen_stages)
        self.strides = [2**level for level in range(finest, coarsest + 1)]
        if finer_level and 2 ** (finest - 1) not in strides:
            raise InputError(
                f"detector.finer_level needs features of stride {2 ** (finest - 1)}, but backbone {name!r} has those of "
                f"strides {strides}: choose another backbone or other detector.levels"
            )
        self.finer = _FinerLevel(strides.index(2 ** (finest - 1)), widths, channels) if finer_level else None

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation, for pixels of 0 to 255, that timm's weights of the network were trained with."""
        told: Any = self.body.default_cfg
        return tuple(255 * value for value in told["mean"]), tuple(255 * value for value in told["std"])

    def forward(self, pixels: Tensor, *, finer: bool = False) -> list[Tensor]:
        """(B, 3, H, W) normalized pixels to a list of (B, channels, H/stride, W/stride), finest first.

        Args:
            pixels: The images.
            finer: Give as many levels, each of half the stride: one below the finest, and not the coarsest one. Only
                with ``finer_level``.
        """
        features = self.body(pixels)
        if finer and self.finer is not None:
            levels: list[Tensor] = self.finer(features, self.fpn, self.indices)
        else:
            levels = list(self.fpn(OrderedDict((str(i), features[i]) for i in self.indices)).values())
        below = features[self.indices[-1]] if self.extra_from == "backbone" else levels[-1]
        for number, conv in enumerate(self.extra[: max(0, len(self.strides) - len(levels))]):
            # P6 comes from P5 itself, P7 from the rectified P6, as in RetinaNet and torchvision
            levels.append(conv(below if number == 0 else levels[-1].relu()))
        return levels[: len(self.strides)]


class _FinerLevel(nn.Module):
    """The level below the finest of a feature pyramid, made as all others are."""

    def __init__(self, index: int, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.index = index
        # made as torchvision makes its own, whose initialization it has
        self.own = FeaturePyramidNetwork([widths[index]], channels)

    def forward(self, features: Sequence[Tensor], fpn: FeaturePyramidNetwork, indices: Sequence[int]) -> list[Tensor]:
        """The features to the pyramid's levels, those of ``fpn`` and the one below them, finest first."""
        laterals = [*self.own.inner_blocks, *fpn.inner_blocks]
        outputs = [*self.own.layer_blocks, *fpn.layer_blocks]
        levels: list[Tensor] = []
        above: Tensor | None = None
        for index, lateral, output in reversed(list(zip([self.index, *indices], laterals, outputs, strict=True))):
            merged: Tensor = lateral(features[index])
            if above is not None:
                merged = merged + F.interpolate(above, size=merged.shape[-2:], mode="nearest")
            levels.insert(0, output(merged))
            above = merged
        return levels


def _extra_level(width: int, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(width, channels, 3, stride=2, padding=1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.constant_(conv.bias, 0.0)  # type: ignore[arg-type]
    return conv


def _create_body(name: str, pretrained: bool | str) -> nn.Module:
    _require_listed(name)
    try:
        body: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained is True)
    except RuntimeError as error:
        raise InputError(
            f"detector.backbone: timm can't make {name!r} ({_first_line(error)}); see timm.list_models() for the names"
        ) from error
    except Exception as error:
        if pretrained is not True:
            raise
        # timm's hub raises a different exception for every way a download can fail
        raise InputError(
            f"the pretrained weights of {name!r} could not be fetched ({_first_line(error)}); train from "
            "random weights with --set detector.pretrained=false, or give a local file with "
            "--set detector.pretrained=FILE"
        ) from error
    if isinstance(pretrained, str):
        _load_local_weights(body, Path(pretrained))
    return body


def _require_listed(name: str) -> None:
    """Refuses what names no network of timm's own: it takes ``hf-hub:`` and ``local-dir:`` for places to load from."""
    if not _LISTED_NAME.fullmatch(name) or not timm.is_model(name):
        raise InputError(
            f"detector.backbone: timm can't make {name[:_SHOWN]!r}, which it does not list; see timm.list_models() for "
            "the names, in which there is no ':' and no '/'"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _load_local_weights(body: nn.Module, path: Path) -> None:
    """Fills the body from a state dict file, which may hold more (a classifier) but must hold all of it."""
    if not path.is_file():
        raise InputError(f"detector.pretrained: there is no file {path}")
    try:
        flat = {_flat(key): value for key, value in read_state_dict(path).items()}
    except InputError as error:
        raise InputError(f"detector.pretrained: {error}") from error
    own = body.state_dict()
    missing = [key for key in own if _flat(key) not in flat]
    if missing:
        raise InputError(
            f"detector.pretrained: {path} lacks {len(missing)} of the backbone's {len(own)} tensors, the first "
            f"{missing[0]!r}: it belongs to another network"
        )
    weights = {key: flat[_flat(key)] for key in own}
    unlike = [key for key, value in own.items() if weights[key].shape != value.shape]
    if unlike:
        raise InputError(
            f"detector.pretrained: {path} has tensors of other shapes, the first is {unlike[0]!r}: it belongs to "
            "another network"
        )
    require_like(weights, own, source=f"detector.pretrained: {path}")
    body.load_state_dict(weights)


def _flat(key: str) -> str:
    """``features_only`` renames ``stages.0`` to ``stages_0``; compare keys without that difference."""
    return key.replace(".", "_")


def _freeze_stages(body: nn.Module, stages: int) -> None:
    """Stops the gradients of the first stages; stage 1 reaches to the first feature, and so on."""
    if stages == 0:
        return
    stages_info: Any = body.feature_info
    names = stages_info.module_name()
    if stages > len(names):
        raise InputError(f"detector.frozen_stages is {stages}, but the backbone has {len(names)} stages")
    last = names[stages - 1].replace(".", "_")
    for name, child in body.named_children():
        child.requires_grad_(False)
        if name == last:
            return
