"""The unlabeled images of a run, from one place or several."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from denseteacher.config import Config
from denseteacher.data.coco20cls import COCO20CLS_COUNT, only_voc_classes
from denseteacher.data.formats import Fault, Report, open_unlabeled, read_annotations, refuse
from denseteacher.data.records import ImageRecord, JoinedImages, UnopenedImages
from denseteacher.data.streams import StreamedImages, Url, WrittenStream, is_url, write_stream
from denseteacher.errors import InputError


class UnlabeledSource(Config):
    """One of several places with unlabeled images."""

    path: Url | Path
    """As ``DataConfig.unlabeled``."""
    images: Path | None = None
    """Folder of the files that a JSON or list at ``path`` names; found near it if not given."""
    only: Literal["voc"] | None = None
    """``voc`` takes those images of a COCO data set that show objects of VOC's twenty classes and no others."""

    def below(self, root: Path) -> "UnlabeledSource":
        """The source with paths below a folder, where they are relative."""
        images = None if self.images is None else root / self.images
        return UnlabeledSource(path=self.path if is_url(self.path) else root / self.path, images=images, only=self.only)


def open_sources(
    sources: Sequence[UnlabeledSource], *, fallback: Path | None = None, report: Report = refuse
) -> tuple[Sequence[ImageRecord], tuple[str, ...]]:
    """The images of all sources, and what there is to say about them.

    Args:
        sources: Any number of them.
        fallback: Where the images of a JSON are looked for if they are not near it.
        report: Told about faults of entries.

    Raises:
        InputError: If there are no images at one of them, or ``report`` raises.
    """
    found = [_open(source, fallback, report) for source in sources]
    chosen = sum(len(images) for source, images in zip(sources, found, strict=True) if source.only is not None)
    notes = (f"COCO20cls: {chosen:,} images; the list that is known has {COCO20CLS_COUNT:,}",) if chosen else ()
    if len(found) == 1:
        return found[0], notes
    for images in found:
        if isinstance(images, StreamedImages):
            raise InputError(f"{images.source} is a LitData data set, which goes with no other unlabeled images")
    if any(isinstance(images, UnopenedImages) for images in found):
        return JoinedImages(found), notes
    records = (record for images in found for record in images)  # ids of several sources would stand twice
    return [replace(record, id=number) for number, record in enumerate(records, 1)], notes


def _open(source: UnlabeledSource, fallback: Path | None, report: Report) -> Sequence[ImageRecord]:
    if source.only is None:
        return open_unlabeled(source.path, source.images, fallback=fallback, report=report)
    return only_voc_classes(read_annotations(Path(source.path), source.images, report=report))


def stream_sources(sources: Sequence[UnlabeledSource], output: Path) -> WrittenStream:
    """``write_stream`` of the images of all sources, but for those that are missing or can't be read."""
    unreadable: list[str] = []

    def pass_over(faults: Sequence[Fault]) -> None:
        unreadable.extend(fault.message for fault in faults)

    written = write_stream(open_sources(sources, report=pass_over)[0], output)
    return written._replace(unreadable=[*unreadable, *written.unreadable])
