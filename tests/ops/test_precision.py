"""When bf16 is switched on by itself."""

import time

import pytest
import torch

from denseteacher.ops.precision import bf16_pays_on_cpu, chosen_precision

REAL = torch.nn.functional.conv2d


@pytest.fixture
def clock(monkeypatch):
    """Makes a convolution take as long as its type says; returns the seconds of each type."""
    seconds, now = {torch.float32: 1.0, torch.bfloat16: 1.0}, [0.0]

    def conv2d(pixels, weight, **settings):
        now[0] += seconds[pixels.dtype]
        return REAL(pixels.float(), weight.float(), **settings).to(pixels.dtype)

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return seconds


def test_a_fast_and_right_bf16_is_used(clock):
    clock[torch.bfloat16] = 0.5
    assert bf16_pays_on_cpu()


@pytest.mark.parametrize("seconds", [0.95, 4.0])
def test_a_bf16_that_is_no_faster_is_not_used(clock, seconds):
    clock[torch.bfloat16] = seconds
    assert not bf16_pays_on_cpu()


@pytest.mark.parametrize("damage", [lambda output: output * 1.5, lambda output: output * torch.nan])
def test_a_fast_but_wrong_bf16_is_not_used(clock, monkeypatch, damage):
    clock[torch.bfloat16] = 0.5
    right = torch.nn.functional.conv2d

    def wrong(pixels, weight, **settings):
        output = right(pixels, weight, **settings)
        return damage(output) if pixels.dtype == torch.bfloat16 else output

    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    assert not bf16_pays_on_cpu()


@pytest.mark.parametrize(("made_for_it", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch, made_for_it, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or made_for_it)
    assert chosen_precision("auto", "cuda") == precision
    assert chosen_precision("bf16", "cuda") == "bf16"
