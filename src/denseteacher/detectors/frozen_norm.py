"""Frozen batch normalization, folded into the convolutions before it."""

import copy
from typing import Any

import timm
import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.misc import FrozenBatchNorm2d

_SIDE = 64
"""Pixels of the image that shows which convolution a normalization follows."""


class FoldedConv2d(nn.Module):
    """A convolution that also does what the frozen normalization after it would.

    A frozen normalization multiplies and shifts each channel by constants, so it can act on the weights, of which
    there are few, in place of the feature maps. That saves passes over memory forward and backward, and under
    autocast keeps feature maps in bf16, which fp32 statistics would turn into fp32.
    """

    def __init__(self, conv: nn.Conv2d, norm: "_FoldedNorm") -> None:
        """Takes over a convolution's parameters; the norm keeps its own, so that state dicts stay as they are."""
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self._norm = (norm,)  # in a tuple, since a module would be registered twice

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) to the (B, D, H', W') that convolution and normalization give, up to rounding."""
        scale, shift = self._norm[0].scale_and_shift()
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale[:, None, None, None]
        return functional.conv2d(feature, weight, shift, self.stride, self.padding, self.dilation, self.groups)


class _FoldedNorm(nn.Module):
    """The constants of a frozen normalization that a convolution applies; what is left is its activation."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        for name, value in norm.named_buffers(recurse=False):
            self.register_buffer(name, value)
        self.eps: Any = norm.eps
        self.rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, FrozenBatchNormAct2d) else nn.Identity()

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, feature: Tensor) -> Tensor:
        rest: Tensor = self.rest(feature)
        return rest


def freeze_batch_norm(body: nn.Module) -> nn.Module:
    """The network with batch normalization that uses its stored statistics, untrained, folded where that can be.

    Parameters and buffers keep their names. A normalization that follows no plain convolution stays a layer, and
    all of them do in a network that looks between convolution and normalization, as one whose features are taken there.

    Args:
        body: A network of (B, 3, H, W) images that gives a list of features; taken over.
    """
    frozen: nn.Module = timm.layers.freeze_batch_norm_2d(body)  # type: ignore[attr-defined,no-untyped-call]
    device = next(frozen.parameters()).device
    image = torch.rand((1, 3, _SIDE, _SIDE), generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(device)
    folded = copy.deepcopy(frozen)
    pairs, wanted = _pairs(folded, image)
    names = {module: name for name, module in folded.named_modules()}
    for conv, norm in pairs:
        rest = _FoldedNorm(norm)
        folded.set_submodule(names[norm], rest)
        folded.set_submodule(names[conv], FoldedConv2d(conv, rest))
    found = _features(folded, image)
    # where shapes alone are asked for there are no values to compare
    same = device.type == "meta" or all(
        (one - other).abs().max() < 1e-3 * other.abs().max() for one, other in zip(found, wanted, strict=True)
    )
    return folded if same else frozen


def _pairs(body: nn.Module, image: Tensor) -> tuple[list[tuple[nn.Conv2d, nn.Module]], list[Tensor]]:
    """Convolutions and the frozen normalizations that were seen to take what they give, and the features."""
    makers: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # an id is an object's only while it lives
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []

    def gave(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        kept.append(output)
        makers[id(output)] = module

    def takes(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        conv = makers.get(id(inputs[0]))
        if conv is not None:
            pairs.append((conv, module))

    hooks = []
    for module in body.modules():
        # a subclass does more than convolve
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            hooks.append(module.register_forward_hook(gave))
        elif isinstance(module, FrozenBatchNorm2d | FrozenBatchNormAct2d):
            hooks.append(module.register_forward_pre_hook(takes))
    features = _features(body, image)
    for hook in hooks:
        hook.remove()
    seen = [module for pair in pairs for module in pair]
    return [pair for pair in pairs if all(seen.count(module) == 1 for module in pair)], features  # shared ones stay


@torch.no_grad()
def _features(body: nn.Module, image: Tensor) -> list[Tensor]:
    training = body.training
    features: list[Tensor] = body.eval()(image)
    body.train(training)
    return features
