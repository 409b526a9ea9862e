"""The one form of all results: who measured what, with which versions and seeds (design, section 10)."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("DENSETEACHER_RESULTS") or Path(__file__).parent / "results")
_PACKAGES = ("dense-teacher", "torch", "torchvision", "timm", "numpy")


def write_result(name: str, rows: Sequence[Mapping[str, Any]], ratios: Mapping[str, float], **details: Any) -> Path:
    """Writes ``results/NAME.json``, or into the folder that ``DENSETEACHER_RESULTS`` names.

    Args:
        name: Of the benchmark.
        rows: ``label``, ``seeds`` and ``values`` (a list a metric, in the order of the seeds).
        ratios: Named numbers.
        **details: Whatever else a reader must know.
    """
    content = {
        "name": name,
        "device": _device(),
        "versions": {"python": platform.python_version()} | {one: metadata.version(one) for one in _PACKAGES},
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rows": list(rows),
        "ratios": dict(ratios),
        **details,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"CPU, {os.cpu_count()} cores, {models[0] if models else platform.processor()}"
