"""A method that the package does not know is drawn in previews and in the report without a change anywhere."""

from typing import Literal

import torch
from PIL import Image

import denseteacher
from denseteacher.methods import DenseTeacher, Shown


class Striped(DenseTeacher):
    """Dense Teacher that says of itself what no other method does."""

    name: Literal["striped"] = "striped"

    def show(self, detector, teacher_output, weak):
        """Every second location."""
        stripes = torch.arange(teacher_output.logits.shape[1], device=teacher_output.logits.device) % 2
        return Shown(region=stripes.expand(len(teacher_output.logits), -1).float())

    def legend(self):
        """A sentence that stands nowhere else."""
        return "Every second location is shown, whatever the teacher says."


def test_a_method_of_ones_own_is_drawn_everywhere(coco, unlabeled, tiny, tmp_path):
    result = denseteacher.train(
        "custom",
        labeled=coco,
        unlabeled=unlabeled,
        val=coco,
        output=tmp_path / "run",
        method=Striped(burn_in=2, ramp=1, ratio=0.1),
        overrides=[*tiny, "schedule.preview_every=4"],
    )
    assert "Every second location is shown" in (result.folder / "report.html").read_text()
    with Image.open(result.folder / "previews" / "step_000004.jpg") as preview:
        assert preview.width > 0
