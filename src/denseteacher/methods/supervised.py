"""The baseline: labeled images only."""

from typing import ClassVar, Literal, Self

from pydantic import NonNegativeInt

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import Method, boxes_per_image, weighted
from denseteacher.pseudo_labels.missing_labels import missing_labels
from denseteacher.structures import MethodOutput, MethodState, SemiBatch, cat


class Supervised(Method):
    """Trains on the weak and the strong view of the labeled images.

    This is what Dense Teacher's authors compare with: their own run with a burn-in that never ends, so with
    the strong view and the EMA teacher too (docs/sources.md, Dense Teacher).
    """

    moves_labels: ClassVar[bool] = True  # no view of an unlabeled image is ever made

    name: Literal["supervised"] = "supervised"
    burn_in: NonNegativeInt | Literal["auto"] = "auto"
    """Steps after which, with ``data.labels_complete: false``, the EMA teacher is asked for what has no label. Of no
    effect otherwise: there is nothing else to wait for."""

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
        asks = teacher is not None and isinstance(self.burn_in, int) and step >= self.burn_in
        weights, watched = missing_labels(teacher, labeled) if teacher is not None and asks else (None, {})
        losses = weighted("sup", student.supervised_losses(output, labeled.targets, weights))
        return MethodOutput(losses, {"labeled/boxes": boxes_per_image(labeled.targets)} | watched)

    def with_burn_in(self, steps: int) -> Self:
        """See ``Method``."""
        return self.model_copy(update={"burn_in": steps}) if self.burn_in == "auto" else self
