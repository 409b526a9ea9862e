"""Training methods: frozen values that a recipe constructs, each with one function ``losses``."""

from typing import Annotated

from pydantic import Field

from denseteacher.methods.base import Method
from denseteacher.methods.dense_teacher import DenseTeacher
from denseteacher.methods.mean_teacher import Lesson, MeanTeacher, SemiSupervised
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.methods.supervised import Supervised
from denseteacher.methods.unbiased_teacher import UnbiasedTeacher

MethodConfig = Annotated[
    DenseTeacher | Supervised | UnbiasedTeacher,
    Field(discriminator="name"),
]
"""Every method that a recipe can name."""

__all__ = [
    "DenseTeacher",
    "Lesson",
    "MeanTeacher",
    "Method",
    "MethodConfig",
    "PseudoBoxTeacher",
    "SemiSupervised",
    "Supervised",
    "UnbiasedTeacher",
    "to_strong_view",
]
