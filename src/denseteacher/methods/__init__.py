"""Training methods: frozen values that a recipe constructs, each with one function ``losses``."""

from denseteacher.methods.base import Method
from denseteacher.methods.dense_teacher import DenseTeacher
from denseteacher.methods.mean_teacher import MeanTeacher
from denseteacher.methods.supervised import Supervised
from denseteacher.methods.unbiased_teacher import UnbiasedTeacher

__all__ = ["DenseTeacher", "MeanTeacher", "Method", "Supervised", "UnbiasedTeacher"]
