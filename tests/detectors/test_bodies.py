"""Networks below the pyramid: transformers, and networks that round down, at any canvas; what is frozen; the stages."""

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch.nn import functional as F

from denseteacher.detectors import FCOS, DetectorCard, RetinaNet, load_detector, save_detector
from denseteacher.detectors.body import stages
from denseteacher.errors import InputError
from denseteacher.inference.export import export_onnx
from denseteacher.methods import DenseTeacher
from support import image_batch, semi_batch
from support.closeness import assert_close_to_scale

SMALL = {"num_classes": 3, "levels": (3, 7), "channels": 16, "head_convs": 1}
PLAIN = ["test_vit", "test_vit4"]
OTHERS = ["test_convnext", "test_efficientnet"]
CANVASES = [(64, 96), (32, 32), (50, 75), (33, 96)]


def build(backbone, kind=FCOS, **options):
    torch.manual_seed(0)
    return kind(backbone=backbone, **(SMALL | options)).eval()


@pytest.mark.parametrize("backbone", [*PLAIN, *OTHERS])
def test_levels_have_the_shapes_of_their_strides(backbone):
    detector = build(backbone, finer_level=backbone in PLAIN, levels=(3, 7))
    for canvas in CANVASES:
        height, width = canvas
        images = image_batch(0, batch=1, height=height, width=width)
        with torch.no_grad():
            levels = detector.features(images)
            assert [tuple(level.shape[-2:]) for level in levels] == detector.shapes(canvas)
            output = detector(images, int(backbone in PLAIN))
        assert output.logits.shape[1] == len(output.anchors)
        assert output.logits.isfinite().all()


def test_windows_at_any_canvas():
    detector = build("swin_tiny_patch4_window7_224", levels=(3, 5))
    for canvas in [(64, 96), (50, 75)]:
        with torch.no_grad():
            levels = detector.features(image_batch(0, batch=1, height=canvas[0], width=canvas[1]))
        assert [tuple(level.shape[-2:]) for level in levels] == detector.shapes(canvas)


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
def test_what_is_padded_to_whole_patches_is_what_a_padded_image_has(backbone):
    """On a canvas that is no multiple of the patches, the features are those of the image padded with zeros."""
    detector = build(backbone, levels=(4, 5))
    step = 16 if backbone in PLAIN else 32
    pixels = torch.randn(2, 3, 48, 80)
    padded = F.pad(pixels, (0, -80 % step, 0, -48 % step))
    with torch.no_grad():
        found, whole = detector.backbone(pixels), detector.backbone.body(padded)
        expected = detector.backbone(padded)
    assert [tuple(one.shape[-2:]) for one in found] == [(3, 5), (2, 3)]
    assert padded.shape[-2] // 16 == whole[-1 if backbone in PLAIN else -2].shape[-2]
    assert_close_to_scale(found[0][:, :, :2, :4], expected[0][:, :, :2, :4])


def norm(feature, layer):
    mean, spread = feature.mean(1, keepdims=True), feature.var(1, keepdims=True)
    return (feature - mean) / np.sqrt(spread + layer.eps)


def test_the_simple_pyramid_is_what_it_is_said_to_be():
    """Stride 8 by hand: a transposed convolution, 1 x 1, normalization, 3 x 3, normalization."""
    detector = build("test_vit")
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        feature = detector.backbone.body(pixels)[-1].double().numpy()
        found = detector.backbone(pixels)
    deconv, one, first, three, second = detector.backbone.fpn.levels[0]
    weight, bias = deconv.weight.detach().double().numpy(), deconv.bias.detach().double().numpy()
    doubled = np.zeros((1, weight.shape[1], 8, 12))
    for y in range(2):
        for x in range(2):
            doubled[0, :, y::2, x::2] = np.einsum("chw,cd->dhw", feature[0], weight[:, :, y, x]) + bias[:, None, None]
    inner = norm(np.einsum("bchw,dc->bdhw", doubled, one.weight.detach().double().numpy()[..., 0, 0]), first)
    padded = np.pad(inner, ((0, 0), (0, 0), (1, 1), (1, 1)))
    kernel = three.weight.detach().double().numpy()
    last = sum(
        np.einsum("bchw,dc->bdhw", padded[:, :, y : y + 8, x : x + 12], kernel[:, :, y, x])
        for y in range(3)
        for x in range(3)
    )
    assert_close_to_scale(found[0], norm(last, second), share=1e-4)


@pytest.mark.parametrize("kind", [FCOS, RetinaNet])
@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
def test_all_parameters_learn(kind, backbone):
    detector = build(backbone, kind, finer_level=backbone == "test_vit").train()
    method = DenseTeacher(burn_in=0, ramp=0, ratio=0.2, half_view=backbone == "test_vit")
    sum(method.losses(detector, build(backbone, kind), semi_batch(), 5).losses.values()).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_byobnet"])
def test_a_frozen_body_keeps_no_graph(backbone):
    detector = build(backbone, frozen_stages="all", levels=(4, 5)).train()
    kept = []
    detector.backbone.body.register_forward_hook(lambda *call: kept.extend(call[-1]))
    output = detector(image_batch(0, batch=2, height=64, width=64))
    assert kept
    assert all(feature.grad_fn is None and not feature.requires_grad for feature in kept)
    output.logits.sum().backward()
    assert all(value.grad is None for value in detector.backbone.body.parameters())
    assert all(value.grad is not None for value in detector.backbone.fpn.parameters())


def prefixes(detector, stage):
    names = {id(value): name for name, value in detector.backbone.body.named_parameters()}
    return {names[id(value)] for value in stage}


def test_the_stages_of_networks_and_transformers():
    vit = build("test_vit")
    own = stages(vit.backbone.body)
    assert len(own) == 7
    assert prefixes(vit, own[0]) == {
        "model.cls_token", "model.pos_embed", "model.patch_embed.proj.weight", "model.patch_embed.proj.bias"
    }  # fmt: skip
    assert all(name.startswith("model.blocks.5.") for name in prefixes(vit, own[6]))
    net = build("mobilenetv2_100", levels=(3, 5))
    firsts = [
        sorted({name.rsplit(".", 3)[0][:8] for name in prefixes(net, stage)}) for stage in stages(net.backbone.body)
    ]
    assert firsts[0][-1] == "conv_ste"
    for detector, count in ((vit, 7), (net, 5), (build("test_convnext", levels=(3, 5)), 4)):
        own = stages(detector.backbone.body)
        assert len(own) == count
        whole = [id(value) for stage in own for value in stage]
        assert sorted(whole) == sorted(id(value) for value in detector.backbone.body.parameters())


def test_leading_stages_alone_are_frozen():
    """Of an EfficientNet or MobileNet too, whose stages timm keeps one level further down."""
    for backbone, trained in (("mobilenetv2_100", "blocks.2."), ("test_efficientnet", "blocks.2."), ("test_vit", "1.")):
        detector = build(backbone, frozen_stages=2, levels=(3, 5))
        body = dict(detector.backbone.body.named_parameters())
        frozen = {name for name, value in body.items() if not value.requires_grad}
        assert frozen
        assert all(("blocks.0." in name or "blocks.1." in name or "blocks" not in name) for name in frozen)
        assert any(trained in name for name in body.keys() - frozen)
        assert not any(name.startswith("model.blocks.1.") for name in frozen)


def test_weights_of_another_size_are_resampled(tmp_path):
    """Position embeddings of a larger image, patches of 14 pixels: as timm would load them itself."""
    torch.manual_seed(3)
    larger = timm.create_model("test_vit", img_size=224)
    torch.save(larger.state_dict(), tmp_path / "vit.pth")
    detector = build("test_vit", pretrained=str(tmp_path / "vit.pth"))
    inner = detector.backbone.body.model
    assert larger.pos_embed.shape != inner.pos_embed.shape
    assert torch.equal(inner.blocks[2].mlp.fc1.weight, larger.blocks[2].mlp.fc1.weight)
    same = timm.create_model("test_vit", img_size=160)
    torch.save(same.state_dict(), tmp_path / "same.pth")
    again = build("test_vit", pretrained=str(tmp_path / "same.pth")).backbone.body.model
    assert torch.equal(again.pos_embed, same.pos_embed)
    torch.save({"blocks": torch.zeros(2)}, tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"detector\.pretrained: .*lacks .* another network"):
        build("test_vit", pretrained=str(tmp_path / "none.pth"))


def test_positions_follow_the_canvas():
    body = build("test_vit").backbone.body
    pixels = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        fixed = timm.create_model("test_vit", features_only=True, out_indices=[-1]).eval()
        fixed.load_state_dict(body.state_dict())
        assert_close_to_scale(body(pixels)[0], fixed(pixels)[0])
        assert body(torch.randn(1, 3, 96, 224))[0].shape == (1, 64, 6, 14)


def test_a_file_and_onnx_say_what_the_detector_says(tmp_path):
    detector = build("test_vit", levels=(4, 5), finer_level=True)
    with torch.no_grad():
        detector.head.cls.weight *= 30
    card = DetectorCard(detector=detector.config, categories=((1, "a"), (2, "b"), (3, "c")), short_side=64, max_side=96)
    save_detector(tmp_path / "detector.safetensors", detector.state_dict(), card)
    again, _ = load_detector(tmp_path / "detector.safetensors")
    export_onnx(tmp_path / "detector.safetensors", tmp_path / "all.onnx", nms=False)
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx")
    for batch in (image_batch(0, batch=2, height=64, width=96), image_batch(1, batch=1, height=160, width=32)):
        with torch.no_grad():
            output = detector(batch)
            assert torch.equal(again(batch).logits, output.logits)
        _, scores = session.run(None, {"pixels": batch.pixels.numpy(), "sizes": batch.sizes.numpy()})
        assert_close_to_scale(scores, detector.decode(output).scores, what="scores", share=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vit_small_patch32_224"}, "stride 32; a pyramid is made of ViTs .* patches of 14 or 16"),
        ({"backbone": "test_vit_relpos"}, "features all have stride 16; a pyramid is made of ViTs of timm's vision_tr"),
        ({"backbone": "test_vit", "extra_from": "backbone"}, "a plain transformer has no features of stride 32"),
        ({"backbone": "test_vit", "frozen_stages": 8}, r"detector\.frozen_stages is 8, but the backbone has 7 stages"),
        ({"backbone": "test_vit", "frozen_stages": "all", "drop_path": 0.1}, r"detector\.drop_path is for backbones"),
        ({"backbone": "vgg11", "drop_path": 0.1, "levels": (3, 5)}, r"detector\.drop_path: 'vgg11' has no residual"),
    ],
)
def test_what_can_not_be_is_said(options, message):
    with pytest.raises(InputError, match=message):
        FCOS(**(SMALL | options))
