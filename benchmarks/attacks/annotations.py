"""Hostile and damaged files of annotations: each is read as boxes within its folder, or refused by a sentence."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from attacks import small_data
from attacks.damage import copied, damage_file, damaged_bytes, damaged_text, damaged_value
from attacks.judge import FileAttack, command, require_sound, result
from attacks.kind import HELD, REFUSED, FailureError
from denseteacher.data.formats import AnnotationSource, Notes, labeled_images, read_annotations, read_unlabeled

_FORMATS = {"YOLO 1.1": "yolo", "list": None}
"""Names of formats that are not their label in small letters; a list has none."""


class AnnotationFiles(FileAttack):
    """Files of one format, damaged and read by all that reads them."""

    share = 0.7

    def __init__(self, name: str) -> None:
        """Takes a key of ``small_data.FORMATS``."""
        self.name = name
        self.label = f"annotations, {name}"
        self._format: Any = _FORMATS.get(name, name.lower())

    def prepare(self, folder: Path) -> None:
        """Writes the sound data set."""
        self._sound = folder / "sound"
        self._sound.mkdir()
        self._named = small_data.FORMATS[self.name](self._sound).relative_to(self._sound)
        self._texts = sorted(
            file.relative_to(self._sound)
            for file in self._sound.rglob("*")
            if file.is_file() and file.suffix not in (".png", ".jpg")
        )

    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Damages one or two files, and reads."""
        data = copied(self._sound, folder / "data")
        for file in rng.sample(self._texts, min(len(self._texts), rng.choice((1, 1, 2)))):
            damage_text_file(data / file, rng)
        if rng.random() < 0.1:
            damage_file(data / rng.choice(sorted(file.relative_to(data) for file in data.rglob("*.png"))), rng)
        read = self._read_unlabeled(data / self._named)
        if self._format is not None:
            source = AnnotationSource(data / self._named, format=rng.choice((None, self._format)))
            read += self._read(source)
            if rng.random() < 0.25:
                at = folder / "split"
                require_sound(command("split", source.path, "--count", 1, "--output", at))
                shutil.rmtree(at, ignore_errors=True)
        return HELD if read else REFUSED

    def _read(self, source: AnnotationSource) -> int:
        """How many of two ways of reading give a data set: as training reads, and passing over what is wrong."""
        count = 0
        for on_fault in (Notes(), lambda faults: None):
            found = result(lambda on_fault=on_fault: read_annotations(source, on_fault=on_fault))
            if found is None:
                continue
            outside = [record.path for record in found.records if found.images not in record.path.parents]
            if outside:
                raise FailureError(f"let in: {outside[0]} is not in {found.images}")
            data = result(lambda found=found: labeled_images(found, bad_boxes="fix"))
            if data is None:
                continue
            count += 1
            for boxes, labels in zip(data.boxes, data.labels, strict=True):
                if boxes.shape != (len(labels), 4) or not np.isfinite(np.asarray(boxes)).all():
                    raise FailureError(f"boxes of shape {tuple(boxes.shape)} for {len(labels)} labels, or not finite")
        return count

    def _read_unlabeled(self, path: Path) -> int:
        """Whether the images alone are found."""
        images = result(lambda: read_unlabeled(path))
        return int(bool(images)) if self._format is None else 0


def damage_text_file(file: Path, rng: random.Random) -> None:
    """Damages a file's words, values or bytes, or puts something else in its place."""
    way = rng.random()
    structured = file.suffix in (".json", ".yaml")
    if way < 0.1:
        damage_file(file, rng)
    elif way < 0.3:
        file.write_bytes(damaged_bytes(file.read_bytes(), rng))
    elif way < 0.65 or not structured:
        file.write_bytes(damaged_text(file.read_text(), rng))
    elif file.suffix == ".json":
        file.write_text(json.dumps(damaged_value(json.loads(file.read_text()), rng)))
    else:
        text = yaml.dump(damaged_value(yaml.safe_load(file.read_text()), rng))
        file.write_text(text, encoding="utf-8", errors="replace")
