"""Whether torch can compile here."""

import torch
from torch import Tensor

from denseteacher.errors import InputError


def check_compiler(device: torch.device) -> None:
    """Compiles a small function, so that who asked for compilation is told when the run begins, not steps later.

    Args:
        device: Where to compute; a CPU needs a C++ compiler, a GPU Triton and a C compiler.

    Raises:
        InputError: If that fails.
    """

    def function(values: Tensor) -> Tensor:
        return values.sin() + 1

    try:
        torch.compile(function)(torch.zeros(8, device=device))
    except Exception as error:  # whatever is missing fails in its own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"torch can't compile on this machine's {device.type} ({reason}): install what it needs, a C++ compiler or "
            "Triton, or leave runtime.compile and --compile out"
        ) from error
