"""What every annotation format is read into: the content of a COCO file, and the faults found on the way."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from denseteacher.data.choices import Format
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.errors import InputError

Content = dict[str, Any]
Boxes = npt.NDArray[np.float32]
_BOX_FAULTS = {"box without area": "has no area", "box outside of its image": "reaches outside"}
_OVERHANG = 1.0  # px that a box may reach past its image: rounding of the tool that drew it
_LARGEST = 1e9  # px; beyond it a coordinate is none
_LONGEST_NAME = 500  # characters of a class name
_BREAKING = frozenset({"Cc", "Zl", "Zp"})  # control characters, and what breaks a line
IMAGE_FAULTS = frozenset(
    {
        "missing image file",
        "file name that leaves the folder",
        "unreadable image",
        "damaged image",
        "image of another size than declared",
    }
)
"""Kinds of faults of one image file, which ``data.bad_images`` is about."""


class Fault(NamedTuple):
    """Something wrong with one entry of a data set."""

    kind: str
    """What it is, the same for all faults of this kind."""
    message: str
    """A sentence that names the file and the entry."""
    harmless: bool = False
    """Whether the entry is read all the same, since it can mean one thing only."""


OnFault = Callable[[Sequence[Fault]], None]
"""A function that is called with the faults of one kind. Where it returns, reading goes on without the entries, or
with the harmless ones."""


def refuse(faults: Sequence[Fault]) -> None:
    """The ``on_fault`` of those who want to use the data.

    Raises:
        InputError: About the first fault that is not harmless, if there is any.
    """
    serious = [fault.message for fault in faults if not fault.harmless]
    if serious:
        raise InputError(_with_count(serious[0], len(serious)))


def _with_count(message: str, count: int) -> str:
    return f"{message} ({count:,} such in all)" if count > 1 else message


class Notes:
    """An ``on_fault`` that refuses as ``refuse`` does, and keeps a sentence on each kind of the harmless faults."""

    def __init__(self, bad_images: Literal["error", "skip"] = "error") -> None:
        """Nothing is noted yet.

        Args:
            bad_images: ``skip`` keeps a sentence on image files that are missing or can't be read, in place of
                refusing them.
        """
        self._skips = bad_images == "skip"
        self._messages: dict[tuple[str, bool], list[str]] = {}

    def __call__(self, faults: Sequence[Fault]) -> None:
        """See ``OnFault``."""
        serious = [fault for fault in faults if not fault.harmless]
        skipped = [fault for fault in serious if self._skips and fault.kind in IMAGE_FAULTS]
        try:
            refuse([fault for fault in serious if fault not in skipped] if skipped else serious)
        except InputError as error:
            if any(fault.kind in IMAGE_FAULTS for fault in serious):
                raise InputError(f"{error}; leave such images out with --set data.bad_images=skip") from error
            raise
        for fault in faults:
            self._messages.setdefault((fault.kind, fault.harmless), []).append(fault.message)

    @property
    def sentences(self) -> tuple[str, ...]:
        """One for each kind: its first message, and how many there are."""
        return tuple(
            _with_count(messages[0] if harmless else f"left out: {messages[0]}", len(messages))
            for (_, harmless), messages in self._messages.items()
        )


def is_number(value: Any) -> bool:
    """Whether a value of a JSON is a number that can be a coordinate."""
    if isinstance(value, int):  # of 400 digits perhaps, which are not float
        return not isinstance(value, bool) and abs(value) <= _LARGEST
    return isinstance(value, float) and math.isfinite(value) and abs(value) <= _LARGEST


def as_number(value: Any) -> float | None:
    """A number of a JSON or a table, which may be written as text; None where it is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


def brief(value: Any) -> str:
    """A value of a JSON as a message shows it."""
    try:
        return repr(value)[:100]
    except (RecursionError, ValueError):  # nested too deeply; of too many digits
        return f"a {type(value).__name__}"


class AnnotationSource(NamedTuple):
    """Where a labeled data set lies, and what has been said of how to read it."""

    path: Path
    """A COCO JSON; a VOC folder or image set; a YOLO ``data.yaml``, ``obj.data`` or folder; a CrowdHuman ``.odgt``;
    CVAT's XML; LabelMe's folder; Label Studio's JSON; a CSV table; or a folder that holds one of them."""
    images: Path | None = None
    """Folder of the image files; found near ``path`` if not given."""
    format: Format | None = None
    """Format of the annotations; detected if not given."""
    subset: str | None = None
    """The part to read, where ``path`` has several (``trainval``, ``val``, ...)."""

    @classmethod
    def of(
        cls, path: str | Path, images: str | Path | None, format: Format | None, subset: str | None
    ) -> "AnnotationSource":
        """The source that a user's arguments name."""
        return cls(Path(path), None if images is None else Path(images), format, subset)


class Annotations(NamedTuple):
    """A labeled data set, whatever format it came in."""

    path: Path
    """Path as the user named it."""
    format: Format
    content: Content
    """``images``, ``annotations`` and ``categories`` as in a COCO file. Regions to ignore (crowds, masks) have
    ``iscrowd`` 1; objects that VOC calls difficult have ``difficult`` 1. An annotation of a file of its own has
    that as its ``source``."""
    images: Path
    """Folder that the ``file_name`` of an image is relative to."""

    @property
    def categories(self) -> list[Category]:
        """The classes by rising id."""
        classes = [Category(int(one["id"]), str(one["name"])) for one in self.content["categories"]]
        return sorted(classes, key=lambda category: category.id)

    @property
    def records(self) -> list[ImageRecord]:
        """The images by rising id."""
        records = [
            ImageRecord(image["id"], self.images / image["file_name"], image["width"], image["height"])
            for image in self.content["images"]
        ]
        return sorted(records, key=lambda record: record.id)


def with_categories(annotations: Annotations, categories: Sequence[Category]) -> Annotations:
    """The data set with the category ids of a detector or of the training data, matched by name.

    Raises:
        InputError: If it has a class that they lack.
    """
    own = annotations.categories
    if own == list(categories):
        return annotations
    ids = {category.name: category.id for category in categories}
    for source, some in ((annotations.path, own), ("the detector or training data", categories)):
        twice = [name for name, times in Counter(category.name for category in some).items() if times > 1]
        if twice:
            raise InputError(
                f"{source} has {len(twice)} class names that stand for several category ids, the first {twice[0]!r}: "
                f"the classes of {annotations.path} are matched by name, so give each a name of its own"
            )
    unknown = [category.name for category in own if category.name not in ids]
    if unknown:
        raise InputError(
            f"{annotations.path} has other categories than the detector or training data: {', '.join(unknown[:5])}; "
            f"known are {', '.join(sorted(ids)[:20])}"
        )
    new_id = {category.id: ids[category.name] for category in own}
    content = annotations.content | {
        "categories": [{"id": category.id, "name": category.name} for category in categories],
        "annotations": [
            one | {"category_id": new_id[one["category_id"]]} for one in annotations.content["annotations"]
        ],
    }
    return annotations._replace(content=content)


def with_sound_names(annotations: Annotations, on_fault: OnFault = refuse) -> Annotations:
    """The data set with class names that can be shown in one line.

    Control characters and line breaks become spaces, half characters (lone surrogates) the replacement character;
    spaces at the ends go.

    Raises:
        InputError: If a class has no name then, and ``on_fault`` raises.
    """
    cleaned, changed, nameless = [], [], []
    for category in annotations.content["categories"]:
        name = category["name"]
        plain = _one_line(name) if isinstance(name, str) else ""
        if not plain:
            nameless.append(f"{annotations.path}: the class {category['id']} has the name {name!r}: it needs a text")
            plain = f"class {category['id']}"
        elif plain != name:
            changed.append(f"{annotations.path}: the class name {name[:80]!r} is read as {plain[:80]!r}")
        cleaned.append(category if plain == name else category | {"name": plain})
    on_fault([Fault("class without a name", message) for message in nameless])
    on_fault([Fault("class name that is cleaned", message, harmless=True) for message in changed])
    return annotations._replace(content=annotations.content | {"categories": cleaned})


def _one_line(name: str) -> str:
    plain = "".join(
        "\ufffd" if unicodedata.category(one) == "Cs" else " " if unicodedata.category(one) in _BREAKING else one
        for one in name[: _LONGEST_NAME + 1]
    )
    return plain.strip()[:_LONGEST_NAME] if plain != name or len(name) > _LONGEST_NAME else name.strip()


def share_faults(path: Path, boxes: Sequence[Sequence[float]]) -> list[Fault]:
    """What is wrong where boxes that should be pixels are shares of the image: most lie between 0 and 1.

    Args:
        path: The data set.
        boxes: Four numbers each.
    """
    inside = [box for box in boxes if all(0 <= value <= 1 for value in box)]
    if not inside or 2 * len(inside) < len(boxes):
        return []
    return [
        Fault(
            "boxes that look like shares",
            f"{path}: {len(inside):,} of {len(boxes):,} boxes lie between 0 and 1, as {list(inside[0])}: these look "
            "like shares of the image, where pixels are needed; multiply them by its width and height",
        )
    ]


def labeled_images(
    annotations: Annotations,
    *,
    bad_boxes: Literal["error", "fix"] = "error",
    regions: bool = False,
    on_fault: OnFault = refuse,
) -> LabeledImages:
    """What training needs: boxes by image, and beside them the regions to ignore.

    Args:
        annotations: A data set.
        bad_boxes: ``error`` refuses a box without area or more than a pixel outside of its image; ``fix`` cuts
            boxes to their image and drops what has no area then.
        regions: Whether the regions to ignore are wanted. They are cut to their images, without a complaint.
        on_fault: Called for bad boxes, unless they are to be fixed.
    """
    records, classes = annotations.records, annotations.categories
    objects = [one for one in annotations.content["annotations"] if not one.get("iscrowd", 0)]
    label_of = {category.id: index for index, category in enumerate(classes)}
    owner = _owners(objects, records)
    labels = np.fromiter((label_of[one["category_id"]] for one in objects), np.int64, len(objects))
    checked = _checked_boxes(objects, records, owner)
    if bad_boxes == "error":
        on_fault(list(_box_faults(annotations.path, objects, records, owner, checked.empty, "box without area")))
        outside = checked.outside & ~checked.empty
        on_fault(list(_box_faults(annotations.path, objects, records, owner, outside, "box outside of its image")))
    boxes, own_labels = _by_image([checked.boxes, labels], owner, ~checked.empty, len(records))
    return LabeledImages(records, boxes, own_labels, classes, _regions(annotations) if regions else None)


def _regions(annotations: Annotations) -> list[Boxes] | None:
    """The regions to ignore of each image, as far as they lie in it; None where there are none."""
    records = annotations.records
    crowds = [one for one in annotations.content["annotations"] if one.get("iscrowd", 0)]
    owner = _owners(crowds, records)
    checked = _checked_boxes(crowds, records, owner)
    (boxes,) = _by_image([checked.boxes], owner, ~checked.empty, len(records))
    return boxes if any(map(len, boxes)) else None


def _owners(objects: list[dict[str, Any]], records: list[ImageRecord]) -> npt.NDArray[np.int64]:
    """(n,) position of each object's image."""
    position = {record.id: index for index, record in enumerate(records)}
    return np.fromiter((position[one["image_id"]] for one in objects), np.int64, len(objects))


def _by_image(
    columns: Sequence[npt.NDArray[Any]], owner: npt.NDArray[np.int64], which: npt.NDArray[np.bool_], images: int
) -> list[list[npt.NDArray[Any]]]:
    """The chosen rows of each column, in their order, as one array an image."""
    kept = np.flatnonzero(which)
    order = kept[np.argsort(owner[kept], kind="stable")]
    cuts = np.searchsorted(owner[order], np.arange(1, images))
    return [np.split(column[order], cuts)[:images] for column in columns]


class _CheckedBoxes(NamedTuple):
    boxes: Boxes
    """(n, 4) xyxy, cut to their images."""
    empty: npt.NDArray[np.bool_]
    outside: npt.NDArray[np.bool_]


def _checked_boxes(
    objects: list[dict[str, Any]], records: list[ImageRecord], owner: npt.NDArray[np.int64]
) -> _CheckedBoxes:
    boxes = np.array([one["bbox"] for one in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = np.array([(record.width, record.height) for record in records], dtype=np.float64)[owner].reshape(-1, 2)
    limits = np.concatenate([sizes, sizes], axis=1)
    cut = np.minimum(np.maximum(boxes, 0), limits)
    empty: npt.NDArray[np.bool_] = (cut[:, 2:] <= cut[:, :2]).any(axis=1)
    outside: npt.NDArray[np.bool_] = np.any((boxes < -_OVERHANG) | (boxes > limits + _OVERHANG), axis=1)
    return _CheckedBoxes(cut.astype(np.float32), empty, outside)


def _box_faults(
    path: Path,
    objects: list[dict[str, Any]],
    records: list[ImageRecord],
    owner: npt.NDArray[np.int64],
    wrong: npt.NDArray[np.bool_],
    kind: str,
) -> Iterator[Fault]:
    for index in np.flatnonzero(wrong):
        one, record = objects[index], records[owner[index]]
        name = one.get("source") or f"{path}: annotation {one.get('id')}"
        yield Fault(
            kind,
            f"{name} has the box {one['bbox']} (x, y, width, height), which {_BOX_FAULTS[kind]} in image {record.id} "
            f"({record.path.name}) of {record.width} x {record.height} pixels; correct it, or cut and drop such boxes "
            "with --set data.bad_boxes=fix",
        )
