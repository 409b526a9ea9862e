"""Semi-supervised object detection with dense pseudo-labels.

``denseteacher.train`` trains a detector from a few labeled and many unlabeled images, ``denseteacher.load``
reads one for prediction. The command ``denseteacher`` does the same from a shell.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denseteacher.api import (
        TrainResult,
        analyze,
        audit,
        benchmark,
        check,
        compare,
        demo,
        doctor,
        evaluate,
        export,
        label,
        load,
        monitor,
        predict,
        push,
        reproduce,
        split,
        stream,
        suggest,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "TrainResult",
    "__version__",
    "analyze",
    "audit",
    "benchmark",
    "check",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "label",
    "load",
    "monitor",
    "predict",
    "push",
    "reproduce",
    "split",
    "stream",
    "suggest",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports the API on first use: torch alone takes seconds, and ``import denseteacher`` must not."""
    if name in __all__:
        from denseteacher.hardware import limit_spinning

        limit_spinning()
        from denseteacher import api

        return getattr(api, name)
    raise AttributeError(f"module 'denseteacher' has no attribute {name!r}")
