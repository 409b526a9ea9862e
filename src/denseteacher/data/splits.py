"""Which images count as labeled."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.data.records import Category, LabeledImages
from denseteacher.errors import InputError
from denseteacher.files import refuse_irregular, write_json

_RENEW = "give the same data, or start a new run (--set detector.init=RUN begins it with what this one has learned)"
_PUBLISHED = "coco_supervision.json.gz"
_PUBLISHED_POOL = 117_266  # images of train2017 with a box that is not a crowd region


class Split(NamedTuple):
    """A labeled and an unlabeled part, by image id."""

    labeled_ids: list[int]
    unlabeled_ids: list[int] | range
    """A range where the images are so many that nobody lists them."""
    source: str
    """How it came about, in one phrase."""

    @property
    def digest(self) -> str:
        """SHA-256 of both parts, whatever their order: equal for equal splits."""
        parts = (
            str(ids) if isinstance(ids, range) else "\n".join(map(str, sorted(ids)))
            for ids in (self.labeled_ids, self.unlabeled_ids)
        )
        return hashlib.sha256("\n--\n".join(parts).encode()).hexdigest()


def published_split(data: LabeledImages, percent: float, fold: int, *, table: Path | None = None) -> Split:
    """A split of COCO-Standard, as Unbiased Teacher and Dense Teacher use it.

    The table holds, for each percentage and fold, indices into the images sorted by id that have a box which is
    no crowd region; images without one are in neither part (docs/sources.md, COCO-Standard).

    Args:
        data: train2017.
        percent: 0.01, 0.1, 0.5, 1, 2, 5 or 10.
        fold: 0 to 9.
        table: A file in the published format; the published one itself if not given.

    Raises:
        InputError: If the table has no such split, or belongs to another set of images.
    """
    content = _table(table)
    folds = next((value for key, value in content.items() if float(key) == float(percent)), None)
    if folds is None:
        raise InputError(f"data.percent is {percent:g}, but the published splits have {', '.join(content)}")
    if str(fold) not in folds:
        raise InputError(f"data.fold is {fold}, but the published splits have {', '.join(folds)}")
    pool = sorted(image.id for image, boxes in zip(data.images, data.boxes, strict=True) if len(boxes))
    indices = folds[str(fold)]
    expected = int(percent / 100 * len(pool))
    if (table is None and len(pool) != _PUBLISHED_POOL) or len(indices) != expected or max(indices) >= len(pool):
        raise InputError(
            f"the published split of {percent:g} % has {len(indices)} of {_PUBLISHED_POOL} images, but this data set "
            f"has {len(pool)} images with boxes: it is for COCO train2017; use data.split=seeded for other data"
        )
    chosen = set(indices)
    if len(chosen) != len(indices):
        raise InputError("the split table names an image twice")
    return _cut(pool, chosen, f"published, {percent:g} %, fold {fold}")


def _table(path: Path | None) -> dict[str, dict[str, list[int]]]:
    if path is None:
        packed = (resources.files("denseteacher.data") / _PUBLISHED).read_bytes()
        return json.loads(gzip.decompress(packed))  # type: ignore[no-any-return]
    try:
        content = json.loads(path.read_text())
        return {str(key): {str(k): list(map(int, v)) for k, v in folds.items()} for key, folds in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not a split table of the form {{percent: {{fold: [indices]}}}}") from error


def seeded_split(
    image_ids: Sequence[int],
    *,
    percent: float | None = None,
    count: int | None = None,
    fold: int = 1,
    seed: int = 0,
) -> Split:
    """A uniform draw without replacement.

    Args:
        image_ids: Image ids of all images; their order does not matter.
        percent: Labeled share; at least one image.
        count: Number of labeled images, instead of a share.
        fold: Which of the draws of this size.
        seed: Seed of the draws.

    Raises:
        InputError: If neither or both of percent and count are given, or there are too few images.
    """
    ordered = sorted(image_ids)
    size = _labeled_count(len(ordered), percent, count)
    order = keyed_generator(seed, Draw.SPLIT, fold).permutation(len(ordered))
    chosen = set(order[:size].tolist())
    wanted = f"{size} images" if percent is None else f"{percent:g} %"
    return _cut(ordered, chosen, f"seeded, {wanted}, fold {fold}, seed {seed}")


def stac_split(image_ids: Sequence[int], percent: float, fold: int) -> Split:
    """STAC's split: a draw with replacement, so that the labeled part is a little smaller than its percentage.

    NumPy's legacy generator, seeded with the fold, draws positions in the order of the JSON; images drawn twice count
    once (docs/sources.md, COCO-Standard). About 1,176 of train2017's 118,287 images are labeled at 1 %.

    Args:
        image_ids: Image ids of all images, in the order of the file, those without boxes included.
        percent: Drawn share.
        fold: The seed.

    Raises:
        InputError: If nothing would be drawn.
    """
    size = int(percent / 100 * len(image_ids))
    if size < 1:
        raise InputError(f"{percent:g} % of {len(image_ids)} images is none: raise data.percent")
    drawn = set(np.random.RandomState(fold).choice(len(image_ids), size=size).tolist())
    return _cut(image_ids, drawn, f"STAC, {percent:g} %, fold {fold}")


def stratified_split(
    data: LabeledImages,
    *,
    percent: float | None = None,
    count: int | None = None,
    fold: int = 1,
    seed: int = 0,
) -> Split:
    """A draw without replacement in which every class has about its share of labeled objects.

    Iterative stratification (Sechidis et al., 2011): the images of the class with the fewest objects left are dealt
    out first, each to the part that lacks most objects of it.

    Args:
        data: All images with their labels.
        percent: Labeled share; at least one image.
        count: Number of labeled images, instead of a share.
        fold: Which of the draws of this size.
        seed: Seed of the draws.

    Raises:
        InputError: If neither or both of percent and count are given, or there are too few images.
    """
    size = _labeled_count(len(data.images), percent, count)
    share = size / len(data.images)
    objects = np.stack([np.bincount(labels, minlength=len(data.categories)) for labels in data.labels])
    order = keyed_generator(seed, Draw.SPLIT, fold).permutation(len(data.images))
    lacking = np.stack([objects.sum(0) * share, objects.sum(0) * (1 - share)])
    room = np.array([size, len(data.images) - size])
    left, chosen = set(order.tolist()), set[int]()
    counts = objects.sum(0)
    while left and counts.any():
        rarest = int(np.where(counts > 0, counts, np.inf).argmin())
        for image in (image for image in order.tolist() if image in left and objects[image, rarest]):
            wish = np.where(room > 0, lacking[:, rarest], -np.inf)
            part = int(wish.argmax()) if wish[0] != wish[1] else int(room.argmax())
            lacking[part] -= objects[image]
            room[part] -= 1
            left.discard(image)
            counts = counts - objects[image]
            if part == 0:
                chosen.add(image)
    chosen |= set([image for image in order.tolist() if image in left][: int(room[0])])
    wanted = f"{size} images" if percent is None else f"{percent:g} %"
    return _cut([image.id for image in data.images], chosen, f"stratified, {wanted}, fold {fold}, seed {seed}")


def _labeled_count(images: int, percent: float | None, count: int | None) -> int:
    if (percent is None) == (count is None):
        raise InputError("a split needs either a percentage or a count of labeled images")
    if percent is not None and not 0 < percent <= 100:
        raise InputError(f"{percent:g} % can't be labeled: the share is above 0 and at most 100")
    size = count if count is not None else max(1, int((percent or 0) / 100 * images))
    if not 0 < size <= images:
        raise InputError(f"{size} labeled images were asked for, but there are {images} images")
    return size


def _cut(image_ids: Sequence[int], chosen: set[int], source: str) -> Split:
    """Both parts by rising id, from positions in the list."""
    labeled = {image_ids[index] for index in chosen}
    return Split(sorted(labeled), sorted(id_ for id_ in image_ids if id_ not in labeled), source)


def listed_split(image_ids: Sequence[int], path: Path) -> Split:
    """The split whose labeled ids stand in a file: a JSON list, the ``split.json`` of a run, or one id a line.

    Raises:
        InputError: If the file holds anything else, or an id that is not in the data set.
    """
    refuse_irregular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"there is no readable file of image ids at {path}") from error
    try:
        content = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.split()
        chosen = [int(id_) for id_ in (content["labeled_ids"] if isinstance(content, dict) else content)]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} must hold image ids: a JSON list, or one number a line") from error
    unknown = sorted(set(chosen) - set(image_ids))
    if unknown:
        raise InputError(f"{path} names image id {unknown[0]}, which the data set does not have")
    if not chosen:
        raise InputError(f"{path} names no image id")
    labeled = set(chosen)
    return Split(sorted(labeled), [id_ for id_ in image_ids if id_ not in labeled], f"listed in {path}")


def write_split_ids(split: Split, path: Path, categories: Sequence[Category] = ()) -> None:
    """Writes a split for the run folder; ``listed_split`` reads it back. A range becomes its first and last id.

    Args:
        split: The split.
        path: The file.
        categories: The classes of its images, for ``require_same_data``.
    """
    ids = split.unlabeled_ids
    written = {"first": ids[0], "last": ids[-1]} if isinstance(ids, range) and ids else list(ids)
    classes = [[category.id, category.name] for category in categories]
    content = {"digest": split.digest, **split._asdict(), "unlabeled_ids": written, "classes": classes}
    write_json(path, content, indent=None)


def require_same_data(path: Path, split: Split, categories: Sequence[Category], *, unlabeled: bool = True) -> None:
    """Sees whether a run that goes on has the images and classes that it began with.

    A label is the place of its class in their order, so with other names or another order the detector would learn
    on as if each class were another.

    Args:
        path: What ``write_split_ids`` has written when the run began; nothing is compared where that is not there.
        split: Split of the data now.
        categories: The classes of the data now.
        unlabeled: Whether the unlabeled images must be as many as then.

    Raises:
        InputError: If it is not so.
    """
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    then, now = content.get("classes") or [], [[category.id, category.name] for category in categories]
    if then and then != now:
        place = next((place for place, pair in enumerate(zip(then, now, strict=False)) if pair[0] != pair[1]), -1)
        different = (
            f"{len(then)} classes then, {len(now)} now"
            if place < 0
            else f"the class number {place} was {then[place][1]!r} (id {then[place][0]}) and is {now[place][1]!r} "
            f"(id {now[place][0]})"
        )
        began = f"when the run of {path.parent} began"
        raise InputError(f"the labeled data have other classes than {began}: {different}; {_RENEW}")
    labeled, many = read_split_sizes(path)
    if sorted(content["labeled_ids"]) != sorted(split.labeled_ids):
        counts = f"{labeled:,} then, {len(split.labeled_ids):,} now"
        counts = counts if labeled != len(split.labeled_ids) else f"{labeled:,} both times, but others"
        began = f"with which the run of {path.parent} began"
        raise InputError(f"the labeled images are not those {began} ({counts}); {_RENEW}")
    if unlabeled and many != len(split.unlabeled_ids):
        raise InputError(
            f"the run of {path.parent} began with {many:,} unlabeled images, and now there are "
            f"{len(split.unlabeled_ids):,}; {_RENEW}"
        )


def read_split_sizes(path: Path) -> tuple[int, int]:
    """Labeled and unlabeled images of a split that ``write_split_ids`` has written."""
    content = json.loads(path.read_text(encoding="utf-8"))
    unlabeled = content["unlabeled_ids"]
    many = unlabeled["last"] - unlabeled["first"] + 1 if isinstance(unlabeled, dict) else len(unlabeled)
    return len(content["labeled_ids"]), many
