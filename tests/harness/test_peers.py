"""What others are measured with does the same work as what is ours."""

import torch

from conftest import TINY
from denseteacher.data.open import TrainingData
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import build_steps
from harness.data import made_up_files
from harness.peers import pil_batch


def test_loading_in_pil_makes_the_same_weak_views(tmp_path):
    recipe = load_recipe("custom", [*TINY, "data.labeled_batch=4", "data.unlabeled_batch=4"])
    data = made_up_files(tmp_path, 8)
    dataset = build_steps(recipe, TrainingData(data, data.images)).with_unlabeled()
    for step in range(3):
        loaded, (weak, strong) = dataset.load(step), pil_batch(dataset.plan(step))
        own = torch.cat([loaded.labeled.pixels, loaded.unlabeled.weak.pixels])
        assert (own.short() - weak.short()).abs().max() <= 1
        assert strong.shape == weak.shape == own.shape
        assert not torch.equal(strong, weak)
