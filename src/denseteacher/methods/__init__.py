"""Training methods: frozen values that a recipe constructs, each with one function ``losses``."""

from denseteacher.methods.base import Method
from denseteacher.methods.dense_teacher import DenseTeacher
from denseteacher.methods.supervised import Supervised

__all__ = ["DenseTeacher", "Method", "Supervised"]
