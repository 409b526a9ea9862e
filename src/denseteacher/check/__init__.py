"""What there is to know about a data set before a detector is trained on it."""

from denseteacher.check.duration import Duration
from denseteacher.check.findings import Finding, Part, Severity
from denseteacher.check.foreground import Foreground, measure_foreground, with_ratio
from denseteacher.check.memory import StepMemory
from denseteacher.check.report import CheckReport, Measures, check_data, notes_before_run
from denseteacher.training.forecast import duration as readable

__all__ = [
    "CheckReport",
    "Duration",
    "Finding",
    "Foreground",
    "Measures",
    "Part",
    "Severity",
    "StepMemory",
    "check_data",
    "measure_foreground",
    "notes_before_run",
    "readable",
    "with_ratio",
]
