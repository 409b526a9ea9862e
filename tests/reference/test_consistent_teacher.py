"""Consistent-Teacher: its mixture against scikit-learn's, a whole step and feature alignment against plain NumPy."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from denseteacher.detectors import FCOS, FCOSConfig, RetinaNet
from denseteacher.detectors.feature_alignment import FeatureAlignment, layers_of
from denseteacher.detectors.pyramid import flatten, tower
from denseteacher.errors import InputError
from denseteacher.methods import ConsistentTeacher, UnbiasedTeacher
from denseteacher.pseudo_labels.boxes import PseudoBoxes
from denseteacher.pseudo_labels.score_mixture import fit_mixture, mixture_thresholds, remember_scores
from denseteacher.recipes.schema import load_recipe
from support import semi_batch, student_and_teacher
from support.closeness import assert_close_to_scale

ROOM = 100


def _score_sets(count, seed=0):
    """Scores of several kinds: two heaps, one heap, a few values again and again, few or many of them."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        size = int(rng.integers(4, ROOM + 1))
        if index % 4 == 0:
            scores = np.where(rng.random(size) < rng.random(), rng.beta(2, 8, size), rng.beta(8, 2, size))
        elif index % 4 == 1:
            scores = rng.beta(*rng.uniform(0.3, 4, 2), size)
        elif index % 4 == 2:
            scores = np.where(rng.random(size) < rng.random(), rng.normal(0.15, 0.03, size), rng.normal(0.7, 0.1, size))
        else:
            scores = rng.random(size).round(1)
        yield scores.clip(0.05, 0.999).astype(np.float32)


def _memory(sets):
    return torch.stack([torch.from_numpy(np.pad(scores, (0, ROOM - len(scores)))) for scores in sets])


def _reference_mixture(scores, tolerance=1e-3):
    column = scores.astype(np.float64)[:, None]
    mixture = GaussianMixture(
        2,
        weights_init=[0.5, 0.5],
        means_init=[[column.min()], [column.max()]],
        precisions_init=[[[1.0]], [[1.0]]],
        max_iter=50,
        tol=tolerance,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(column)


def _reference_threshold(scores, tolerance=1e-3):
    """The policy "high" of the published code: the likeliest score of those that the upper component owns."""
    if len(scores) < 4:
        return 0.0
    column, mixture = scores.astype(np.float64)[:, None], _reference_mixture(scores, tolerance)
    upper = mixture.predict(column) == 1
    if not upper.any():
        return 0.0
    likelihood = np.where(upper, mixture.score_samples(column), -np.inf)
    return float(scores[likelihood.argmax()])


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_mixtures_and_thresholds_are_those_of_scikit_learn(tolerance):
    sets = list(_score_sets(120))
    memory = _memory(sets)
    mixture = fit_mixture(memory, tolerance=tolerance)
    thresholds = mixture_thresholds(memory, tolerance=tolerance)
    for row, scores in enumerate(sets):
        reference = _reference_mixture(scores, tolerance)
        np.testing.assert_allclose(mixture.weights[row], reference.weights_, atol=1e-6)
        np.testing.assert_allclose(mixture.means[row], reference.means_[:, 0], atol=1e-6)
        np.testing.assert_allclose(mixture.variances[row], reference.covariances_[:, 0, 0], atol=1e-6)
        assert float(thresholds[row]) == pytest.approx(_reference_threshold(scores, tolerance), abs=1e-6)
    assert 0.2 < thresholds.median() < 0.9


@pytest.mark.parametrize("center", [0.5, 0.6, 0.8])
def test_the_tolerance_decides_whether_two_heaps_are_told_apart(center):
    rng = np.random.default_rng(1)
    lower, upper = rng.normal(0.15, 0.03, 60).clip(0.05), rng.normal(center, 0.04, 40).clip(0, 1)
    memory = _memory([np.concatenate([lower, upper]).astype(np.float32)])
    assert fit_mixture(memory, tolerance=0).means[0].tolist() == pytest.approx([0.15, center], abs=0.02)
    assert float(mixture_thresholds(memory, tolerance=0)[0]) == pytest.approx(center, abs=0.02)
    # as published the fit ends early, and the threshold is the lower edge of the upper heap
    assert np.ptp(fit_mixture(memory).means[0].numpy()) < 0.15
    assert float(mixture_thresholds(memory)[0]) == pytest.approx(upper.min(), abs=1e-6)


@pytest.mark.parametrize("scores", [[], [0.9], [0.2, 0.8, 0.9], [0.4] * 10])
def test_without_an_upper_heap_the_threshold_is_zero(scores):
    memory = _memory([np.array(scores, dtype=np.float32)])
    assert mixture_thresholds(memory).tolist() == [0]
    assert all(field.isfinite().all() for field in fit_mixture(memory)) or len(scores) == 0


def test_empty_classes_leave_the_others_alone():
    sets = list(_score_sets(3, seed=5))
    alone = mixture_thresholds(_memory(sets))
    empty = np.zeros(0, dtype=np.float32)
    among = mixture_thresholds(_memory([empty, sets[0], empty, sets[1], sets[2]]))
    assert among[[1, 3, 4]].tolist() == alone.tolist()
    assert among[[0, 2]].tolist() == [0, 0]


def test_the_memory_is_a_queue_of_each_class():
    rng = np.random.default_rng(2)
    classes, room = 5, 7
    memory, queues = torch.zeros(classes, room), [[] for _ in range(classes)]
    for _ in range(40):
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 9)))
        scores, labels = rng.uniform(0.05, 1, shape).astype(np.float32), rng.integers(0, classes - 1, shape)
        mask = rng.random(shape) < 0.6
        before = memory.clone()
        after = remember_scores(memory, *(torch.from_numpy(field) for field in (scores, labels, mask)))
        assert torch.equal(memory, before)
        for label in range(classes):
            queues[label] = [*scores[mask & (labels == label)].tolist(), *queues[label]][:room]
        assert [[score for score in row if score > 0] for row in after.tolist()] == queues
        memory = after
    assert queues[-1] == []
    assert all(len(queue) == room for queue in queues[:-1])


@pytest.fixture
def pair():
    """A student, and a teacher that is sure of something."""
    student, teacher = student_and_teacher(FCOS)
    with torch.no_grad():
        teacher.head.cls.bias += 3
        teacher.head.cls.weight *= 20
        teacher.head.quality.bias += 3
    return student, teacher


def _reference_step(found, queues):
    """Which boxes of a step teach, and how much: the published rules with lists, one image and class at a time."""
    rows = [
        [(float(s), int(c), i) for i, (s, c, m) in enumerate(zip(*fields, strict=True)) if m]
        for fields in zip(found.scores, found.labels, found.mask, strict=True)
    ]
    believed = []
    for image in rows:
        ordered = sorted(image, reverse=True)
        objects = min(int(sum(score for score, _, _ in ordered) + 0.5), len(ordered) - 1)
        believed.append([row for row in ordered if row[0] > ordered[objects][0] - 1e-5])
    for label, queue in enumerate(queues):
        queue[:] = ([s for image in believed for s, c, _ in image if c == label] + queue)[:ROOM]
    limits = [_reference_threshold(np.array(queue, dtype=np.float32)) for queue in queues]
    kept = [[row for row in image if row[0] > limits[row[1]]] for image in believed]
    with_boxes = sum(bool(image) for image in kept)
    return kept, 0.01 if with_boxes < len(kept) / 2 else 1.0


def test_steps_agree_with_the_published_rules(pair):
    method = ConsistentTeacher(burn_in=1, unlabeled_weight=2.0)
    plain = UnbiasedTeacher(burn_in=1, threshold=0.05, box=True, cls_weight=1)
    student, teacher = pair
    state, queues = method.initial_state(classes=3, unlabeled=20), [[] for _ in range(3)]
    factors, filtered = set(), 0
    for seed in range(6):
        batch = semi_batch(seed, labeled=1, unlabeled=5)
        output = teacher(batch.unlabeled.weak)
        # some images on which the teacher is sure of nothing
        output = output._replace(logits=output.logits - 8.0 * (torch.arange(5) < 3 * (seed % 2))[:, None, None])
        with torch.no_grad():
            found = plain.pseudo_boxes(student, output, batch.unlabeled.weak, 0.05)
            kept, factor = _reference_step(found, queues)
            filtered += int(found.mask.sum()) - sum(map(len, kept))
            mask = torch.zeros_like(found.mask)
            for row, image in enumerate(kept):
                mask[row, [place for _, _, place in image]] = True
            seen = student(batch.unlabeled.strong)
            expected = student.supervised_losses(seen, found.only(mask).targets)
            task = method.student_task(student, output, batch.labeled, batch.unlabeled, state)
            losses = task.loss(seen)
        state = task.state
        factors.add(factor)
        assert [[score for score in row if score > 0] for row in state["scores"].tolist()] == [
            pytest.approx(queue) for queue in queues
        ]
        assert task.metrics["pseudo/boxes"] * 5 == sum(map(len, kept))
        assert losses.keys() == expected.keys()
        for name, value in expected.items():
            assert_close_to_scale(losses[name], value * factor)
    assert factors == {0.01, 1.0}
    assert filtered > 100


def test_candidates_are_bounded_and_the_best_stay(pair, monkeypatch):
    method, batch = ConsistentTeacher(), semi_batch()
    output = pair[1](batch.unlabeled.weak)
    whole = method.pseudo_boxes(pair[0], output, batch.unlabeled.weak, 0)
    assert isinstance(whole, PseudoBoxes)
    monkeypatch.setattr("denseteacher.methods.consistent_teacher._MOST_CANDIDATES", 40)
    few = method.pseudo_boxes(pair[0], output, batch.unlabeled.weak, 0)
    assert few.mask.any()
    assert torch.equal(few.scores[:, 0], whole.scores[:, 0])


# --- feature alignment ---


def _resize(values, height, width):
    """Bilinear resizing of (C, h, w), edges at edges, in loops."""
    rows, columns = values.shape[1:]
    out = np.zeros((values.shape[0], height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = v - top, u - left
            out[:, y, x] = (1 - a) * ((1 - b) * values[:, top, left] + b * values[:, top, right]) + a * (
                (1 - b) * values[:, bottom, left] + b * values[:, bottom, right]
            )
    return out


def _convolve(values, weight, bias):
    reach = weight.shape[-1] // 2
    padded = np.pad(values, ((0, 0), (reach, reach), (reach, reach)))
    height, width = values.shape[1:]
    out = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for dy in range(weight.shape[2]):
        for dx in range(weight.shape[3]):
            out += np.einsum("oc,chw->ohw", weight[:, :, dy, dx], padded[:, dy : dy + height, dx : dx + width])
    return out


def _sample(values, y, x):
    """Bilinear sample of (h, w), nothing around it."""
    total, top, left = 0.0, int(np.floor(y)), int(np.floor(x))
    for row, a in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, b in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                total += a * b * values[row, column]
    return total


def _reference_alignment(module, features, boxes, strides):
    """One image as published: box maps in strides of their level, rescaled where levels are blended."""
    state = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    boxes = [level / stride for level, stride in zip(boxes, strides, strict=True)]
    reduced = [np.maximum(_convolve(level, state["reduce.weight"], state["reduce.bias"]), 0) for level in features]
    aligned = []
    for level, own in enumerate(boxes):
        height, width = own.shape[1:]
        finer = _resize(reduced[level - 1], height, width) if level > 0 else reduced[level]
        coarser = _resize(reduced[level + 1], height, width) if level < len(boxes) - 1 else reduced[level]
        seen = np.concatenate([finer, reduced[level], coarser])
        shift = _convolve(seen, state["levels.weight"], state["levels.bias"])
        shift = shift.clip(-1 if level > 0 else 0, 1 if level < len(boxes) - 1 else 0)
        blend = own * (1 - abs(shift))
        if level > 0:
            ratio = strides[level - 1] / strides[level]
            blend += np.maximum(-shift, 0) * _resize(boxes[level - 1], height, width) * ratio
        if level < len(boxes) - 1:
            ratio = strides[level + 1] / strides[level]
            blend += np.maximum(shift, 0) * _resize(boxes[level + 1], height, width) * ratio
        offsets = _convolve(seen, state["places.weight"], state["places.bias"])
        moved = np.zeros_like(blend)
        for side in range(4):
            for y in range(height):
                for x in range(width):
                    moved[side, y, x] = _sample(
                        blend[side], y + offsets[2 * side, y, x], x + offsets[2 * side + 1, y, x]
                    )
        moved = moved.reshape(2, 2, height, width)  # ours: corners in order
        aligned.append(np.concatenate([moved.min(0), moved.max(0)]) * strides[level])
    return aligned


def _maps(levels, *, channels=6, batch=2, canvas=(52, 76), seed=0):
    """Features and boxes of a pyramid whose maps don't halve evenly."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in levels]
    features = [torch.randn(batch, channels, *shape, generator=rng) for shape in shapes]
    corners = [torch.rand(batch, 2, *shape, generator=rng) * 60 for shape in shapes]
    sides = [torch.rand(batch, 2, *shape, generator=rng) * 60 for shape in shapes]
    return features, [torch.cat((one, one + two), 1) for one, two in zip(corners, sides, strict=True)]


def _unsettled(channels=6, spread=0.4):
    """Alignment far from its start: shifts of every size, some beyond what a level or the map has."""
    torch.manual_seed(3)
    module = FeatureAlignment(channels)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * spread)
    return module


@pytest.mark.parametrize("strides", [(8,), (8, 16, 32), (8, 16, 32, 64, 128)], ids=len)
def test_alignment_agrees_with_numpy(strides):
    module, (features, boxes) = _unsettled(spread=0.15), _maps(strides)
    found = module(features, boxes)
    for image in range(2):
        expected = _reference_alignment(
            module,
            [level[image].double().numpy() for level in features],
            [level[image].double().numpy() for level in boxes],
            strides,
        )
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float32
            assert_close_to_scale(one[image], other, scale=120)
            assert (one[image, 2:] >= one[image, :2]).all()


def test_alignment_without_shifts_is_the_identity_and_begins_near_it():
    features, boxes = _maps((8, 16, 32, 64), channels=64)
    module = FeatureAlignment(64)
    for one, other in zip(module(features, boxes), boxes, strict=True):
        assert (one - other).abs().max() < 0.1
    for convolution in (module.levels, module.places):
        torch.nn.init.zeros_(convolution.weight)
    for one, other in zip(module(features, boxes), boxes, strict=True):
        assert_close_to_scale(one, other, scale=120)


def test_a_shift_of_a_whole_location_or_level_takes_what_is_there():
    features, boxes = _maps((8, 16), canvas=(64, 64))
    module = FeatureAlignment(6)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        module.places.bias[5] = 1.0  # the third side from one location to the right
    moved = module(features, boxes)[0]
    x1, y1, x2, y2 = boxes[0].unbind(1)
    x2 = torch.nn.functional.pad(x2[..., 1:], (0, 1))  # nothing is there beyond the map, and corners stay in order
    expected = torch.stack((torch.minimum(x1, x2), y1, torch.maximum(x1, x2), y2), 1)
    assert_close_to_scale(moved, expected, scale=120)
    with torch.no_grad():
        module.places.bias.zero_()
        module.levels.bias.fill_(7.0)  # to the coarser level, where there is one
    finest, coarsest = module(features, boxes)
    coarser = torch.nn.functional.interpolate(boxes[1], scale_factor=2, mode="bilinear")
    assert_close_to_scale(finest, coarser, scale=120)
    assert_close_to_scale(coarsest, boxes[1], scale=120)


def test_locations_in_a_row_are_those_of_the_maps():
    module, (features, boxes) = _unsettled(), _maps((8, 16, 32))
    rows = torch.cat([flatten(level, 4) for level in boxes], 1)
    expected = torch.cat([flatten(level, 4) for level in module(features, boxes)], 1)
    assert torch.equal(module.of_locations(features, rows), expected)


def test_all_layers_of_a_tower_are_seen():
    torch.manual_seed(0)
    layers = tower(FCOSConfig(channels=16, head_convs=3))
    feature = torch.randn(2, 16, 5, 7)
    seen = layers_of(layers, feature)
    assert seen.shape == (2, 48, 5, 7)
    assert torch.equal(seen[:, 32:], layers(feature))
    assert torch.equal(seen[:, :16], layers[:3](feature))


def test_gradients_reach_features_boxes_and_all_weights():
    module, (features, boxes) = FeatureAlignment(6), _maps((8, 16, 32))
    for level in features + boxes:
        level.requires_grad_()
    sum(level.square().sum() for level in module(features, boxes)).backward()
    for tensor in [*features, *boxes, *module.parameters()]:
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_boxes_stay_fp32_under_bf16_autocast():
    module, (features, boxes) = _unsettled(spread=0.05), _maps((8, 16, 32))
    expected = module(features, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(features, boxes)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert ((one - other).abs() > 12).float().mean() < 0.05


def test_its_size_is_the_published_one():
    assert sum(parameter.numel() for parameter in FeatureAlignment(8 * 256).parameters()) == 151_884


ALIGNED = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 2, "align": "fam3d"}
ONE_ANCHOR = {"anchor_scale": 8, "anchor_scales": (1.0,), "anchor_ratios": (1.0,)}


@pytest.mark.parametrize(("kind", "more"), [(FCOS, {}), (RetinaNet, ONE_ANCHOR)])
def test_a_detector_with_alignment_begins_as_one_without(kind, more):
    aligned = kind(num_classes=3, **ALIGNED | more).eval()
    plain = kind(num_classes=3, **ALIGNED | more | {"align": "none"}).eval()
    plain.load_state_dict(aligned.state_dict(), strict=False)
    images = semi_batch().labeled.weak
    first, second = aligned(images), plain(images)
    assert torch.equal(first.logits, second.logits)
    assert (aligned.decode_boxes(first) - plain.decode_boxes(second)).abs().max() < 0.5
    sum(aligned.supervised_losses(first, semi_batch().labeled.targets).values()).backward()
    assert aligned.head.align.places.weight.grad.abs().sum() > 0
    assert aligned.head.align.levels.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["detector.name=retinanet"], "align 'fam3d' moves one box a location, and there are 9 anchors at one"),
        (["detector.coding.name=distribution"], "which coding 'distribution' has no numbers for"),
        (["detector.head_convs=0"], "head_convs is 0"),
    ],
)
def test_a_detector_that_cannot_align_says_so(overrides, message):
    with pytest.raises(InputError, match=message):
        load_recipe("custom", ["detector.align=fam3d", *overrides])


def test_the_box_weight_is_that_of_the_box_loss():
    torch.manual_seed(0)
    detector = FCOS(num_classes=3, **ALIGNED).eval()
    output, targets = detector(semi_batch().labeled.weak), semi_batch().labeled.targets
    once = detector.supervised_losses(output, targets)
    detector.config = detector.config.model_copy(update={"box_weight": 2.0})
    twice = detector.supervised_losses(output, targets)
    assert {name: float((twice[name] / once[name]).detach()) for name in once} == {"cls": 1, "box": 2, "quality": 1}
