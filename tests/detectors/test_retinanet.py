"""RetinaNet: forward, losses, detection, weights. What it shares with FCOS is tested there."""

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from denseteacher.detectors import DetectorCard, RetinaNet, load_detector, load_torchvision_retinanet, save_detector
from denseteacher.errors import InputError
from denseteacher.ops.boxes import encode_deltas
from denseteacher.structures import Targets
from support import giou_rows, image_batch, random_targets, sigmoid64
from support.closeness import assert_close_to_scale

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 32, "head_convs": 1}
LOCATIONS = 12 * 12 + 6 * 6 + 3 * 3


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return RetinaNet(num_classes=4, **SMALL)


def test_output_has_nine_anchors_at_a_location_and_no_quality(detector):
    output = detector(image_batch(0, batch=2, height=96, width=96, sizes=[[96, 96], [50, 60]]))
    assert output.logits.shape == (2, 9 * LOCATIONS, 4)
    assert output.deltas.shape == (2, 9 * LOCATIONS, 4)
    assert output.quality is None
    assert output.valid[1].sum() == 9 * (7 * 8 + 4 * 4 + 2 * 2)
    assert {output.logits.dtype, output.deltas.dtype} == {torch.float32}
    assert torch.equal(output.anchors, detector.anchors((96, 96), torch.device("cpu")))


def test_the_anchors_of_a_location_are_all_inside_or_all_outside():
    from denseteacher.ops.anchors import valid_locations

    detector = RetinaNet(num_classes=2, **SMALL | {"levels": (3, 7)})
    anchors = detector.anchors((640, 1344), torch.device("cpu"))
    sizes = torch.tensor([[stride * 4, stride * number] for stride in detector.strides for number in (3, 5, 9)])
    valid = valid_locations(anchors, sizes).view(len(sizes), -1, 9)
    assert torch.equal(valid.all(2), valid.any(2))
    columns = valid[:, :, 0][:, : 168 * 80].view(len(sizes), 80, 168)[:, 0].sum(1)
    assert columns.tolist() == [-(-width // 8) for width in sizes[:, 1].tolist()]  # a location on the edge is outside


@pytest.mark.parametrize("levels", [(3, 7), (4, 6), (3, 3)])
def test_the_sizes_of_the_levels_are_recovered_from_the_anchors(levels):
    detector = RetinaNet(num_classes=2, **SMALL | {"levels": levels}, anchor_scale=1.7)
    shapes = detector.shapes((128, 256))
    anchors = detector.anchors((128, 256), torch.device("cpu"))
    assert detector.levels(anchors).bincount().tolist() == [9 * height * width for height, width in shapes]


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_supervised_losses_equal_a_slow_version(box_loss):
    torch.manual_seed(0)
    detector = RetinaNet(num_classes=4, **SMALL, anchor_scale=2.0, box_loss=box_loss)
    targets = random_targets(8, batch=2, boxes=5, classes=4)
    with torch.no_grad():
        output = detector(image_batch(5, batch=2, height=96, width=96))
        output = output._replace(deltas=torch.randn(output.deltas.shape, generator=torch.Generator().manual_seed(1)))
        losses = detector.supervised_losses(output, targets)
        labels, boxes, *_ = detector.assign(targets, output.anchors, detector.levels(output.anchors))
        decoded = detector.decode(output).boxes
    cls, box, count = 0.0, 0.0, int((labels >= 0).sum())
    for image in range(2):
        p = sigmoid64(output.logits[image])
        for n, label in enumerate(labels[image].tolist()):
            if label == -2:
                continue
            for c in range(4):
                q = p[n, c]
                cls -= 0.25 * (1 - q) ** 2 * np.log(q) if c == label else 0.75 * q**2 * np.log(1 - q)
            if label < 0:
                continue
            if box_loss == "giou":
                box += 1 - giou_rows(decoded[image, n][None].numpy(), boxes[image, n][None].numpy())[0]
            else:
                wanted = encode_deltas(boxes[image, n][None], output.anchors[n][None])[0]
                error = (output.deltas[image, n] - wanted).abs().double()
                box += float(torch.where(error < 0.1, 5 * error**2, error - 0.05).sum())
    assert count > 10
    assert_close_to_scale(losses, {"cls": cls / count, "box": box / count})


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
@pytest.mark.parametrize("boxes", [0, 3])
def test_losses_are_finite_and_train_every_parameter(box_loss, boxes):
    torch.manual_seed(0)
    detector = RetinaNet(num_classes=4, **SMALL, box_loss=box_loss)
    targets = random_targets(3, batch=2, boxes=3, classes=4)
    if not boxes:
        targets = Targets(*(torch.zeros_like(field) for field in targets[:3]))
    losses = detector.supervised_losses(detector(image_batch(0, batch=4, height=96, width=96)), targets)
    sum(losses.values()).backward()
    assert set(losses) == {"cls", "box"}
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())
    assert (losses["box"] > 0) == bool(boxes)


def test_ignored_anchors_have_no_gradient(detector):
    targets = random_targets(8, batch=2, boxes=5, classes=4)
    output = detector(image_batch(5, batch=2, height=96, width=96))
    ignored = detector.assign(targets, output.anchors, detector.levels(output.anchors)).labels == -2
    logits = output.logits.detach().requires_grad_()
    detector.supervised_losses(output._replace(logits=logits), targets)["cls"].backward()
    assert ignored.any()
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).all()


def test_detect_finds_a_planted_box_and_cuts_it_to_the_image(detector):
    output = detector(image_batch(0, batch=1, height=96, width=96))
    logits = torch.full_like(output.logits, -9)
    place = 9 * (6 * 12 + 6) + 3  # the smallest square anchor, 32 px, of the finest level at (48, 48)
    logits[0, place, 2] = 4
    deltas = torch.zeros_like(output.deltas)
    deltas[0, place] = torch.tensor([0.25, 0.0, 0.0, torch.tensor(3.5).log()])
    (found,) = detector.detect(output._replace(logits=logits, deltas=deltas), torch.tensor([[96, 70]]))
    assert_close_to_scale(found.boxes, [[40.0, 0.0, 70.0, 96.0]])
    assert found.labels.tolist() == [2]
    assert_close_to_scale(found.scores, sigmoid64([4.0]))


@pytest.mark.parametrize("old_names", [False, True])
def test_torchvision_weights_give_torchvision_outputs(old_names):
    torch.manual_seed(0)
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).eval()
    for module in theirs.modules():  # untrained statistics and weights would hide a wrong name
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.normal_(module.bias, std=0.1)
    weights = theirs.state_dict()
    if old_names:  # as in the file that torchvision publishes
        for i in range(4):
            weights = {key.replace(f"head.conv.{i}.0.", f"head.conv.{2 * i}."): value for key, value in weights.items()}
    ours = RetinaNet(num_classes=91, backbone="resnet50.tv_in1k").eval()
    load_torchvision_retinanet(ours, weights)
    images = image_batch(0, batch=1, height=128, width=256)
    with torch.no_grad():
        output = ours(images)
        pixels = (images.pixels.float() - ours.mean) / ours.std
        raw = theirs.head(list(theirs.backbone(pixels).values()))
        anchors = theirs.anchor_generator(
            torchvision.models.detection.image_list.ImageList(pixels, [(128, 256)]),
            list(theirs.backbone(pixels).values()),
        )[0]
    assert_close_to_scale(output.logits, raw["cls_logits"], what="logits")
    assert_close_to_scale(output.deltas, raw["bbox_regression"], what="deltas")
    assert (output.anchors - anchors).abs().max() <= 2  # theirs are rounded


def test_torchvision_weights_of_another_network_are_refused(detector):
    with pytest.raises(InputError, match="not a retinanet_resnet50_fpn"):
        load_torchvision_retinanet(detector, {})


def test_a_detector_file_knows_what_it_holds(detector, tmp_path):
    file = tmp_path / "detector.safetensors"
    card = DetectorCard(
        detector=detector.config,
        categories=((1, "cat"), (5, "dog"), (9, "cow"), (11, "hen")),
        short_side=64,
        max_side=96,
    )
    save_detector(file, detector.state_dict(), card)
    loaded, _ = load_detector(file)
    images = image_batch(0, batch=1, height=64, width=64)
    assert isinstance(loaded, RetinaNet)
    assert_close_to_scale(loaded(images).logits, detector.eval()(images).logits)


def test_it_learns_one_image():
    """A small network finds a planted box after a few dozen steps."""
    torch.manual_seed(0)
    detector = RetinaNet(num_classes=2, **SMALL, anchor_scale=2.0, head_norm="group")
    images = image_batch(0, batch=1, height=64, width=64)
    images.pixels[:] = 90
    images.pixels[0, :, 16:40, 24:48] = 220
    targets = Targets(torch.tensor([[[24.0, 16, 48, 40]]]), torch.tensor([[1]]), torch.tensor([[True]]))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(detector.supervised_losses(detector(images), targets).values()).backward()
        optimizer.step()
    (found,) = detector.detect(detector(images), images.sizes)
    assert found.labels[0] == 1
    assert F.l1_loss(found.boxes[0], targets.boxes[0, 0]) < 3
