"""EMA, learning rate and clipping against numbers worked by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from denseteacher.detectors import FCOS
from denseteacher.training.ema import EMAConfig, Teacher, ema_decay
from denseteacher.training.optim import OptimConfig, build_optimizer, clip_gradients, learning_rate, set_rate
from support.closeness import assert_close_to_scale


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, pixels):
        return self.norm(self.conv(pixels))


def test_ema_averages_parameters_and_buffers():
    rng = np.random.default_rng(0)
    student = Net()
    teacher = Teacher(student)
    expected = {key: value.numpy().astype(np.float64) for key, value in copy.deepcopy(student.state_dict()).items()}
    for _ in range(20):
        with torch.no_grad():
            for value in student.parameters():
                value.add_(torch.from_numpy(rng.normal(size=value.shape).astype(np.float32)))
        student(torch.randn(2, 3, 4, 4))  # moves the running statistics and counts the batch
        teacher.update(0.9)
        for key, value in student.state_dict().items():
            own = value.numpy().astype(np.float64)
            expected[key] = own if "num_batches" in key else 0.9 * expected[key] + 0.1 * own
    for key, value in teacher.module.state_dict().items():
        assert_close_to_scale(value, expected[key], what=key)
    assert teacher.module.norm.num_batches_tracked == 20
    assert not teacher.module.training
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


def test_a_decay_of_zero_copies_exactly():
    student = Net()
    teacher = Teacher(student)
    with torch.no_grad():
        student.conv.weight.normal_()
    teacher.update(0.0)
    assert torch.equal(teacher.module.conv.weight, student.conv.weight)


def test_the_teacher_is_a_copy_until_its_start():
    assert [ema_decay(step, EMAConfig(decay=0.99, start=3)) for step in (0, 3, 4, 9)] == [0, 0, 0.99, 0.99]


def rates(config, steps, max_steps=1000, batch=16):
    return [learning_rate(config, step, max_steps=max_steps, labeled_batch=batch) for step in steps]


def test_published_warm_up_and_constant_rate():
    config = OptimConfig(lr=0.01, warmup_steps=1000, warmup_factor=0.001)
    found = rates(config, [0, 500, 1000, 150_000], max_steps=180_000)
    assert found == pytest.approx([1e-5, 0.01 * (0.001 + 0.999 * 0.5), 0.01, 0.01])


def test_step_and_cosine_schedules():
    steps = OptimConfig(lr=1.0, warmup_steps=0, schedule="step", milestones=(0.6, 0.9), step_factor=0.1)
    assert rates(steps, [0, 599, 600, 900]) == pytest.approx([1, 1, 0.1, 0.01])
    cosine = OptimConfig(lr=1.0, warmup_steps=0, schedule="cosine", final_factor=0.2)
    assert rates(cosine, [0, 250, 500, 1000]) == pytest.approx(
        [1, 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2, 0.6, 0.2]
    )


def test_the_rate_follows_the_batch():
    assert rates(OptimConfig(lr=0.01, reference_batch=16, warmup_steps=0), [5], batch=4) == pytest.approx([0.0025])
    adamw = OptimConfig(name="adamw", lr=0.01, reference_batch=16, warmup_steps=0)
    assert rates(adamw, [5], batch=4) == pytest.approx([0.005])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_normalization_has_its_own_weight_decay(name):
    model = Net()
    model.conv.bias.requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig(name=name, weight_decay=0.1, norm_weight_decay=0.0))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(model.conv.weight)] == 0.1
    assert decays[id(model.norm.weight)] == decays[id(model.norm.bias)] == 0.0
    assert id(model.conv.bias) not in decays


def test_clipping_by_value_and_norm_and_the_norm_before():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, -4.0])
    assert clip_gradients([weight], OptimConfig(clip_value=1.0)).item() == pytest.approx(5)
    assert weight.grad.tolist() == [1, -1]
    weight.grad = torch.tensor([3.0, -4.0])
    clip_gradients([weight], OptimConfig(clip_norm=1.0))
    assert weight.grad.tolist() == pytest.approx([0.6, -0.8], rel=1e-4)
    weight.grad = torch.tensor([math.inf, 0.0])
    assert not clip_gradients([weight], OptimConfig(clip_value=1.0)).isfinite()


def test_rates_fall_from_stage_to_stage():
    """By hand: six blocks and an embedding below; the last block has one factor, the embedding seven."""
    detector = FCOS(num_classes=2, backbone="test_vit", levels=(4, 5), channels=8, head_convs=1)
    optimizer = build_optimizer(detector, OptimConfig(name="adamw", layer_decay=0.5, weight_decay=0.1))
    set_rate(optimizer, 2.0)
    names = {id(value): name for name, value in detector.named_parameters()}
    found = {names[id(value)]: group for group in optimizer.param_groups for value in group["params"]}
    assert found.keys() == set(names.values())
    powers = {"backbone.body.model.pos_embed": 7, "backbone.body.model.patch_embed.proj.weight": 7}
    powers |= {f"backbone.body.model.blocks.{block}.attn.qkv.weight": 6 - block for block in range(6)}
    powers |= {"backbone.fpn.levels.0.0.weight": 0, "head.cls.weight": 0, "head.scales": 0}
    assert {name: found[name]["lr"] for name in powers} == {name: 2.0 * 0.5**power for name, power in powers.items()}
    assert found["backbone.body.model.blocks.3.norm1.weight"]["weight_decay"] == 0.0
    assert found["backbone.body.model.blocks.3.norm1.weight"]["lr"] == 2.0 * 0.5**3
    assert found["backbone.body.model.blocks.3.attn.qkv.weight"]["weight_decay"] == 0.1
    again = build_optimizer(detector, OptimConfig(name="adamw", layer_decay=0.5))
    again.load_state_dict(optimizer.state_dict())
    set_rate(again, 1.0)
    assert [group["lr"] for group in again.param_groups] == [group["lr"] / 2 for group in optimizer.param_groups]


def test_without_a_decay_the_groups_are_two():
    detector = FCOS(num_classes=2, backbone="test_vit", levels=(4, 5), channels=8, head_convs=1)
    groups = build_optimizer(detector, OptimConfig()).param_groups
    assert len(groups) == 2
    assert all("rate_scale" not in group for group in groups)
