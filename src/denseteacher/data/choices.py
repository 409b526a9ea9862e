"""What a recipe or the command line can choose between; imports nothing, so that ``--help`` stays quick."""

from typing import Literal

Format = Literal["coco", "voc", "yolo", "crowdhuman", "cvat", "labelme", "label-studio", "csv"]
"""Formats of a labeled data set."""

Protocol = Literal["seeded", "stratified", "published", "stac"]
"""How a labeled data set is cut into a labeled and an unlabeled part."""

LabelFormat = Literal["coco", "yolo", "voc", "label-studio"]
"""What detections are written as for a labeling tool."""

Precision = Literal["auto", "fp32", "bf16"]
"""What a network computes in."""

TrackerName = Literal["wandb", "mlflow"]
"""Services that a run's numbers are sent to; each needs the extra of its name."""

ExportFormat = Literal["onnx"]
"""What a detector is exported as."""
