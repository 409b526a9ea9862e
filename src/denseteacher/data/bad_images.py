"""Image files before the first step: those that can't be decoded, and those of more than 8 bits."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from denseteacher.data.bit_depth import is_deep
from denseteacher.data.formats import Annotations, Fault, OnFault
from denseteacher.data.images import check_pixels, open_image
from denseteacher.data.records import ImageRecord, UnopenedImages
from denseteacher.errors import InputError

_THREADS = 8  # decoders leave the interpreter to other threads
_LOOKED_AT = 20


def without_bad_images(annotations: Annotations, on_fault: OnFault) -> Annotations:
    """A data set without the images that can't be decoded, each of which is tried.

    Args:
        annotations: The data set.
        on_fault: Called for those images.

    Raises:
        InputError: If none is left, or ``on_fault`` raises.
    """
    records = annotations.records
    with ThreadPoolExecutor(_THREADS) as pool:
        reasons = dict(zip((record.id for record in records), pool.map(_reason, records), strict=True))
    on_fault([Fault("damaged image", reason) for reason in reasons.values() if reason is not None])
    bad = {id_ for id_, reason in reasons.items() if reason is not None}
    if not bad:
        return annotations
    content = annotations.content | {
        "images": [image for image in annotations.content["images"] if image["id"] not in bad],
        "annotations": [one for one in annotations.content["annotations"] if one["image_id"] not in bad],
    }
    if not content["images"]:
        first = next(filter(None, reasons.values()))
        raise InputError(f"none of the {len(bad):,} images of {annotations.path} can be read; the first: {first}")
    return annotations._replace(content=content)


def _reason(record: ImageRecord) -> str | None:
    try:
        check_pixels(record)
    except InputError as error:
        return str(error)
    return None


def depth_note(images: Iterable[ImageRecord]) -> tuple[str, ...]:
    """A sentence on how images of more than 8 bits a channel are read, where one of the first is such."""
    if isinstance(images, UnopenedImages):  # they may lie in a bucket
        return ()
    for record in islice(images, _LOOKED_AT):
        try:
            deep = is_deep(open_image(record.path, record.member))
        except InputError:
            continue  # whoever reads it says so
        if deep:
            return (
                f"{record.name} has more than 8 bits a channel: each such image is scaled by the range of its own "
                "values (8, 10, 12, 14 or 16 bits, or 0 to 1)",
            )
    return ()
