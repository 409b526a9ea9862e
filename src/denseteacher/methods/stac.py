"""STAC (Sohn et al., "A Simple Semi-Supervised Learning Framework for Object Detection", 2020), one-stage."""

from typing import ClassVar, Literal

from pydantic import Field

from denseteacher.methods.pseudo_box import PseudoBoxTeacher


class STAC(PseudoBoxTeacher):
    """A teacher that was trained on the labeled images and never learns again labels the others.

    Published: the two stages, pseudo-boxes by a threshold after NMS, class and box learned from them with
    weight 2, and a strong view of one color change, one affine change and cutout (docs/sources.md, STAC).
    Colors and cutout are the recipe's ``augment.strong``; the affine change has to be asked for with
    ``augment.affine``. Left out is its alternative inside single boxes.

    Adapted: both stages are one run. The teacher is the averaged student at the end of the burn-in, and from
    there the student goes on, where the original starts again from ImageNet weights: so stage 1 is not paid
    twice and the methods share their burn-in. The teacher moves on too, but only as what is evaluated. Images
    are labeled in the view of the step and not once at their full size. The original threshold of 0.9 is for
    the softmax scores of a two-stage detector; sigmoid scores of a one-stage one rarely get there, and with
    0.7 and more FCOS fails (paper, Fig. 2a), so it is that of Unbiased Teacher on FCOS, 0.5.
    """

    static_teacher: ClassVar[bool] = True

    name: Literal["stac"] = "stac"
    cls_weight: float = Field(2.0, ge=0)
    box_weight: float = Field(2.0, ge=0)
    box: bool = True
