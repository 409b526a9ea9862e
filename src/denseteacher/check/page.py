"""What a check has found as one HTML page, with charts of the labels and the images that are unlike them."""

from pathlib import Path

from PIL import Image

from denseteacher.check.pool import PoolComparison
from denseteacher.check.report import CheckReport
from denseteacher.data.images import load_image
from denseteacher.errors import InputError
from denseteacher.files import write_text
from denseteacher.report.gallery import Picture, page_picture
from denseteacher.report.label_charts import label_charts
from denseteacher.report.page import render_page
from denseteacher.visualization.boxes import fitted

_THUMBNAIL = 240  # px


def write_check_page(path: Path, report: CheckReport) -> None:
    """Writes the page.

    Raises:
        RunError: If the disk refuses.
    """
    serious = sum(one.severity != "info" for one in report.findings)
    kinds = "1 kind of fault was" if serious == 1 else f"{serious:,} kinds of fault were"
    summary = f"{kinds} found." if serious else "Nothing wrong was found."
    facts = [(f"{count:,}", f"{subset} images") for subset, count in report.images.items()]
    facts += [(f"{sum(one.objects for one in report.classes):,}", "labeled objects")]
    facts += [(f"{len(report.classes):,}", "classes")]
    page = render_page(
        "check.html.j2",
        title="Check of the data",
        summary=summary,
        facts=facts,
        findings=report.findings,
        charts=label_charts(report.labeled),
        classes=report.classes,
        pool="" if report.pool is None else report.pool.sentence,
        farthest=[] if report.pool is None else _thumbnails(report.pool),
    )
    write_text(path, page)


def _thumbnails(pool: PoolComparison) -> list[Picture]:
    """The farthest images, those that can still be read."""
    pictures = []
    for one in pool.farthest:
        try:
            image = Image.fromarray(load_image(one.record).permute(1, 2, 0).contiguous().numpy())
        except InputError:
            continue
        pictures.append(page_picture(f"{one.record.name}: {one.distance:.1f} times as far", fitted(image, _THUMBNAIL)))
    return pictures
