"""A step cut into pieces is the step: the same losses, the same gradients, whatever the pieces are."""

import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.detectors.pieces import ForwardInPieces, forward_in_pieces
from denseteacher.methods import CSD, DenseTeacher, HumbleTeacher, Supervised, UnbiasedTeacher
from denseteacher.structures import DenseOutput, ImageBatch, cat, chunk, take
from support import image_batch, semi_batch
from support.closeness import assert_close_to_scale

CANVASES = ((64, 96), (96, 64), (32, 64), (96, 96))
SIZES = [[60, 90], [96, 50], [20, 64], [70, 70]]
METHODS = [
    Supervised(),
    DenseTeacher(burn_in=0, ramp=0, ratio=0.05),
    DenseTeacher(burn_in=0, ramp=0, ratio=0.05, group_size=2, group_canvas=True),
    UnbiasedTeacher(burn_in=0, ramp=0, threshold=0.1, box=True),
    HumbleTeacher(burn_in=0, ramp=0, ratio=0.1),
    CSD(burn_in=0, ramp=0, threshold=0.05),
]


@pytest.fixture(params=[FCOS, RetinaNet])
def make(request):
    def detector(**options):
        torch.manual_seed(0)
        made = request.param(
            num_classes=3,
            backbone="test_byobnet",
            levels=(3, 6),
            channels=16,
            head_convs=1,
            head_norm="group",
            **options,
        )
        with torch.no_grad():
            made.head.cls.bias += 2  # one that sees something
        return made

    return detector


class InPieces:
    """As a method sees the student of a run."""

    def __init__(self, detector, parts):
        self.module, self.detector = ForwardInPieces(detector, parts), detector

    def __call__(self, images):
        return self.module(images)

    def __getattr__(self, name):
        return getattr(self.detector, name)


def gradients(detector, method, parts):
    """Of a step, and its losses."""
    detector.zero_grad(set_to_none=True)
    teacher = InPieces(detector, parts)
    batch = semi_batch(labeled=4, unlabeled=4, side=96)
    losses = method.losses(InPieces(detector, parts), teacher, batch, 5).losses
    sum(losses.values()).backward()
    found = {name: value.grad.clone() for name, value in detector.named_parameters() if value.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, found


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_accumulation_gives_the_gradient_of_the_step(make, method):
    detector = make(freeze_batch_norm=True)
    losses, expected = gradients(detector, method, 1)
    assert sum(float(value.abs().sum()) for value in expected.values()) > 0
    for parts in (2, 4, 5):
        same, found = gradients(detector, method, parts)
        assert_close_to_scale(same, losses)
        assert found.keys() == expected.keys()
        largest = max(float(value.abs().max()) for value in expected.values())
        for name, value in expected.items():
            assert_close_to_scale(found[name], value, share=1e-4, scale=max(float(value.abs().max()), 1e-3 * largest))


def test_parts_keep_fewer_activations(make):
    detector = make(freeze_batch_norm=True)
    images = image_batch(0, batch=4, height=96, width=96)
    kept = {}
    for parts in (1, 4):
        kept[parts] = 0

        def keep(one, parts=parts):
            kept[parts] += one.numel()
            return one

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
            forward_in_pieces(detector, images, parts)
    assert kept[4] < 0.5 * kept[1]


def test_running_statistics_move_once_a_part(make):
    detector = make(freeze_batch_norm=False).train()
    images = image_batch(0, batch=4, height=96, width=96)
    before = {name: value.clone() for name, value in detector.named_buffers()}
    for one in chunk(images, 2):
        detector(one)
    expected = {name: value.clone() for name, value in detector.named_buffers()}
    detector.load_state_dict(before, strict=False)
    forward_in_pieces(detector, images, 2).logits.sum().backward()
    assert any(not torch.equal(value, before[name]) for name, value in expected.items())
    for name, value in detector.named_buffers():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("parts", [1, 3])
def test_each_image_is_computed_on_its_canvas(make, parts):
    detector = make(freeze_batch_norm=True)
    images = image_batch(0, batch=4, height=96, width=96, sizes=SIZES)._replace(canvases=CANVASES)
    with torch.no_grad():
        output = forward_in_pieces(detector, images, parts)
        whole = detector(images)
        for row, (height, width) in enumerate(CANVASES):
            alone = detector(ImageBatch(images.pixels[row : row + 1, :, :height, :width], images.sizes[row : row + 1]))
            places = {tuple(anchor): place for place, anchor in enumerate(output.anchors.tolist())}
            own = [places[tuple(anchor)] for anchor in alone.anchors.tolist()]
            others = sorted(set(range(len(output.anchors))) - set(own))
            for field in ("logits", "deltas", "quality", "valid"):
                if getattr(alone, field) is not None:
                    assert_close_to_scale(getattr(output, field)[row, own].float(), getattr(alone, field)[0].float())
            assert bool(others) == ((height, width) != (96, 96))
            assert not output.valid[row, others].any()
            assert (output.logits[row, others].sigmoid() < 1e-8).all()
    assert [one.shape for one in whole if one is not None] == [one.shape for one in output if one is not None]
    assert torch.equal(output.anchors, whole.anchors)
    assert torch.equal(output.valid, whole.valid)


def test_gradients_pass_through_canvases(make):
    detector = make(freeze_batch_norm=True)
    batch = semi_batch(labeled=2, unlabeled=2, side=96)
    labeled = batch.labeled._replace(weak=batch.labeled.weak._replace(canvases=((96, 96), (96, 96))))
    student = InPieces(detector, 1)
    method = DenseTeacher(burn_in=0, ramp=0, ratio=0.05)
    plain = method.losses(student, student, batch, 5).losses
    for view in ("weak", "strong"):
        labeled = labeled._replace(**{view: getattr(labeled, view)._replace(canvases=((96, 96), (96, 96)))})
    views = {
        view: getattr(batch.unlabeled, view)._replace(canvases=((96, 96), (96, 96))) for view in ("weak", "strong")
    }
    same = method.losses(
        student, student, batch._replace(labeled=labeled, unlabeled=batch.unlabeled._replace(**views)), 5
    )
    assert_close_to_scale(same.losses, plain)
    sum(same.losses.values()).backward()
    assert all(value.grad.isfinite().all() for value in detector.parameters() if value.grad is not None)


def test_canvases_follow_the_images():
    images = image_batch(0, batch=4, height=96, width=96, sizes=SIZES)._replace(canvases=CANVASES)
    assert images.computed == sum(height * width for height, width in CANVASES)
    assert images._replace(canvases=None).computed == 4 * 96 * 96
    assert take(images, slice(1, 3)).canvases == CANVASES[1:3]
    assert take(images, torch.tensor([1, 0])).canvases is None
    assert [one.canvases for one in chunk(images, [1, 3])] == [CANVASES[:1], CANVASES[1:]]
    assert [one.canvases for one in chunk(images, 2)] == [CANVASES[:2], CANVASES[2:]]
    assert cat(*chunk(images, 2)).canvases == CANVASES
    assert cat(images, images._replace(canvases=None)).canvases is None
    assert cat(images._replace(canvases=None), images).canvases is None


def test_one_piece_is_the_detector_itself(make):
    detector = make(freeze_batch_norm=True)
    images = image_batch(0, batch=2, height=96, width=96)
    with torch.no_grad():
        found, expected = forward_in_pieces(detector, images), detector(images)
    assert isinstance(found, DenseOutput)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True) if one is not None)
