"""Both parts of a split as COCO files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from denseteacher.data.formats.annotations import Annotations
from denseteacher.errors import InputError
from denseteacher.files import refusal_explained, write_bytes


class SplitFiles(NamedTuple):
    """What a split leaves. The files name the images, and do not move them."""

    labeled: Path
    unlabeled: Path
    images: Path
    """Folder of the images of both."""


def write_split(annotations: Annotations, labeled_ids: Sequence[int], folder: Path) -> SplitFiles:
    """Writes ``labeled.json`` and ``unlabeled.json`` (images without annotations) of a data set.

    Images, annotations and categories keep all their fields; regions to ignore stay.

    Raises:
        InputError: If one of the files is there with other content.
        RunError: If the disk refuses.
    """
    content, chosen = annotations.content, set(labeled_ids)
    labeled = dict(content)
    labeled["images"] = [image for image in content["images"] if image["id"] in chosen]
    labeled["annotations"] = [one for one in content["annotations"] if one["image_id"] in chosen]
    unlabeled = {
        "images": [image for image in content["images"] if image["id"] not in chosen],
        "categories": content["categories"],
    }
    files = SplitFiles(folder / "labeled.json", folder / "unlabeled.json", annotations.images)
    texts = {files.labeled: json.dumps(labeled), files.unlabeled: json.dumps(unlabeled)}
    for file, text in texts.items():
        if file.exists() and file.read_text() != text:
            raise InputError(
                f"{file} is there already with other content: choose another --output; nothing was changed"
            )
    with refusal_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_bytes(file, text.encode())
    return files
