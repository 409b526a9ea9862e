"""Humble Teacher: the teacher's mean over mirror images, its proposals and the losses against slow versions."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import HumbleTeacher
from denseteacher.pseudo_labels.flip_ensemble import belief_of, mirror_back, mirror_ensemble, mirror_images
from denseteacher.pseudo_labels.proposals import balanced_proposals
from denseteacher.structures import DenseOutput, chunk
from support import giou_rows, image_batch, semi_batch, sigmoid64
from support.closeness import assert_close_to_scale

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}


@pytest.fixture(params=[FCOS, RetinaNet])
def detector(request):
    torch.manual_seed(0)
    return request.param(num_classes=3, **SMALL).eval()


def _random_output(detector, seed, *, batch, side=64):
    rng = torch.Generator().manual_seed(seed)
    anchors = detector.anchors((side, side), torch.device("cpu"))
    count = len(anchors)
    scale = 3.0 if isinstance(detector, FCOS) else 0.3
    return DenseOutput(
        torch.randn(batch, count, 3, generator=rng) * 2 - 2,
        torch.rand(batch, count, 4, generator=rng) * scale,
        torch.randn(batch, count, generator=rng) if isinstance(detector, FCOS) else None,
        anchors,
        torch.ones(batch, count, dtype=torch.bool),
    )


def test_the_output_is_that_of_images_and_mirror_images(detector):
    batch = semi_batch()
    with torch.no_grad():
        both = HumbleTeacher().teacher_output(detector, detector, batch.unlabeled)
        plain, mirrored = chunk(both, 2)
        assert_close_to_scale(plain.logits, detector(batch.unlabeled.weak).logits)
        assert_close_to_scale(mirrored.logits, detector(mirror_images(batch.unlabeled.weak)).logits)
        assert len(HumbleTeacher(mirror=False).teacher_output(detector, detector, batch.unlabeled).logits) == 2


def test_the_ensemble_is_the_mean_where_there_are_two(detector):
    images = image_batch(0, batch=2, height=64, width=64, sizes=[[64, 64], [64, 40]])
    plain, mirrored = (_random_output(detector, seed, batch=2) for seed in (1, 2))
    valid = torch.stack([(plain.anchors[:, 0] + plain.anchors[:, 2]) / 2 < width for width in (64, 40)])
    plain, mirrored = plain._replace(valid=valid), mirrored._replace(valid=valid)
    belief = mirror_ensemble(detector, plain, mirrored, images)
    back = mirror_back(detector, mirrored, images)
    assert back.valid.any()
    assert not back.valid.all()
    alone = belief_of(detector, plain)
    for found, one, other in (
        (belief.scores, alone.scores, back.logits.sigmoid()),
        (belief.boxes, alone.boxes, back.boxes),
        (belief.quality, alone.quality, None if back.quality is None else back.quality.sigmoid()),
    ):
        if one is None:
            assert found is None
            continue
        assert_close_to_scale(found[back.valid], ((one + other) / 2)[back.valid])
        assert torch.equal(found[~back.valid], one[~back.valid])
    assert torch.equal(belief.valid, valid)


def test_an_ensemble_of_mirrored_predictions_is_what_it_was(detector):
    """A detector that sees the same in the mirror image: nothing changes where w is a multiple of the strides."""
    images = image_batch(0, batch=2, height=64, width=64)
    plain = _random_output(detector, 1, batch=2)
    alone = belief_of(detector, plain)
    back = mirror_back(detector, plain, images)
    index = torch.arange(plain.logits.shape[1]).expand(2, -1)[..., None].float()
    partner = mirror_back(detector, plain._replace(logits=index.repeat(1, 1, 3)), images).logits[..., 0].long()
    logits = plain.logits.gather(1, partner[..., None].expand_as(plain.logits))
    belief = mirror_ensemble(detector, plain, plain._replace(logits=logits), images)
    assert_close_to_scale(belief.scores[back.valid], alone.scores[back.valid])


@pytest.mark.parametrize("ratio", [0.02, 0.2, 0.7, 1.0])
def test_proposals_are_the_richest_and_as_many_others(ratio):
    rng = torch.Generator().manual_seed(0)
    richness = torch.rand(4, 200, generator=rng)
    valid = torch.arange(200).expand(4, 200) < torch.tensor([[200], [120], [31], [1]])
    chosen = balanced_proposals(richness, valid, ratio=ratio, draws=torch.rand(4, generator=rng))
    assert not (chosen & ~valid).any()
    for image in range(4):
        real = int(valid[image].sum())
        half = max(1, int(real * ratio / 2))
        assert chosen[image].sum() == min(2 * half, real)
        best = richness[image].masked_fill(~valid[image], -1).argsort(descending=True)[:half]
        assert chosen[image, best].all()


def test_an_image_without_locations_has_no_proposals():
    nothing = torch.zeros(2, 50, dtype=torch.bool)
    assert not balanced_proposals(torch.rand(2, 50), nothing, ratio=0.5, draws=torch.rand(2)).any()


def test_each_other_location_is_as_likely_a_proposal():
    richness = torch.linspace(1, 0, 300).repeat(2000, 1)
    draws = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    chosen = balanced_proposals(richness, torch.ones(2000, 300, dtype=torch.bool), ratio=0.2, draws=draws)
    assert chosen[:, :30].all()
    share = chosen[:, 30:].float().mean(0)
    assert (chosen[:, 30:].sum(1) == 30).all()
    assert share.min() > 0.06  # 0.111 with a deviation of 0.007, and what evenness costs in exactness
    assert share.max() < 0.17
    assert torch.equal(
        chosen, balanced_proposals(richness, torch.ones(2000, 300, dtype=torch.bool), ratio=0.2, draws=draws)
    )


@pytest.mark.parametrize("mirror", [True, False])
def test_losses_agree_with_numpy(detector, mirror):
    method = HumbleTeacher(ratio=0.2, mirror=mirror, cls_weight=1, box_weight=1, quality_weight=1)
    batch = semi_batch(3)
    teacher_output = _random_output(detector, 5, batch=4 if mirror else 2)
    student = _random_output(detector, 6, batch=2)
    student_task = method.student_task(detector, teacher_output, *batch, None)
    losses = student_task.loss(student)

    belief = method.belief(detector, teacher_output, batch.unlabeled.weak)
    richness = belief.scores.amax(-1)
    chosen = balanced_proposals(richness, belief.valid, ratio=0.2, draws=batch.unlabeled.random[:, 0])
    assert student_task.metrics["pseudo/locations"] == chosen.sum() / 2
    assert len(richness) == 2
    logits, targets = student.logits[chosen].double().numpy(), belief.scores[chosen].double().numpy()
    p = sigmoid64(logits)
    divergence = (targets * np.log(targets / p) + (1 - targets) * np.log((1 - targets) / (1 - p))).sum(1)
    assert_close_to_scale(losses["cls"], divergence.mean())
    weight = targets.max(1)
    overlap = giou_rows(detector.decode(student).boxes[chosen].numpy(), belief.boxes[chosen].numpy())
    assert_close_to_scale(losses["box"], np.average(1 - overlap, weights=weight))
    assert ("quality" in losses) == isinstance(detector, FCOS)
    if "quality" in losses:
        p, target = sigmoid64(student.quality[chosen]), belief.quality[chosen].double().numpy()
        entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p))
        assert_close_to_scale(losses["quality"], np.average(entropy, weights=weight))


def test_nothing_is_learned_elsewhere(detector):
    batch = semi_batch()
    teacher_output, student = _random_output(detector, 5, batch=4), _random_output(detector, 6, batch=2)
    method = HumbleTeacher(ratio=0.1)
    belief = method.belief(detector, teacher_output, batch.unlabeled.weak)
    chosen = balanced_proposals(belief.scores.amax(-1), belief.valid, ratio=0.1, draws=batch.unlabeled.random[:, 0])
    student.logits.requires_grad_()
    student.deltas.requires_grad_()
    sum(method.student_task(detector, teacher_output, *batch, None).loss(student).values()).backward()
    assert torch.equal(student.logits.grad.any(-1), chosen)
    assert not student.deltas.grad[~chosen].any()
    assert student.deltas.grad[chosen].any()


@pytest.mark.parametrize("logit", [-80.0, 80.0])
def test_a_teacher_that_sees_nothing_or_everything_gives_finite_losses(detector, logit):
    teacher_output = _random_output(detector, 5, batch=4)
    teacher_output = teacher_output._replace(logits=torch.full_like(teacher_output.logits, logit))
    student = _random_output(detector, 6, batch=2)
    student.logits.requires_grad_()
    losses = HumbleTeacher(ratio=0.2).student_task(detector, teacher_output, *semi_batch(), None).loss(student)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert student.logits.grad.isfinite().all()


def test_a_share_must_be_set(detector):
    teacher_output = _random_output(detector, 5, batch=4)
    with pytest.raises(ValueError, match="ratio is still 'auto'"):
        HumbleTeacher(ratio="auto").student_task(detector, teacher_output, *semi_batch(), None)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        HumbleTeacher(ratio=1.5)
    without = HumbleTeacher(ratio=0.2, box=False).student_task(detector, teacher_output, *semi_batch(), None)
    assert set(without.loss(_random_output(detector, 6, batch=2))) == {"cls"}
