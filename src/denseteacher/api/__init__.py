"""What a program calls: one function a command, with the command's arguments. The command line calls nothing else."""

from denseteacher.analysis.analyze import analyze
from denseteacher.api.datasets import check, split, stream
from denseteacher.api.detectors import EvaluationResult, audit, evaluate, export, load
from denseteacher.api.machine import benchmark, doctor
from denseteacher.api.training import demo, monitor, show_recipe, train
from denseteacher.check.machine import MachineReport
from denseteacher.evaluation.metrics import Metrics
from denseteacher.experiments.costs import describe_experiments
from denseteacher.experiments.reproduce import make_plan, reproduce
from denseteacher.experiments.schema import experiment_names as experiments
from denseteacher.inference.label import label_images as label
from denseteacher.inference.predict import predict_files as predict
from denseteacher.recipes.schema import builtin_recipes as recipes
from denseteacher.runs.audit import AuditOutcome
from denseteacher.runs.compare import Comparison
from denseteacher.runs.compare import compare_runs as compare
from denseteacher.runs.monitor import Monitor
from denseteacher.runs.push import Pushed
from denseteacher.runs.push import push_run as push
from denseteacher.runs.suggest import Suggestions
from denseteacher.runs.suggest import suggest_images as suggest
from denseteacher.runs.train import TrainResult

__all__ = [
    "AuditOutcome",
    "Comparison",
    "EvaluationResult",
    "MachineReport",
    "Metrics",
    "Monitor",
    "Pushed",
    "Suggestions",
    "TrainResult",
    "analyze",
    "audit",
    "benchmark",
    "check",
    "compare",
    "demo",
    "describe_experiments",
    "doctor",
    "evaluate",
    "experiments",
    "export",
    "label",
    "load",
    "make_plan",
    "monitor",
    "predict",
    "push",
    "recipes",
    "reproduce",
    "show_recipe",
    "split",
    "stream",
    "suggest",
    "train",
]
