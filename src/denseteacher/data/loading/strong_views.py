"""The strong views of a step, made on its device or by the loader's processes."""

import torch
from torch.autograd.profiler import record_function
from torch.utils.data import Dataset

from denseteacher.data.augment.config import AugmentConfig
from denseteacher.data.loading.steps import LoadedStep, StepDataset
from denseteacher.data.randomness import Draw, keyed_uniforms
from denseteacher.errors import InputError
from denseteacher.structures import METHOD_RANDOM, LabeledBatch, SemiBatch, UnlabeledBatch, to


class StepsWithStrongViews(Dataset[LoadedStep | InputError]):
    """Steps whose strong views are made where the images are read, by loader processes."""

    def __init__(self, steps: StepDataset) -> None:
        """Takes the steps."""
        self.steps = steps

    def __getitem__(self, step: int) -> LoadedStep | InputError:
        """The step as ``StepDataset`` gives it, with ``batch``."""
        loaded = self.steps[step]
        if isinstance(loaded, InputError):
            return loaded
        augment, seed, device = self.steps.augment, self.steps.seed, torch.device("cpu")
        return loaded._replace(batch=with_strong_views(loaded, augment, seed=seed, device=device))


def loads_strong_views(device: torch.device, workers: int) -> bool:
    """Whether loader processes make the strong views: beside a step on a CPU, never beside one on a GPU.

    They are hundreds of small operations an image, at which all threads of a step but one would wait.
    """
    return device.type == "cpu" and workers > 0


@record_function("strong views")
def with_strong_views(loaded: LoadedStep, augment: AugmentConfig, *, seed: int, device: torch.device) -> SemiBatch:
    """Moves a step to its device and makes the strong views there.

    Args:
        loaded: The weak views.
        augment: What is made of them: the unlabeled ones move first, where it says so.
        seed: The run's.
        device: Where the step is computed.
    """
    step, strong, affine = loaded.step, augment.strong, augment.affine
    weak = to(loaded.labeled, device)
    looks = strong(weak, seed=seed, step=step, samples=loaded.labeled_samples, draw=Draw.LABELED_STRONG)
    sure = loaded.sure_score
    sure = None if sure is None else sure.to(device, non_blocking=True)
    labeled = LabeledBatch(weak, looks, to(loaded.targets, device), sure)
    if loaded.unlabeled is None:
        return SemiBatch(labeled, None)
    views, samples = to(loaded.unlabeled, device), loaded.unlabeled_samples
    moved, to_strong = (
        (views.weak, None) if affine is None else affine(views.weak, seed=seed, step=step, samples=samples)
    )
    unlabeled = UnlabeledBatch(
        weak=views.weak,
        strong=strong(moved, seed=seed, step=step, samples=samples, draw=Draw.UNLABELED_STRONG),
        positions=views.positions,
        to_weak=views.to_weak,
        to_strong=to_strong,
        random=keyed_uniforms(seed, Draw.METHOD, step, samples, METHOD_RANDOM),
        hidden_targets=views.hidden_targets,
    )
    return SemiBatch(labeled, unlabeled)
