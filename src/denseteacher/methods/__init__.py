"""Training methods: frozen values that a recipe constructs, each with one function ``losses``."""

from typing import Annotated

from pydantic import Field

from denseteacher.methods.acrst import ACRST
from denseteacher.methods.arsl import ARSL
from denseteacher.methods.base import Method, Shown
from denseteacher.methods.consistent_teacher import ConsistentTeacher
from denseteacher.methods.csd import CSD
from denseteacher.methods.dense_teacher import DenseTeacher
from denseteacher.methods.dense_teacher_plus import DenseTeacherPlus
from denseteacher.methods.dynamic_threshold import DynamicThreshold
from denseteacher.methods.humble_teacher import HumbleTeacher
from denseteacher.methods.instant_teaching import InstantTeaching
from denseteacher.methods.ismt import ISMT
from denseteacher.methods.mean_teacher import MeanTeacher, SemiSupervised, StudentTask
from denseteacher.methods.mixpl import MixPL
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.methods.soft_teacher import SoftTeacher
from denseteacher.methods.stac import STAC
from denseteacher.methods.supervised import Supervised
from denseteacher.methods.unbiased_teacher import UnbiasedTeacher

MethodConfig = Annotated[
    ACRST
    | ARSL
    | ConsistentTeacher
    | CSD
    | DenseTeacher
    | DenseTeacherPlus
    | DynamicThreshold
    | HumbleTeacher
    | InstantTeaching
    | ISMT
    | MixPL
    | SoftTeacher
    | STAC
    | Supervised
    | UnbiasedTeacher,
    Field(discriminator="name"),
]
"""Every method that a recipe can name."""

__all__ = [
    "ACRST",
    "ARSL",
    "CSD",
    "ISMT",
    "STAC",
    "ConsistentTeacher",
    "DenseTeacher",
    "DenseTeacherPlus",
    "DynamicThreshold",
    "HumbleTeacher",
    "InstantTeaching",
    "MeanTeacher",
    "Method",
    "MethodConfig",
    "MixPL",
    "PseudoBoxTeacher",
    "SemiSupervised",
    "Shown",
    "SoftTeacher",
    "StudentTask",
    "Supervised",
    "UnbiasedTeacher",
    "to_strong_view",
]
