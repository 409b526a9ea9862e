"""Optimizers, and a learning rate that is a pure function of the step."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from denseteacher.config import Config
from denseteacher.detectors.base import OneStageDetector

_SCALE = "rate_scale"
"""Key of a parameter group: what multiplies the rate, where that is not 1."""


class OptimConfig(Config):
    """Optimizer, learning-rate schedule and clipping."""

    name: Literal["sgd", "adamw"] = "sgd"
    """The optimizer: ``sgd`` with momentum, or ``adamw``."""
    lr: float = Field(0.01, gt=0)
    """Learning rate, before warm-up and schedule."""
    reference_batch: int | None = Field(None, gt=0)
    """The labeled batch that ``lr`` is meant for: with another one it is scaled in proportion (SGD) or by the
    square root (AdamW). None leaves ``lr`` as it is."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decay of all weights and biases but those of normalization layers."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """What the rate is multiplied by from one stage of the backbone to the one below, the last stage first; 1 gives all
    of it the full rate. Of a plain transformer each block is a stage; for fine-tuned ones 0.65 to 0.9 are usual."""
    norm_weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the weights and biases of normalization layers."""
    warmup_steps: int = Field(1000, ge=0)
    """Steps in which the rate rises, in a straight line, to its full value."""
    warmup_factor: float = Field(1e-3, ge=0, le=1)
    """Share of the learning rate at step 0."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """Learning rate after warm-up: ``constant``, ``step`` at the ``milestones``, ``cosine`` to ``final_factor``."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of the run after which ``step`` multiplies the rate by ``step_factor``."""
    step_factor: float = Field(0.1, gt=0, le=1)
    """What the rate is multiplied by at each milestone."""
    final_factor: float = Field(0.0, ge=0, le=1)
    """Share of the rate that ``cosine`` ends at."""
    clip_value: float | None = Field(None, gt=0)
    """Each gradient element is cut to this magnitude (the published run: 1.0)."""
    clip_norm: float | None = Field(None, gt=0)
    """All gradients are scaled down so that their norm is at most this."""


def learning_rate(config: OptimConfig, step: int, *, max_steps: int, labeled_batch: int) -> float:
    """The rate of a step: warm-up times schedule times batch scaling."""
    rate = config.lr
    if config.reference_batch is not None:
        scale = labeled_batch / config.reference_batch
        rate *= scale if config.name == "sgd" else math.sqrt(scale)
    progress = step / max_steps
    if config.schedule == "step":
        rate *= config.step_factor ** sum(progress >= milestone for milestone in config.milestones)
    elif config.schedule == "cosine":
        rate *= config.final_factor + (1 - config.final_factor) * (1 + math.cos(math.pi * progress)) / 2
    if step < config.warmup_steps:
        rate *= config.warmup_factor + (1 - config.warmup_factor) * step / config.warmup_steps
    return rate


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer over the trainable parameters; its rate is set before each step (``set_rate``)."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups: list[dict[str, Any]] = []
    for scale, parameters in _by_rate(model, config.layer_decay):
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        own = {} if scale == 1 else {_SCALE: scale}
        plain = [parameter for parameter in trainable if id(parameter) not in norms]
        groups.append({"params": plain, "weight_decay": config.weight_decay} | own)
        of_norms = [parameter for parameter in trainable if id(parameter) in norms]
        groups.append({"params": of_norms, "weight_decay": config.norm_weight_decay} | own)
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    return AdamW(groups, lr=config.lr, fused=True)


def _by_rate(model: nn.Module, decay: float) -> list[tuple[float, list[nn.Parameter]]]:
    """The parameters with what multiplies their rate: 1 above the backbone's body, ``decay`` at its last stage, ..."""
    stages = model.stages() if decay < 1 and isinstance(model, OneStageDetector) else []
    body = {id(parameter) for stage in stages for parameter in stage}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in body]
    return [(1.0, rest), *((decay ** (len(stages) - number), stage) for number, stage in enumerate(stages))]


def begin_momentum(optimizer: Optimizer) -> None:
    """Gives SGD the momentum of a run that has not moved, on the parameters' device.

    The first step is the same with it as without; but where torch's fused SGD makes the buffers itself and then skips
    the step for gradients that are not finite, they stay uninitialized memory.
    """
    for group in optimizer.param_groups:
        if group.get("momentum", 0) > 0:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Gives all parameter groups this learning rate, those of the backbone's stages their share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_SCALE, 1.0)


def clip_gradients(parameters: list[nn.Parameter], config: OptimConfig) -> torch.Tensor:
    """Clips as configured.

    Returns:
        The norm of all gradients before clipping, a scalar on the device; not finite if any gradient is.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if config.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm, foreach=True)
    if config.clip_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, config.clip_value, foreach=True)
    return norm
