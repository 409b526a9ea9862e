"""The baseline: labeled images only."""

from typing import ClassVar, Literal

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import Method, boxes_per_image, weighted
from denseteacher.structures import MethodOutput, MethodState, SemiBatch, cat


class Supervised(Method):
    """Trains on the weak and the strong view of the labeled images.

    This is what Dense Teacher's authors compare with: their own run with a burn-in that never ends, so with
    the strong view and the EMA teacher too (docs/sources.md, Dense Teacher).
    """

    moves_labels: ClassVar[bool] = True  # no view of an unlabeled image is ever made

    name: Literal["supervised"] = "supervised"

    def losses(
        self,
        student: DenseDetector,
        teacher: DenseDetector | None,
        batch: SemiBatch,
        step: int,
        state: MethodState | None = None,
    ) -> MethodOutput:
        """See ``Method``: ``sup/cls``, ``sup/box`` and ``sup/quality`` over both labeled views."""
        labeled = batch.labeled
        output = student(cat(labeled.weak, labeled.strong))
        losses = weighted("sup", student.supervised_losses(output, labeled.targets))
        return MethodOutput(losses, {"labeled/boxes": boxes_per_image(labeled.targets)})
