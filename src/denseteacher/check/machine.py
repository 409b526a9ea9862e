"""What this machine can do: versions, devices, precision, compiler, memory, disk, extras; and what would be faster."""

import os
import platform
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from denseteacher.errors import InputError
from denseteacher.hardware import Machine, available_cores, check_compiler, chosen_precision, this_machine

_GIB = 2**30
_LEAST_DISK = 5 * _GIB  # a run on ResNet-50 keeps three checkpoints of 32 M parameters, their averages and momenta
_LEAST_SHARED = _GIB // 2  # docker gives a container 64 MB
_LIBRARIES = ("dense-teacher", "torch", "torchvision", "timm", "lightning-fabric", "huggingface-hub", "numpy")
_NVIDIA = Path("/proc/driver/nvidia/version")  # is there with the driver, whatever torch was built for
_SHARED_MEMORY = Path("/dev/shm")


class Extra(NamedTuple):
    """A part of the installation that is there on demand."""

    name: str
    """Name in ``pip install "dense-teacher[NAME]"``."""
    module: str
    """What is imported."""
    purpose: str
    """What it is for."""

    @property
    def is_installed(self) -> bool:
        """Whether the module can be found; it is not imported."""
        return find_spec(self.module) is not None


EXTRAS = (
    Extra("fast", "faster_coco_eval", "quicker COCO evaluations"),
    Extra("onnx", "onnxruntime", "denseteacher export, and running what it writes"),
    Extra("streaming", "litdata", "unlabeled images as a LitData stream"),
    Extra("tensorboard", "tensorboard", "a run's curves and previews in TensorBoard"),
    Extra("wandb", "wandb", "train --log wandb: a run's curves and previews in Weights & Biases"),
    Extra("mlflow", "mlflow", "train --log mlflow: a run's curves and previews in MLflow"),
)
"""Extras that a user may miss, as in ``pyproject.toml``."""


class Gpu(NamedTuple):
    """A device that torch sees."""

    name: str
    memory: int
    """Bytes."""
    capability: str
    """Compute capability, as ``9.0``."""


class MachineReport(NamedTuple):
    """What was found out."""

    system: str
    versions: dict[str, str | None]
    """Python and the libraries; None for one that is not installed."""
    gpus: list[Gpu]
    cuda: str | None
    """Version of CUDA that torch was built for; None for a torch that computes on CPUs alone."""
    precision: str
    """What ``runtime.precision=auto`` means here."""
    precision_reason: str
    compiler: str | None
    """Why ``runtime.compile`` can't work here; None where it can."""
    compiler_tried: bool
    """Whether something was compiled, or its compiler looked for alone."""
    cores: int
    """Cores that this process may use."""
    threads: int
    """Threads that torch computes with."""
    memory: int
    """Bytes of the machine."""
    disk: Path
    """Where runs are written."""
    disk_free: int
    """Bytes."""
    extras: dict[str, bool]
    """Whether each is installed."""
    advice: list[str]
    """Sentences on what is missing or slow, and what to do."""

    def content(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return self._asdict() | {"gpus": [gpu._asdict() for gpu in self.gpus], "disk": str(self.disk)}


def inspect_machine(output: Path, *, compile: bool = False) -> MachineReport:
    """Finds out what denseteacher can do on this machine.

    Args:
        output: Where runs will be written; it needs not exist.
        compile: Whether to compile a small function, which takes up to a minute; else the compiler is looked for alone.
    """
    machine = this_machine()
    precision, reason = _precision(machine)
    existing = next(place for place in (output.absolute(), *output.absolute().parents) if place.exists())
    report = MachineReport(
        system=platform.platform(),
        versions={"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        gpus=_gpus() if machine.device == "cuda" else [],
        cuda=torch.version.cuda,
        precision=precision,
        precision_reason=reason,
        compiler=_tried_compiler(machine) if compile else _missing_compiler(machine),
        compiler_tried=compile,
        cores=available_cores(),
        threads=torch.get_num_threads(),
        memory=_memory(),
        disk=existing,
        disk_free=shutil.disk_usage(existing).free,
        extras={extra.name: extra.is_installed for extra in EXTRAS},
        advice=[],
    )
    return report._replace(advice=_advice(report))


def _precision(machine: Machine) -> tuple[str, str]:
    """What ``auto`` means, and why."""
    precision = chosen_precision("auto", machine.device, machine)
    if machine.device == "cpu":
        return precision, "on a CPU bf16 is slower or wrong with some versions of torch"
    made = "made" if precision == "bf16" else "not made"
    return precision, f"the GPU is {made} for bf16"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # sources on the path, without an installation
        return None


def _gpus() -> list[Gpu]:
    found = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return [Gpu(one.name, one.total_memory, f"{one.major}.{one.minor}") for one in found]


def _memory() -> int:
    """Bytes of memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _tried_compiler(machine: Machine) -> str | None:
    try:
        check_compiler(torch.device(machine.device))
    except InputError as error:
        return str(error)
    return None


def _missing_compiler(machine: Machine) -> str | None:
    """What torch.compile needs here and does not have; None where all is there."""
    if machine.device == "cuda" and find_spec("triton") is None:
        return "Triton is not installed"
    language, names = ("C++", ("g++", "clang++", "c++")) if machine.device == "cpu" else ("C", ("gcc", "clang", "cc"))
    own = os.environ.get("CXX" if machine.device == "cpu" else "CC")
    if not any(shutil.which(name) for name in (*([own] if own else []), *names)):
        return f"there is no {language} compiler ({', '.join(names)})"
    return None


def _advice(report: MachineReport) -> list[str]:
    """What is missing or slow, the weightiest first."""
    advice = _device_advice(report)
    if report.disk_free < _LEAST_DISK:
        advice.append(
            f"Only {report.disk_free / _GIB:.1f} GiB are free at {report.disk}: a run on ResNet-50 leaves several in "
            "checkpoints and detectors; give another --output, or lower schedule.keep_checkpoints."
        )
    if _SHARED_MEMORY.is_dir() and (size := shutil.disk_usage(_SHARED_MEMORY).total) < _LEAST_SHARED:
        advice.append(
            f"The shared memory of loader processes is {size / 2**20:.0f} MiB: give the container more (docker run "
            "--shm-size=8g), or set runtime.workers=0."
        )
    if report.threads < report.cores and not report.gpus:
        advice.append(
            f"torch computes with {report.threads} of {report.cores} cores, as OMP_NUM_THREADS says: unset it, or set "
            "runtime.threads."
        )
    missing = [extra for extra in EXTRAS if not report.extras[extra.name]]
    return advice + [f'pip install "dense-teacher[{one.name}]" brings {one.purpose}.' for one in missing]


def _device_advice(report: MachineReport) -> list[str]:
    if not report.gpus:
        if report.cuda is None and _NVIDIA.exists():
            return [
                "This machine has an NVIDIA GPU, but this torch was built for CPUs alone: install one that is built "
                f"for CUDA ({sys.executable} -m pip install --force-reinstall torch torchvision, with the index that "
                "pytorch.org names for your driver)."
            ]
        if report.cuda is not None and _NVIDIA.exists():
            return [
                f"This machine has an NVIDIA GPU that torch, built for CUDA {report.cuda}, can't use: its driver may "
                "be too old (nvidia-smi says its version), or CUDA_VISIBLE_DEVICES hides it."
            ]
        return ["torch sees no GPU: runs compute on the CPU, which the recipe custom_small is made for."]
    if len(report.gpus) > 1:
        return [f"{len(report.gpus)} GPUs are here: train --devices {len(report.gpus)} uses them all."]
    return []
