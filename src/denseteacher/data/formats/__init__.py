"""Annotation formats: detected, and read into one form."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from denseteacher.data.choices import Format
from denseteacher.data.formats.annotations import (
    Annotations,
    AnnotationSource,
    Content,
    with_categories,
    with_sound_names,
)
from denseteacher.data.formats.checked_boxes import labeled_images
from denseteacher.data.formats.coco import read_coco, read_image_info
from denseteacher.data.formats.crowdhuman import read_crowdhuman
from denseteacher.data.formats.csv_table import read_csv
from denseteacher.data.formats.cvat import is_cvat, read_cvat
from denseteacher.data.formats.faults import IMAGE_FAULTS, Fault, Notes, OnFault, refuse
from denseteacher.data.formats.label_studio import is_label_studio, read_label_studio
from denseteacher.data.formats.labelme import is_labelme, read_labelme
from denseteacher.data.formats.unlabeled import open_unlabeled, read_unlabeled
from denseteacher.data.formats.voc import VOC_CLASSES, first_image_set, is_voc, read_voc
from denseteacher.data.formats.yolo import is_yolo, read_yolo
from denseteacher.data.records import Category, LabeledImages
from denseteacher.data.writers.split_files import SplitFiles, write_split
from denseteacher.errors import InputError
from denseteacher.files import refuse_irregular

__all__ = [
    "IMAGE_FAULTS",
    "VOC_CLASSES",
    "AnnotationSource",
    "Annotations",
    "Content",
    "Fault",
    "Format",
    "Notes",
    "OnFault",
    "SplitFiles",
    "labeled_images",
    "open_unlabeled",
    "read_annotations",
    "read_image_info",
    "read_labeled",
    "read_unlabeled",
    "refuse",
    "training_subset",
    "with_categories",
    "write_split",
]

Role = Literal["labeled", "validation"]
_SUBSETS: dict[Role, tuple[str, ...]] = {
    "labeled": ("trainval", "train"),
    "validation": ("val", "valid", "validation", "test"),
}
"""Parts of a data set in one folder or file, by preference."""
_VOC_VALIDATION = ("test", *_SUBSETS["validation"])
"""VOC's ``val`` is in its ``trainval``, so ``test`` is what it is evaluated on where it is there."""
_READERS: dict[Format, tuple[Callable[..., Annotations], str | None]] = {
    "crowdhuman": (read_crowdhuman, "*.odgt"),
    "cvat": (read_cvat, None),
    "labelme": (read_labelme, None),
    "label-studio": (read_label_studio, "*.json"),
    "csv": (read_csv, "*.csv"),
}
"""Readers of formats that have one file or folder a part, and the pattern of the files in a folder."""


def read_annotations(
    source: AnnotationSource | Path,
    *,
    role: Role = "labeled",
    fallback: Path | None = None,
    check_files: bool = True,
    on_fault: OnFault = refuse,
) -> Annotations:
    """Reads a labeled data set of any format.

    Args:
        source: The data set, or its path where nothing else is to be said of it.
        role: What the data is for, which says what part is read where the source does not.
        fallback: Where the image files of a COCO JSON or ``.odgt`` are looked for if they are not near it.
        check_files: Look for the image files of a COCO JSON; other formats always need them.
        on_fault: Called for faults of entries; the default raises.

    Raises:
        InputError: If there is no data set of a known format, or it has a fault and ``on_fault`` raises.
    """
    path, images, format, subset = AnnotationSource(source) if isinstance(source, Path) else source
    subsets = (subset,) if subset is not None else _SUBSETS[role]
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for names of more than 255 bytes)
        raise InputError(f"there is no annotation file or folder {path}")
    refuse_irregular(path)
    chosen = format or _detect(path)
    if subset is not None and path.is_file() and chosen != "yolo":
        raise InputError(f"{path} is one file without parts: name the file of {subset!r}, without --subset")
    found: Annotations
    if chosen == "voc":
        by_preference = _VOC_VALIDATION if subset is None and role == "validation" else subsets
        found = read_voc(path, images, subsets=by_preference, on_fault=on_fault)
    elif chosen == "yolo":
        found = read_yolo(path, images, subsets=subsets, on_fault=on_fault)
    elif chosen in _READERS:
        read, pattern = _READERS[chosen]
        file = path if pattern is None else _file_in(path, pattern, subsets)
        found = read(file, images, fallback=fallback, on_fault=on_fault)
    else:
        file = _file_in(path, "*.json", subsets)
        found = read_coco(file, images, fallback=fallback, check_files=check_files, on_fault=on_fault)
    return with_sound_names(found, on_fault)


def read_labeled(
    source: AnnotationSource | Path,
    *,
    bad_boxes: Literal["error", "fix"] = "error",
    categories: Sequence[Category] | None = None,
) -> LabeledImages:
    """``read_annotations`` as images with boxes, by rising id, without regions to ignore.

    Args:
        source: As there.
        bad_boxes: See ``labeled_images``.
        categories: The classes that a detector has; matched by name.
    """
    annotations = read_annotations(source)
    if categories is not None:
        annotations = with_categories(annotations, categories)
    return labeled_images(annotations, bad_boxes=bad_boxes)


def training_subset(validation: AnnotationSource) -> str | None:
    """The part to train on where the same data set is evaluated on too.

    Args:
        validation: The data set, with the part to evaluate on; what ``read_annotations`` takes if not given.

    Returns:
        ``train`` where that is VOC's ``val``, which ``trainval`` holds; None where there is nothing to heed.
    """
    path = validation.path
    if not path.is_dir() or (validation.format or _detect(path)) != "voc":
        return None
    evaluated = validation.subset or first_image_set(path, _VOC_VALIDATION)
    return first_image_set(path, ("train",)) if evaluated == "val" else None


def _detect(path: Path) -> Format:
    """The format of what lies at a path."""
    if path.is_file():
        by_suffix: dict[str, Format] = {
            ".json": "labelme" if is_labelme(path) else "label-studio" if is_label_studio(path) else "coco",
            ".odgt": "crowdhuman",
            ".yaml": "yolo",
            ".yml": "yolo",
            ".data": "yolo",
            ".xml": "cvat",
            ".csv": "csv",
        }
        found = "voc" if is_voc(path) else by_suffix.get(path.suffix.lower())
        if found is None:
            raise InputError(f"{path} is of no known format ({_known()}): say which with --format")
        return found
    if is_cvat(path):
        return "cvat"
    if is_voc(path):
        return "voc"
    if is_yolo(path):
        return "yolo"
    if _files_in(path, "*.odgt"):
        return "crowdhuman"
    if is_labelme(path):
        return "labelme"
    files = _files_in(path, "*.json")
    if files:
        return "label-studio" if all(map(is_label_studio, files)) else "coco"
    if _files_in(path, "*.csv"):
        return "csv"
    raise InputError(
        f"the folder {path} holds no annotations of a known format: a COCO JSON, VOC's Annotations/*.xml, YOLO's "
        "data.yaml, obj.data or labels/*.txt, CrowdHuman's .odgt, CVAT's annotations.xml, LabelMe's JSON files, Label "
        "Studio's JSON, or a CSV table"
    )


def _known() -> str:
    return ", ".join(get_args(Format))


def _files_in(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern in a folder or its ``annotations``; where COCO's ``instances_*`` are there, only those."""
    files = sorted([*folder.glob(pattern), *folder.glob(f"annotations/{pattern}")])
    return [file for file in files if file.name.startswith("instances_")] or files


def _file_in(path: Path, pattern: str, subsets: Sequence[str]) -> Path:
    """The file at a path, or the one of a folder whose name has the first subset that any has."""
    if path.is_file():
        return path
    files = _files_in(path, pattern)
    names = ", ".join(file.name for file in files[:5]) or "none"
    by_subset = ([file for file in files if _is_of(file, subset)] for subset in subsets)
    named = next((found for found in by_subset if found), [])
    if not named and len(subsets) == 1:  # as the user asked for
        raise InputError(f"the folder {path} has no {pattern} of {subsets[0]!r}; it has {names}")
    if len(named or files) != 1:
        raise InputError(f"the folder {path} should hold one {pattern}, not {len(files)} ({names}): name the file")
    return (named or files)[0]


def _is_of(file: Path, subset: str) -> bool:
    """Whether a file is of a part: ``instances_train2017.json`` is of ``train`` and of ``train2017``."""
    words = re.split(r"[\W_]+", file.stem)
    return subset in words or subset in (word.rstrip("0123456789").lower() for word in words)
