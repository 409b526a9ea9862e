"""The numbers of the analyses, against loops in NumPy."""

import numpy as np
import pytest
import torch

from denseteacher.analysis import fig2cd, fig3
from denseteacher.analysis.calibration import BINS, calibrate, reliability
from denseteacher.analysis.selection import count_region
from denseteacher.methods import DenseTeacher
from support.analysis_batches import made_up_outputs


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def common(a, b):
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def overlap(a, b):
    union = area(a) + area(b) - common(a, b)
    return common(a, b) / union if union else 0.0


def kept_boxes(outputs, batch, image, threshold):
    """(box, score, label) of one image above a threshold, after NMS at 0.6, by falling score."""
    boxes = outputs.detector.decode(batch.output).boxes[image].double().numpy()
    scores = outputs.detector.decode(batch.output).scores[image].double().numpy()
    height, width = batch.images.sizes[image].tolist()
    found = []
    for location, label in zip(*np.nonzero(scores > threshold), strict=True):
        x1, y1, x2, y2 = boxes[location]
        box = (np.clip(x1, 0, width), np.clip(y1, 0, height), np.clip(x2, 0, width), np.clip(y2, 0, height))
        found.append((box, scores[location, label], int(label)))
    kept = []
    for box, score, label in sorted(found, key=lambda one: -one[1]):
        if not any(other == label and overlap(box, better) > 0.6 for better, _, other in kept):
            kept.append((box, score, label))
    return kept[:100]


def match(kept, batch, image):
    """Of each box the object, -1 for none, or None where it counts neither way."""
    free = np.flatnonzero(batch.objects.mask[image]).tolist()
    boxes, labels = batch.objects.boxes[image].double().numpy(), batch.objects.labels[image].tolist()
    result = []
    for box, _, label in kept:
        best = max(
            (one for one in free if labels[one] == label), key=lambda one: overlap(box, boxes[one]), default=None
        )
        if best is not None and overlap(box, boxes[best]) >= 0.5:
            free.remove(best)
            result.append(best)
            continue
        regions = [
            region
            for region, of, there in zip(*(part[image].tolist() for part in batch.ignored[:3]), strict=True)
            if there and of == label
        ]
        inside = any(area(box) and common(box, region) / area(box) >= 0.5 for region in regions)
        result.append(None if inside else -1)
    return result


def known(batch, image, labels):
    """Locations that the truth says something about."""
    result = []
    for location, anchor in enumerate(batch.output.anchors.tolist()):
        x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
        regions = batch.ignored.boxes[image].tolist()
        inside = any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in regions)
        result.append(bool(batch.output.valid[image, location]) and (labels[location] >= 0 or not inside))
    return result


@pytest.mark.parametrize("name", ["fcos", "retinanet", "gfl"])
def test_false_and_missed_boxes_are_counted_at_every_threshold(name):
    outputs = made_up_outputs(name, batches=2)
    found = fig2cd.count_errors(outputs)
    false, missed, objects, neither = [], [], 0, 0
    for threshold in fig2cd.THRESHOLDS:
        wrong, right, objects = 0, 0, 0
        for batch in outputs:
            for image in range(len(batch.images.sizes)):
                hits = match(kept_boxes(outputs, batch, image, threshold), batch, image)
                wrong += sum(hit == -1 for hit in hits)
                neither += sum(hit is None for hit in hits)
                right += sum(hit is not None and hit >= 0 for hit in hits)
                objects += int(batch.objects.mask[image].sum())
        false.append(wrong)
        missed.append(objects - right)
    assert found == (false, missed, objects)
    assert neither > 0
    assert missed[0] < missed[-1] <= objects
    numbers = fig2cd.describe(found)
    gaps = [abs(a - b) for a, b in zip(false, missed, strict=True)]
    assert numbers["balanced_at"] == fig2cd.THRESHOLDS[int(np.argmin(gaps))]


@pytest.mark.parametrize("name", ["fcos", "retinanet", "gfl"])
def test_disagreement_is_that_of_sets_of_locations(name):
    outputs = made_up_outputs(name)
    result = fig3.measure(outputs, threshold=0.5)
    anchors_of_level = [rows * columns for rows, columns in outputs.detector.shapes((64, 64))]
    per_location = len(outputs.batches[0].output.anchors) // sum(anchors_of_level)
    level_of = np.repeat(np.arange(3), [count * per_location for count in anchors_of_level])
    shares, levels, pairs, other_class = [], np.zeros((3, 3)), [], 0
    for batch in outputs:
        found = outputs.pseudo_boxes(batch, 0.5)
        truth = outputs.assign(batch, batch.objects)
        pseudo = outputs.assign(batch, found.targets)
        for image in range(len(batch.images.sizes)):
            labels, guesses = truth.labels[image].tolist(), pseudo.labels[image].tolist()
            sure = known(batch, image, labels)
            mine = {place for place, label in enumerate(labels) if label >= 0 and sure[place]}
            theirs = {place for place, label in enumerate(guesses) if label >= 0 and sure[place]}
            shares.append(len(mine ^ theirs) / len(mine | theirs) if mine | theirs else None)
            for column, places in enumerate((mine & theirs, mine - theirs, theirs - mine)):
                for place in places:
                    levels[level_of[place], column] += 1
            other_class += sum(labels[place] != guesses[place] for place in mine & theirs)
            pairs += matched_pairs(outputs, batch, found, image, truth, sure)
    assert result.images == pytest.approx(shares)
    assert np.array_equal(result.levels.numpy(), levels)
    assert result.other_class == other_class
    assert len(pairs) > 4
    assert sorted(map(tuple, result.pairs.tolist())) == [pytest.approx(pair, abs=1e-4) for pair in sorted(pairs)]
    numbers = fig3.describe(result, outputs)
    assert numbers["disagreement"] == pytest.approx(levels[:, 1:].sum() / levels.sum())
    assert sum(one["pairs"] for one in numbers["by_iou"]) == len(pairs)


def matched_pairs(outputs, batch, found, image, truth, sure):
    """IoU and disagreement of each matched pseudo-box of an image, when there are no others."""
    kept = [
        (found.boxes[image, place].tolist(), 1.0, int(found.labels[image, place]))
        for place in np.flatnonzero(found.mask[image])
    ]
    hits = [-1 if hit is None else hit for hit in match(kept, batch, image)]
    mask = torch.zeros_like(found.mask)
    mask[image, : len(hits)] = torch.tensor(hits, dtype=torch.int64) >= 0
    again = outputs.assign(batch, found.targets._replace(mask=mask))
    pairs = []
    for place, hit in enumerate(hits):
        if hit < 0:
            continue
        mine, theirs = (
            {
                location
                for location, (label, box) in enumerate(zip(one.labels[image], one.matched[image], strict=True))
                if label >= 0 and box == which and sure[location]
            }
            for one, which in ((truth, hit), (again, place))
        )
        if mine | theirs:
            shared = len(mine & theirs) / len(mine | theirs)
            pairs.append((overlap(kept[place][0], batch.objects.boxes[image, hit].tolist()), 1 - shared))
    return pairs


@pytest.mark.parametrize("name", ["fcos", "retinanet", "gfl"])
def test_the_region_is_counted_location_by_location(name):
    outputs, rule = made_up_outputs(name), DenseTeacher(ratio=0.2)
    found = count_region(outputs, rule)
    expected = dict.fromkeys(found._fields, 0)
    for batch in outputs:
        scores = 1 / (1 + np.exp(-batch.output.logits.double().numpy()))
        richness = scores.max(-1).ravel()
        selected = np.zeros(richness.shape, bool)
        selected[np.argsort(-richness, kind="stable")[: int(0.2 * len(richness))]] = True
        selected = selected.reshape(scores.shape[:2])
        truth = outputs.assign(batch, batch.objects)
        for image in range(len(batch.images.sizes)):
            labels, owners = truth.labels[image].tolist(), truth.matched[image].tolist()
            covered, placed = set(), set()
            for place, sure in enumerate(known(batch, image, labels)):
                if sure and labels[place] >= 0:
                    expected["foreground"] += 1
                    placed.add(owners[place])
                if not sure or not selected[image, place]:
                    continue
                expected["selected"] += 1
                expected["hard"] += labels[place] == -1
                if labels[place] >= 0:
                    expected["true"] += 1
                    expected["right"] += labels[place] == scores[image, place].argmax()
                    covered.add(owners[place])
            there = set(np.flatnonzero(batch.objects.mask[image]).tolist())
            expected["objects"] += len(there)
            expected["missed"] += len(there - covered)
            expected["without_location"] += len(there - placed)
    assert found._asdict() == expected
    assert found.missed > 0
    assert 0 < found.hard < found.selected
    assert found.shares["true_positives"] == pytest.approx(found.true / found.selected)


def test_nothing_has_no_shares():
    outputs = made_up_outputs(batches=1)
    batch = outputs.batches[0]
    empty = batch.objects._replace(boxes=batch.objects.boxes * 0, mask=batch.objects.mask & False)
    outputs.batches = [batch._replace(objects=empty)]
    shares = count_region(outputs, DenseTeacher(ratio=0.2)).shares
    assert shares["true_positives"] == 0
    assert shares["foreground_selected"] is None
    assert shares["missed_objects"] is None


def test_reliability_is_counted_in_bins():
    rng = np.random.default_rng(0)
    scores, right = rng.uniform(0, 1, 500), rng.uniform(0, 1, 500) < 0.4
    scores[:2] = 0.0, 1.0
    found = reliability(torch.from_numpy(scores), torch.from_numpy(right))
    error = 0.0
    for number in range(BINS):
        last = number == BINS - 1
        inside = (scores >= number / BINS) & ((scores < (number + 1) / BINS) | last)
        error += inside.mean() * abs(scores[inside].mean() - right[inside].mean())
        assert found.curve[number]["count"] == inside.sum()
        assert found.curve[number]["right"] == pytest.approx(right[inside].mean())
    assert found.error == pytest.approx(error)


@pytest.mark.parametrize("name", ["fcos", "retinanet", "gfl"])
def test_calibration_asks_the_assigner_and_the_matching(name):
    outputs = made_up_outputs(name, batches=2)
    found = calibrate(outputs)
    locations = detections = hits = right = 0
    for batch in outputs:
        truth = outputs.assign(batch, batch.objects)
        for image in range(len(batch.images.sizes)):
            labels = truth.labels[image].tolist()
            sure = [one and label != -2 for one, label in zip(known(batch, image, labels), labels, strict=True)]
            locations += sum(sure)
            right += sum(
                label == int(row.argmax()) and one
                for label, row, one in zip(labels, batch.output.logits[image], sure, strict=True)
            )
            matched = match(kept_boxes(outputs, batch, image, 0.05), batch, image)
            detections += sum(one is not None for one in matched)
            hits += sum(one is not None and one >= 0 for one in matched)
    assert found["locations"].counts.sum() == locations
    assert found["locations"].right.sum() == right > 0
    assert found["detections"].counts.sum() == detections
    assert found["detections"].right.sum() == hits > 0
