"""Which images of a pool to label next, by what a run's detectors make of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from denseteacher.check.images import identify
from denseteacher.check.pool import Network, image_features, pooled_features, spread
from denseteacher.data.choices import LabelFormat
from denseteacher.data.images import decode_image, image_size, read_content
from denseteacher.data.open import open_data
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.data.writers import write_annotations
from denseteacher.detectors import PyramidDetector
from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import Floats
from denseteacher.files import refusal_explained, require_empty, write_json, write_text
from denseteacher.inference.label import all_or_nothing, as_annotations, best_boxes, load_with_floors
from denseteacher.inference.predict import find_images
from denseteacher.inference.predictor import Predictor, readable_batches
from denseteacher.inference.suggest import (
    Pick,
    RareObject,
    choose,
    class_rarity,
    found_objects,
    rarest_object,
    reasons_of,
    shares_below,
)
from denseteacher.inference.uncertainty import ImageAssessor, ImageDoubts
from denseteacher.report.suggestions import write_suggestions
from denseteacher.runs.folder import RunFolder

_REGION = 0.05  # rich share of the locations where a run's method selects none
_CANDIDATES = 5  # times as many images as are asked for, those with the highest scores, are chosen from
_MOST_KNOWN = 1000  # labeled images that a suggested one is compared with
_MOST_BOXES = 100  # of a draft, as ``label`` has it


class Suggestions(NamedTuple):
    """What was suggested."""

    picks: list[Pick]
    """The images, in their order."""
    pool: int
    """Images that they were picked from."""
    left_out: int
    """Images of the pool that are labeled."""
    unreadable: list[str]
    """One sentence for each file that is not a readable image."""
    notes: list[str]
    """Sentences on what was left out of the scores."""
    page: Path
    """Why each was picked."""
    hint: str = ""
    """What imports the drafts, and how; empty without drafts."""


class _Known(NamedTuple):
    """What is known of the run."""

    teacher: Predictor
    floors: npt.NDArray[np.float32]
    """(K,) lowest score of a box in a draft."""
    student: Predictor | None = None
    labeled: LabeledImages | None = None
    region: float = _REGION
    mirror: bool = True
    """Whether a mirror image shows the same things."""
    notes: tuple[str, ...] = ()


def suggest_images(
    run: str | Path,
    pool: str | Path | Sequence[str | Path],
    *,
    output: str | Path = "suggested",
    count: int = 50,
    to: LabelFormat | None = None,
    score: float = 0.3,
) -> Suggestions:
    """Chooses the images of a pool to label next: what the run is unsure of, rare classes, and no two that are alike.

    Args:
        run: Run folder; or a detector file, of which student and labeled images are not known.
        pool: Image files, folders, glob patterns or text lists. Images that the run has labels of are left out.
        output: Folder to write to, new or empty: ``suggested.txt``, ``suggested.json``, ``suggested.html``, ``drafts``.
        count: How many images to choose.
        to: Format of the drafts of their labels, as for ``label``; None writes none.
        score: Boxes with lower scores are left out of the drafts.

    Raises:
        InputError: If there is no detector, no image, or ``output`` is not empty.
        RunError: If the disk refuses.
    """
    output = Path(output)
    if count < 1:
        raise InputError(f"--count is the number of images to choose, 1 at least, not {count}")
    require_empty(output)
    known, unreadable = _open(Path(run), score), list[str]()
    paths = [pool] if isinstance(pool, str | Path) else pool
    files = find_images([str(path) for path in paths], unreadable)
    left = files if known.labeled is None else _without_labeled(files, known.labeled.images)
    if not left:
        raise InputError(f"all {len(files):,} images of the pool are labeled in {run}: give others to choose from")
    records, doubts = _assess(known, left, unreadable)
    if not records:
        raise InputError(f"none of the images of the pool can be read; the first: {unreadable[0]}")
    notes = list(known.notes)
    if len(records) < count:
        notes.append(f"--count {count} was asked for, and the pool has {len(records):,} images to choose from")
    picks = _pick(known, records, doubts, count)
    found = Suggestions(picks, len(records), len(files) - len(left), unreadable, notes, output / "suggested.html")
    with refusal_explained(output), all_or_nothing(output):
        return found._replace(hint=_write(found, run, known.teacher, output, to))


def _write(found: Suggestions, run: str | Path, teacher: Predictor, output: Path, to: LabelFormat | None) -> str:
    """Writes all files; says what imports the drafts."""
    output.mkdir(parents=True, exist_ok=True)
    hint, picks = "", found.picks
    if to is not None:
        (output / "drafts").mkdir()
        drafts = as_annotations(
            [(replace(pick.record, id=rank), pick.draft) for rank, pick in enumerate(picks, 1)], teacher.categories
        )
        hint = write_annotations(to, *drafts, output / "drafts")
    write_text(output / "suggested.txt", "".join(f"{pick.record.path.absolute()}\n" for pick in picks))
    content = {
        "run": str(run),
        "pool": found.pool,
        "left_out": found.left_out,
        "notes": found.notes,
        "classes": teacher.class_names,
        "picks": [pick.content() for pick in picks],
    }
    write_json(output / "suggested.json", content)
    write_suggestions(
        found.page,
        picks,
        pool=found.pool,
        left_out=found.left_out,
        names=teacher.class_names,
        notes=found.notes,
    )
    return hint


def _open(run: Path, score: float) -> _Known:
    """The detectors and labeled images of a run."""
    teacher, floors = load_with_floors(run, score, {})
    folder = RunFolder(run)
    if not folder.exists:
        note = (
            f"{run} is a detector without its run: its student and its labeled images are not known, and what they "
            "would say is left out"
        )
        return _Known(teacher, floors, notes=(note,))
    recipe = folder.recipe()
    data = recipe.data.model_copy(update={"unlabeled": None, "val": None, "hidden_labels": False})
    labeled = open_data(data).labeled
    if [one.name for one in labeled.categories] != teacher.class_names:
        names = ", ".join(one.name for one in labeled.categories[:20])
        raise InputError(f"the labeled images of {run} have other classes than its detector now: {names}")
    student = Predictor.load(folder.last_student) if folder.last_student.is_file() else None
    mirror = recipe.augment.weak.flip > 0
    notes = () if student else (f"{folder.last_student} is not there, so teacher and student are not compared",)
    if not mirror:
        notes = (*notes, "augment.weak.flip of the run is 0, so images are not compared with their mirror images")
    return _Known(teacher, floors, student, labeled, recipe.method.selected_share or _REGION, mirror, notes)


def _without_labeled(files: Sequence[Path], labeled: Sequence[ImageRecord]) -> list[Path]:
    """The files that are no labeled image: neither the same file nor a copy of one."""
    places = set(identify(labeled).places)
    pool = identify([ImageRecord(number, file, 1, 1) for number, file in enumerate(files)])
    sizes: dict[int, list[ImageRecord]] = {}
    for record in labeled:
        size = record.path.stat().st_size if record.member is None else len(read_content(record.path, record.member))
        sizes.setdefault(size, []).append(record)
    digests = {size: {_digest(one) for one in records} for size, records in sizes.items()}
    return [
        record.path
        for record, place in zip(pool.images, pool.places, strict=True)
        if place not in places and not _is_copy(record, digests)
    ]


def _is_copy(record: ImageRecord, digests: dict[int, set[bytes]]) -> bool:
    try:
        same_size = digests.get(record.path.stat().st_size)
        return same_size is not None and _digest(record) in same_size
    except OSError:  # which is told when it is read
        return False


def _digest(record: ImageRecord) -> bytes:
    return hashlib.blake2b(read_content(record.path, record.member), digest_size=16).digest()


def _assess(known: _Known, files: Sequence[Path], unreadable: list[str]) -> tuple[list[ImageRecord], list[ImageDoubts]]:
    """The images that can be read, whose ids are their places in the list, and the doubts about them."""
    assess = ImageAssessor(known.teacher, known.student, ratio=known.region, mirror=known.mirror)
    found: dict[int, tuple[int, int, ImageDoubts]] = {}
    for arrays in readable_batches(files, decode_image, image_size, unreadable):
        if arrays:
            doubts = assess(list(arrays.values()))
            for (position, array), one in zip(arrays.items(), doubts, strict=True):
                found[position] = (array.shape[1], array.shape[0], one)
    ordered = sorted(found.items())
    records = [
        ImageRecord(place, files[position], width, height)
        for place, (position, (width, height, _)) in enumerate(ordered)
    ]
    return records, [one for _, (*_, one) in ordered]


class _Scored(NamedTuple):
    """The n images of a pool with their scores."""

    score: Floats
    """(n,)"""
    values: dict[str, Floats]
    """(n,) of each part."""
    shares: dict[str, Floats]
    """(n,) of each part, as ``shares_below``."""
    rare: list[RareObject | None]


def _score(known: _Known, doubts: Sequence[ImageDoubts]) -> _Scored:
    detections, classes = [one.detections for one in doubts], len(known.teacher.categories)
    found = found_objects(detections, classes)
    labeled = found if known.labeled is None else _labeled_objects(known.labeled, classes)
    rarity = class_rarity(labeled, found)
    rare = [rarest_object(one, rarity) for one in detections]
    columns = {name: [getattr(one, name) for one in doubts] for name in ("student", "mirror", "entropy")}
    columns["rarity"] = [0.0 if one is None else one.rarity for one in rare]
    values = {name: np.array(column) for name, column in columns.items() if None not in column}
    shares = {name: shares_below(column) for name, column in values.items()}
    return _Scored(np.mean(list(shares.values()), axis=0), values, shares, rare)


def _labeled_objects(labeled: LabeledImages, classes: int) -> Floats:
    """(K,) objects of each class."""
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *labeled.labels]), minlength=classes)
    return counts.astype(np.float64)


def _pick(known: _Known, records: Sequence[ImageRecord], doubts: Sequence[ImageDoubts], count: int) -> list[Pick]:
    """Chooses by scores and features."""
    scored = _score(known, doubts)
    best = np.argsort(-scored.score, kind="stable")[: _CANDIDATES * count].tolist()
    network = _network(known.teacher)
    candidates, features = image_features(network, [records[place] for place in best])
    labeled = [] if known.labeled is None else known.labeled.images
    _, of_labeled = image_features(network, spread(labeled, _MOST_KNOWN))
    places = [one.id for one in candidates]
    picks = []
    for choice in choose(scored.score[places], features, of_labeled, count):
        place = places[choice.place]
        values, shares = (
            {name: float(column[place]) for name, column in table.items()} for table in (scored.values, scored.shares)
        )
        reasons = reasons_of(values, shares, scored.rare[place], known.teacher.class_names)
        draft = best_boxes(doubts[place].detections, known.floors, _MOST_BOXES)
        picks.append(Pick(records[place], float(scored.score[place]), choice.distance, reasons, draft))
    return picks


def _network(predictor: Predictor) -> Network:
    """The features of the detector's own backbone, which has seen images of this kind."""
    detector = cast(PyramidDetector, predictor.detector)
    return pooled_features(detector.backbone, detector.mean, detector.std)
