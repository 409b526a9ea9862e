"""Whether a network computes in bf16."""

import time
from typing import Literal

import torch

_BF16_TOLERANCE = 0.02  # of the largest output; bf16 keeps 8 bits
_BF16_SPEEDUP = 1.2  # below, the rounding is not worth it


def chosen_precision(precision: Literal["auto", "fp32", "bf16"], device_type: str) -> Literal["fp32", "bf16"]:
    """What ``auto`` means on a device: bf16 on a GPU made for it (Ampere on), and where ``bf16_pays_on_cpu``."""
    if precision != "auto":
        return precision
    pays = torch.cuda.is_bf16_supported(including_emulation=False) if device_type == "cuda" else bf16_pays_on_cpu()
    return "bf16" if pays else "fp32"


def bf16_pays_on_cpu() -> bool:
    """Whether this CPU's bf16 convolutions are right, and a fifth faster than fp32 ones.

    Measured on the spot, forward and backward, because no version number tells: pytorch#183815 (4 to 16 times
    slower) and pytorch#163347 (wrong values) are open.
    """
    total = {torch.float32: 0.0, torch.bfloat16: 0.0}
    rng = torch.Generator().manual_seed(0)
    for channels, side in ((32, 48), (64, 24), (128, 12)):
        pixels = torch.randn((8, channels, side, side), generator=rng)
        weight = torch.randn((channels, channels, 3, 3), generator=rng) / (3 * channels**0.5)
        outputs = []
        for dtype in total:
            own_pixels = pixels.to(dtype, memory_format=torch.channels_last).requires_grad_()
            own_weight = weight.to(dtype).requires_grad_()
            times = []
            for _ in range(4):
                start = time.perf_counter()
                output = torch.nn.functional.conv2d(own_pixels, own_weight, padding=1)
                torch.autograd.backward(output.sum())
                times.append(time.perf_counter() - start)
            total[dtype] += min(times)
            outputs.append(output.detach().float())
        error = (outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()
        if not bool(error < _BF16_TOLERANCE):
            return False
    return total[torch.bfloat16] * _BF16_SPEEDUP < total[torch.float32]
