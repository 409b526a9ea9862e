"""When bf16 is switched on by itself."""

import pytest
import torch

from denseteacher.ops.precision import chosen_precision


@pytest.mark.parametrize(("made_for_it", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch, made_for_it, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or made_for_it)
    assert chosen_precision("auto", "cuda") == precision
    assert chosen_precision("bf16", "cuda") == "bf16"


def test_a_cpu_computes_in_fp32_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)  # a GPU that isn't used
    assert chosen_precision("auto", "cpu") == "fp32"
    assert chosen_precision("bf16", "cpu") == "bf16"
