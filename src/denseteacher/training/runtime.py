"""Devices, precision and processes; the only module that knows Lightning Fabric."""

import atexit
import os
from collections import Counter
from contextlib import AbstractContextManager
from typing import Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.wrappers import _FabricOptimizer
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.optim import Optimizer

from denseteacher.config import Config
from denseteacher.data.choices import Precision, TrackerName
from denseteacher.detectors.base import DenseDetector
from denseteacher.detectors.pieces import ForwardInPieces
from denseteacher.errors import InputError
from denseteacher.hardware import available_cores, check_bf16, check_compiler, keep_freed_memory
from denseteacher.ops.assignment import Assignment
from denseteacher.structures import (
    Decoded,
    DenseOutput,
    Detections,
    ImageBatch,
    LossDict,
    LossWeights,
    Targets,
    take,
)
from denseteacher.training.launcher import find_launch


class RuntimeConfig(Config):
    """Where and how a run computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes GPUs where torch sees any."""
    devices: int = Field(1, gt=0)
    """Processes, one a device, on each node; torchrun and srun say it themselves."""
    nodes: int = Field(1, gt=0)
    """Machines; torchrun and srun say it themselves."""
    precision: Precision = "auto"
    """Autocast of the networks; losses are fp32. ``auto``: bf16 autocast on a GPU made for it (Ampere on), else fp32.
    ``bf16`` on a CPU is for whoever asks for it: with some CPUs and torch versions its convolutions are slower than
    those of fp32 (pytorch#183815), or their values wrong (pytorch#163347), which is found when the run begins."""
    compile: bool = False
    """Whether torch compiles the networks and the supervised losses, which takes minutes when the run begins. Meant for
    GPUs; on a CPU a compiled step of FCOS R50 was found no faster."""
    workers: int = Field(4, ge=0)
    """Loader processes, which read images and make weak views; on a CPU the strong views too."""
    threads: int | None = Field(None, gt=0)
    """CPU threads of the main process. If not given as ``OMP_NUM_THREADS`` says, else torch's choice within the cores
    that the process may use: those of its affinity, and of its container's quota."""
    log: tuple[TrackerName, ...] = ()
    """Trackers that get the run's numbers, previews and report, besides its own files and TensorBoard: ``wandb``,
    ``mlflow`` (docs/trackers.md)."""


class Runtime:
    """One process's part of a run."""

    def __init__(self, config: RuntimeConfig) -> None:
        """Opens the devices, and starts the other processes where there are several.

        Args:
            config: Without ``auto`` values (``recipes.resolve``).

        Raises:
            InputError: If the devices are not there, or can't compute as they are asked to.
            ValueError: If a value is still ``auto``.
        """
        if config.device == "auto" or config.precision == "auto":
            raise ValueError("runtime.device or runtime.precision is still 'auto': resolve the recipe first")
        accelerator = config.device
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise InputError("runtime.device is 'cuda', but torch sees no GPU: use cpu or auto")
        if accelerator == "cuda" and torch.cuda.device_count() < config.devices:
            raise InputError(
                f"runtime.devices is {config.devices}, more than the GPUs that torch sees here "
                f"({torch.cuda.device_count()}): ask for fewer, or show each process all that the machine has "
                "(CUDA_VISIBLE_DEVICES; in SLURM --gpus-per-node, not --gpus-per-task)"
            )
        _set_threads(config)
        if accelerator == "cpu":
            keep_freed_memory()
        self.compile = config.compile
        if config.compile:
            check_compiler(torch.device(accelerator))
        if config.precision == "bf16":
            check_bf16(torch.device(accelerator))
        several = config.devices * config.nodes > 1
        self.precision: Literal["fp32", "bf16"] = config.precision
        self._fabric = Fabric(
            accelerator=accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
            # frozen or per-process batch norms: broadcasting buffers costs a collective and changes results
            strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if several else "auto",
            # where torchrun or srun started no others, a SLURM job's environment says nothing about them
            plugins=None if find_launch() else LightningEnvironment(),
        )
        if several:
            self._fabric.launch()
            atexit.register(_leave_group)
            self.barrier()  # all have seen the run folder as it was before the first one writes to it

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self._fabric.device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the networks compute."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def rank(self) -> int:
        """Number of this process among all."""
        return self._fabric.global_rank

    @property
    def world_size(self) -> int:
        """How many processes share the run."""
        return self._fabric.world_size

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files."""
        return self._fabric.is_global_zero

    def setup(
        self, student: nn.Module, optimizer: Optimizer, parts: int = 1
    ) -> tuple["RuntimeDetector", _FabricOptimizer]:
        """The student as a method sees it, and the optimizer, both on the device and synchronized.

        Args:
            student: On any device.
            optimizer: Of its parameters.
            parts: Of a batch; see ``detectors.pieces``.
        """
        self._compile(student)
        module, wrapped = self._fabric.setup(ForwardInPieces(student, parts), optimizer)
        return RuntimeDetector(module, cast(DenseDetector, student), self), wrapped

    def local(self, detector: nn.Module, parts: int = 1) -> "RuntimeDetector":
        """A detector in the run's precision and not synchronized: the teacher, or a student under evaluation.

        Args:
            detector: On the run's device.
            parts: Of a batch; see ``detectors.pieces``.
        """
        self._compile(detector)
        return RuntimeDetector(ForwardInPieces(detector, parts), cast(DenseDetector, detector), self)

    def _compile(self, detector: nn.Module) -> None:
        """Compiles once, since a student is seen in two ways, at its first forward; a copy of it is compiled anew."""
        if self.compile and detector._compiled_call_impl is None:
            detector.compile()

    def autocast(self) -> AbstractContextManager[None]:
        """The run's precision."""
        return cast(AbstractContextManager[None], self._fabric.autocast())

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss."""
        with record_function("backward"):
            self._fabric.backward(loss)

    def all_true(self, flag: Tensor | bool) -> bool:
        """Whether a flag is true in every process. Waits for the device."""
        if self.world_size == 1:
            return bool(flag)
        value = torch.as_tensor(flag, device=self.device, dtype=torch.float32)
        return bool(cast(Tensor, self._fabric.all_reduce(value, reduce_op="sum")) == self.world_size)

    def barrier(self) -> None:
        """Waits for all processes."""
        self._fabric.barrier()


def _leave_group() -> None:
    """Ends the threads of the group, over which a process that is done may abort; Fabric does it for NCCL alone."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _set_threads(config: RuntimeConfig) -> None:
    """Sets the threads that the recipe names, else the environment; never more than there are cores for."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        most = max(1, available_cores() // config.devices)
        if most < torch.get_num_threads():
            torch.set_num_threads(most)


class RuntimeDetector:
    """A detector whose forward runs in the run's precision and, for the student, across processes.

    Only the forward goes through Fabric's wrapper: other methods called through it would skip autocast or
    refuse to run, and floating arguments would be rounded to bf16 (docs/sources.md, Precision).
    """

    def __init__(self, forward_module: nn.Module, detector: DenseDetector, runtime: Runtime) -> None:
        self.forward_module = forward_module
        self.detector = detector
        self.runtime = runtime
        self.strides, self.num_classes = detector.strides, detector.num_classes
        losses = detector.supervised_losses
        self._losses = torch.compile(losses) if runtime.compile else losses
        self.pixels = Counter[bool]()
        """Pixels of the canvases that passes with and without gradients have seen, until somebody clears it."""

    def __call__(self, images: ImageBatch, halved: int = 0) -> DenseOutput:
        """See ``DenseDetector``."""
        training = torch.is_grad_enabled()
        self.pixels[training] += images.computed
        if halved:
            self.pixels[training] += take(images, slice(-halved, None)).computed // 4
        with self.runtime.autocast(), record_function("forward to be trained" if training else "forward"):
            return cast(DenseOutput, self.forward_module(images, halved))

    def supervised_losses(self, output: DenseOutput, targets: Targets, weights: LossWeights | None = None) -> LossDict:
        """See ``DenseDetector``."""
        return self._losses(output, targets, weights)

    def decode(self, output: DenseOutput) -> Decoded:
        """See ``DenseDetector``."""
        return self.detector.decode(output)

    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``."""
        return self.detector.decode_boxes(output)

    def class_logits(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``."""
        return self.detector.class_logits(output)

    def box_uncertainty(self, output: DenseOutput) -> Tensor | None:
        """See ``DenseDetector``."""
        return self.detector.box_uncertainty(output)

    def box_divergence(self, output: DenseOutput, wanted: Tensor) -> Tensor | None:
        """See ``DenseDetector``."""
        return self.detector.box_divergence(output, wanted)

    def detect(self, output: DenseOutput, sizes: Tensor) -> list[Detections]:
        """See ``DenseDetector``."""
        return self.detector.detect(output, sizes)

    def shapes(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """See ``DenseDetector``."""
        return self.detector.shapes(canvas)

    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """See ``DenseDetector``."""
        return self.detector.anchors(canvas, device)

    def levels(self, anchors: Tensor) -> Tensor:
        """See ``DenseDetector``."""
        return self.detector.levels(anchors)

    def assign(
        self, targets: Targets, anchors: Tensor, levels: Tensor, output: DenseOutput | None = None
    ) -> Assignment:
        """See ``DenseDetector``."""
        return self.detector.assign(targets, anchors, levels, output)

    def foreground(self, targets: Targets, anchors: Tensor, output: DenseOutput | None = None) -> Tensor:
        """See ``DenseDetector``."""
        return self.detector.foreground(targets, anchors, output)
