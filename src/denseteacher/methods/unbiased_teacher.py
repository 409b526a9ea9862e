"""Unbiased Teacher (Liu et al., ICLR 2021) on one-stage detectors: the pseudo-box baseline of the paper."""

from typing import Literal

from denseteacher.methods.pseudo_box import PseudoBoxTeacher


class UnbiasedTeacher(PseudoBoxTeacher):
    """The student is trained on the teacher's thresholded boxes as if they were ground truth.

    This is the re-implementation on FCOS that the paper compares with (Table 1): threshold, NMS, label
    assignment, then the detector's own supervised losses, boxes off as in the original: the threshold says
    nothing about a box's place. Burn-in, ramp, EMA and views are those of Dense Teacher. The original's
    threshold of 0.7 is for a two-stage detector's softmax scores; the paper finds that FCOS fails to converge
    with it (Fig. 2a), and Unbiased Teacher v2 uses 0.5 on FCOS, the default here.
    """

    name: Literal["unbiased_teacher"] = "unbiased_teacher"
