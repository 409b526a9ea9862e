"""Assigners against their rules, one location and one box at a time."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from denseteacher.detectors.assigners import candidates
from denseteacher.detectors.assigners.asa import ASAAssigner
from denseteacher.detectors.assigners.atss import ATSSAssigner
from denseteacher.detectors.assigners.base import Locations, Predictions
from denseteacher.detectors.assigners.fcos import FCOSAssigner
from denseteacher.detectors.assigners.max_iou import MaxIoUAssigner
from denseteacher.detectors.assigners.tal import TALAssigner
from denseteacher.ops.anchors import box_anchors, location_anchors
from denseteacher.ops.assignment import BACKGROUND, IGNORED, areas_inside, centers_inside, with_regions
from denseteacher.structures import Targets
from support import random_targets
from support.pretended_cuda import pretended_cuda

STRIDES = (8, 16, 32)
CLASSES = 5
CPU = torch.device("cpu")
ASSIGNERS = [ATSSAssigner(), ASAAssigner(), TALAssigner()]


def by_name(assigner):
    return assigner.name


def locations_of(kind, side=96, strides=STRIDES):
    """The locations of FCOS, or those of RetinaNet, on a square canvas."""
    shapes = [(-(-side // stride),) * 2 for stride in strides]
    if kind == "squares":
        anchors, around = location_anchors(shapes, strides, 0.5, CPU), 1
        middle, half = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2]) * 4
        priors = torch.cat((middle - half, middle + half), 1)
    else:
        anchors = box_anchors(shapes, strides, (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)), (0.5, 1.0, 2.0), CPU)
        priors, around = anchors, 9
    counts = torch.tensor([height * width * around for height, width in shapes])
    levels = torch.arange(len(strides)).repeat_interleave(counts)
    return Locations(anchors, priors, torch.tensor(strides, dtype=torch.float32)[levels], levels)


def predictions_for(seed, locations, targets):
    """Boxes about those of the image or about the priors, and scores."""
    rng = np.random.default_rng(seed)
    batch, count = len(targets.boxes), len(locations.anchors)
    which = torch.from_numpy(rng.integers(0, targets.mask.shape[1], (batch, count, 1)))
    near = targets.boxes.gather(1, which.expand(-1, -1, 4))
    boxes = torch.where(torch.from_numpy(rng.random((batch, count, 1)) < 0.6), near, locations.priors)
    boxes = boxes + torch.from_numpy(rng.normal(0, 4, boxes.shape)).float()
    logits = torch.from_numpy(rng.normal(-2, 2, (batch, count, CLASSES))).float()
    return Predictions(logits, boxes)


@dataclass
class Image:
    """What a rule sees of one image, as NumPy arrays without padding."""

    anchors: np.ndarray
    priors: np.ndarray
    strides: np.ndarray
    levels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray | None

    def overlap(self, box, other):
        """In fp32, so that what is equal is equal here too."""
        zero = np.float32(0)
        width = max(zero, min(box[2], other[2]) - max(box[0], other[0]))
        height = max(zero, min(box[3], other[3]) - max(box[1], other[1]))
        first, second = ((b[2:] - b[:2]).clip(min=0) for b in (box, other))
        union = first[0] * first[1] + second[0] * second[1] - width * height
        return float(width * height / max(union, np.float32(1e-7)))

    def center(self, n):
        return (self.anchors[n][:2] + self.anchors[n][2:]) / 2

    def inside(self, n, box):
        (x, y), (x1, y1, x2, y2) = self.center(n), box
        return x1 < x < x2 and y1 < y < y2

    def distance2(self, n, box):
        dx, dy = self.center(n) - (box[:2] + box[2:]) / 2
        return dx * dx + dy * dy

    def score(self, n, c):
        return 1 / (1 + np.exp(-float(self.logits[n, c])))

    def of_class(self, g):
        return min(max(int(self.labels[g]), 0), CLASSES - 1)


def atss_rule(image, assigner):
    """The box of each location, -1 at background, and its weight."""
    wanted = {}
    for g, box in enumerate(image.boxes):
        chosen = []
        for level in range(image.levels.max() + 1):
            members = [n for n in range(len(image.anchors)) if image.levels[n] == level]
            chosen += sorted(members, key=lambda n: (image.distance2(n, box), n))[: assigner.top_k]
        overlaps = [image.overlap(image.priors[n], box) for n in chosen]
        mean = sum(overlaps) / len(overlaps)
        deviation = (sum((each - mean) ** 2 for each in overlaps) / max(1, len(overlaps) - 1)) ** 0.5
        for n, overlap in zip(chosen, overlaps, strict=True):
            if overlap >= mean + deviation and image.inside(n, box):
                wanted.setdefault(n, []).append((-overlap, g))
    return {n: min(offers)[1] for n, offers in wanted.items()}, None


def asa_rule(image, assigner):
    cost, overlaps, wanted = {}, {}, {}
    for g, box in enumerate(image.boxes):
        inside = [n for n in range(len(image.anchors)) if image.inside(n, box)]
        for n in inside:
            overlaps[n, g] = image.overlap(image.predicted[n], box)
            classes = 0.0
            for c in range(CLASSES if image.logits is not None else 0):
                p = image.score(n, c)
                hit = c == image.of_class(g)
                classes += -0.25 * (1 - p) ** 2 * np.log(p) if hit else -0.75 * p**2 * np.log(1 - p)
            away = float(image.distance2(n, box)) ** 0.5 / float(image.strides[n])
            cost[n, g] = classes - 2 * np.log(overlaps[n, g] + 1e-7) + 0.001 * 10**away
        k = max(1, int(sum(sorted((overlaps[n, g] for n in inside), reverse=True)[:13])))
        for n in sorted(inside, key=lambda n: (cost[n, g], n))[:k]:
            wanted.setdefault(n, []).append(g)
    owner = {}
    for n, boxes in wanted.items():
        possible = [g for g in range(len(image.boxes)) if (n, g) in cost]
        owner[n] = boxes[0] if len(boxes) == 1 else min(possible, key=lambda g: (cost[n, g], g))
    return owner, {n: overlaps[n, g] for n, g in owner.items()}


def tal_rule(image, assigner):
    aligned, overlaps, wanted = {}, {}, {}
    for g, box in enumerate(image.boxes):
        for n in range(len(image.anchors)):
            if image.inside(n, box):
                score = 1.0 if image.logits is None else image.score(n, image.of_class(g))
                overlaps[n, g] = image.overlap(image.predicted[n], box)
                aligned[n, g] = score**assigner.alpha * overlaps[n, g] ** assigner.beta
        inside = [n for n in range(len(image.anchors)) if aligned.get((n, g), 0) > 0]
        for n in sorted(inside, key=lambda n: (-aligned[n, g], n))[: assigner.top_k]:
            wanted.setdefault(n, []).append((-overlaps[n, g], g))
    owner = {n: min(offers)[1] for n, offers in wanted.items()}
    weights = {}
    for n, g in owner.items():
        own = [m for m in owner if owner[m] == g]
        weights[n] = aligned[n, g] / max(aligned[m, g] for m in own) * max(overlaps[m, g] for m in own)
    return owner, weights


RULES = {"atss": atss_rule, "asa": asa_rule, "tal": tal_rule}


def check(assigner, targets, locations, predictions=None):
    found = assigner.assign(targets, locations, predictions)
    places = [field.numpy() for field in locations]
    for b, mask in enumerate(targets.mask):
        image = Image(
            *places,
            targets.boxes[b][mask].numpy(),
            targets.labels[b][mask].numpy(),
            (locations.priors if predictions is None else predictions.boxes[b]).numpy(),
            None if predictions is None else predictions.logits[b].numpy(),
        )
        owner, weights = RULES[assigner.name](image, assigner)
        rows = mask.nonzero()[:, 0].numpy()
        labels, matched = found.labels[b].numpy(), found.matched[b].numpy()
        assert found.boxes[b].isfinite().all()
        for n in range(len(labels)):
            g = owner.get(n, -1)
            assert labels[n] == (BACKGROUND if g < 0 else image.labels[g]), (b, n)
            if g >= 0:
                assert matched[n] == rows[g]
                assert np.array_equal(found.boxes[b, n].numpy(), image.boxes[g])
        if weights is None:
            assert found.weights is None
        else:
            expected = [weights[n] if n in owner and labels[n] >= 0 else 0.0 for n in range(len(labels))]
            np.testing.assert_allclose(found.weights[b].numpy(), expected, rtol=1e-4, atol=1e-6)
            assert found.weights.amax() <= 1
    return found


@pytest.mark.parametrize("looking", [False, True])
@pytest.mark.parametrize(("kind", "seeds"), [("squares", 12), ("anchors", 3)])
@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_random_images(assigner, kind, seeds, looking):
    locations, foreground = locations_of(kind), 0
    for seed in range(seeds):
        targets = random_targets(100 * looking + seed, batch=3, boxes=6, classes=CLASSES)
        predictions = predictions_for(seed, locations, targets) if looking else None
        foreground += int((check(assigner, targets, locations, predictions).labels != BACKGROUND).sum())
    assert foreground > 10 * seeds  # the comparison was about something


@pytest.mark.parametrize("some", [1, 1000, 4000])
@pytest.mark.parametrize("assigner", [*ASSIGNERS, FCOSAssigner(), MaxIoUAssigner()], ids=by_name)
def test_a_few_boxes_at_once_are_the_same_as_all(assigner, some, monkeypatch):
    locations = locations_of("squares")
    targets = random_targets(7, batch=3, boxes=9, classes=CLASSES)
    targets = targets._replace(boxes=torch.cat((targets.boxes[:, :8], targets.boxes[:, :1]), 1))  # equally good ones
    predictions = predictions_for(7, locations, targets)
    expected = assigner.assign(targets, locations, predictions)
    fitting = assigner.fitting(targets, locations)
    monkeypatch.setattr("denseteacher.ops.assignment._AT_ONCE", some)
    monkeypatch.setattr("denseteacher.detectors.assigners.asa._AT_ONCE", some)
    for one, other in zip(assigner.assign(targets, locations, predictions), expected, strict=True):
        assert one is other is None or torch.equal(one, other)
    assert torch.equal(assigner.fitting(targets, locations), fitting)


@pytest.mark.parametrize("covered", [centers_inside, areas_inside])
def test_what_a_few_regions_at_once_cover_is_the_same_as_of_all(covered, monkeypatch):
    anchors, targets = locations_of("squares").anchors, random_targets(8, batch=3, boxes=9, classes=CLASSES)
    expected = covered(anchors, targets.boxes, targets.mask)
    assert expected.any()
    monkeypatch.setattr("denseteacher.ops.assignment._AT_ONCE", 1000)
    assert torch.equal(covered(anchors, targets.boxes, targets.mask), expected)


def targets_of(boxes, labels):
    return Targets(
        torch.tensor([boxes], dtype=torch.float32), torch.tensor([labels]), torch.ones((1, len(labels))).bool()
    )


EDGES = {
    "one box": [[20, 20, 60, 50]],
    "identical boxes": [[20, 20, 60, 60]] * 3,
    "between all locations": [[33, 33, 35, 35]],
    "smaller than a stride": [[35, 35, 38, 38], [50.5, 10, 52.5, 40]],
    "covers everything": [[-50, -50, 200, 200], [0, 0, 96, 96]],
    "without an area": [[20, 20, 20, 20], [40, 40, 60, 60]],
    "on the border of a location": [[20, 20, 36, 36]],
    "outside": [[300, 300, 340, 350]],
    "one in the other": [[10, 10, 90, 90], [30, 30, 60, 60]],
}


@pytest.mark.parametrize("looking", [False, True])
@pytest.mark.parametrize("boxes", EDGES.values(), ids=EDGES.keys())
@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_edge_cases(assigner, boxes, looking):
    locations, targets = locations_of("squares"), targets_of(boxes, [index % CLASSES for index in range(len(boxes))])
    check(assigner, targets, locations, predictions_for(3, locations, targets) if looking else None)


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_the_first_of_identical_boxes_gets_all(assigner):
    found = check(assigner, targets_of([[20, 20, 60, 60]] * 2, [3, 4]), locations_of("squares"))
    assert set(found.labels.unique().tolist()) == {BACKGROUND, 3}


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_300_boxes(assigner):
    locations = locations_of("squares", side=64)
    targets = random_targets(5, batch=2, boxes=300, classes=CLASSES, extent=64)
    check(assigner, targets, locations, predictions_for(5, locations, targets))


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize(
    "assigner", [ATSSAssigner(top_k=30), ASAAssigner(top_k=13), TALAssigner(top_k=30), ATSSAssigner(top_k=1)]
)
def test_fewer_locations_than_candidates(assigner, side):
    locations = locations_of("squares", side=side, strides=(8, 16, 32) if side > 8 else (8,))
    targets = random_targets(2, batch=4, boxes=3, classes=CLASSES, extent=side)
    check(assigner, targets, locations, predictions_for(2, locations, targets))


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_padded_rows_with_garbage_are_never_assigned(assigner):
    locations = locations_of("squares")
    targets = random_targets(11, batch=4, boxes=5, classes=CLASSES)
    predictions = predictions_for(11, locations, targets)
    expected = assigner.assign(targets, locations, predictions)
    wild = torch.tensor([[20, 20, 60, 60], [-1e9, -1e9, 1e9, 1e9], [60, 60, 20, 20], [torch.nan] * 4, [torch.inf] * 4])
    boxes = torch.where(targets.mask[..., None], targets.boxes, wild)
    labels = torch.where(targets.mask, targets.labels, torch.tensor([999, -7, 2**40, 0, IGNORED]))
    found = assigner.assign(Targets(boxes, labels, targets.mask), locations, predictions)
    assert torch.equal(found.labels, expected.labels)
    foreground = found.labels != BACKGROUND
    assert torch.equal(found.boxes[foreground], expected.boxes[foreground])
    assert found.weights is expected.weights is None or torch.equal(found.weights, expected.weights)


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_no_boxes_is_all_background(assigner):
    locations = locations_of("squares")
    targets = Targets(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1).bool())
    found = check(assigner, targets, locations, predictions_for(0, locations, targets))
    assert (found.labels == BACKGROUND).all()
    assert found.weights is None or not found.weights.any()


@pytest.mark.parametrize("looking", [False, True])
@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_regions_that_are_ignored_as_objects(assigner, looking):
    locations = locations_of("squares")
    for seed in range(4):
        targets = random_targets(seed, batch=2, boxes=5, classes=CLASSES)
        targets = with_regions(targets._replace(ignored=~targets.mask & (targets.boxes[..., 2] >= 0)))
        targets = targets._replace(
            boxes=torch.where(
                targets.labels[..., None] == IGNORED, torch.tensor([10.0, 30, 70, 80]) + seed, targets.boxes
            )
        )
        found = check(assigner, targets, locations, predictions_for(seed, locations, targets) if looking else None)
        assert (found.labels == IGNORED).any()
        assert found.weights is None or not found.weights[found.labels == IGNORED].any()


def test_a_location_goes_to_its_cheapest_box_even_if_that_does_not_want_it():
    """ASA on a case made for it: two boxes want a location for which a third one, with better ones, is cheaper."""
    locations, differing = locations_of("squares"), 0
    for seed in range(30):
        targets = random_targets(seed, batch=2, boxes=6, classes=CLASSES)
        predictions = predictions_for(seed, locations, targets)
        found = ASAAssigner().assign(targets, locations, predictions)
        for b, box in ((b, box) for b in range(2) for box in range(6) if targets.mask[b, box]):
            alone = targets._replace(mask=torch.zeros_like(targets.mask))
            alone.mask[b, box] = True
            wants = ASAAssigner().assign(alone, locations, predictions).labels[b] >= 0
            differing += int(((found.matched[b] == box) & (found.labels[b] >= 0) & ~wants).sum())
    assert differing > 0


def test_the_cost_that_cannot_be_told_from_infinite_is_not_paid():
    """A stride-1 location 40 px from the center costs 10^37 and more: fp32 ends there."""
    corners = torch.tensor([[x, 0.0] for x in (4, 20, 60, 96)])
    anchors = torch.cat((corners, corners + 1), 1)
    far = Locations(anchors, anchors, torch.ones(4), torch.zeros(4, dtype=torch.int64))
    targets = targets_of([[0, -5, 200, 5]], [1])
    predictions = Predictions(torch.zeros(1, 4, CLASSES), targets.boxes.expand(1, 4, 4).clone())
    assert ASAAssigner().assign(targets, far, predictions).labels.tolist() == [[-1, -1, -1, 1]]


def test_the_highest_weight_of_a_box_is_its_largest_overlap():
    locations = locations_of("squares")
    targets = random_targets(1, batch=2, boxes=4, classes=CLASSES)
    predictions = predictions_for(1, locations, targets)
    dark = predictions._replace(logits=predictions.logits - 12)  # t of 1e-7 and less
    for each in (predictions, dark):
        found = check(TALAssigner(), targets, locations, each)
        for b, g in targets.mask.nonzero().tolist():
            own = (found.labels[b] >= 0) & (found.matched[b] == g)
            if own.any():
                overlap = candidates.overlaps_own(found, each.boxes)[b, own]
                torch.testing.assert_close(found.weights[b, own].amax(), overlap.amax())


def test_lowest_and_highest_give_the_first_among_equals():
    values = torch.tensor([[3.0, 0.0, 1.0, -0.0, 1.0, torch.inf, 3.0]])
    for count in range(1, 8):
        low, place = candidates.lowest(values, count)
        assert place.tolist() == [[1, 3, 2, 4, 0, 6, 5][:count]]
        assert torch.equal(low, values.gather(1, place))
        high, place = candidates.highest(values, count)
        assert place.tolist() == [[5, 0, 6, 2, 4, 1, 3][:count]]
        assert torch.equal(high, values.gather(1, place))


@pytest.mark.parametrize("looking", [False, True])
@pytest.mark.parametrize("assigner", ASSIGNERS, ids=by_name)
def test_the_host_never_waits(assigner, looking):
    with pretended_cuda() as gpu:
        device = torch.device("cuda")
        count, batch, room = 189, 2, 3
        levels = torch.zeros(count, dtype=torch.int64, device=device)
        boxes, strides = torch.zeros(count, 4, device=device), torch.ones(count, device=device)
        mask = torch.ones(batch, room, dtype=torch.bool, device=device)
        targets = Targets(torch.zeros(batch, room, 4, device=device), mask.long(), mask)
        predictions = Predictions(
            torch.zeros(batch, count, CLASSES, device=device), torch.zeros(batch, count, 4, device=device)
        )
        gpu.waits.clear()
        found = assigner.assign(targets, Locations(boxes, boxes, strides, levels), predictions if looking else None)
        assert not gpu.waits
        assert found.labels.shape == (batch, count)
        assert {field.device.type for field in found if field is not None} == {"cuda"}
