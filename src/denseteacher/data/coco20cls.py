"""COCO20cls: the images of COCO that show objects of VOC's twenty classes and no others."""

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.voc import VOC_CLASSES
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError

COCO20CLS_COUNT = 19_592
"""Images in the list that CSD published for COCO 2014's train and val (the images of train2017 and val2017)."""
COCO_NAME_OF_VOC = {
    **{name: name for name in VOC_CLASSES},
    **{"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}
"""How COCO calls VOC's classes (docs/sources.md, VOC and COCO20cls)."""


def only_voc_classes(annotations: Annotations) -> list[ImageRecord]:
    """Images with annotations, all of which are of VOC's classes; crowd regions count as what they are of.

    Raises:
        InputError: If the data set lacks one of these classes, so that it is not COCO.
    """
    ids = {category.name: category.id for category in annotations.categories}
    missing = [name for name in COCO_NAME_OF_VOC.values() if name not in ids]
    if missing:
        raise InputError(
            f"{annotations.path} has no category {missing[0]!r}: COCO20cls is chosen from COCO's annotations"
        )
    wanted = {ids[name] for name in COCO_NAME_OF_VOC.values()}
    seen: dict[int, set[int]] = {}
    for one in annotations.content["annotations"]:
        seen.setdefault(one["image_id"], set()).add(one["category_id"])
    chosen = {image for image, categories in seen.items() if categories <= wanted}
    return [record for record in annotations.records if record.id in chosen]
