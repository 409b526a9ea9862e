"""Writers: boxes as annotations that labeling tools import, and that the readers read back."""

from collections.abc import Callable
from pathlib import Path

from denseteacher.data.choices import LabelFormat
from denseteacher.data.records import LabeledImages
from denseteacher.data.writers.coco import write_coco
from denseteacher.data.writers.entries import Scores
from denseteacher.data.writers.label_studio import write_label_studio
from denseteacher.data.writers.voc import write_voc
from denseteacher.data.writers.yolo import write_yolo

__all__ = ["Scores", "write_annotations"]

_WRITERS: dict[LabelFormat, Callable[[LabeledImages, Scores, Path], str]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "label-studio": write_label_studio,
}


def write_annotations(to: LabelFormat, data: LabeledImages, scores: Scores, folder: Path) -> str:
    """Writes images with boxes.

    COCO and Label Studio refer to the images where they are; YOLO and VOC have a place of their own for images, to
    which they are copied. Images in tar files are copied out for all of them.

    Args:
        to: The format; the writers say what is written.
        data: Images with boxes and labels.
        scores: Scores of the boxes; COCO and Label Studio keep them.
        folder: An empty folder.

    Returns:
        Sentences that say what imports it, and how.
    """
    return _WRITERS[to](data, scores, folder)
