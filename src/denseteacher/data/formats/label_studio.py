"""Label Studio's own exports, ``JSON`` and ``JSON-MIN``: tasks with what was drawn in them, in percent of the image."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.coordinates import as_number
from denseteacher.data.formats.faults import Fault, OnFault, brief, refuse
from denseteacher.data.formats.files import is_image
from denseteacher.data.formats.listed_images import Entry, as_side, find_listed
from denseteacher.data.formats.objects_by_name import NamedObject, named_annotations
from denseteacher.data.formats.outlines import Box, box_of_ellipse, box_of_points
from denseteacher.errors import InputError

_HEAD = 1 << 16  # bytes in which a list of tasks says that it is one
_KEYS = (b'"data"', b'"annotation_id"', b'"annotations"', b'"completions"')
_DRAWN = ("annotations", "completions")  # as they were called before version 1.0
_WITHOUT_BOX = ("brushlabels", "brush", "keypointlabels", "keypoint", "vectorlabels", "vector")
_SHAPES = ("rectangle", "polygon", "ellipse")


class _Region(NamedTuple):
    """One thing drawn, as the file has it."""

    kind: str
    value: Mapping[str, Any]
    sides: tuple[int | None, int | None]
    """Width and height of the image in pixels, where the file says them."""
    turned: float
    """Degrees by which the whole image was turned when it was drawn."""
    source: str


class _Task(NamedTuple):
    """An image with what was drawn in it."""

    name: str
    regions: list[_Region]


def is_label_studio(path: Path) -> bool:
    """Whether a file is a list of tasks, as Label Studio exports, or one of them."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    if head.startswith(b"["):
        return any(key in head for key in _KEYS)
    return head.startswith(b"{") and b'"data"' in head and b'"was_cancelled"' in head


def read_label_studio(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> Annotations:
    """Reads rectangles, turned ones too, and the boxes around polygons and ellipses.

    Tasks without an annotation, or with canceled ones alone, are not labeled and left out; an empty annotation says
    that the image has no objects. Of several annotations of a task the one marked as ground truth is taken, else the
    latest.

    Args:
        path: The JSON.
        images: Folder of the images; found near the JSON if not given.
        fallback: Where they are looked for if they are not near it.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If it is not such a file, or nobody has labeled a task yet.
    """
    content = _content(path)
    faults: dict[str, list[Fault]] = {}

    def note(fault: Fault) -> None:
        faults.setdefault(fault.kind, []).append(fault)

    tasks = [task for number, one in enumerate(content, 1) if (task := _task(path, number, one, note)) is not None]
    if not tasks and content and not any(not fault.harmless for kind in faults.values() for fault in kind):
        raise InputError(
            f"{path} has {len(content):,} tasks of Label Studio and none of them is labeled: predictions become labels "
            "when somebody submits them there; export the project then"
        )
    for kind in faults.values():
        on_fault(kind)
    entries = [_entry(number, task) for number, task in enumerate(tasks, 1)]
    if any(_needs_size(task, entry) for task, entry in zip(tasks, entries, strict=True)):
        images, entries = find_listed(path, entries, images, fallback, on_fault)
    by_id = {entry["id"]: entry for entry in entries}
    objects: list[NamedObject] = []
    faults.clear()
    for number, task in enumerate(tasks, 1):
        if number in by_id:
            objects += _objects(number, task, by_id[number], note)
    for kind in faults.values():
        on_fault(kind)
    return named_annotations(
        path, "label-studio", entries, objects, images=images, fallback=fallback, on_fault=on_fault
    )


def _content(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {str(error).splitlines()[0][:200]}") from error
    tasks = content if isinstance(content, list) else [content]
    if not all(isinstance(one, dict) for one in tasks[:1]) or not tasks:
        raise InputError(f"{path} is not an export of Label Studio: it holds {brief(content)}")
    return tasks


def _task(path: Path, number: int, one: Any, note: Any) -> _Task | None:
    """A task that is labeled; None for another one, of which the reason is noted."""
    if not isinstance(one, dict):
        note(Fault("task entry", f"{path}: task {number} must be an object, not {brief(one)}"))
        return None
    source = f"{path}: task {one['id'] if isinstance(one.get('id'), int) else number}"
    if any(isinstance(one.get(key), list) for key in _DRAWN) or isinstance(one.get("data"), dict):
        data = one.get("data")
        results = _chosen_results(one, source, note)
    else:
        data, results = one, _plain_results(one)
    name = _image_of(data)
    if name is None:
        note(Fault("task without an image", f"{source} names no image: its data are {brief(data)}"))
        return None
    if results is None:
        said = f"{source} ({name[:200]}) has no submitted annotation and is left out"
        note(Fault("task that is not labeled", said, harmless=True))
        return None
    return _Task(name, [region for place, two in enumerate(results, 1) for region in _regions(two, place, source)])


def _chosen_results(task: Mapping[str, Any], source: str, note: Any) -> list[Any] | None:
    """What was drawn in the annotation that counts; None where there is none."""
    drawn: list[Any] = next((task[key] for key in _DRAWN if isinstance(task.get(key), list)), [])
    submitted = [
        one
        for one in drawn
        if isinstance(one, dict) and not one.get("was_cancelled") and isinstance(one.get("result"), list)
    ]
    if not submitted:
        return None
    best = max(submitted, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at") or "")))
    if len(submitted) > 1:
        said = f"{source} has {len(submitted)} annotations, of which the ground truth, or the latest one, is read"
        note(Fault("task with several annotations", said, harmless=True))
    found: list[Any] = best["result"]
    return found


def _plain_results(task: Mapping[str, Any]) -> list[Any] | None:
    """What was drawn in a task of ``JSON-MIN``, beside its data; None where it is not labeled."""
    lists = [
        value for value in task.values() if isinstance(value, list) and all(isinstance(one, dict) for one in value)
    ]
    found = [one for value in lists for one in value if any(key in one for key in ("x", "points", "radiusX"))]
    if not found and not any(key in task for key in ("annotation_id", "annotator", "lead_time")):
        return None
    return [{"value": one, **one} for one in found]


def _image_of(data: Any) -> str | None:
    """What a task's data say of where its image is: ``image``, or what else looks like the name of one."""
    if not isinstance(data, dict):
        return None
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    named = texts.get("image") or next((text for text in texts.values() if _is_image_place(text)), None)
    return None if named is None else named.replace("\\", "/")


def _is_image_place(text: str) -> bool:
    plain = unquote(text)
    return is_image(plain.partition("?d=")[2] or plain.partition("?")[0])


def _regions(result: Any, place: int, source: str) -> Iterator[_Region]:
    """The result as a region, unless it is an answer without a place, such as a choice."""
    value = result.get("value") if isinstance(result, dict) else None
    if not isinstance(value, dict):
        return
    kind = str(result.get("type") or _kind_of(value))
    shape = next((one for one in _SHAPES if kind.startswith(one)), None)
    if shape is None and kind != "labels" and kind not in _WITHOUT_BOX:
        return
    shape = shape or (kind if kind in _WITHOUT_BOX else _kind_of(value))
    sides = as_side(result.get("original_width")), as_side(result.get("original_height"))
    turned = as_number(result.get("image_rotation") or 0) or 0.0
    yield _Region(shape.removesuffix("labels"), value, sides, turned, f"{source}, region {place}")


def _kind_of(value: Mapping[str, Any]) -> str:
    """The shape of a value whose type does not say it."""
    if "points" in value:
        return "polygon"
    if "radiusX" in value:
        return "ellipse"
    return "rectangle" if "height" in value else "brush" if "rle" in value else "keypoint"


def _entry(number: int, task: _Task) -> Entry:
    width, height = next((region.sides for region in task.regions if None not in region.sides), (None, None))
    return {"id": number, "file_name": task.name, "width": width, "height": height}


def _needs_size(task: _Task, entry: Entry) -> bool:
    return bool(task.regions) and entry["width"] is None


def _objects(image: int, task: _Task, entry: Entry, note: Any) -> Iterator[NamedObject]:
    for region in task.regions:
        if region.kind not in _SHAPES:
            said = f"{region.source} is passed over: a {region.kind} has no box"
            note(Fault("shape without a box", said, harmless=True))
            continue
        if region.turned % 360:
            said = f"{region.source} was drawn on an image turned by {region.turned:g} degrees: turn it back, draw anew"
            note(Fault("turned image", said))
            continue
        box = _BOXES[region.kind](region.value, entry["width"], entry["height"]) or [math.nan] * 4
        for label in _labels(region) or [""]:
            yield NamedObject(image, label, box, region.source)


def _labels(region: _Region) -> list[str]:
    """Names of the classes of a region, of which it may have several."""
    value = region.value
    named: list[Any] = next(
        (value[key] for key in (f"{region.kind}labels", "labels") if isinstance(value.get(key), list)), []
    )
    return [str(name).strip() for name in named]


def _numbers(value: Mapping[str, Any], *names: str) -> list[float]:
    """Numbers of a value, nan where there is none."""
    found = (as_number(value.get(name)) for name in names)
    return [math.nan if number is None else number for number in found]


def _rectangle(value: Mapping[str, Any], width: int, height: int) -> Box:
    """The box around a rectangle, which is turned clockwise about its upper left corner."""
    left, top, across, down = _numbers(value, "x", "y", "width", "height")
    x, y, w, h = left * width / 100, top * height / 100, across * width / 100, down * height / 100
    degrees = as_number(value.get("rotation") or 0) or 0.0
    if not degrees:
        return [x, y, w, h]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in ((0, 0), (w, 0), (0, h), (w, h))]
    return _inside(corners, width, height)


def _polygon(value: Mapping[str, Any], width: int, height: int) -> Box | None:
    points = []
    for point in value["points"] if isinstance(value.get("points"), list) else []:
        numbers = [as_number(one) for one in point] if isinstance(point, list) else []
        if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
            return None
        points.append((numbers[0] * width / 100, numbers[1] * height / 100))
    return box_of_points(points)


def _ellipse(value: Mapping[str, Any], width: int, height: int) -> Box:
    x, y, across, down = _numbers(value, "x", "y", "radiusX", "radiusY")
    center, radii = (x * width / 100, y * height / 100), (across * width / 100, down * height / 100)
    return box_of_ellipse(center, radii, as_number(value.get("rotation") or 0) or 0.0)


def _inside(corners: Sequence[tuple[float, float]], width: int, height: int) -> Box:
    """The box around corners, of which some may lie outside of the image though the object does not."""
    return box_of_points([(min(max(x, 0), width), min(max(y, 0), height)) for x, y in corners]) or [math.nan] * 4


_BOXES = {"rectangle": _rectangle, "polygon": _polygon, "ellipse": _ellipse}
