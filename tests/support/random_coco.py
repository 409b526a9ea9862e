"""Random ground truths and detections in COCO's form, with everything that metrics disagree about."""

import math
from typing import Any

import numpy as np

WIDTH, HEIGHT = 300, 260


def random_scene(seed: int, *, classes: int = 4, images: int = 6) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of all sizes, two in one place, crowds and difficult ones; near hits, misses and equal scores.

    One image has no objects, one no detections, and of several classes the last has no objects. Boxes reach over
    the edges of the images. Ids have gaps.
    """
    random = np.random.default_rng(seed)
    image_ids = (random.permutation(40)[:images] * 7 + 3).tolist()
    category_ids = sorted((random.permutation(90)[:classes] + 1).tolist())
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def box() -> list[float]:
        sides = np.exp(random.uniform(math.log(8), math.log(160), 2))
        return [*random.uniform(-30, WIDTH - 30, 2).tolist(), *sides.tolist()]

    def found(image: int, category: int, bbox: list[float], bonus: float = 0.0) -> None:
        score = round(float(random.uniform(0, 0.6)) + bonus, 1)
        results.append({"image_id": image, "category_id": category, "bbox": bbox, "score": score})

    for image in image_ids[1:]:
        for _ in range(random.integers(0, 8)):
            twin = annotations and annotations[-1]["image_id"] == image and random.random() < 0.1
            entry: dict[str, Any] = {
                "id": len(annotations),
                "image_id": image,
                "category_id": int(random.choice(category_ids[: max(1, classes - 1)])),
                "bbox": annotations[-1]["bbox"] if twin else box(),
            }
            if random.random() < 0.3:
                entry["area"] = entry["bbox"][2] * entry["bbox"][3] * random.uniform(0.5, 1)
            if random.random() < 0.5:
                entry |= {"iscrowd": int(random.random() < 0.35), "difficult": int(random.random() < 0.35)}
            annotations.append(entry)
            for _ in range(random.integers(0, 4) if image != image_ids[-1] else 0):
                noise = random.normal(0, random.choice([0.02, 0.12]), 4)
                noisy = np.array(entry["bbox"]) + noise * np.tile(entry["bbox"][2:], 2)
                noisy[2:] = np.abs(noisy[2:])
                right = random.random() < 0.85
                found(image, entry["category_id"] if right else int(random.choice(category_ids)), noisy.tolist(), 0.4)
    for _ in range(3 * images):
        found(int(random.choice(image_ids[:-1])), int(random.choice(category_ids)), box())
    random.shuffle(results)
    truth = {
        "images": [{"id": image, "width": WIDTH, "height": HEIGHT} for image in image_ids],
        "categories": [{"id": category, "name": f"class {category}"} for category in category_ids],
        "annotations": annotations,
    }
    return truth, results


def overlap(first: list[float], second: list[float], *, of_first: bool = False) -> float:
    """IoU of two boxes (x, y, width, height), or the share of the first that lies in the second."""
    sides = [min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i]) for i in (0, 1)]
    common = max(0.0, sides[0]) * max(0.0, sides[1])
    whole = first[2] * first[3] if of_first else first[2] * first[3] + second[2] * second[3] - common
    return common / whole if whole else 0.0


def by_score(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Falling score; of equal ones by image, then in the order given."""
    return sorted(results, key=lambda one: (-one["score"], one["image_id"]))
