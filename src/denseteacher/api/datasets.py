"""Functions on data sets: what is wrong with one, its parts, and a form that is read from a bucket."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from denseteacher.api.arguments import as_list, as_texts, given_paths
from denseteacher.check import CheckReport, check_data, write_check_page
from denseteacher.data.choices import Format, Protocol
from denseteacher.data.config import UnlabeledSource
from denseteacher.data.formats import AnnotationSource, SplitFiles, read_annotations, write_split
from denseteacher.data.formats.litdata import WrittenStream
from denseteacher.data.open import draw_split, stream_sources
from denseteacher.errors import InputError
from denseteacher.recipes.schema import load_recipe


def check(
    data: str | Path,
    *,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    unlabeled: str | Path | Sequence[str | Path] | None = None,
    val: str | Path | None = None,
    val_subset: str | None = None,
    recipe: str | Path = "custom",
    overrides: Mapping[str, Any] | Iterable[str] = (),
    quick: bool = False,
    pool: bool | None = None,
    html: str | Path | None = None,
) -> CheckReport:
    """Looks for whatever is wrong with a data set, and measures what a recipe would make of it.

    Args:
        data: Annotations of any format (see ``data.formats.read_annotations``).
        images: Folder of its images; found near ``data`` if not given.
        format: The format of ``data`` and ``val``; detected if not given.
        subset: The part of ``data``, where it has several.
        unlabeled: As for ``train``.
        val: Annotations to evaluate on.
        val_subset: The part of ``val``, where it has several.
        recipe: Name of a built-in recipe, or path of a YAML file.
        overrides: As for ``train``.
        quick: Do not read the image files.
        pool: Whether to compare unlabeled images with labeled ones by the features of the recipe's backbone; True
            fetches its weights. None does it where images are read and the weights are on this machine.
        html: Page to write, with charts of the labels.

    Raises:
        InputError: If something given is wrong, or the data can't be read at all.
        RunError: If the disk refuses the page.
    """
    # the recipe's own paths are those of other data
    paths = ("builtin", "root", "images", "unlabeled", "unlabeled_images", "val", "val_images")
    given: dict[str, Any] = {f"data.{key}": None for key in paths}
    given |= given_paths(labeled=data, images=images, unlabeled=unlabeled, val=val)
    given |= {"data.format": format, "data.subset": subset, "data.val_subset": val_subset}
    report = check_data(load_recipe(recipe, [*as_texts(given), *as_texts(overrides)]), quick=quick, pool=pool)
    if html is not None:
        write_check_page(Path(html), report)
    return report


def split(
    data: str | Path,
    *,
    output: str | Path,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    percent: float | None = None,
    count: int | None = None,
    fold: int = 1,
    seed: int = 0,
    protocol: Protocol = "seeded",
    ids: str | Path | None = None,
) -> SplitFiles:
    """Cuts a labeled data set into a labeled and an unlabeled part.

    Args:
        data: Annotations of any format (see ``data.formats.read_annotations``).
        output: Folder for ``labeled.json`` and ``unlabeled.json``, which name files as ``data`` does.
        images: Folder of its images, for formats that need them.
        format: The format of ``data``; detected if not given.
        subset: The part of ``data``, where it has several.
        percent: Share of labeled images.
        count: Number of labeled images, instead of a share.
        fold: Which of the splits of this size.
        seed: Seed of the draw.
        protocol: ``seeded``; ``stratified``, evenly over the classes; ``published``, COCO-Standard's table for
            train2017; or ``stac``, with replacement.
        ids: File of the labeled images' ids, instead of a draw.

    Returns:
        The two files, and the folder of the images that they name.
    """
    if sum(value is not None for value in (percent, count, ids)) != 1:
        raise InputError("split needs exactly one of --percent, --count and --ids")
    annotations = read_annotations(AnnotationSource.of(data, images, format, subset), check_files=False)
    how = protocol if ids is None else Path(ids)
    chosen = draw_split(annotations, how, percent=percent, count=count, fold=fold, seed=seed)
    return write_split(annotations, chosen.labeled_ids, Path(output))


def stream(
    source: str | Path | Sequence[str | Path], *, output: str | Path, images: str | Path | None = None
) -> WrittenStream:
    """Writes unlabeled images as a LitData data set (``data.formats.litdata``).

    Args:
        source: As ``unlabeled`` of ``train``.
        output: A folder, new or empty.
        images: Folder that a list's or a JSON's paths are relative to.

    Raises:
        InputError: If none of the images can be read, LitData is not installed, or ``output`` is not empty.
        RunError: If the disk refuses.
    """
    folder = None if images is None else Path(images)
    sources = [UnlabeledSource(path=Path(place), images=folder) for place in as_list(source)]
    return stream_sources(sources, Path(output))
