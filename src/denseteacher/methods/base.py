"""What a method is: a validated value with one function, and what others may ask of it."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field
from torch import Tensor

from denseteacher.config import Config
from denseteacher.detectors.base import DenseDetector
from denseteacher.structures import (
    DenseOutput,
    Detections,
    ImageBatch,
    LossDict,
    MethodOutput,
    MethodState,
    SemiBatch,
    Targets,
    UnlabeledBatch,
)

PAPER_MULTIPLE = 2.5
"""Share of the locations that the paper selects on COCO, over that of foreground there (section 4.4)."""


PAPER_RATIO = 0.01
"""Share of the locations that the paper selects on COCO."""
Ratio = Annotated[float, Field(gt=0, le=1)] | Literal["auto"]
"""Share of the locations; ``auto`` is set before training, by the share of foreground of the labeled images."""


class Shown(NamedTuple):
    """What previews and the report draw of what a method makes of the teacher's output for B images."""

    region: Tensor | None = None
    """(B, N) what the student learns as foreground at each location, in [0, 1]."""
    pseudo_boxes: list[Detections] | None = None
    """Pseudo-boxes of each image."""


class Method(Config):
    """A training method: a frozen value that never changes what it is given.

    What others ask of a method is asked here, with the answers of one that has nothing of the kind.
    """

    moves_labels: ClassVar[bool] = False
    """Whether it carries its labels from the weak to a strong view that has its own geometry."""
    static_teacher: ClassVar[bool] = False
    """Whether it is taught by the teacher as it was at the end of the burn-in."""
    cls_loss: ClassVar[str | None] = None
    """Class loss on labeled images that belongs to it, as ``detector.cls_loss`` names it; None takes the detector's
    own. The method does not change that loss itself: until its burn-in ends it is ``Supervised``."""

    @abstractmethod
    def losses(
        self,
        student: DenseDetector,
        teacher: DenseDetector | None,
        batch: SemiBatch,
        step: int,
        state: MethodState | None = None,
    ) -> MethodOutput:
        """The weighted losses of one step.

        Args:
            student: Trained by the sum of the losses.
            teacher: In eval mode, never given a gradient; None until its EMA starts.
            batch: All views of the step.
            step: Optimizer steps done before this one.
            state: What the step before returned, at first ``initial_state``; None stands for that too.
        """

    def needs_unlabeled(self, step: int) -> bool:
        """Whether this step's batch must hold unlabeled views."""
        return False

    def initial_state(self, *, classes: int, unlabeled: int) -> MethodState:
        """What the method remembers before it has seen anything; empty where it never does.

        Args:
            classes: Number of classes.
            unlabeled: Number of unlabeled images.
        """
        return {}

    @property
    def burn_in_steps(self) -> int | Literal["auto"] | None:
        """Steps on labeled images alone; None where unlabeled images are never used."""
        return None

    def with_burn_in(self, steps: int) -> Self:
        """The method with another burn-in, where it has one."""
        return self

    def at_full_weight(self) -> Self:
        """The method with its unlabeled losses at full weight from the first step on."""
        return self

    @property
    def images_a_selection(self) -> int | None:
        """Unlabeled images that are looked at together, where it is not the whole batch of a process."""
        return None

    @property
    def needs_hidden_labels(self) -> bool:
        """Whether it can't do without the labels of the "unlabeled" images."""
        return False

    @property
    def needs_finer_level(self) -> bool:
        """Whether the student sees half-size views too, which need a finer pyramid level (``detector.finer_level``)."""
        return False

    @property
    def needs_distributions(self) -> bool:
        """Whether the student learns distributions of boxes, which not all codings have (``has_distributions``)."""
        return False

    @property
    def measures_ratio(self) -> bool:
        """Whether the share of locations to select is still to be measured (``with_ratio``)."""
        return False

    @property
    def foreground_multiple(self) -> float:
        """Times the share of foreground that such a share is; the paper's where the method has none."""
        return PAPER_MULTIPLE

    @property
    def selected_share(self) -> float | None:
        """Share of the locations that it is told to select; None where it selects none, or measures the share."""
        return None

    def with_ratio(self, ratio: float) -> Self:
        """The method with the share of locations that was measured, where it left it open."""
        return self

    @property
    def believed_above(self) -> float:
        """Score above which a detection of the teacher counts as a pseudo-label in what a run says of its health."""
        return 0.3

    def show(self, detector: DenseDetector, teacher_output: DenseOutput, weak: ImageBatch) -> Shown:
        """What there is to draw of the teacher's output for unlabeled weak views."""
        return Shown()

    def legend(self) -> str:
        """Sentences on what ``show`` gives, for the report."""
        return "The teacher's scores and detections; bright is high."


def state_or_initial(
    method: Method, state: MethodState | None, detector: DenseDetector, unlabeled: UnlabeledBatch
) -> MethodState:
    """What a step is given; without it what the method remembers at first of the classes and images that occur."""
    if state is not None:
        return state
    positions = unlabeled.positions
    fresh = method.initial_state(classes=detector.num_classes, unlabeled=int(positions.max()) + 1)
    return {name: value.to(positions.device) for name, value in fresh.items()}


def weighted(prefix: str, losses: LossDict, weight: float = 1.0) -> LossDict:
    """Losses under ``prefix/name``, times a weight."""
    return {f"{prefix}/{name}": value * weight for name, value in losses.items()}


def boxes_per_image(targets: Targets) -> Tensor:
    """Mean number of boxes of an image, on the device."""
    return targets.mask.sum() / targets.mask.shape[0]
