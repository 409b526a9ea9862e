"""Whether a network computes in bf16."""

from typing import Literal

import torch


def chosen_precision(precision: Literal["auto", "fp32", "bf16"], device_type: str) -> Literal["fp32", "bf16"]:
    """What ``auto`` means on a device: bf16 on a GPU made for it (Ampere on), fp32 on any other and on a CPU.

    No CPU is asked: bf16 convolutions on CPUs are slower than fp32 ones with some torch versions (pytorch#183815), and
    wrong with others (pytorch#163347). Who asks for bf16 gets it everywhere.
    """
    if precision != "auto":
        return precision
    made_for_it = device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if made_for_it else "fp32"
