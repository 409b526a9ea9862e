"""Rows of pictures: what unlabeled images teach, and detections beside the ground truth."""

from collections.abc import Mapping, Sequence

from PIL import Image

from denseteacher.data.images import load_image
from denseteacher.data.records import ImageRecord
from denseteacher.report.figures import heat_layer
from denseteacher.report.guidance import Guidance
from denseteacher.report.mistakes import Judged, detection_boxes, truth_boxes
from denseteacher.report.pictures import Picture, guessed_boxes, page_picture


def guidance_row(told: Guidance, names: Sequence[str]) -> list[Picture]:
    """Both views of an unlabeled image, the teacher's scores, and what is made of them."""
    weak = Image.fromarray(told.weak)
    row = [
        page_picture("weak view: the teacher's", weak),
        page_picture("strong view: the student's", Image.fromarray(told.strong)),
        page_picture("teacher's scores", weak, layer=heat_layer(told.scores)),
    ]
    if told.region is not None:
        row.append(page_picture("dense pseudo-label", weak, layer=heat_layer(told.region)))
    if told.pseudo_boxes is not None:
        kept = [box._replace(kind="kept") for box in guessed_boxes(told.pseudo_boxes, names)]
        row.append(page_picture("pseudo-boxes", weak, kept))
    return [*row, page_picture("teacher's detections", weak, guessed_boxes(told.detections, names))]


def validation_row(record: ImageRecord, judged: Mapping[str, Judged]) -> list[Picture]:
    """A validation image with its objects, as the last run finds them, and then with each run's detections.

    Args:
        record: The image.
        judged: By the run's label.

    Raises:
        InputError: If the image can't be read.
    """
    image = Image.fromarray(load_image(record).permute(1, 2, 0).contiguous().numpy())
    *_, last = judged.values()
    found = [
        page_picture("detections" if len(judged) == 1 else label, image, detection_boxes(one, record.id))
        for label, one in judged.items()
    ]
    return [page_picture("ground truth", image, truth_boxes(last, record.id)), *found]
