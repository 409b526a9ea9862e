"""What others do for the same work: torchvision's FCOS, and the published augmentation image by image in PIL."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms import v2

from denseteacher.data.augment.strong import StrongView
from denseteacher.data.loading.steps import StepPlan
from denseteacher.data.loading.strong_views import with_strong_views
from denseteacher.data.open import TrainingData
from denseteacher.data.randomness import Draw
from denseteacher.recipes.schema import Recipe
from denseteacher.runs.benchmark import Size, made_up_step, make_student_teacher, open_runtime
from denseteacher.runs.build import build_steps
from denseteacher.structures import ImageBatch, SemiBatch, Targets, to
from denseteacher.training.runtime import Runtime
from harness.data import made_up_files
from harness.timing import in_turns, medians, ratio_of_medians

_FILES, _BATCH = 32, 8
_TRAINABLE_STAGES = 3  # of five: stem and first stage are frozen, as in the published recipe


def measure_supervised(recipe: Recipe, size: Size, *, classes: int, rounds: int) -> dict[str, float]:
    """Times supervised FCOS steps, in turns with torchvision's in fp32 on the same images and boxes.

    Both have ResNet-50 with frozen batch norms, stem and first stage, GroupNorm towers of four convolutions, SGD.

    Returns:
        Median seconds by name, and ``supervised_over_torchvision_fp32`` and ``..._bf16``.
    """
    loaded = made_up_step(size._replace(unlabeled=0), classes)
    work: dict[str, Callable[[], object]] = {}
    device = torch.device("cpu")
    for precision in ("fp32", "bf16"):
        own = recipe.model_copy(update={"runtime": recipe.runtime.model_copy(update={"precision": precision})})
        runtime = open_runtime(own)
        device = runtime.device
        work[precision] = _own_step(own, runtime, size, classes, to(loaded.labeled, device), loaded.targets)
    work["torchvision fp32"] = _torchvision_step(loaded.labeled.pixels, loaded.targets, classes, device)
    seconds = in_turns(work, rounds=rounds, device=device)
    ratios = {
        f"supervised_over_torchvision_{precision}": ratio_of_medians(seconds, precision, "torchvision fp32")
        for precision in ("fp32", "bf16")
    }
    return {f"{name} s": value for name, value in medians(seconds).items()} | ratios


def _own_step(
    recipe: Recipe, runtime: Runtime, size: Size, classes: int, images: ImageBatch, targets: Targets
) -> Callable[[], None]:
    student_teacher = make_student_teacher(recipe, runtime, size, classes)
    on_device = to(targets, runtime.device)

    def run() -> None:
        losses = student_teacher.student.supervised_losses(student_teacher.student(images), on_device)
        runtime.backward(torch.stack(list(losses.values())).sum())
        student_teacher.optimizer.step()
        student_teacher.optimizer.zero_grad(set_to_none=True)

    return run


def _torchvision_step(pixels: Tensor, targets: Targets, classes: int, device: torch.device) -> Callable[[], None]:
    height, width = pixels.shape[-2:]
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(
        body, _TRAINABLE_STAGES, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    model = TorchvisionFCOS(backbone, classes, min_size=min(height, width), max_size=max(height, width))
    model.to(device).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0, momentum=0.9)
    images = [image.to(device) for image in pixels.float() / 255]
    wanted = [
        {"boxes": boxes[mask].to(device), "labels": labels[mask].to(device)}
        for boxes, labels, mask in zip(*targets[:3], strict=True)
    ]

    def run() -> None:
        losses = model(images, wanted)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def measure_strong_views(strong: StrongView, *, images: int, height: int, width: int, rounds: int) -> dict[str, float]:
    """Times strong views of a batch on the CPU, in turns with the published chain image by image in PIL.

    Returns:
        Images a second by name, and ``strong_views_over_pil``.
    """
    rng = torch.Generator().manual_seed(0)
    # smooth, as photographs are; what the changes cost does not depend on it, what PIL's filters cost does a little
    small = torch.randint(0, 256, (images, 3, height // 8, width // 8), generator=rng).float()
    pixels = torch.nn.functional.interpolate(small, (height, width), mode="bilinear").byte()
    batch = ImageBatch(pixels, torch.tensor([[height, width]]).repeat(images, 1))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    numbers = iter(range(10**9))
    work: dict[str, Callable[[], object]] = {
        "strong views": lambda: strong(
            batch, seed=0, step=next(numbers), samples=range(images), draw=Draw.UNLABELED_STRONG
        ),
        "PIL": lambda: [_pil_chain(picture) for picture in pictures],
    }
    seconds = in_turns(work, rounds=rounds, device=torch.device("cpu"))
    return {f"{name} images/s": images / value for name, value in medians(seconds).items()} | {
        "strong_views_over_pil": ratio_of_medians(seconds, "PIL", "strong views")
    }


def measure_loader(recipe: Recipe, *, rounds: int) -> dict[str, float]:
    """Times the way from files to batches on one CPU thread, in turns with the published one image by image in PIL.

    Both read, resize, flip, change and put on a canvas the same images, as the recipe's weak view drew it.

    Returns:
        Images a second by name, of which each is a weak view and a strong one, and ``loader_over_pil``.
    """
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        data = made_up_files(Path(folder), _FILES)
        half = {"labeled_batch": _BATCH // 2, "unlabeled_batch": _BATCH // 2}
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=half)})
        dataset = build_steps(recipe, TrainingData(data, data.images)).with_unlabeled()
        still = recipe.augment.model_copy(update={"affine": None})
        own, others = iter(range(10**9)), iter(range(10**9))

        def load() -> SemiBatch:
            return with_strong_views(dataset.load(next(own)), still, seed=recipe.seed, device=cpu)

        torch.set_num_threads(1)
        try:
            work = {"one thread, strong views": load, "one thread, PIL": lambda: pil_batch(dataset.plan(next(others)))}
            seconds = in_turns(work, rounds=rounds, device=cpu)
        finally:
            torch.set_num_threads(threads)
    return {f"{name} images/s": _BATCH / value for name, value in medians(seconds).items()} | {
        "loader_over_pil": ratio_of_medians(seconds, "one thread, PIL", "one thread, strong views")
    }


def pil_batch(plan: StepPlan) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 weak and strong views, made in PIL."""
    views = [*plan.labeled, *plan.unlabeled]
    weak, strong = torch.zeros(2, len(views), 3, *plan.canvas, dtype=torch.uint8)
    for place, view in enumerate(views):
        height, width, flip = view.geometry
        picture = Image.open(view.record.path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        weak[place, :, :height, :width] = v2.functional.pil_to_tensor(picture)
        strong[place, :, :height, :width] = _pil_chain(picture)
    return weak, strong


_JITTER = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
_GRAY = v2.RandomGrayscale(p=0.2)
_ERASINGS = [
    v2.RandomErasing(p=0.7, scale=(0.05, 0.2), ratio=(0.3, 3.3), value="random"),
    v2.RandomErasing(p=0.5, scale=(0.02, 0.2), ratio=(0.1, 6), value="random"),
    v2.RandomErasing(p=0.3, scale=(0.02, 0.2), ratio=(0.05, 8), value="random"),
]


def _pil_chain(picture: Image.Image) -> Tensor:
    """The published strong view of one image (docs/sources.md, Dense Teacher)."""
    picture = _GRAY(_JITTER(picture))
    if np.random.random() < 0.5:  # noqa: NPY002 (as those who write such chains do)
        picture = picture.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))  # noqa: NPY002
    pixels = v2.functional.to_dtype(v2.functional.pil_to_tensor(picture), torch.float32, scale=True)
    for erasing in _ERASINGS:
        pixels = erasing(pixels)
    rounded: Tensor = v2.functional.to_dtype(pixels, torch.uint8, scale=True)
    return rounded
