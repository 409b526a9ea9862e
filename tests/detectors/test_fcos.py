"""The detector: forward, losses, decoding, detection, weights."""

import math

import pytest
import torch
import torchvision

from denseteacher.detectors import FCOS, DetectorCard, load_detector, load_torchvision_fcos, save_detector
from denseteacher.errors import InputError
from denseteacher.structures import ImageBatch, Targets, cat
from support import image_batch, random_targets
from support.closeness import assert_close_to_scale

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 32, "head_convs": 1}


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return FCOS(num_classes=4, **SMALL)


def test_output_shapes_levels_and_types(detector):
    output = detector(image_batch(0, batch=2, height=96, width=64, sizes=[[96, 64], [50, 60]]))
    locations = 12 * 8 + 6 * 4 + 3 * 2
    assert output.logits.shape == (2, locations, 4)
    assert output.deltas.shape == (2, locations, 4)
    assert output.quality.shape == (2, locations)
    assert output.anchors.shape == (locations, 4)
    assert output.valid[0].all()
    assert output.valid[1].sum() == 7 * 8 + 4 * 4 + 2 * 2
    assert {field.dtype for field in output if field.is_floating_point()} == {torch.float32}
    assert (output.deltas >= 0).all()


@pytest.mark.parametrize("levels", [(3, 7), (4, 6), (3, 3)])
def test_levels_are_configurable(levels):
    detector = FCOS(num_classes=2, **SMALL | {"levels": levels})
    output = detector(image_batch(0, batch=1, height=128, width=128))
    strides = (output.anchors[:, 2] - output.anchors[:, 0]).unique().tolist()
    assert strides == [2.0**level for level in range(levels[0], levels[1] + 1)]
    assert torch.equal(output.anchors, detector.anchors((128, 128), torch.device("cpu")))


def test_padding_does_not_reach_the_image():
    """The same image on a larger canvas has the same predictions where nothing of the padding is seen."""
    torch.manual_seed(0)
    detector = FCOS(num_classes=2, **SMALL | {"head_norm": "none"}).eval()
    images = image_batch(1, batch=1, height=64, width=64)
    garbage = image_batch(2, batch=1, height=64, width=96, sizes=[[64, 64]])
    garbage.pixels[..., :64] = images.pixels
    zeros = ImageBatch(garbage.pixels.clone(), garbage.sizes)
    zeros.pixels[..., 64:] = 0
    assert torch.equal(detector(garbage).logits, detector(zeros).logits)


@pytest.mark.parametrize("distance", [0.0, 2.0, 3.5])
def test_boxes_begin_at_the_initial_distance_and_learn_from_there(distance):
    torch.manual_seed(0)
    detector = FCOS(num_classes=4, **SMALL, initial_distance=distance)
    output = detector(image_batch(0, batch=2, height=96, width=96))
    assert float(output.deltas.detach().sub(distance).abs().max()) < 0.5
    moving = (output.deltas > 0).float().mean()
    assert moving == 1 if distance else 0.3 < moving < 0.7  # rectified: the others have no gradient yet
    detector.supervised_losses(output, random_targets(3, batch=2, boxes=4, classes=4))["box"].backward()
    assert detector.head.box.weight.grad.abs().sum() > 0
    assert FCOS(num_classes=4, **SMALL).config.coding.initial_distance == 2


def test_losses_train_every_parameter(detector):
    detector.zero_grad()
    targets = random_targets(3, batch=2, boxes=4, classes=4)
    output = detector(image_batch(0, batch=2, height=96, width=96))
    losses = detector.supervised_losses(output, targets)
    assert set(losses) == {"cls", "box", "quality"}
    sum(losses.values()).backward()
    without = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert without == []


def test_two_views_of_a_scene_share_their_targets(detector):
    detector.eval()
    targets = random_targets(3, batch=2, boxes=4, classes=4)
    both = detector(image_batch(0, batch=4, height=96, width=96))
    twice = cat(targets, targets)
    shared = detector.supervised_losses(both, targets)
    explicit = detector.supervised_losses(both, twice)
    detector.train()
    assert_close_to_scale(shared, explicit)


@pytest.mark.parametrize("quality", ["iou", "centerness"])
def test_losses_without_boxes_are_finite(quality):
    torch.manual_seed(0)
    detector = FCOS(num_classes=4, **SMALL, quality=quality)
    output = detector(image_batch(0, batch=2, height=64, width=64))
    empty = Targets(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.bool))
    losses = detector.supervised_losses(output, empty)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert losses["box"] == 0
    assert losses["quality"] == 0
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)


def test_boxes_count_by_their_locations_centerness_where_that_is_the_quality():
    from support import giou_rows

    torch.manual_seed(0)
    detector = FCOS(num_classes=4, **SMALL, quality="centerness")
    targets = random_targets(8, batch=2, boxes=5, classes=4)
    with torch.no_grad():
        output = detector(image_batch(5, batch=2, height=96, width=96))
        losses = detector.supervised_losses(output, targets)
        assigned = detector.assign(targets, output.anchors, detector.levels(output.anchors))
        boxes = detector.decode(output).boxes
    box = quality = total = 0.0
    places = (assigned.labels >= 0).nonzero().tolist()
    for image, n in places:
        wanted = assigned.boxes[image, n].double()
        x, y = (float(output.anchors[n, axis] + output.anchors[n, axis + 2]) / 2 for axis in (0, 1))
        left, up, right, down = x - wanted[0], y - wanted[1], wanted[2] - x, wanted[3] - y
        share = math.sqrt(min(left, right) / max(left, right) * (min(up, down) / max(up, down)))
        box += share * (1 - giou_rows(boxes[image, n][None].numpy(), wanted[None].numpy())[0])
        logit = output.quality[image, n].double()
        quality += float(torch.nn.functional.softplus(logit) - logit * share)
        total += share
    assert 1 < total < 0.9 * len(places)
    assert_close_to_scale(losses["box"], box / total)
    assert_close_to_scale(losses["quality"], quality / len(places))


def test_supervised_losses_equal_a_slow_version(detector):
    """Focal, GIoU and IoU-quality terms over the foreground, one location at a time."""
    from denseteacher.ops.boxes import iou
    from denseteacher.ops.losses import sigmoid_focal_loss
    from support import giou_rows

    targets = random_targets(8, batch=2, boxes=5, classes=4)
    with torch.no_grad():
        output = detector(image_batch(5, batch=2, height=96, width=96))
        losses = detector.supervised_losses(output, targets)
        assigned = detector.assign(targets, output.anchors, detector.levels(output.anchors))
        boxes = detector.decode(output).boxes
    cls = box = quality = 0.0
    count = int((assigned.labels >= 0).sum())
    for image in range(2):
        for n in range(output.logits.shape[1]):
            label = int(assigned.labels[image, n])
            hot = torch.nn.functional.one_hot(torch.tensor(max(label, 0)), 4) * (label >= 0)
            cls += float(sigmoid_focal_loss(output.logits[image, n], hot.float()).sum())
            if label >= 0:
                pair = boxes[image, n][None], assigned.boxes[image, n][None]
                box += 1 - giou_rows(pair[0].numpy(), pair[1].numpy())[0]
                target = float(iou(*pair))
                logit = output.quality[image, n].double()
                quality += float(torch.nn.functional.softplus(logit) - logit * target)
    assert count > 10
    assert_close_to_scale(losses, {"cls": cls / count, "box": box / count, "quality": quality / count})


def test_decoding_inverts_encoding(detector):
    from denseteacher.ops.boxes import decode_ltrb, encode_ltrb

    anchors = detector.anchors((96, 96), torch.device("cpu"))
    boxes = torch.tensor([10.0, 20.0, 50.0, 90.0]).expand(len(anchors), 4)
    assert_close_to_scale(decode_ltrb(encode_ltrb(boxes, anchors), anchors), boxes)


def test_detect_finds_a_planted_box_and_cuts_it_to_the_image(detector):
    output = detector(image_batch(0, batch=1, height=96, width=96))
    logits = torch.full_like(output.logits, -9)
    place = 6 * 12 + 6  # the finest level's location at (48, 48)
    logits[0, place, 2] = 4
    deltas = torch.full_like(output.deltas, 4.0)
    deltas[0, place] = torch.tensor([2.0, 1.0, 20.0, 3.0])
    output = output._replace(logits=logits, deltas=deltas, quality=torch.full_like(output.quality, 30))
    (found,) = detector.detect(output, torch.tensor([[96, 90]]))
    assert found.boxes.tolist() == [[32, 40, 90, 72]]
    assert found.labels.tolist() == [2]
    assert_close_to_scale(found.scores, [(1 / (1 + math.exp(-4))) ** 0.5])


def test_detect_suppresses_within_a_class_and_keeps_the_best():
    torch.manual_seed(0)
    detector = FCOS(num_classes=2, **SMALL, max_detections=3)
    output = detector(image_batch(0, batch=2, height=96, width=96))
    output = output._replace(logits=torch.randn(output.logits.shape, generator=torch.Generator().manual_seed(1)))
    for found in detector.detect(output, torch.tensor([[96, 96], [96, 96]])):
        assert len(found.scores) == 3
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_nothing_in_the_padding_is_detected(detector):
    output = detector(image_batch(0, batch=1, height=96, width=96, sizes=[[32, 32]]))
    output = output._replace(logits=torch.full_like(output.logits, 5.0))
    (found,) = detector.detect(output, torch.tensor([[32, 32]]))
    assert (found.boxes <= 32).all()
    assert len(found.boxes) > 0


def test_frozen_parts_stay():
    detector = FCOS(num_classes=2, **SMALL, frozen_stages=2, freeze_batch_norm=True)
    body = detector.backbone.body
    frozen = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "stages_0"}
    before = {name: value.clone() for name, value in body.named_buffers()}
    detector.train()
    detector(image_batch(0, batch=2, height=64, width=64))
    assert before
    assert all(torch.equal(value, before[name]) for name, value in body.named_buffers())


def test_torchvision_weights_give_torchvision_outputs():
    torch.manual_seed(0)
    theirs = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None).eval()
    for module in theirs.modules():  # untrained statistics would hide a wrong batch norm
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = FCOS(num_classes=91, backbone="resnet50.tv_in1k", quality="centerness").eval()
    load_torchvision_fcos(ours, theirs.state_dict())
    images = image_batch(0, batch=1, height=128, width=160)
    with torch.no_grad():
        output = ours(images)
        pixels = (images.pixels.float() - ours.mean) / ours.std
        features = list(theirs.backbone(pixels).values())
        raw = theirs.head(features)
    assert_close_to_scale(output.logits, raw["cls_logits"], what="logits")
    assert_close_to_scale(output.deltas, raw["bbox_regression"], what="deltas")
    assert_close_to_scale(output.quality, raw["bbox_ctrness"][..., 0], what="quality")


def test_torchvision_weights_of_another_network_are_refused(detector):
    with pytest.raises(InputError, match="torchvision weights"):
        load_torchvision_fcos(detector, {"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7)})


CARD = {"categories": ((1, "cat"), (5, "dog"), (9, "cow"), (11, "hen")), "short_side": 64, "max_side": 96}


def test_a_detector_file_holds_all_that_is_needed(detector, tmp_path):
    file = tmp_path / "detector.safetensors"
    save_detector(file, detector.state_dict(), DetectorCard(detector=detector.config, **CARD))
    loaded, card = load_detector(file)
    assert card.categories == CARD["categories"]
    images = image_batch(0, batch=1, height=64, width=64)
    detector.eval()
    assert_close_to_scale(loaded(images).logits, detector(images).logits)
    detector.train()
    assert not list(tmp_path.glob("*.tmp"))


def test_files_that_are_no_detector_are_named(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match=r"no detector file .*missing"):
        load_detector(tmp_path / "missing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors here")
    with pytest.raises(InputError, match="broken"):
        load_detector(broken)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(InputError, match="did not write it"):
        load_detector(foreign)


def test_weights_of_another_architecture_are_refused(detector, tmp_path):
    file = tmp_path / "other.safetensors"
    other = FCOS(num_classes=4, **SMALL | {"channels": 16})
    save_detector(file, other.state_dict(), DetectorCard(detector=detector.config, **CARD))
    with pytest.raises(InputError, match="another architecture"):
        load_detector(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "no_such_net"}, "no_such_net"),
        ({"backbone": "test_byobnet", "pretrained": "missing.pth"}, "missing.pth"),
        ({"backbone": "test_byobnet", "frozen_stages": 99}, "frozen_stages"),
        ({"backbone": "test_convnext", "levels": (1, 3)}, "strides"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(InputError, match=message):
        FCOS(num_classes=2, **options)


def test_local_pretrained_weights(tmp_path):
    import timm

    torch.manual_seed(5)
    classifier = timm.create_model("test_byobnet", pretrained=False)
    file = tmp_path / "weights.pth"
    torch.save(classifier.state_dict(), file)
    detector = FCOS(num_classes=2, **SMALL, pretrained=str(file))
    assert torch.equal(detector.backbone.body.stem.conv.weight, classifier.stem.conv.weight)
    torch.save({"stem": torch.zeros(2)}, file)
    with pytest.raises(InputError, match="another network"):
        FCOS(num_classes=2, **SMALL, pretrained=str(file))


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    import timm

    def no_network(*args, pretrained, **kwargs):
        raise OSError("couldn't connect to the hub")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(InputError, match=r"detector\.pretrained=false"):
        FCOS(num_classes=2, **SMALL, pretrained=True)
