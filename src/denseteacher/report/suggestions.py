"""Which images to label next as one HTML page: each with the draft of its boxes, and why it was picked."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torchvision.ops import nms

from denseteacher.data.images import load_image
from denseteacher.errors import InputError
from denseteacher.files import write_text
from denseteacher.inference.suggest import Pick
from denseteacher.report.gallery import Picture, page_picture, unjudged_boxes
from denseteacher.report.page import render_page
from denseteacher.structures import Detections

_THUMBNAIL = 480  # px
_SAME_PLACE = 0.5  # IoU
_MEANINGS = (
    (
        "Teacher and student differ",
        "Largest difference of a location's class scores, its mean over the locations where either is high.",
    ),
    ("The mirror image differs", "The same difference, between the image and its mirror image."),
    (
        "Undecided scores",
        "Entropy of the class scores, its mean over the locations where they are high: 0 where each is 0 or 1.",
    ),
    (
        "Rare classes",
        "Score of a detection times how short of its class the labels are, beside the pool and beside equal shares.",
    ),
    ("Distance", "Between the mean features of the detector's backbone, at length 1."),
)


def write_suggestions(
    path: Path, picks: Sequence[Pick], *, pool: int, left_out: int, names: Sequence[str], notes: Sequence[str]
) -> None:
    """Writes the page.

    Args:
        path: The file.
        picks: The suggested images, in their order.
        pool: Images that they were picked from.
        left_out: Images of the pool that are labeled.
        names: By class index.
        notes: What a reader must know.

    Raises:
        RunError: If the disk refuses.
    """
    boxes = sum(len(pick.draft.scores) for pick in picks)
    page = render_page(
        "suggest.html.j2",
        title="Images to label next",
        summary=f"{len(picks):,} of {pool:,} images, the most useful first.",
        facts=[
            (f"{len(picks):,}", "suggested images"),
            (f"{pool:,}", "images of the pool"),
            (f"{left_out:,}", "left out: labeled already"),
            (f"{boxes:,}", "boxes drafted"),
        ],
        notes=notes,
        picks=[(_picture(pick, names), pick) for pick in picks],
        meanings=_MEANINGS,
    )
    write_text(path, page)


def _picture(pick: Pick, names: Sequence[str]) -> Picture:
    """The image with its draft, of boxes on one place the surest; an empty one where it can't be read any more."""
    try:
        image = Image.fromarray(load_image(pick.record).permute(1, 2, 0).contiguous().numpy())
    except InputError:
        image = Image.new("RGB", (pick.record.width, pick.record.height))
    surest = nms(pick.draft.boxes, pick.draft.scores, _SAME_PLACE)
    shown = Detections(*(field[surest] for field in pick.draft))
    return page_picture(pick.record.path.name, image, unjudged_boxes(shown, names), largest=_THUMBNAIL)
