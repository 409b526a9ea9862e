"""What there is to know about a data set before a detector is trained on it."""

from denseteacher.check.findings import Finding, Part, Severity
from denseteacher.check.foreground import Foreground, measure_foreground, with_ratio
from denseteacher.check.memory import StepMemory
from denseteacher.check.report import CheckReport, Measures, check_data, notes_before_run

__all__ = [
    "CheckReport",
    "Finding",
    "Foreground",
    "Measures",
    "Part",
    "Severity",
    "StepMemory",
    "check_data",
    "measure_foreground",
    "notes_before_run",
    "with_ratio",
]
