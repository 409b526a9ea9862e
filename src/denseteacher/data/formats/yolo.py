"""YOLO: a ``data.yaml`` or ``obj.data``, or folders of images and of text files with a line an object."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.faults import Fault, OnFault, refuse
from denseteacher.data.formats.files import is_file, sizes_or_errors
from denseteacher.data.formats.yolo_lines import read_objects
from denseteacher.data.formats.yolo_places import find_images, is_yolo
from denseteacher.errors import InputError

__all__ = ["is_yolo", "read_yolo"]


def read_yolo(
    path: Path, images: Path | None = None, *, subsets: Sequence[str] = (), on_fault: OnFault = refuse
) -> Annotations:
    """Reads a YOLO data set: a line is a class number and a box as center and size, in shares of the image's size.

    A line with more numbers is the outline of an object (or the corners of a rotated box), of which the box around
    is taken; where ``kpt_shape`` says that keypoints follow the box, they are left out. An image without a text
    file, or with an empty one, has no objects. Image sizes come from the headers.

    Args:
        path: A ``data.yaml``, Darknet's and CVAT's ``obj.data``, a folder with one, or one with ``images`` and
            ``labels``, or of images and text files.
        images: Folder of the images, where ``path`` is the folder of the text files; folder that the places in a YAML
            are relative to, where that is not its own.
        subsets: Keys of the YAML, or folders below ``images``, by preference.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If there is no such data set.
    """
    source = find_images(path, images, subsets, on_fault)
    # not resolve(): where 'images' is a symbolic link, 'labels' is beside the link
    named = [Path(os.path.abspath(file)) for file in source.images]  # noqa: PTH100
    labels = dict(zip(named, source.labels, strict=True))
    root = Path(os.path.commonpath([file.parent for file in labels]))
    if not any(is_file(file) for file in labels.values()):
        raise InputError(
            f"{path}: none of {len(labels)} images has a text file of labels; the first would be "
            f"{next(iter(labels.values()))}"
        )
    twice = sorted(file for file, times in Counter(named).items() if times > 1)
    on_fault([Fault("image id twice", f"{path}: the image {file} stands twice in its lists") for file in twice])
    sizes = sizes_or_errors((file, None) for file in labels)
    on_fault([Fault("unreadable image", str(size)) for size in sizes if isinstance(size, InputError)])
    listed: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for (file, label), size in zip(labels.items(), sizes, strict=True):
        if not isinstance(size, InputError):
            name = str(file.relative_to(root))
            listed.append({"id": len(listed) + 1, "file_name": name, "width": size[1], "height": size[0]})
            objects += read_objects(label, listed[-1], source.classes, on_fault)
    count = max((one["category_id"] for one in objects), default=-1) + 1
    names = source.classes.names or [str(number) for number in range(count)]
    for number, one in enumerate(objects, 1):
        one["id"] = number
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    content = {"images": listed, "annotations": objects, "categories": categories}
    return Annotations(path, "yolo", content, root)
