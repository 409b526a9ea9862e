"""Detectors of parts: GFL's and the joint losses against NumPy, weights of assignments, and older spellings."""

from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torchvision.models import detection

from denseteacher.detectors import (
    FCOS,
    GFL,
    DetectorCard,
    FCOSConfig,
    GFLConfig,
    RetinaNet,
    RetinaNetConfig,
    adopt,
    find_initial,
    take_over,
)
from denseteacher.detectors.assigners import Assigner, ATSSAssigner, FCOSAssigner, MaxIoUAssigner
from denseteacher.detectors.codings import DeltaCoding, DistributionCoding, LTRBCoding
from denseteacher.errors import InputError
from denseteacher.ops.assignment import Assignment
from denseteacher.ops.boxes import encode_ltrb
from denseteacher.ops.losses import joint_focal_loss
from denseteacher.recipes.differences import changed_keys
from denseteacher.recipes.files import keys_by_hand
from denseteacher.recipes.schema import load_recipe
from denseteacher.structures import LossWeights, Targets
from support import giou_rows, image_batch, random_targets, sigmoid64
from support.closeness import assert_close_to_scale

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
KINDS = {"fcos": FCOS, "retinanet": RetinaNet, "gfl": GFL}
TARGETS = Targets(
    torch.tensor([[[4.0, 4, 60, 50], [50, 30, 90, 90]], [[10.0, 20, 40, 90], [0, 0, 0, 0]]]),
    torch.tensor([[0, 2], [1, 0]]),
    torch.tensor([[True, True], [True, False]]),
)


def build(name="gfl", **options):
    torch.manual_seed(0)
    return KINDS[name](num_classes=3, **SMALL, **options)


def output_of(detector, seed=0, batch=2):
    """Predictions on images of 96 px that say something."""
    with torch.no_grad():
        output = detector(image_batch(seed, batch=batch, height=96, width=96))
    rng = torch.Generator().manual_seed(seed)
    return output._replace(
        logits=torch.randn(output.logits.shape, generator=rng) - 2,
        deltas=output.deltas + torch.randn(output.deltas.shape, generator=rng),
        quality=None if output.quality is None else torch.randn(output.quality.shape, generator=rng),
    )


def iou_rows(first, second):
    rows = []
    for a, b in zip(first.astype(np.float64), second.astype(np.float64), strict=True):
        w, h = max(0.0, min(a[2], b[2]) - max(a[0], b[0])), max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        rows.append(w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h))
    return np.array(rows)


def at_foreground(detector, output, targets=TARGETS):
    """Rows of the foreground, their classes and boxes, and the assignment."""
    found = detector.assignment(targets, output.anchors, output)
    rows = (found.labels >= 0).numpy()
    return rows, found.labels.numpy()[rows], found.boxes.numpy()[rows], found


def dfl64(logits, boxes, anchors, bins):
    """Distribution focal loss of (n, 4 * bins) logits, a mean over the sides."""
    center, stride = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:3] - anchors[:, :1]
    wanted = np.concatenate([center - boxes[:, :2], boxes[:, 2:] - center], 1) / stride
    logs = log_softmax(logits.astype(np.float64).reshape(-1, 4, bins), axis=-1)
    result = np.zeros(wanted.shape)
    for n, side in np.ndindex(wanted.shape):
        distance = min(max(float(wanted[n, side]), 0.0), bins - 1 - 0.1)
        below = int(distance)
        result[n, side] = -(below + 1 - distance) * logs[n, side, below] - (distance - below) * logs[n, side, below + 1]
    return result.mean(1)


@pytest.mark.parametrize("bins", [17, 5])
def test_gfls_losses_equal_a_slow_version(bins):
    detector = build(coding=DistributionCoding(bins=bins))
    output = output_of(detector)
    losses = detector.supervised_losses(output, TARGETS)
    rows, labels, boxes, _ = at_foreground(detector, output)
    assert rows.sum() > 10

    anchors = np.broadcast_to(output.anchors.numpy(), (2, *output.anchors.shape))[rows]
    predicted, logits = detector.decode_boxes(output).numpy()[rows], output.logits.double().numpy()
    wanted = np.zeros(logits.shape)
    wanted[(*np.nonzero(rows), labels)] = iou_rows(predicted, boxes)
    entropy = np.logaddexp(0, logits) - logits * wanted
    cls = ((wanted - sigmoid64(logits)) ** 2 * entropy).sum() / rows.sum()
    share = sigmoid64(logits).max(-1)[rows]
    each = 2 * (1 - giou_rows(predicted, boxes)) + 0.25 * dfl64(output.deltas.numpy()[rows], boxes, anchors, bins)
    assert losses.keys() == {"cls", "box"}
    assert losses["cls"].item() == pytest.approx(cls, rel=1e-5)
    assert losses["box"].item() == pytest.approx((share * each).sum() / max(share.sum(), 1), rel=1e-4)


def test_a_distribution_s_box_lies_at_its_means_and_its_entropy_says_how_sure_it_is():
    detector = build()
    output = output_of(detector)
    uncertainty = detector.box_uncertainty(output)
    chances = softmax(output.deltas.double().numpy().reshape(2, -1, 4, 17), axis=-1)
    entropy = -(chances * np.log(chances)).sum(-1).mean(-1) / np.log(17)
    assert_close_to_scale(uncertainty.numpy(), entropy)
    distances = encode_ltrb(detector.decode_boxes(output), output.anchors)
    assert_close_to_scale(distances.numpy(), (chances * np.arange(17)).sum(-1))
    for deltas, expected in ((torch.zeros_like(output.deltas), 1.0), (torch.eye(17).repeat(1, 4)[None] * 1e4, 0.0)):
        found = DistributionCoding().uncertainty(deltas)
        assert found.min() >= 0
        assert found.max() <= 1
        assert_close_to_scale(found.numpy(), np.full(found.shape, expected))
    for name in ("fcos", "retinanet"):
        assert build(name).box_uncertainty(output_of(build(name))) is None


def joint64(cls, quality, targets):
    """The joint focal loss in float64, and in long double where a score is nearly 1."""
    cls, quality = cls.astype(np.longdouble), quality.astype(np.longdouble)[..., None]
    positive = -np.logaddexp(0, -cls) - np.logaddexp(0, -quality)
    # 1 - ab = (1 - a) + a (1 - b)
    negative = np.logaddexp(-np.logaddexp(0, cls), -np.logaddexp(0, -cls) - np.logaddexp(0, quality))
    entropy = -targets * positive - (1 - targets) * negative
    return np.abs(np.exp(positive) - targets) ** 2 * np.where(targets > 0, 1, 0.75) * entropy


def test_the_joint_loss_equals_the_formula_at_any_logit():
    rng = np.random.default_rng(0)
    cls, quality = (rng.normal(scale=5, size=shape).astype(np.float32) for shape in ((40, 6), (40,)))
    targets = (rng.random((40, 6)) * (rng.random((40, 6)) < 0.5)).astype(np.float32)
    plain = sigmoid64(cls) * sigmoid64(quality)[:, None]
    naive = -targets * np.log(plain) - (1 - targets) * np.log1p(-plain)
    naive *= (plain - targets) ** 2 * np.where(targets > 0, 1, 0.75)
    found = joint_focal_loss(*(torch.from_numpy(one) for one in (cls, quality, targets)))
    np.testing.assert_allclose(found.numpy(), naive, rtol=1e-4, atol=1e-6)

    edges = np.array([-1e4, -90, -30, 0, 30, 90, 1e4], dtype=np.float32)
    cls, quality, t = (one.ravel() for one in np.meshgrid(edges, edges, np.array([0, 1e-3, 0.5, 1], dtype=np.float32)))
    inputs = [torch.from_numpy(one.copy()).requires_grad_(number < 2) for number, one in enumerate((cls, quality, t))]
    loss = joint_focal_loss(inputs[0][:, None], inputs[1], inputs[2][:, None])
    np.testing.assert_allclose(
        loss.detach().numpy(), joint64(cls[:, None], quality, t[:, None]).astype(float), rtol=1e-5, atol=1e-6
    )
    loss.sum().backward()
    assert all(one.grad.isfinite().all() for one in inputs[:2])
    sure = (cls >= 30) & (quality >= 30) & (t == 0)
    assert (inputs[0].grad.numpy()[sure & (cls <= quality)] > 0).all()  # a wrong sure score is still pulled down


@pytest.mark.parametrize("name", ["fcos", "retinanet", "gfl"])
def test_the_joint_form_trains_the_product_and_scores_with_it(name):
    detector = build(name, cls_loss="joint", quality="iou")
    output = output_of(detector)
    losses = detector.supervised_losses(output, TARGETS)
    rows, labels, boxes, found = at_foreground(detector, output)
    predicted = detector.decode_boxes(output).numpy()[rows]
    fit = iou_rows(predicted, boxes)
    wanted = np.zeros(output.logits.shape)
    wanted[(*np.nonzero(rows), labels)] = fit
    entropy = joint64(output.logits.numpy(), output.quality.numpy(), wanted) * (found.labels != -2).numpy()[..., None]
    assert losses["cls"].item() == pytest.approx(float(entropy.sum()) / rows.sum(), rel=1e-4)
    quality = output.quality.double().numpy()[rows]
    expected = 0.5 * (np.logaddexp(0, quality) - quality * fit).mean()
    assert losses["quality"].item() == pytest.approx(expected, rel=1e-4)
    scores = sigmoid64(output.logits) * sigmoid64(output.quality)[..., None]
    assert_close_to_scale(detector.decode(output).scores.numpy(), scores)
    assert torch.equal(detector.class_scores(output), detector.decode(output).scores)
    best = detector.detect(output, torch.tensor([[96, 96]] * 2))[0].scores[0]
    assert np.abs(scores[0] - best.item()).min() < 1e-6


def test_the_joint_form_weights_boxes_with_their_centerness():
    detector = build("fcos", cls_loss="joint")
    output = output_of(detector)
    rows, _, boxes, _ = at_foreground(detector, output)
    anchors = np.broadcast_to(output.anchors.numpy(), (2, *output.anchors.shape))[rows].astype(np.float64)
    x, y = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    left, right, top, bottom = x - boxes[:, 0], boxes[:, 2] - x, y - boxes[:, 1], boxes[:, 3] - y
    share = np.minimum(left, right) * np.minimum(top, bottom) / (np.maximum(left, right) * np.maximum(top, bottom))
    share = np.sqrt(share)
    each = 1 - giou_rows(detector.decode_boxes(output).numpy()[rows], boxes)
    expected = (each * share).sum() / share.sum()
    assert detector.supervised_losses(output, TARGETS)["box"].item() == pytest.approx(expected, rel=1e-4)


class HalfAssigner(Assigner):
    """FCOS whose foreground fits its boxes by the half; it asks for what it is given."""

    looks: ClassVar[bool] = True
    name: Literal["half"] = "half"
    seen: ClassVar[list] = []

    def assign(self, targets, locations, predictions):
        self.seen.append((targets, locations, predictions))
        found = FCOSAssigner().assign(targets, locations, None)
        return found._replace(weights=(found.labels >= 0) * 0.5)


class SoftAssigner(HalfAssigner):
    soft_labels: ClassVar[bool] = True


def with_assigner(detector, assigner):
    detector.config = detector.config.model_copy(update={"assigner": assigner})
    return detector


@pytest.mark.parametrize("form", ["focal", "quality_focal", "joint"])
def test_assigned_weights_are_in_the_normalizer_and_the_box_loss(form):
    detector = build("fcos", cls_loss=form)
    output = output_of(detector)
    plain = detector.supervised_losses(output, TARGETS)
    halved = with_assigner(detector, HalfAssigner()).supervised_losses(output, TARGETS)
    assert halved["cls"].item() == pytest.approx(2 * plain["cls"].item(), rel=1e-6)
    assert halved["quality"].item() == pytest.approx(plain["quality"].item(), rel=1e-6)
    rows, _, boxes, _ = at_foreground(detector, output)
    errors = 1 - giou_rows(detector.decode_boxes(output).numpy()[rows], boxes)
    assert halved["box"].item() == pytest.approx(errors.mean(), rel=1e-5)


def test_soft_labels_are_the_class_targets():
    detector = with_assigner(build("gfl"), SoftAssigner())
    output = output_of(detector)
    rows, labels, _, _ = at_foreground(detector, output)
    logits, wanted = output.logits.double().numpy(), np.zeros(output.logits.shape)
    wanted[(*np.nonzero(rows), labels)] = 0.5
    entropy = (wanted - sigmoid64(logits)) ** 2 * (np.logaddexp(0, logits) - logits * wanted)
    found = detector.supervised_losses(output, TARGETS)["cls"].item()
    assert found == pytest.approx(entropy.sum() / (0.5 * rows.sum()), rel=1e-5)


@pytest.mark.parametrize("name", ["fcos", "retinanet", "gfl"])
def test_an_assigner_that_looks_sees_every_view(name):
    detector = with_assigner(build(name), HalfAssigner())
    output = output_of(detector, batch=4)
    HalfAssigner.seen.clear()
    weights = LossWeights(boxes=torch.rand(2, 2), background=torch.rand(2, len(output.anchors)))
    losses = detector.supervised_losses(output, TARGETS._replace(ignored=~TARGETS.mask), weights)
    assert all(loss.isfinite() for loss in losses.values())
    ((targets, locations, predictions),) = HalfAssigner.seen
    assert torch.equal(targets.boxes, torch.cat([TARGETS.boxes] * 2))
    assert torch.equal(predictions.boxes, detector.decode_boxes(output))
    assert torch.equal(predictions.logits, output.logits)
    assert locations.strides.unique().tolist() == [8, 16, 32]
    assert torch.equal(locations.strides, 8 * 2.0**locations.levels)
    sides = locations.priors[:, 2:] - locations.priors[:, :2]
    if name == "retinanet":
        assert torch.equal(locations.priors, output.anchors)
    else:
        assert torch.equal(sides, 8 * locations.strides[:, None].expand(-1, 2))
    detector.foreground(TARGETS, output.anchors)
    assert HalfAssigner.seen[-1][2] is None


@pytest.mark.parametrize("name", ["fcos", "retinanet", "gfl"])
@pytest.mark.parametrize("assigner", ["fcos", "max_iou", "atss", "asa", "tal"])
@pytest.mark.parametrize("coding", ["ltrb", "delta", "distribution"])
def test_any_parts_fit_together(name, assigner, coding):
    detector = build(name, assigner={"name": assigner}, coding={"name": coding}, quality="iou")
    output = detector(image_batch(0, batch=2, height=96, width=96))
    weights = LossWeights(boxes=torch.tensor([[0.5, 1.0], [0.2, 0.0]]))
    for targets in (TARGETS, TARGETS._replace(mask=torch.zeros(2, 2, dtype=torch.bool))):
        losses = detector.supervised_losses(output, targets, weights)
        assert all(loss.isfinite() for loss in losses.values())
    losses = detector.supervised_losses(output, TARGETS)
    sum(losses.values()).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in detector.head.parameters())
    assert isinstance(detector.assign(TARGETS, output.anchors, detector.levels(output.anchors)), Assignment)


def test_one_square_anchor_as_in_consistent_teacher():
    detector = build("retinanet", anchor_scales=[1.0], anchor_ratios=[1.0], anchor_scale=8, quality="iou")
    output = output_of(detector)
    assert output.logits.shape == (2, 12 * 12 + 6 * 6 + 3 * 3, 3)
    sides = output.anchors[:, 2:] - output.anchors[:, :2]
    assert sides.unique().tolist() == [64, 128, 256]
    assert detector.levels(output.anchors).bincount().tolist() == [144, 36, 9]
    assert detector.supervised_losses(output, TARGETS).keys() == {"cls", "box", "quality"}


def test_options_in_their_older_places_are_the_same():
    old = FCOSConfig(size_factor=4.0, center_radius=0.5, initial_distance=1.0)
    assert old == FCOSConfig(assigner=FCOSAssigner(size_factor=4, center_radius=0.5), coding={"initial_distance": 1})
    assert old.coding == LTRBCoding(initial_distance=1)
    anchors = RetinaNetConfig(foreground_iou=0.6, background_iou=0.3, box_loss="giou", beta=0)
    assert anchors.assigner == MaxIoUAssigner(foreground_iou=0.6, background_iou=0.3)
    assert anchors.coding == DeltaCoding(box_loss="giou", beta=0)
    card = {"categories": [[1, "cat"]], "short_side": 64, "max_side": 96}
    described = DetectorCard.model_validate(card | {"detector": {"name": "fcos", "size_factor": 4.0}}).detector
    assert described.assigner.size_factor == 4
    assert load_recipe("digits", ["detector.size_factor=3"]).detector.assigner == FCOSAssigner(size_factor=3)
    assert load_recipe("digits", ["detector={size_factor: 3}"]).detector.assigner == FCOSAssigner(size_factor=3)
    assert keys_by_hand("detector", "digits", ["detector.size_factor=3"]) == {"assigner", "assigner.size_factor"}
    with pytest.raises(InputError, match=r"detector\.assigner\.size_factor: .*greater than 0"):
        load_recipe("digits", ["detector.size_factor=0"])


def test_a_run_from_before_the_parts_is_the_same():
    for name in ("fcos", "retinanet"):
        recipe = load_recipe("digits", [f"detector.name={name}"])
        before = recipe.model_dump(mode="json")
        detector = before["detector"]
        for part in ("assigner", "coding"):
            detector |= {key: one for key, one in detector.pop(part).items() if key != "name"}
        for key in ("cls_loss", "scale_per_level") + (("quality", "location_offset") if name == "retinanet" else ()):
            del detector[key]
        if name == "retinanet":
            del detector["anchor_scales"], detector["anchor_ratios"]
        assert changed_keys(recipe, before, ()) == []
        detector["score_floor"] = 0.2
        assert changed_keys(recipe, before, ()) == ["detector.score_floor"]


def test_another_part_drops_the_options_of_the_first():
    def detector(*overrides):
        return load_recipe("digits", overrides).detector  # whose assigner has a size_factor

    assert detector("detector.assigner.name=max_iou").assigner == MaxIoUAssigner()
    assert detector("detector.assigner.name=atss").assigner == ATSSAssigner()
    assert detector("detector.assigner.name=fcos").assigner == FCOSAssigner(size_factor=4)
    assert detector("detector.assigner.name=atss", "detector.assigner.name=fcos").assigner == FCOSAssigner()
    assert detector("detector.coding.initial_distance=1", "detector.coding.name=delta").coding == DeltaCoding()
    assert detector("detector.name=retinanet").assigner == MaxIoUAssigner()
    assert detector("detector.name=gfl") == GFLConfig(
        **{key: one for key, one in dict(detector()).items() if key in SMALL or key in ("mean", "std", "head_convs")}
    )
    chosen = detector("detector.assigner.name=atss", "detector.quality=centerness", "detector.name=retinanet")
    assert (chosen.assigner, chosen.coding, chosen.quality) == (ATSSAssigner(), DeltaCoding(), "centerness")
    with pytest.raises(InputError, match=r"there is no key 'detector\.assigner\.top_k'.*valid here: center_radius"):
        load_recipe("digits", ["detector.assigner.top_k=3"])
    with pytest.raises(InputError, match=r"there is no detector\.assigner 'tasl' \(did you mean 'tal'\?\)"):
        load_recipe("digits", ["detector.assigner.name=tasl"])


@pytest.mark.parametrize("kind", [RetinaNetConfig, GFLConfig])
def test_the_joint_form_needs_a_quality_branch(kind):
    with pytest.raises(InputError, match=r"cls_loss 'joint' needs a quality branch: set detector.quality to iou"):
        load_recipe("digits", [f"detector.name={kind().name}", "detector.cls_loss=joint"])


def test_gfl_starts_from_torchvisions_fcos(tmp_path):
    import torchvision
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.fcos import FCOSHead
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(1)
    network = torchvision.models.resnet18(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    theirs = detection.FCOS(
        BackboneWithFPN(network, layers, [128, 256, 512], 256, extra_blocks=LastLevelP6P7(256, 256)), num_classes=4
    )
    assert isinstance(theirs.head, FCOSHead)
    torch.save(theirs.state_dict(), tmp_path / "own.pth")
    wanted = GFLConfig(init=str(tmp_path / "own.pth"), quality="iou", coding={"bins": 9})
    config, initial = adopt(wanted, find_initial(wanted), {"name", "coding.bins", "quality"})
    assert (config.name, config.backbone, config.coding.bins) == ("gfl", "resnet18.tv_in1k", 9)
    assert (config.quality, config.cls_loss, config.location_offset) == ("iou", "quality_focal", 0.5)
    ours = config.build(2)
    fresh = {key: one.clone() for key, one in ours.state_dict().items()}
    taken = take_over(ours, initial, ["cat", "dog"])
    assert "start fresh" in taken.sentence()
    assert set(taken.branches) == {"box", "scales", "quality"}
    own, other = ours.state_dict(), theirs.state_dict()
    assert torch.equal(own["head.box_tower.0.weight"], other["head.regression_head.conv.0.weight"])
    assert torch.equal(own["backbone.body.layer1.0.conv1.weight"], other["backbone.body.layer1.0.conv1.weight"])
    assert all(torch.equal(own[key], fresh[key]) for key in fresh if key.startswith(("head.box.", "head.quality.")))


def test_images_without_boxes_have_losses():
    detector = build()
    output = detector(image_batch(0, batch=3, height=64, width=96))
    targets = random_targets(0, batch=3, boxes=1, classes=3)
    losses = detector.supervised_losses(output, targets._replace(mask=torch.zeros_like(targets.mask)))
    assert losses["box"] == 0
    assert losses["cls"].isfinite()
