"""What there is to know about a data set before a detector is trained on it."""

from denseteacher.check.cost import Duration, StepMemory
from denseteacher.check.findings import Finding, Severity, Subset
from denseteacher.check.page import write_check_page
from denseteacher.check.report import CheckReport, Measures, check_data, notes_before_run

__all__ = [
    "CheckReport",
    "Duration",
    "Finding",
    "Measures",
    "Severity",
    "StepMemory",
    "Subset",
    "check_data",
    "notes_before_run",
    "write_check_page",
]
