"""What a run says of its health: the numbers against counting by hand, and the sentences on good and bad ones."""

import math

import numpy as np
import pytest
import torch

from conftest import TINY
from denseteacher.data.open import open_data
from denseteacher.methods import DenseTeacher, UnbiasedTeacher
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import build_steps
from denseteacher.structures import Detections
from denseteacher.training import unlabeled_sample
from denseteacher.training.health import health_notes, summary
from denseteacher.training.unlabeled_sample import UnlabeledSample, class_divergence

GOOD = {"health/class_kl": 0.05, "health/images_without": 0.1, "health/labeled_without": 0.05, "health/score": 0.6}


def row(step, teacher, student=None, **changes):
    numbers = GOOD | {f"health/{name}": value for name, value in changes.items()}
    return {"step": step, "teacher/AP": teacher, "student/AP": teacher - 1 if student is None else student} | numbers


def bad(*rows, burn_in=100):
    return [note.sentence for note in health_notes(rows, burn_in=burn_in) if not note.good]


def test_a_healthy_run_is_said_to_be_so():
    notes = health_notes([{"step": 50, "loss": 1.0}, row(100, 30.0), row(200, 33.0)], burn_in=100)
    assert len(notes) == 4
    assert all(note.good for note in notes)
    (line,) = summary(notes)
    assert line.startswith("health: pseudo-labels have about the classes of the labels (KL 0.05); 10% of")
    assert "AP 33.0 against 32.0" in line


@pytest.mark.parametrize(
    ("now", "said", "advice"),
    [
        (row(200, 33, class_kl=1.8), "classes of the pseudo-labels are not those", "method.burn_in"),
        (row(200, 33, images_without=0.8), "sure of nothing in 80% of the unlabeled", "method.threshold"),
        (row(200, 5, 35), "the teacher is far behind the student (AP 5.0 against 35.0)", "ema.decay"),
        (row(200, 33, 3), "the student is far behind the teacher", "optim.lr"),
        (row(200, 20, score=0.9), "gets surer and worse", "method.unlabeled_weight"),
        (row(200, 20, score=0.2), "gets worse and unsure", "method.unlabeled_weight"),
        (row(200, 20), "the teacher gets worse (AP 30.0 at step 100, 20.0 now", "check --pool"),
        (row(200, 33, score=0.2), "scores fade (mean best score of an image 0.60 at step 100, 0.20 now)", "burn_in"),
    ],
)
def test_a_broken_run_is_told_what_to_do(now, said, advice):
    sentences = bad(row(100, 30.0), now)
    assert len([one for one in sentences if said in one and advice in one]) == 1, sentences
    others = [one for one in sentences if said not in one]
    assert all("behind" in one or "worse" in one for one in others)  # a lost teacher is behind and worse
    assert sum("health: warning" in line for line in summary(health_notes([row(100, 30.0), now], burn_in=100))) == len(
        sentences
    )


def test_what_is_no_fault():
    assert bad(row(100, 30), row(200, 29)) == []  # a little noise
    assert bad(row(100, 0.0, 0.5), row(200, 0.0, 0.9)) == []  # nothing is learned yet
    sparse = row(200, 33, images_without=0.8, labeled_without=0.7)
    assert bad(row(100, 30), sparse) == []  # most images are empty, and the labels say so
    assert bad(row(100, 30), {**row(200, 33), "health/class_kl": None}) == []
    worst = row(100, 5, 35, class_kl=2.0)
    assert health_notes([worst], burn_in=200) == []  # pseudo-labels are not used yet
    assert health_notes([worst], burn_in=None) == []
    assert health_notes([{"step": 300, "teacher/AP": 3.0}], burn_in=200) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_is_that_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    labels, pseudo = rng.integers(0, 9, 6).astype(float), rng.integers(0, 30, 6).astype(float)
    total = 0.0
    for own, other in zip(labels, pseudo, strict=True):
        wanted = own / sum(labels)
        given = (other + len(labels) * wanted) / (sum(pseudo) + len(labels))
        total += wanted * math.log(wanted / given) if own else 0.0
    assert class_divergence(labels, pseudo) == pytest.approx(total)
    assert class_divergence(labels, 7 * labels) == pytest.approx(0, abs=1e-12)
    lost = np.where(np.arange(6) == labels.argmax(), 0, 1000.0 * labels + 1)
    assert class_divergence(labels, lost) > class_divergence(labels, pseudo) or class_divergence(labels, lost) > 0.4


def test_a_sample_is_fixed_and_counts_as_by_hand(coco, unlabeled, monkeypatch):
    recipe = load_recipe("custom", [*TINY, f"data.labeled={coco}", f"data.unlabeled={unlabeled}"])
    data = open_data(recipe.data)
    steps = build_steps(recipe, data)
    scores = {size: torch.tensor(values) for size, values in {(72, 60): [0.9, 0.4], (72, 90): [0.2, 0.1]}.items()}
    seen = []

    def detect(teacher, batch, sizes, device):
        seen.append(sizes)
        labels = torch.tensor([0, 2])
        return [Detections(torch.zeros(2, 4), scores[min(size), max(size)][:2], labels) for size in map(sized, sizes)]

    def sized(size):
        return (72, 60) if min(size) == 60 else (72, 90)

    scores = {(60, 72): scores[72, 60], (72, 90): scores[72, 90]} | scores
    monkeypatch.setattr(unlabeled_sample, "detect_batch", detect)
    sample = UnlabeledSample(
        steps, believed_above=0.3, view=recipe.evaluation.view, batch_size=4, device=torch.device("cpu")
    )
    before = torch.get_rng_state()
    first = sample(None)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(map(len, seen)) == 6  # the whole pool, each once
    assert first["health/images_without"] == 0.5
    assert first["health/labeled_without"] == np.mean([not len(boxes) for boxes in data.labeled.boxes])
    assert first["health/score"] == pytest.approx((0.9 + 0.2) / 2)
    counts = np.bincount(np.concatenate(data.labeled.labels), minlength=3).astype(float)
    assert first["health/class_kl"] == class_divergence(counts, np.array([3.0, 0, 3.0]))
    assert sample(None) == first
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_what_counts_as_a_pseudo_label_is_the_methods_own():
    assert UnbiasedTeacher(threshold=0.7).believed_above == 0.7
    assert DenseTeacher().believed_above == 0.3
