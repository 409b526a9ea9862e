"""Networks of timm's that make features of images: their names, their weights, their stages."""

import re
import sys
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from denseteacher.detectors.weight_files import read_state_dict, require_like
from denseteacher.errors import InputError

PATCH = 16
"""Pixels of a side of a plain transformer's patch, which is the stride of its features."""
_PLAIN = ["vision_transformer", "eva"]  # timm's modules with plain transformers; EVA's has DINOv3
_WINDOWS = ["swin_transformer", "swin_transformer_v2"]
_LISTED_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SHOWN = 80  # characters of a name


def is_plain(name: str) -> bool:
    """Whether a model of timm's is a plain transformer, whose features all have one stride."""
    return timm.models.is_model_in_modules(name.partition(".")[0], _PLAIN)


def create_body(name: str, pretrained: bool | str, drop_path: float = 0.0) -> nn.Module:
    """A network that takes (B, 3, H, W) pixels and gives a list of features, finest first.

    Args:
        name: Name of a timm model that has ``features_only``.
        pretrained: See ``PyramidBackbone``.
        drop_path: Probability of the last residual branch to be left out in training, from 0 at the first one.

    Raises:
        InputError: If there is no such model, or its weights can't be had.
    """
    _require_listed(name)
    options = _options(name) | ({"drop_path_rate": drop_path} if drop_path else {})
    try:
        body: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained is True, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise InputError(f"detector.drop_path: {name!r} has no residual branches to leave out; set it to 0") from error
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
    told: Any = body.feature_info
    strides = told.reduction()
    if len(set(strides)) == 1 and strides != [PATCH]:
        raise InputError(
            f"detector.backbone: {name!r} is a transformer whose features all have stride {strides[0]}; a pyramid is "
            f"made of ViTs of timm's vision_transformer and eva with patches of 14 or {PATCH} pixels"
        )
    if isinstance(pretrained, str):
        _load_local_weights(body, Path(pretrained))
    return body


def _options(name: str) -> dict[str, Any]:
    """What a model needs to take images of any size."""
    family = name.partition(".")[0]
    if is_plain(name):
        # weights for patches of 14 pixels are resampled by timm as it loads them
        patch = {"patch_size": PATCH} if "patch14" in family else {}
        return {"out_indices": [-1], "dynamic_img_size": True, **patch}
    if timm.models.is_model_in_modules(family, _WINDOWS):
        return {"strict_img_size": False}
    return {}


def stages(body: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each stage, first to last.

    A stage of a network reaches to its next feature. A plain transformer's are its embedding, then each block.
    """
    inner: Any = body
    if inner.feature_info.reduction() == [PATCH]:
        blocks = [list(block.parameters()) for block in inner.model.blocks]
        own = {id(parameter) for block in blocks for parameter in block}
        return [[parameter for parameter in body.parameters() if id(parameter) not in own], *blocks]
    ends = [name.replace(".", "_") for name in inner.feature_info.module_name()]
    found: list[list[nn.Parameter]] = [[]]
    for name, unit in _units(body, inner.feature_info.module_name()):
        found[-1] += unit.parameters()
        if name in ends and len(found) < len(ends):
            found.append([])
    return found


def _units(body: nn.Module, ends: list[str]) -> list[tuple[str, nn.Module]]:
    """The modules that a body runs one after the other, down to those that its features come from."""
    units = []
    for name, child in body.named_children():
        if any(end.startswith(f"{name}.") for end in ends):
            units += [(f"{name}_{number}", inner) for number, inner in child.named_children()]
        else:
            units.append((name, child))
    return units


def rounds_down(body: nn.Module) -> bool:
    """Whether the body cuts images into patches, so that a side that is not a multiple of them loses pixels."""
    convs = [module for module in body.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)]
    return any(conv.kernel_size == conv.stride for conv in convs)


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
        given = _resampled(body, read_state_dict(path))
    except InputError as error:
        raise InputError(f"detector.pretrained: {error}") from error
    flat = {_flat(key): value for key, value in given.items()}
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


def _resampled(body: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a plain transformer, with patch and position embeddings of the body's sizes, as timm does it."""
    inner: Any = body
    if inner.feature_info.reduction() != [PATCH]:
        return weights
    change = sys.modules[type(inner.model).__module__].checkpoint_filter_fn
    try:
        changed: dict[str, Tensor] = change(weights, inner.model)
    except Exception as error:  # tensors of unforeseen shapes, in timm's hands
        raise InputError(f"the weights do not belong to this transformer ({_first_line(error)})") from error
    return {f"model.{key}": value for key, value in changed.items()}


def _flat(key: str) -> str:
    """``features_only`` renames ``stages.0`` to ``stages_0``; compare keys without that difference."""
    return key.replace(".", "_")
