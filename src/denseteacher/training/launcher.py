"""The launcher of a run's processes: torchrun, srun, or the run itself. The environment alone says which."""

import os
from typing import NamedTuple

from denseteacher.errors import InputError


class Launch(NamedTuple):
    """Processes that were started from outside."""

    by: str
    """``torchrun`` or ``srun``."""
    devices: int
    """Processes on each node."""
    nodes: int
    """Machines."""


def find_launch() -> Launch | None:
    """What started this process beside others; None where the run starts its other processes itself.

    Raises:
        InputError: If torchrun or SLURM was asked for processes in a way that would leave them waiting.
    """
    if _under_torchrun():
        devices, processes = _number("LOCAL_WORLD_SIZE"), _number("WORLD_SIZE")
        if processes > 1 and may_be_restarted() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # pytorch#135712; seen with 2.14: new processes find the addresses of dead ones
            raise InputError(
                "torchrun --max-restarts hangs at a restart unless each has a store of its own: put "
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before the command, and between several machines use "
                "--rdzv-backend=c10d"
            )
        return Launch("torchrun", devices, processes // devices)
    tasks = _number("SLURM_NTASKS")
    # Fabric takes a job of these names for a shell too, in which the run is one process
    if tasks == 1 or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    if "SLURM_STEP_ID" not in os.environ:
        raise InputError(
            f"this SLURM job has {tasks} tasks, but srun did not start this one and no other would join it: put srun "
            "before the command"
        )
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(
            f"srun started {tasks} tasks and does not say how many on a node: ask for them with --ntasks-per-node, "
            "not with --ntasks"
        )
    devices = _number("SLURM_NTASKS_PER_NODE")
    return Launch("srun", devices, tasks // devices)


def may_be_restarted() -> bool:
    """Whether this process is one of a run that is, or will be, started again where a process dies.

    ``torchrun --max-restarts``, and a SLURM job that was requeued. torchrun's count of restarts says less: it stays
    0 on the machines on which nothing died.
    """
    if _under_torchrun():
        return _number("TORCHELASTIC_MAX_RESTARTS", 0) > 0
    return _number("SLURM_RESTART_COUNT", 0) > 0


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _number(variable: str, default: int = 1) -> int:
    return int(os.environ.get(variable, default))
