"""Where an analysis gets its labels from: a labeled data set, or what a run's split hid from its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseteacher.data.formats import Annotations, AnnotationSource, labeled_images, read_annotations, with_categories
from denseteacher.data.open import open_data
from denseteacher.data.records import Category, LabeledImages
from denseteacher.errors import InputError
from denseteacher.recipes.schema import Recipe
from denseteacher.runs.folder import RunFolder


class Truth(NamedTuple):
    """Images with all that is known of them."""

    objects: LabeledImages
    ignored: LabeledImages
    """The same images with the regions in which nothing counts (crowds)."""
    source: str

    def spread(self, limit: int) -> "Truth":
        """A sample of at most ``limit`` images, spread over the set."""
        count = len(self.objects.images)
        return self.select(np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(int)).tolist())

    def select(self, positions: list[int]) -> "Truth":
        """The images at these positions."""
        return self._replace(objects=self.objects.select(positions), ignored=self.ignored.select(positions))


def read_truth(source: AnnotationSource, *, categories: Sequence[Category]) -> Truth:
    """A labeled data set of any format.

    Args:
        source: The data set.
        categories: The detector's classes.

    Raises:
        InputError: If it can't be read, or has other classes.
    """
    annotations = with_categories(read_annotations(source), categories)
    return Truth(labeled_images(annotations, bad_boxes="fix"), _ignored(annotations), str(source.path))


def hidden_truth(detector: Path) -> Truth:
    """The images that a run was trained on as unlabeled ones, with the labels that its split left out.

    Args:
        detector: The run folder, or a file in it.

    Raises:
        InputError: If there is no run, or its unlabeled images have no labels.
    """
    run = RunFolder.of(detector)
    recipe = run.recipe() if run.exists else None
    if recipe is None:
        raise InputError(f"{detector} is not in a run folder, so there is no telling what to look at: give --data PATH")
    if recipe.data.split == "none" or recipe.data.unlabeled is not None:
        raise InputError(
            f"the run of {detector} had unlabeled images without labels: give labeled images that it was not trained "
            "on with --data PATH"
        )
    hidden = open_data(recipe.data.model_copy(update={"hidden_labels": True})).hidden
    if hidden is None or not hidden.images:
        raise InputError(f"the split of {detector} left no unlabeled images: give labeled ones with --data PATH")
    return Truth(hidden, _ignored_in(recipe, hidden), f"hidden labels of {run}")


def _ignored(annotations: Annotations) -> LabeledImages:
    """The regions to ignore, as if they were the objects."""
    content = annotations.content
    regions = [one | {"iscrowd": 0} for one in content["annotations"] if one.get("iscrowd", 0)]
    return labeled_images(annotations._replace(content=content | {"annotations": regions}), bad_boxes="fix")


def _ignored_in(recipe: Recipe, hidden: LabeledImages) -> LabeledImages:
    """The regions to ignore in a run's unlabeled images."""
    source = recipe.data.labeled_source
    if source is None:  # the built-in benchmark has none
        boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        count = len(hidden.images)
        return LabeledImages(hidden.images, [boxes] * count, [labels] * count, hidden.categories)
    regions = _ignored(read_annotations(source))
    place = {image.id: index for index, image in enumerate(regions.images)}
    return regions.select([place[image.id] for image in hidden.images])
