"""Frozen batch normalization in the convolutions does what it does as layers."""

import copy

import pytest
import timm
import torch
from torch import nn

from denseteacher.detectors.frozen_norm import FoldedConv2d, freeze_batch_norm
from support.closeness import assert_close_to_scale


def network(name):
    """With statistics and affine parameters as training leaves them."""
    torch.manual_seed(0)
    body = timm.create_model(name, features_only=True)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return body


def layers(body):
    """The same network with frozen normalizations as layers of their own, by timm."""
    return timm.layers.freeze_batch_norm_2d(copy.deepcopy(body))


@pytest.fixture
def pixels():
    return torch.randn((2, 3, 96, 64), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "folded"),
    # the last takes features between convolution and normalization, the one before normalizes first
    [("resnet18", 20), ("test_byobnet", 14), ("efficientnet_b0", 48), ("densenet121", 59), ("ghostnet_100", 0)],
)
def test_features_and_gradients_are_the_same(name, folded, pixels):
    body = network(name)
    # in fp64, so that rounding switches no rectifier
    one, other, pixels = layers(body).double(), freeze_batch_norm(copy.deepcopy(body)).double(), pixels.double()
    assert sum(isinstance(module, FoldedConv2d) for module in other.modules()) == folded
    for wanted, found in zip(one(pixels), other(pixels), strict=True):
        assert_close_to_scale(found, wanted, share=1e-9)
    for features in (one(pixels), other(pixels)):
        torch.autograd.backward(sum(feature.square().mean() for feature in features))
    gradients = {name: parameter.grad for name, parameter in one.named_parameters()}
    size = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
    assert gradients.keys() == {name for name, _ in other.named_parameters()}
    for name, parameter in other.named_parameters():
        if gradients[name] is not None:
            assert_close_to_scale(parameter.grad, gradients[name], share=1e-9, scale=size, what=name)


def test_state_dicts_stay_as_they_are(pixels):
    body = network("resnet18")
    one, other = layers(body), freeze_batch_norm(network("resnet18"))
    assert list(one.state_dict()) == list(other.state_dict())
    trained = {name: value + 0.1 for name, value in one.state_dict().items()}
    one.load_state_dict(trained)
    other.load_state_dict(trained)
    for wanted, found in zip(one(pixels), other(pixels), strict=True):
        assert_close_to_scale(found, wanted)


def test_a_copy_has_statistics_of_its_own(pixels):
    """A teacher must not look into its student."""
    body = freeze_batch_norm(network("resnet18"))
    before = body(pixels)[-1]
    teacher = copy.deepcopy(body)
    teacher.layer4[1].bn2.bias.add_(1)
    assert torch.equal(body(pixels)[-1], before)
    assert not torch.equal(teacher(pixels)[-1], before)


def test_no_random_number_is_drawn():
    body = network("resnet18")
    state = torch.get_rng_state()
    freeze_batch_norm(body)
    assert torch.equal(torch.get_rng_state(), state)


def test_features_stay_in_bf16(pixels):
    """Statistics in fp32 as layers turn them into fp32, which costs twice the memory."""
    body = network("resnet18")
    one, other = layers(body), freeze_batch_norm(body)
    with torch.autocast("cpu", torch.bfloat16):
        assert {feature.dtype for feature in one(pixels)} == {torch.float32}
        assert {feature.dtype for feature in other(pixels)} == {torch.bfloat16}
