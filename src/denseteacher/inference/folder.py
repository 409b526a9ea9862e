"""Prediction over files, folders and patterns."""

import glob
import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from denseteacher.data.images import IMAGE_SUFFIXES, decode_image
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import coco_results
from denseteacher.inference.draw import draw_detections
from denseteacher.inference.predictor import Predictor

_BATCH = 8


class PredictionOutcome(NamedTuple):
    """What a prediction run did."""

    images: int
    detections: int
    unreadable: list[str]
    """One sentence for each file that is no readable image."""


def predict_files(detector: Path, patterns: list[str], output: Path, *, draw_above: float = 0.5) -> PredictionOutcome:
    """Detects objects in files.

    Writes ``predictions.json`` (COCO results), ``images.json`` (COCO image info, which says what file an
    ``image_id`` is) and a picture with boxes for each image below ``pictures``.

    Args:
        detector: Detector file or run folder.
        patterns: Image files, folders (searched with all below them) or glob patterns.
        output: Folder to write to.
        draw_above: Detections with a higher score are drawn.

    Raises:
        InputError: If there are no images, or ``output`` holds predictions already.
    """
    predictor = Predictor.load(detector)
    files = find_images(patterns)
    if (output / "predictions.json").exists():
        raise InputError(f"{output} holds predictions already: choose another --output; nothing was changed")
    (output / "pictures").mkdir(parents=True, exist_ok=True)
    results, infos, unreadable = [], [], []
    for start in range(0, len(files), _BATCH):
        arrays = {}
        for number, file in enumerate(files[start : start + _BATCH], start=start + 1):
            try:
                arrays[number] = decode_image(file).permute(1, 2, 0).contiguous().numpy()
            except InputError as error:
                unreadable.append(str(error))
        found = predictor.predict(list(arrays.values()), batch_size=_BATCH)
        for (number, array), detections in zip(arrays.items(), found, strict=True):
            file = files[number - 1]
            height, width = array.shape[:2]
            infos.append({"id": number, "file_name": str(file), "width": width, "height": height})
            results.extend(coco_results(number, detections, predictor.categories))
            picture = draw_detections(Image.fromarray(array), detections, predictor.class_names, score_floor=draw_above)
            picture.save(output / "pictures" / f"{number:06d}_{file.stem[:100]}.jpg", quality=92)
    categories = [{"id": category.id, "name": category.name} for category in predictor.categories]
    (output / "images.json").write_text(json.dumps({"images": infos, "categories": categories}, indent=1))
    (output / "predictions.json").write_text(json.dumps(results, indent=1))
    return PredictionOutcome(len(infos), len(results), unreadable)


def find_images(patterns: list[str]) -> list[Path]:
    """Image files named by paths, folders and glob patterns, each once, in order.

    Raises:
        InputError: If a path does not exist, or nothing is found.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found = [path]
        else:
            # glob and not Path.glob, which refuses absolute patterns
            found = sorted(Path(match) for match in glob.iglob(pattern, recursive=True) if Path(match).is_file())
        if not found:
            raise InputError(f"there are no images at {pattern}: give image files, folders or glob patterns")
        files.update(dict.fromkeys(found))
    return list(files)
