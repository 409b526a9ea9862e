"""Regions to ignore: which locations they leave out of the class loss, and how they follow their images."""

import numpy as np
import pytest
import torch

from denseteacher.data.augment.copy_paste import Collage, Crops, PasteRule, paste
from denseteacher.data.augment.mix import mixup, mosaic, unmixed, with_rows
from denseteacher.data.open import open_data
from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import InstantTeaching
from denseteacher.ops.assignment import BACKGROUND, IGNORED
from denseteacher.ops.boxes import move_targets
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import build_steps
from denseteacher.structures import Targets, cat, chunk, take, to
from support import image_batch, random_targets, semi_batch
from support.published_datasets import write_coco_published, write_crowdhuman, write_voc

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
KINDS = {"fcos": FCOS, "retinanet": RetinaNet}


def detector_of(kind, rule="covered"):
    torch.manual_seed(0)
    return KINDS[kind](num_classes=3, ignore_rule=rule, **SMALL)


def with_regions(targets, seed, *, batch=4, regions=3):
    """The targets with rows for regions to ignore after their own, of which some images have none."""
    more = random_targets(seed, batch=batch, boxes=regions, classes=1)
    none = torch.zeros_like(more.mask)
    return Targets(
        torch.cat((targets.boxes, more.boxes), 1),
        torch.cat((targets.labels, more.labels), 1),
        torch.cat((targets.mask, none), 1),
        torch.cat((torch.zeros_like(targets.mask), more.mask), 1),
    )


def without_regions(targets):
    return Targets(targets.boxes, targets.labels, targets.mask)


def share_inside(anchor, box):
    width = min(anchor[2], box[2]) - max(anchor[0], box[0])
    height = min(anchor[3], box[3]) - max(anchor[1], box[1])
    return max(width, 0) * max(height, 0) / ((anchor[2] - anchor[0]) * (anchor[3] - anchor[1]))


def lies_in(kind, anchor, box):
    """What the documentation says, one anchor and one region at a time, in float64."""
    if kind == "retinanet":
        return share_inside(anchor, box) >= 0.5
    x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    return box[0] < x < box[2] and box[1] < y < box[3]


@pytest.mark.parametrize("kind", KINDS)
def test_covered_background_is_ignored_and_nothing_else_changes(kind):
    detector = detector_of(kind)
    anchors = detector.anchors((96, 96), torch.device("cpu"))
    left_out = 0
    for seed in range(8):
        targets = with_regions(random_targets(seed, batch=4, boxes=3, classes=3), seed + 100)
        plain = detector.assign(without_regions(targets), anchors, detector.levels(anchors))
        found = detector.assignment(targets, anchors)
        assert torch.equal(found.matched, plain.matched)
        for image in range(4):
            regions = targets.boxes[image][targets.ignored[image]].double().numpy()
            for n, anchor in enumerate(anchors.double().numpy()):
                before = int(plain.labels[image, n])
                ignored = before == BACKGROUND and any(lies_in(kind, anchor, box) for box in regions)
                assert int(found.labels[image, n]) == (IGNORED if ignored else before)
                left_out += ignored
    assert left_out > 100


def published_labels(anchors, boxes, classes, radius=1.5, factor=8.0):
    """FCOS's labels where an ignored person is a box of class -1, as CrowdHuman's code has it; background is 99."""
    strides = anchors[:, 2] - anchors[:, 0]
    labels = np.full(len(anchors), 99)
    for n, anchor in enumerate(anchors):
        x, y, stride = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2, strides[n]
        least = 0 if stride == strides.min() else factor / 2 * stride
        most = np.inf if stride == strides.max() else factor * stride
        areas = []
        for x1, y1, x2, y2 in boxes:
            cx, cy, r = (x1 + x2) / 2, (y1 + y2) / 2, radius * stride
            inside = min(x - max(x1, cx - r), y - max(y1, cy - r), min(x2, cx + r) - x, min(y2, cy + r) - y) > 0
            reach = max(x - x1, y - y1, x2 - x, y2 - y)
            areas.append((x2 - x1) * (y2 - y1) if inside and least <= reach <= most else np.inf)
        if len(areas) and min(areas) < np.inf:
            labels[n] = classes[int(np.argmin(areas))]
    return labels


def test_the_published_rule_of_crowdhuman_assigns_ignored_people_as_if_they_were_people():
    detector = detector_of("fcos", "assigned")
    anchors = detector.anchors((96, 96), torch.device("cpu"))
    seen = set()
    for seed in range(8):
        targets = with_regions(random_targets(seed, batch=4, boxes=3, classes=3), seed + 100)
        found = detector.assignment(targets, anchors)
        for image in range(4):
            there = targets.mask[image] | targets.ignored[image]
            classes = torch.where(targets.ignored[image], -1, targets.labels[image])[there].numpy()
            labels = published_labels(anchors.numpy(), targets.boxes[image][there].numpy(), classes)
            ours = found.labels[image].numpy()
            assert np.array_equal(np.where(ours == IGNORED, -1, np.where(ours == BACKGROUND, 99, ours)), labels)
            seen |= set(labels.tolist())
    assert {-1, 0, 99} <= seen


def test_the_published_rule_holds_for_anchors():
    detector = detector_of("retinanet", "assigned")
    anchors = detector.anchors((96, 96), torch.device("cpu"))
    targets = Targets(
        anchors[None, 700:702].clone(), torch.tensor([[1, 0]]), *torch.tensor([[[1, 0]], [[0, 1]]]).bool()
    )
    labels = detector.assignment(targets, anchors).labels[0]
    assert labels[700] == 1
    assert labels[701] == IGNORED
    everything = targets._replace(mask=targets.mask | targets.ignored, ignored=None)
    as_objects = detector.assignment(everything, anchors)
    of_region = as_objects.matched[0] == 1
    assert torch.equal(labels > BACKGROUND, (as_objects.labels[0] > BACKGROUND) & ~of_region)
    assert torch.equal(labels == BACKGROUND, as_objects.labels[0] == BACKGROUND)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_has_no_gradient_and_the_rest_keeps_its_own(kind):
    detector = detector_of(kind)
    output = detector(image_batch(0, batch=4, height=96, width=96))
    logits = output.logits.detach().requires_grad_()
    output = output._replace(logits=logits)
    targets = with_regions(random_targets(1, batch=4, boxes=3, classes=3), 101)
    plain = detector.supervised_losses(output, without_regions(targets))
    (before,) = torch.autograd.grad(plain["cls"], logits)
    losses = detector.supervised_losses(output, targets)
    (after,) = torch.autograd.grad(losses["cls"], logits)
    labels = detector.assignment(targets, output.anchors).labels
    ignored = labels == IGNORED
    assert int(ignored.sum()) > 10
    assert not after[ignored].any()
    assert torch.equal(after[~ignored], before[~ignored])
    assert all(torch.equal(losses[name], plain[name]) for name in losses if name != "cls")


@pytest.mark.parametrize("rule", ["covered", "assigned"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_region_in_the_batch_the_losses_are_the_same_bits(kind, rule):
    detector = detector_of(kind, rule)
    output = detector(image_batch(0, batch=4, height=96, width=96))
    targets = random_targets(1, batch=4, boxes=3, classes=3)
    padded = targets._replace(ignored=torch.zeros_like(targets.mask))
    one, other = (detector.supervised_losses(output, each) for each in (targets, padded))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_views_of_one_image_leave_out_the_same_locations():
    detector = detector_of("fcos")
    targets = with_regions(random_targets(1, batch=2, boxes=3, classes=3), 3, batch=2)
    output = detector(image_batch(0, batch=4, height=96, width=96))
    both, *alone = (
        float(detector.supervised_losses(part, targets)["cls"].detach()) for part in (output, *chunk(output, 2))
    )
    assert both == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_the_verbs_take_regions_along():
    targets = with_regions(random_targets(1, batch=4, boxes=3, classes=3), 101)
    again = cat(*chunk(targets, 2))
    assert all(torch.equal(one, other) for one, other in zip(again, targets, strict=True))
    assert torch.equal(take(targets, torch.tensor([2, 0])).ignored, targets.ignored[[2, 0]])
    assert to(targets, torch.device("meta")).ignored.device.type == "meta"
    assert cat(*chunk(without_regions(targets), 2)).ignored is None


def one_object_one_region(box=(10.0, 10, 30, 40), region=(40.0, 20, 90, 60)):
    return Targets(
        torch.tensor([[box, region]]),
        torch.tensor([[2, 0]]),
        torch.tensor([[True, False]]),
        torch.tensor([[False, True]]),
    )


def test_a_moved_view_takes_its_regions_along_as_far_as_they_are_on_it():
    shift = torch.tensor([[[1.0, 0, 35], [0, 1, 0], [0, 0, 1]]])
    moved = move_targets(one_object_one_region(), shift, torch.tensor([[64, 80]]))
    assert moved.boxes.tolist() == [[[45, 10, 65, 40], [75, 20, 80, 60]]]  # a tenth of the region
    assert moved.mask.tolist() == [[True, False]]
    assert moved.ignored.tolist() == [[False, True]]
    gone = move_targets(one_object_one_region(), shift, torch.tensor([[64, 74]]))
    assert not gone.ignored.any()
    assert not gone.boxes[0, 1].any()


def test_mixed_images_have_the_regions_of_both():
    images = image_batch(0, batch=1, height=64, width=96)
    first, second = one_object_one_region(), one_object_one_region((1.0, 1, 20, 20), (50.0, 40, 80, 64))
    mixed = mixup(images, first, images, second, torch.tensor([0.5])).targets
    assert mixed.ignored.tolist() == [[False, True, False, True]]
    assert mixed.boxes[0, 3].tolist() == [50, 40, 80, 64]
    tiles = mosaic(images, first, images, second, torch.tensor([0.5]), torch.tensor([True])).targets  # cut at x = 48
    assert tiles.boxes[0, 1].tolist() == [40, 20, 48, 60]
    assert tiles.boxes[0, 3].tolist() == [50, 40, 80, 64]
    assert tiles.ignored.tolist() == [[False, True, False, True]]
    assert tiles.mask.tolist() == [[True, False, False, False]]
    batch = unmixed(cat(images, images), cat(first, first), room=2)
    joined = with_rows(batch, torch.tensor([1]), mixup(images, first, images, second, torch.tensor([0.5]))).targets
    assert joined.ignored.tolist() == [[False, True, False, False], [False, True, False, True]]


def test_labeled_partners_bring_their_regions():
    batch = semi_batch()
    regions = with_regions(batch.labeled.targets, 3, batch=2)
    regions.ignored[:] = ~regions.mask & (torch.arange(6) >= 3)
    regions.boxes[:, 3:] = torch.tensor([5.0, 5, 60, 60])
    found = random_targets(8, batch=2, boxes=2, classes=3)
    mixed = InstantTeaching(mix_probability=1).mix(found, batch.labeled._replace(targets=regions), batch.unlabeled)
    assert mixed.targets.ignored.any(1).all()
    assert (
        not InstantTeaching(mix_probability=0)
        .mix(found, batch.labeled._replace(targets=regions), batch.unlabeled)
        .targets.ignored.any()
    )
    assert InstantTeaching(mix_probability=1).mix(found, batch.labeled, batch.unlabeled).targets.ignored is None


def test_a_pasted_object_lies_in_the_region_and_leaves_it_there():
    collage = Collage(image_batch(0, batch=1, height=64, width=96), one_object_one_region(), torch.ones(1, 2).bool())
    crops = Crops(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.tensor([[20.0, 20]]),
        torch.tensor([1]),
        torch.tensor([True]),
        torch.tensor([True]),
    )
    pasted = paste(collage, crops, torch.tensor([[0.5, 0.5, 0.9]]), PasteRule((1, 1), 1.0, 0.5)).targets
    assert pasted.ignored.tolist() == [[False, True, False]]
    assert pasted.boxes[0, 1].tolist() == [40, 20, 90, 60]
    assert pasted.mask[0, 2]


def steps_of(name, root, *overrides):
    recipe = load_recipe(
        name, {"data.root": str(root), "data.labeled_batch": 2, "data.unlabeled_batch": 2} | dict(overrides)
    )
    data = open_data(recipe.data)
    return recipe, data, build_steps(recipe, data)


def targets_of_image(steps, position):
    """The targets and the size of the first labeled view that shows an image, flipped or not."""
    for step in range(50):
        plan = steps.plan(step)
        for row, view in enumerate(plan.labeled):
            if view.position == position:
                return take(steps[step].targets, slice(row, row + 1)), view
    raise AssertionError


def on_view(box, view):
    x1, y1, x2, y2 = np.array(box) * np.array(
        [view.geometry.width / view.record.width, view.geometry.height / view.record.height] * 2
    )
    return [view.geometry.width - x2, y1, view.geometry.width - x1, y2] if view.geometry.flip else [x1, y1, x2, y2]


def test_crowdhumans_ignored_people_are_left_out_by_the_published_rule(tmp_path):
    root = write_crowdhuman(tmp_path)
    recipe, data, steps = steps_of("crowdhuman", root, ("data.split", "none"), ("data.unlabeled", str(root / "Images")))
    assert recipe.detector.ignore_rule == "assigned"
    place = next(place for place, regions in enumerate(data.labeled.regions) if len(regions))
    assert data.labeled.regions[place].tolist() == [[1, 1, 21, 11], [30, 2, 42, 20]]
    targets, view = targets_of_image(steps, place)
    count = len(data.labeled.boxes[place])
    assert targets.ignored.sum() == 2
    assert targets.ignored[0, count : count + 2].all()
    assert targets.mask[0].sum() == count
    np.testing.assert_allclose(targets.boxes[0, count + 1], on_view([30, 2, 42, 20], view), rtol=1e-5)


def test_cocos_crowds_are_background_as_published_and_left_out_for_users(tmp_path):
    root = write_coco_published(tmp_path)
    keys = [("data.split", "none"), ("data.percent", None), ("data.unlabeled", str(root / "unlabeled2017"))]
    recipe, data, steps = steps_of("coco_standard", root, *keys)
    assert recipe.data.ignore_regions == "background"
    assert data.labeled.regions is None
    assert steps[0].targets.ignored is None
    _, data, _ = steps_of("coco_standard", root, *keys, ("data.ignore_regions", "leave_out"))
    regions = [boxes.tolist() for boxes in data.labeled.regions]
    assert sorted(regions)[-1] == [[2, 3, 32, 33]]
    assert load_recipe("custom").data.ignore_regions == "leave_out"
    alone = data.labeled.select([place for place, boxes in enumerate(regions) if not boxes])
    assert alone.regions is None  # and so costs nothing


def test_vocs_difficult_objects_are_trained_on_as_published(tmp_path):
    root = write_voc(tmp_path)
    write_voc(tmp_path, 2012, count=4, seed=1)
    _, data, _ = steps_of("voc", root.parent)
    assert data.labeled.regions is None
    evaluated = data.validation.ground_truth["annotations"]
    text = "".join(path.read_text() for path in (root / "Annotations").glob("*.xml"))
    # the labeled part has difficult objects, and all of its objects are boxes to learn
    assert text.count("<difficult>1</difficult>") > sum(one.get("difficult", 0) for one in evaluated)
    objects = text.count("<object>")
    assert sum(map(len, data.labeled.boxes)) == objects - len(evaluated)
