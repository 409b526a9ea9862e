"""What every annotation format is read into: the content of a COCO file."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.choices import Format
from denseteacher.data.formats.faults import Fault, OnFault, refuse
from denseteacher.data.records import Category, ImageRecord
from denseteacher.errors import InputError

Content = dict[str, Any]
_LONGEST_NAME = 500  # characters of a class name
_BREAKING = frozenset({"Cc", "Zl", "Zp"})  # control characters, and what breaks a line


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
