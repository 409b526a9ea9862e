"""Starting from a trained detector: torchvision's, in its file formats, and one of our own."""

import pickle
import re
import time
import urllib.error
import urllib.request
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from denseteacher.data.records import Category, LabeledImages
from denseteacher.detectors import (
    FCOS,
    DetectorCard,
    FCOSConfig,
    RetinaNet,
    RetinaNetConfig,
    find_initial,
    load_torchvision_retinanet,
    save_detector,
)
from denseteacher.detectors import coco_weights as coco_weights_module
from denseteacher.detectors.class_names import canonical_name, match_classes
from denseteacher.errors import InputError
from denseteacher.hardware import Machine
from denseteacher.recipes import resolve
from denseteacher.recipes.resolve import with_lengths
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import check_same_start, find_start, new_student
from support import image_batch

COCO = detection.FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
PRIOR = -torch.tensor(99.0).log().item()
FILES = {
    "fcos": detection.FCOS_ResNet50_FPN_Weights.COCO_V1.url.rpartition("/")[2],
    "retinanet": detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1.url.rpartition("/")[2],
    "retinanet_v2": detection.RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1.url.rpartition("/")[2],
}
RECIPES = {
    "fcos": ["detector.name=fcos"],
    "retinanet": ["detector.name=retinanet"],
    "retinanet_v2": ["detector.name=retinanet", "detector.head_norm=group"],
}


def start(*overrides, names, by_hand=()):
    """What a run with the recipe ``custom`` begins with."""
    recipe = load_recipe("custom", ["detector.frozen_stages=0", *overrides])
    recipe, initial, notes = find_start(recipe, by_hand)
    nothing = LabeledImages([], [], [], [])
    recipe = resolve(recipe, labeled=nothing, unlabeled=0, machine=Machine("cpu", has_bf16=bool))
    student, taken = new_student(recipe, [Category(i, name) for i, name in enumerate(names)], initial)
    return recipe.detector, student.eval(), taken, notes


def shake(model):
    """Batch norms and classes that are not those of a new network, which would hide mistakes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | torchvision.ops.FrozenBatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    nn.init.normal_(model.head.classification_head.cls_logits.bias)
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.05)
    return model.eval()


def as_before_0_13(state):
    """The names that torchvision's files of FCOS and RetinaNet's first version have: made before its layers nested."""
    old = {}
    for key, value in state.items():
        key = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", key)
        key = re.sub(r"(head\.\w+\.conv)\.(\d)\.0\.", lambda found: f"{found[1]}.{2 * int(found[2])}.", key)
        old[key] = value
    return old


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """torchvision's models of random weights, as files where it keeps those that it has fetched."""
    folder = tmp_path_factory.mktemp("hub") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    make = {
        "fcos": detection.fcos_resnet50_fpn,
        "retinanet": detection.retinanet_resnet50_fpn,
        "retinanet_v2": detection.retinanet_resnet50_fpn_v2,
    }
    models = {name: shake(build(weights=None, weights_backbone=None)) for name, build in make.items()}
    models["retinanet"].backbone.body.bn1.running_var[0] = 1e-5  # a channel that is nearly dead
    for name, model in models.items():
        state = model.state_dict()
        torch.save(state if name == "retinanet_v2" else as_before_0_13(state), folder / FILES[name])
    for module in models["retinanet"].backbone.modules():  # as torchvision does when it loads this file
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return folder.parents[1], models


@pytest.fixture
def in_hub(hub, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(hub[0]))
    monkeypatch.setattr(urllib.request, "urlopen", None)  # nothing is asked for what is there
    return hub[1]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "empty" / "hub" / "checkpoints"


def raw(model, images):
    """torchvision's outputs of raw pixels."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return model.head(list(model.backbone((images.pixels / 255 - mean) / std).values()))


def assert_like(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.parametrize("name", FILES)
def test_a_coco_detector_gives_torchvisions_outputs(name, in_hub):
    names = [*dict.fromkeys(one for one in COCO if one not in ("__background__", "N/A")), "Unicorn", "N/A"]
    config, ours, taken, _ = start("detector.init=coco", *RECIPES[name], names=names)
    images = image_batch(0, batch=1, height=128, width=160)
    with torch.no_grad():
        output, theirs = ours(images), raw(in_hub[name], images)
    index = [COCO.index(one) for one in names[:80]]
    assert_like(output.logits[..., :80], theirs["cls_logits"][..., index])
    assert_like(output.deltas, theirs["bbox_regression"])
    if name == "fcos":
        assert_like(output.quality, theirs["bbox_ctrness"][..., 0])
        assert config.quality == "centerness"
    assert (config.init, config.name) == ("coco", name.partition("_")[0])
    assert taken.fresh == ("Unicorn", "N/A")
    assert (len(taken.classes), taken.classes["cat"]) == (80, "cat")
    anchors = 1 if name == "fcos" else 9
    weight = ours.head.cls.weight.reshape(anchors, 82, -1)[:, 80:]
    assert ours.head.cls.bias.view(anchors, 82)[:, 80:].flatten().tolist() == pytest.approx([PRIOR] * 2 * anchors)
    assert weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert abs(weight.mean().item()) < 1e-3


def test_the_second_version_of_retinanet_can_be_loaded_by_hand_too(in_hub):
    options = {"backbone": "resnet50.tv_in1k", "head_norm": "group", "extra_from": "backbone"}
    detector = RetinaNet(num_classes=91, **options).eval()
    load_torchvision_retinanet(detector, in_hub["retinanet_v2"].state_dict())
    images = image_batch(3, batch=1, height=64, width=96)
    with torch.no_grad():
        assert_like(detector(images).logits, raw(in_hub["retinanet_v2"], images)["cls_logits"])


def test_a_file_that_was_fetched_can_be_named(in_hub, hub):
    path = hub[0] / "hub" / "checkpoints" / FILES["retinanet_v2"]
    config, _, taken, _ = start(f"detector.init={path}", names=["TV-Monitor", "aeroplane", "fish"])
    assert (config.name, config.head_norm, config.extra_from) == ("retinanet", "group", "backbone")
    assert (taken.classes, taken.fresh) == ({"TV-Monitor": "tv", "aeroplane": "airplane"}, ("fish",))
    assert taken.adopted == {"name": "retinanet", "extra_from": "backbone"}
    assert "2 of 3 classes (TV-Monitor, aeroplane), not fish" in taken.sentence()


def small_torchvision(num_classes, width=32, norm=None):
    """A RetinaNet of torchvision's on ResNet-18, as its users build their own."""
    layers = {f"layer{number}": str(number) for number in (2, 3, 4)}
    body = torchvision.models.resnet18(weights=None)
    backbone = BackboneWithFPN(body, layers, [128, 256, 512], width, extra_blocks=LastLevelP6P7(width, width))
    head = detection.retinanet.RetinaNetHead(width, 9, num_classes, norm_layer=norm)
    return shake(detection.RetinaNet(backbone, num_classes, head=head))


def test_classes_without_names_start_fresh_and_all_else_is_taken_over(tmp_path):
    torch.manual_seed(1)
    theirs = small_torchvision(5)
    torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "own.pth")
    config, ours, taken, _ = start(f"detector.init={tmp_path / 'own.pth'}", names=["cat", "dog"])
    assert (config.backbone, config.channels, config.levels) == ("resnet18.tv_in1k", 32, (3, 7))
    images = image_batch(0, batch=1, height=64, width=64)
    with torch.no_grad():
        output, other = ours(images), raw(theirs, images)
    assert_like(output.deltas, other["bbox_regression"])
    assert output.logits.shape[-1] == 2
    assert ours.head.cls.bias.tolist() == pytest.approx([PRIOR] * 18)
    assert (taken.fresh, taken.names_known) == (("cat", "dog"), False)
    assert "the names of the file's are not known" in taken.sentence()


SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1, "size_factor": 4.0}


def own_file(folder, kind=FCOS, names=("cat", "traffic light"), **options):
    torch.manual_seed(2)
    options = {key: value for key, value in (SMALL | options).items() if key in kind_fields(kind)}
    detector = kind(num_classes=len(names), **options).eval()
    nn.init.normal_(detector.head.cls.weight, std=0.1)
    nn.init.normal_(detector.head.cls.bias)
    folder.mkdir(exist_ok=True)
    categories = tuple((10 + number, name) for number, name in enumerate(names))
    card = DetectorCard(detector=detector.config, categories=categories, short_side=64, max_side=96)
    save_detector(folder / "detector.safetensors", detector.state_dict(), card)
    return detector, folder / "detector.safetensors"


def kind_fields(kind):
    return {*FCOSConfig.model_fields, "size_factor"} if kind is FCOS else RetinaNetConfig.model_fields


@pytest.mark.parametrize("kind", [FCOS, RetinaNet])
@pytest.mark.parametrize("named", ["file", "folder"])
def test_own_detectors_go_on_with_more_classes(kind, named, tmp_path):
    before, path = own_file(tmp_path / "run", kind)
    path = path if named == "file" else path.parent
    names = ["bird", "Traffic_Light", "cat", "cow"]
    config, ours, taken, _ = start(f"detector.init={path}", names=names)
    images = image_batch(0, batch=2, height=64, width=96, sizes=[[64, 96], [40, 60]])
    with torch.no_grad():
        new, old = ours(images), before(images)
    assert_like(new.logits[..., [2, 1]], old.logits)
    assert_like(new.deltas, old.deltas)
    anchors = ours.anchors_per_location
    rows, other = (one.head.cls.weight.reshape(anchors, one.num_classes, -1) for one in (ours, before))
    assert torch.equal(rows[:, [2, 1]], other)
    assert ours.head.cls.bias.view(anchors, 4)[:, [0, 3]].flatten().tolist() == pytest.approx([PRIOR] * 2 * anchors)
    assert taken.classes == {"Traffic_Light": "traffic light", "cat": "cat"}
    assert taken.fresh == ("bird", "cow")
    assert config.name == ("fcos" if kind is FCOS else "retinanet")
    assert (config.backbone, config.channels, config.levels) == ("test_byobnet", 16, (3, 5))
    assert config.mean == pytest.approx((123.675, 116.28, 103.53))
    assert config.freeze_batch_norm  # a choice of the training recipe, not of the file
    assert config.pretrained is True


def test_a_detector_of_frozen_batch_norms_and_one_of_trained_ones_fit_each_other(tmp_path):
    before, path = own_file(tmp_path, freeze_batch_norm=True)
    _, ours, _, _ = start(f"detector.init={path}", "detector.freeze_batch_norm=false", names=["cat"])
    images = image_batch(0, batch=1, height=64, width=64)
    with torch.no_grad():
        assert_like(ours(images).logits, before(images).logits[..., :1])


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Aeroplane", "airplane"),
        ("motorbike", "motorcycle"),
        ("sofa", "couch"),
        ("tvmonitor", "tv"),
        ("pottedplant", "potted plant"),
        ("DiningTable", "dining table"),
        ("traffic_light", "traffic-light"),
        ("hair drier", "Hair Dryer"),
    ],
)
def test_names_of_the_same_class(name, other):
    assert canonical_name(name) == canonical_name(other)
    assert match_classes([name, "x"], ["y", other]) == {0: 1}


def test_names_of_other_classes_do_not_match():
    assert match_classes(["bus", "tv stand", "", "_"], ["tv", "car", "", "-"]) == {}
    assert match_classes(["Cat", "cat"], ["cat", "Cat", "CAT"]) == {0: 1, 1: 0}  # spelled alike before anything else


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("channels", "32", "32"),
        ("levels", "[3,6]", r"\[3, 6\]"),
        ("backbone", "test_resnet", "test_resnet"),
        ("quality", "centerness", "centerness"),
        ("name", "retinanet", "retinanet"),
        ("head_channels", "8", "8"),
        ("mean", "[1,2,3]", r"\[1.0, 2.0, 3.0\]"),
        ("extra_from", "backbone", "backbone"),
    ],
)
def test_an_option_set_by_hand_is_not_overruled(key, value, shown, tmp_path):
    _, path = own_file(tmp_path)
    with pytest.raises(InputError, match=f"detector.{key} is set to {shown}, but .* has .*leave detector.{key} out"):
        start(f"detector.init={path}", f"detector.{key}={value}", names=["cat"], by_hand={key})
    config, *_ = start(f"detector.init={path}", f"detector.{key}={value}", names=["cat"])  # of a built-in recipe
    assert (config.channels, config.name) == (16, "fcos")


def test_options_that_say_the_same_or_can_be_learned_anew_stay(tmp_path):
    _, path = own_file(tmp_path)
    overrides = [
        "detector.head_channels=16",
        "detector.size_factor=6",
        "detector.mean=auto",
        "detector.score_floor=0.2",
    ]
    by_hand = {"head_channels", "assigner.size_factor", "mean", "score_floor"}
    config, *_ = start(f"detector.init={path}", *overrides, names=["cat"], by_hand=by_hand)
    assert (config.head_channels, config.assigner.size_factor, config.score_floor) == (16, 6, 0.2)
    config, *_ = start(f"detector.init={path}", names=["cat"])
    assert config.assigner.size_factor == 4


def test_files_that_are_no_detector_are_one_sentence(tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    whole = tmp_path / "whole.pth"
    torch.save(small_torchvision(3).state_dict(), whole)
    _, own = own_file(tmp_path / "own")
    files = {
        "code.pth": lambda path: path.write_bytes(pickle.dumps(Code())),
        "code2.pth": lambda path: torch.save({"model": Code()}, path),
        "cut.pth": lambda path: path.write_bytes(whole.read_bytes()[:5000]),
        "list.pth": lambda path: torch.save([torch.zeros(2)], path),
        "empty.pth": lambda path: path.write_bytes(b""),
        "texts.pth": lambda path: torch.save({"head.classification_head.cls_logits.weight": "x", 3: 4}, path),
        "classifier.pth": lambda path: torch.save(torchvision.models.resnet18(weights=None).state_dict(), path),
        "groups.pth": lambda path: torch.save(small_torchvision(3, 64, partial(nn.GroupNorm, 32)).state_dict(), path),
        "own_cut.safetensors": lambda path: path.write_bytes(own.read_bytes()[:-100]),
        "text.safetensors": lambda path: path.write_text("no tensors"),
        "run": lambda path: path.mkdir(),
    }
    for name, write in files.items():
        write(tmp_path / name)
    for name in (*files, "missing.pth", "cocoo"):
        with pytest.raises(InputError, match=name) as caught:
            start(f"detector.init={tmp_path / name}", names=["cat"])
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("detector.init: ")
    assert not (tmp_path / "ran").exists()


def test_tensors_of_a_wrong_shape_are_one_sentence(tmp_path):
    good = small_torchvision(3).state_dict()
    wrong = {
        "head.regression_head.bbox_reg.bias": torch.zeros(()),
        "head.regression_head.bbox_reg.weight": torch.zeros(3),
        "head.classification_head.cls_logits.bias": torch.zeros(10),
        "head.classification_head.cls_logits.weight": torch.zeros(0, 0),
        "backbone.fpn.layer_blocks.1.0.weight": torch.zeros(1),
        "backbone.fpn.layer_blocks.0.0.weight": torch.zeros(0),
        "backbone.body.conv1.weight": torch.zeros(8, 3, 7, 7),
        "backbone.fpn.extra_blocks.p6.weight": torch.zeros(4).to_sparse(),
    }
    for key, value in wrong.items():
        torch.save(good | {key: value}, tmp_path / "wrong.pth")
        with pytest.raises(InputError, match=r"wrong\.pth"):
            start(f"detector.init={tmp_path / 'wrong.pth'}", names=["cat"])


def test_offline_one_sentence_says_which_file_to_put_where(offline):
    with pytest.raises(InputError) as caught:
        start("detector.init=coco", names=["cat"])
    message = str(caught.value)
    assert message.startswith(f"detector.init: {FILES['fcos']}, torchvision's detector, can't be fetched (")
    assert f"into {offline}, or name the file with --set detector.init=FILE" in message
    assert "\n" not in message
    with pytest.raises(InputError, match=FILES["retinanet_v2"]):
        start("detector.init=coco", *RECIPES["retinanet_v2"], names=["cat"])


def test_a_server_that_never_answers_is_not_waited_for(offline, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: time.sleep(20))
    monkeypatch.setattr(coco_weights_module, "_PATIENCE", 0.05)
    with pytest.raises(InputError, match=r"no answer within 0\.05 s"):
        find_initial(FCOSConfig(init="coco"))


def test_a_damaged_file_in_the_hub_is_named(offline):
    offline.mkdir(parents=True)
    (offline / FILES["fcos"]).write_bytes(b"half")
    with pytest.raises(InputError, match=rf"{FILES['fcos']} is damaged: remove it"):
        start("detector.init=coco", names=["cat"])


def test_other_backbones_have_no_coco_detector():
    with pytest.raises(
        InputError, match=r"on the backbone resnet50 \(FCOS and RetinaNet\), not fcos on 'test_byobnet'"
    ):
        start("detector.init=coco", "detector.backbone=test_byobnet", names=["cat"])


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["detector.backbone=test_byobnet"], "torchvision has COCO detectors on the backbone resnet50"),
        ([], f"{FILES['fcos']}, torchvision's detector, can't be fetched"),
    ],
)
def test_auto_falls_back_to_the_backbone_and_says_why(overrides, reason):
    config, _, taken, notes = start("detector.init=auto", "detector.pretrained=false", *overrides, names=["cat"])
    assert (config.init, config.pretrained, taken) == ("backbone", False, None)
    assert len(notes) == 1
    assert notes[0].startswith("detector.init=auto: starts from random weights, not from a detector, since ")
    assert reason in notes[0]


def test_auto_takes_what_is_there_unless_the_user_wants_another_architecture(in_hub):
    config, _, taken, notes = start("detector.pretrained=true", names=["cat", "gnu"])  # the backbone's are not fetched
    assert (config.init, config.pretrained, taken.classes, notes) == ("coco", True, {"cat": "cat"}, [])
    config, _, taken, notes = start(
        "detector.pretrained=false", "detector.channels=32", names=["cat"], by_hand={"channels"}
    )
    assert (config.init, config.channels, taken) == ("backbone", 32, None)
    assert "detector.channels is set to 32" in notes[0]


def test_the_burn_in_is_shorter_from_a_detector():
    def burn_in(*overrides, steps=36_000):
        recipe = load_recipe("custom", [f"schedule.max_steps={steps}", *overrides])
        return with_lengths(recipe, labeled=100, unlabeled=1000).method.burn_in

    assert burn_in("detector.init=coco") == burn_in("detector.init=a.pth") == burn_in() == 1000
    assert burn_in("detector.init=backbone") == burn_in("detector.backbone=resnet18") == 6000
    assert burn_in("detector.init=coco", steps=6000) == 500
    assert burn_in("detector.init=coco", steps=600) == 100
    # a new one needs 400 steps before it can teach, or a third of a short run
    assert [burn_in("detector.init=backbone", steps=steps) for steps in (600, 1200, 2000)] == [200, 400, 400]
    assert burn_in("detector.init=coco", "method.burn_in=77") == 77


@pytest.mark.parametrize(("init", "others"), [("coco", "backbone"), ("backbone", "coco"), ("coco", "coco")])
def test_processes_that_found_different_things_do_not_start(init, others):
    class Runtime:
        def all_true(self, flag):
            return flag and init == others

    recipe = load_recipe("custom", [f"detector.init={init}"])
    if init == others:
        check_same_start(recipe, Runtime())
    else:
        with pytest.raises(InputError, match="in some of the run's processes"):
            check_same_start(recipe, Runtime())
