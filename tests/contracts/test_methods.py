"""What every method keeps, on every detector."""

from typing import get_args

import pytest
import torch

from denseteacher.detectors import DetectorConfig
from denseteacher.methods import (
    ACRST,
    ARSL,
    CSD,
    ISMT,
    STAC,
    ConsistentTeacher,
    DenseTeacher,
    DenseTeacherPlus,
    DynamicThreshold,
    HumbleTeacher,
    InstantTeaching,
    MixPL,
    SoftTeacher,
    Supervised,
    UnbiasedTeacher,
)
from denseteacher.structures import Targets
from support import semi_batch, tensors_of
from support.closeness import assert_close_to_scale

METHODS = [
    Supervised(),
    DenseTeacher(burn_in=10, ratio=0.1),
    DenseTeacher(burn_in=10, ratio=0.1, group_size=1, count_padding=False),
    DenseTeacher(burn_in=10, region="all", box=False, quality=False),
    DenseTeacher(burn_in=10, ratio=0.1, region="suppress"),
    DenseTeacher(burn_in=10, ratio=0.1, mix="both"),
    DenseTeacher(burn_in=10, ratio=0.1, mix="mixup", group_size=1, group_canvas=True),
    DenseTeacher(burn_in=10, ratio=0.1, mix="mosaic", region="ignore"),
    DenseTeacher(burn_in=10, ratio=0.1, region="ignore"),
    UnbiasedTeacher(burn_in=10, threshold=0.1),
    UnbiasedTeacher(burn_in=10, threshold=0.1, box=True),
    UnbiasedTeacher(burn_in=10, threshold=0.99, box=True),
    DynamicThreshold(burn_in=10, threshold=0.1),
    ISMT(burn_in=10, threshold=0.1),
    ACRST(burn_in=10, threshold=0.1, crop_threshold=0.1, crop_side=16),
    ConsistentTeacher(burn_in=10, unlabeled_weight=1),
    STAC(burn_in=10, threshold=0.1),
    InstantTeaching(burn_in=10, threshold=0.005, mix_probability=1),
    InstantTeaching(burn_in=10, threshold=0.005, co_rectify=False),
    MixPL(burn_in=10, threshold=0.1, cache=4, cache_side=48),
    MixPL(burn_in=10, threshold=0.1, cache_side=80, cache_boxes=3),
    SoftTeacher(burn_in=10, threshold=0.1, candidate_threshold=0.1, box_spread=0.5),
    HumbleTeacher(burn_in=10, ratio=0.1),
    HumbleTeacher(burn_in=10, ratio=0.1, mirror=False),
    CSD(burn_in=10, threshold=0),
    ARSL(burn_in=10),
    ARSL(burn_in=10, score_floor=0.02, least_iou=0.1),
    DenseTeacher(burn_in=10, ratio=0.1, half_view=True),
    DenseTeacherPlus(burn_in=10, ratio=0.1, crop_side=16),
    DenseTeacherPlus(burn_in=10, ratio=0.1, crop_side=16, pastes=1, mix="both", half_view=True),
    UnbiasedTeacher(burn_in=10, threshold=0.1, box=True, half_view=True),
    SoftTeacher(burn_in=10, threshold=0.1, candidate_threshold=0.1, box_spread=0.5, half_view=True),
]
SEMI = METHODS[1:]
AFTER = 20  # a step at full weight
DETECTORS = get_args(get_args(DetectorConfig)[0])


@pytest.fixture(params=DETECTORS, ids=lambda config: config.model_fields["name"].default)
def pair(request):
    """A student and a different teacher."""
    torch.manual_seed(0)
    options = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1, "finer_level": True}
    student, teacher = (request.param(**options).build(3) for _ in range(2))
    with torch.no_grad():
        teacher.head.cls.bias += 3  # a teacher that sees something
    return student, teacher.eval()


@pytest.mark.parametrize("method", SEMI, ids=str)
def test_gradient_reaches_the_student_and_never_the_teacher(pair, method):
    student, teacher = pair
    teacher.requires_grad_(True)  # a leak would show even though the trainer's teacher needs no gradient
    losses = method.losses(student, teacher, semi_batch(), AFTER).losses
    sum(value for name, value in losses.items() if name.startswith("unsup/")).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    reached = {name.split(".")[0] for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert {"backbone", "head"} <= reached
    assert student.head.cls.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_before_the_burn_in_ends_a_method_is_supervised(pair, method):
    student, teacher = pair
    expected = Supervised().losses(student.eval(), teacher, semi_batch(), 3).losses
    found = method.losses(student, teacher, semi_batch(), 3).losses
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not method.needs_unlabeled(3)


@pytest.mark.parametrize(
    ("method", "weights", "factors"),
    [
        (
            DenseTeacher(burn_in=10, ratio=0.1, cls_weight=1, box_weight=1, quality_weight=1),
            {"cls_weight": 2, "box_weight": 3, "quality_weight": 5},
            {"cls": 2, "box": 3, "quality": 5},
        ),
        (
            UnbiasedTeacher(burn_in=10, threshold=0.1, box=True, cls_weight=1),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            DynamicThreshold(burn_in=10, threshold=0.1, cls_weight=1),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            ISMT(burn_in=10, threshold=0.1, cls_weight=1),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            ConsistentTeacher(burn_in=10),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            STAC(burn_in=10, threshold=0.1, cls_weight=1, box_weight=1),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            InstantTeaching(burn_in=10, threshold=0.005, mix_probability=1),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            MixPL(burn_in=10, threshold=0.1, cache_side=64, cls_weight=1, box_weight=1),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            SoftTeacher(burn_in=10, threshold=0.1, candidate_threshold=0.1, box_spread=0.5, cls_weight=1),
            {"cls_weight": 2, "box_weight": 3},
            {"cls": 2, "box": 3, "quality": 3},
        ),
        (
            HumbleTeacher(burn_in=10, ratio=0.1, cls_weight=1, box_weight=1, quality_weight=1),
            {"cls_weight": 2, "box_weight": 3, "quality_weight": 5},
            {"cls": 2, "box": 3, "quality": 5},
        ),
        (
            DenseTeacher(burn_in=10, ratio=0.1, half_view=True),
            {"half_view_weight": 3},
            {"half/cls": 3, "half/box": 3, "half/quality": 3, "cls": 1, "box": 1, "quality": 1},
        ),
        (CSD(burn_in=10, threshold=0), {"unlabeled_weight": 2}, {"cls": 2, "box": 2}),
        (
            ARSL(burn_in=10, cls_weight=1, box_weight=1, quality_weight=1),
            {"cls_weight": 2, "box_weight": 3, "quality_weight": 5},
            {"cls": 2, "box": 3, "quality": 5},
        ),
    ],
    ids=[
        "dense_teacher",
        "unbiased_teacher",
        "dynamic_threshold",
        "ismt",
        "consistent_teacher",
        "stac",
        "instant_teaching",
        "mixpl",
        "soft_teacher",
        "humble_teacher",
        "half_view",
        "csd",
        "arsl",
    ],
)
def test_weights_scale_linearly(pair, method, weights, factors):
    student, teacher = pair
    student.eval()
    once, twice = method, method.model_copy(update=weights)
    first = once.losses(student, teacher, semi_batch(), AFTER).losses
    second = twice.losses(student, teacher, semi_batch(), AFTER).losses
    branches = [name for name in factors if f"unsup/{name}" in first]  # RetinaNet has no quality
    assert {"cls", "box"} <= set(branches)
    for name in branches:
        factor = factors[name]
        assert_close_to_scale(second[f"unsup/{name}"], factor * first[f"unsup/{name}"])
    half = once.losses(student, teacher, semi_batch(), 15).losses  # the middle of the ramp
    for name in branches:
        assert_close_to_scale(half[f"unsup/{name}"], first[f"unsup/{name}"] / 2)
        if f"sup/{name}" in first:
            assert_close_to_scale(half[f"sup/{name}"], first[f"sup/{name}"])


@pytest.mark.parametrize("method", SEMI, ids=repr)
def test_one_weight_is_of_all_unlabeled_losses(pair, method):
    pair[0].eval()
    once = method.losses(*pair, semi_batch(), AFTER)
    thrice = method.model_copy(update={"unlabeled_weight": 3.0}).losses(*pair, semi_batch(), AFTER)
    assert any(name.startswith("unsup/") for name in once.losses)
    for name, value in once.losses.items():
        assert_close_to_scale(thrice.losses[name], value * (3 if name.startswith("unsup/") else 1))
    never = method.model_copy(update={"unlabeled_weight": 0.0})
    assert not never.needs_unlabeled(AFTER)
    assert all(name.startswith("sup/") for name in never.losses(*pair, semi_batch(), AFTER).losses)


@pytest.mark.parametrize(
    "method",
    [DenseTeacher(burn_in=10, region="all", box=False, quality=False), UnbiasedTeacher(burn_in=10, threshold=0.1)],
    ids=["dense_teacher", "unbiased_teacher"],
)
def test_switched_off_branches_have_no_loss(pair, method):
    losses = method.losses(*pair, semi_batch(), AFTER).losses
    assert {name for name in losses if name.startswith("unsup/")} == {"unsup/cls"}


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_batch_is_not_changed(pair, method):
    batch, untouched = semi_batch(), semi_batch()
    method.losses(*pair, batch, AFTER)
    pairs = list(zip(tensors_of(batch), tensors_of(untouched), strict=True))
    assert len(pairs) > 10
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_is_remembered_is_replaced_and_never_changed(pair, method):
    state = method.initial_state(classes=3, unlabeled=20)
    for seed in range(2):
        before = {name: value.clone() for name, value in state.items()}
        output = method.losses(*pair, semi_batch(seed), AFTER, state)
        assert all(value.isfinite() for value in output.losses.values())
        assert all(torch.equal(state[name], before[name]) for name in before)
        assert bool(output.state) == bool(state)
        if output.state:
            assert [(name, value.shape, value.dtype) for name, value in sorted(output.state.items())] == [
                (name, value.shape, value.dtype) for name, value in sorted(state.items())
            ]
            assert any(not torch.equal(output.state[name], state[name]) for name in state)
            assert not method.losses(*pair, semi_batch(seed), 3, state).state  # nothing is learned before its time
            state = output.state


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_images_without_boxes_give_finite_losses(pair, method):
    empty = Targets(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.bool))
    batch = semi_batch()
    batch = batch._replace(labeled=batch.labeled._replace(targets=empty))
    losses = method.losses(*pair, batch, AFTER).losses
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_step_may_hold_four_times_as_many_unlabeled_images(pair, method):
    student, teacher = pair
    batch = semi_batch(labeled=2, unlabeled=8)
    losses = method.losses(student, teacher, batch, AFTER).losses
    alone = Supervised().losses(student.eval(), teacher, batch, AFTER).losses
    assert losses.keys() >= alone.keys()
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert student.head.cls.weight.grad.isfinite().all()
    assert student.head.cls.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_losses_are_fp32_under_bf16_autocast(pair, method):
    with torch.autocast("cpu", torch.bfloat16):
        output = method.losses(*pair, semi_batch(), AFTER)
    assert {value.dtype for value in output.losses.values()} == {torch.float32}
    assert all(value.isfinite() for value in output.losses.values())


def test_auto_must_be_resolved(pair):
    with pytest.raises(ValueError, match="ratio is still 'auto'"):
        DenseTeacher(ratio="auto", burn_in=10).losses(*pair, semi_batch(), AFTER)
    with pytest.raises(ValueError, match="burn_in is still 'auto'"):
        DenseTeacher(burn_in="auto").losses(*pair, semi_batch(), AFTER)


def on_halves(method, student, teacher, batch):
    """Losses of the student's predictions on the half-size views, against what the teacher says of the whole ones."""
    with torch.no_grad():
        task = method.student_task(teacher, teacher(batch.unlabeled.weak), batch.labeled, batch.unlabeled, None)
    count = len(task.images.sizes)
    output = student(task.images, count)
    return task.loss(
        output._replace(
            **{
                name: getattr(output, name)[count:]
                for name in ("logits", "deltas", "quality", "valid")
                if getattr(output, name) is not None
            }
        )
    )


@pytest.mark.parametrize("method", [method for method in SEMI if method.needs_finer_level], ids=str)
def test_half_size_views_have_the_targets_of_the_whole_ones(pair, method):
    student, teacher = pair
    student.eval()
    batch = semi_batch()
    losses = method.losses(student, teacher, batch, AFTER).losses
    without = method.model_copy(update={"half_view": False}).losses(student, teacher, batch, AFTER).losses
    assert losses.keys() - without.keys() == {name.replace("/", "/half/") for name in without if "unsup" in name}
    for name, value in without.items():
        assert_close_to_scale(losses[name], value)
    for name, value in on_halves(method, student, teacher, batch).items():
        assert_close_to_scale(losses[f"unsup/half/{name}"], value)
    sum(value for name, value in losses.items() if "half" in name).backward()
    assert all(value.grad.abs().sum() > 0 for value in student.backbone.finer.parameters())
