import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from pydantic import ValidationError
from torchvision.transforms import RandomErasing
from torchvision.transforms.v2 import functional

from denseteacher.data.augment import strips
from denseteacher.data.augment.pixels import (
    GaussianBlur,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    noise,
    scrambled_places,
    to_grayscale,
)
from denseteacher.data.augment.strong import Erasing, StrongView
from denseteacher.data.randomness import Draw
from denseteacher.structures import ImageBatch
from harness import peers
from support import images_on_canvas

OFF = {"jitter_probability": 0, "grayscale_probability": 0, "blur_probability": 0, "erasings": ()}
ALL_ON = StrongView(
    jitter_probability=1,
    grayscale_probability=0.3,
    blur_probability=1,
    erasings=(Erasing(probability=1, area=(0.05, 0.2), ratio=(0.3, 3.3)),) * 2,
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["one by one", "all together"])
def _either_way(request, monkeypatch):
    """As a CPU makes the views, and as a GPU does."""
    if request.param == "all together":
        _make_all_together(monkeypatch)


either_way = pytest.mark.usefixtures("_either_way")


def _make_all_together(monkeypatch):
    monkeypatch.setattr(StrongView, "_one_by_one", StrongView._all_together)


def _view(view, images, *, seed=3, step=5, samples=None, draw=Draw.LABELED_STRONG):
    samples = range(len(images.pixels)) if samples is None else samples
    return view(images, seed=seed, step=step, samples=samples, draw=draw)


def _alone(change, image, amount):
    """One change of one (C, H, W) image."""
    sizes = torch.tensor([image.shape[-2:]])
    return change(image[None].clone(), torch.tensor([float(amount)]), sizes)[0]


def _colors(height=60, width=70, seed=0):
    """A float image with every kind of color: noise, grays, and pure colors."""
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 255
    image[:, :10] = image[:1, :10]
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 255.0])] * 3).T
    image[:, 10:18, :] = corners[:, :, None]
    return image


# --- the batch -------------------------------------------------------------------------------------------


@either_way
def test_an_image_does_not_depend_on_its_batch():
    images = images_on_canvas([(40, 64), (64, 50), (33, 33), (64, 64)], (64, 64))
    together = _view(ALL_ON, images, samples=[7, 2, 9, 4])
    for index, sample in enumerate([7, 2, 9, 4]):
        part = ImageBatch(images.pixels[index : index + 1], images.sizes[index : index + 1])
        assert torch.equal(_view(ALL_ON, part, samples=[sample]).pixels[0], together.pixels[index])


@either_way
def test_an_image_does_not_depend_on_its_canvas_or_memory_format():
    small, large = images_on_canvas([(40, 50)], (40, 50)), images_on_canvas([(40, 50)], (64, 96))
    expected = _view(ALL_ON, small).pixels
    assert torch.equal(_view(ALL_ON, large).pixels[:, :, :40, :50], expected)
    reordered = ImageBatch(small.pixels.to(memory_format=torch.channels_last), small.sizes)
    assert torch.equal(_view(ALL_ON, reordered).pixels, expected)


@either_way
def test_padding_is_neither_changed_nor_seen():
    images = images_on_canvas([(40, 50), (25, 60)], (64, 64))
    seen = _view(ALL_ON, images).pixels
    dirty = ImageBatch(images.pixels.clone(), images.sizes)
    outside = torch.ones_like(dirty.pixels, dtype=torch.bool)
    for row, (height, width) in zip(outside, images.sizes.tolist(), strict=True):
        row[:, :height, :width] = False
    assert not seen[outside].any()
    dirty.pixels[outside] = 255
    assert torch.equal(_view(ALL_ON, dirty).pixels[~outside], seen[~outside])
    assert (_view(ALL_ON, dirty).pixels[outside] == 255).all()


@either_way
def test_input_is_not_changed_and_sizes_are_handed_on():
    images = images_on_canvas([(40, 50), (25, 60)], (64, 64))
    before = images.pixels.clone()
    strong = _view(ALL_ON, images)
    assert torch.equal(images.pixels, before)
    assert strong.pixels.dtype == torch.uint8
    assert strong.sizes is images.sizes
    assert not torch.equal(strong.pixels, before)


def test_nothing_is_read_back_from_the_device(monkeypatch):
    """On a GPU each of these would wait for it."""
    _make_all_together(monkeypatch)
    images = images_on_canvas([(40, 50), (25, 60)], (64, 64))
    expected = _view(ALL_ON, images).pixels

    class NoReading(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.__name__.split(".")[0]
            assert name not in {"_local_scalar_dense", "item", "is_nonzero"}, name
            # row lists of the host are made before anything is on the device
            assert name != "nonzero" or args[0].ndim == 1, name
            return func(*args, **(kwargs or {}))

    with NoReading():
        strong = _view(ALL_ON, images).pixels
    assert torch.equal(strong, expected)


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
def test_strips_change_as_the_whole_batch_is_changed(monkeypatch, rows):
    """Of every height: of fewer rows than a blur reaches, and more than an image has."""
    monkeypatch.setattr(strips, "_STRIP_VALUES", 3 * 50 * rows)
    sizes = [(40, 50), (25, 60), (64, 64), (2, 31)] * 8
    images = images_on_canvas(sizes, (64, 64))
    views = (StrongView(), ALL_ON)  # in the second not one image is left as it is
    alone = [_view(view, images).pixels for view in views]
    _make_all_together(monkeypatch)
    for view, pixels in zip(views, alone, strict=True):
        assert torch.equal(pixels, _view(view, images).pixels)


def test_strips_of_several_threads_change_as_those_of_one():
    images = images_on_canvas([(300, 400)] * 2, (300, 400))
    expected = _view(ALL_ON, images).pixels
    torch.set_num_threads(2)
    assert torch.equal(_view(ALL_ON, images).pixels, expected)


def test_same_key_same_bytes_other_key_other_bytes():
    images = images_on_canvas([(48, 48)], (64, 64))
    first = _view(ALL_ON, images).pixels
    assert torch.equal(_view(ALL_ON, images).pixels, first)
    for other in ({"seed": 4}, {"step": 6}, {"samples": [1]}, {"draw": Draw.UNLABELED_STRONG}):
        assert not torch.equal(_view(ALL_ON, images, **other).pixels, first)


@either_way
@pytest.mark.parametrize(
    "view",
    [
        StrongView(**OFF),
        StrongView(
            brightness=0,
            contrast=0,
            saturation=0,
            hue=0,
            grayscale_probability=0,
            blur_probability=0,
            erasings=(Erasing(probability=0, area=(0.1, 0.2), ratio=(1, 2)),),
        ),
    ],
)
def test_identity_when_all_is_off(view):
    images = images_on_canvas([(40, 50), (64, 64)], (64, 64))
    strong = _view(view, images)
    assert torch.equal(strong.pixels, images.pixels)
    assert strong.pixels.data_ptr() != images.pixels.data_ptr()


@either_way
def test_tiny_images_pass():
    images = images_on_canvas([(1, 1), (2, 9), (3, 3)], (32, 32))
    for step in range(20):
        assert _view(ALL_ON, images, step=step).pixels.shape == images.pixels.shape


def test_switching_one_change_off_leaves_the_draws_of_the_others():
    images = images_on_canvas([(48, 48)] * 16, (48, 48))
    erasing = (Erasing(probability=0.5, area=(0.1, 0.3), ratio=(0.5, 2)),)
    alone = _view(StrongView(**{**OFF, "erasings": erasing}), images).pixels
    both = _view(StrongView(**{**OFF, "erasings": erasing, "grayscale_probability": 1}), images).pixels
    erased = alone != images.pixels
    assert erased.any()
    assert torch.equal(both[erased], alone[erased])


@pytest.mark.parametrize(
    "settings",
    [
        {"brightness": -0.1},
        {"hue": 0.6},
        {"jitter_probability": 1.1},
        {"blur_sigma": (0.0, 2.0)},
        {"blur_sigma": (2.0, 1.0)},
        {"erasings": [{"probability": 0.5, "area": (0.3, 0.2), "ratio": (1, 2)}]},
        {"erasings": [{"probability": 0.5, "area": (0.1, 0.2), "ratio": (0, 2)}]},
        {"unknown": 1},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        StrongView(**settings)


# --- single changes against torchvision and PIL ----------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 2.5])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, functional.adjust_brightness),
        (adjust_contrast, functional.adjust_contrast),
        (adjust_saturation, functional.adjust_saturation),
    ],
)
def test_blends_agree_with_torchvision(ours, theirs, factor):
    image = _colors()
    expected = theirs(image / 255, factor) * 255
    # torchvision's weights sum to 0.9999, and its float contrast does not round the mean
    assert (_alone(ours, image, factor) - expected).abs().max() < 0.55


@pytest.mark.parametrize("factor", [0.6, 1.4])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, functional.adjust_brightness),
        (adjust_contrast, functional.adjust_contrast),
        (adjust_saturation, functional.adjust_saturation),
    ],
)
def test_blends_agree_with_pil(ours, theirs, factor):
    image = _colors().round()
    expected = np.asarray(theirs(_to_pil(image), factor)).transpose(2, 0, 1).astype(np.float32)
    # PIL cuts the result off to an integer, and rounds the gray value that it blends with
    assert np.abs(_alone(ours, image, factor).numpy() - expected).max() < 1.01 + 0.5 * abs(1 - factor)


def _to_pil(image):
    return Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


@pytest.mark.parametrize("turns", [-0.5, -0.4, -1 / 3, -0.2, -0.1, -0.01, 0.0, 0.03, 0.1, 1 / 6, 0.25, 1 / 3, 0.5])
def test_hue_agrees_with_hsv(turns):
    image = _colors()
    expected = functional.adjust_hue(image / 255, turns) * 255
    turned = _alone(adjust_hue, image, turns)
    assert (turned - expected).abs().max() < 1e-2
    assert torch.allclose(turned.amax(0), image.amax(0), atol=1e-2)
    assert torch.allclose(turned.amin(0), image.amin(0), atol=1e-2)


def test_hue_of_no_turn_is_the_identity():
    image = _colors()
    assert torch.allclose(_alone(adjust_hue, image, 0.0), image, atol=1e-2)


def test_grayscale_agrees_with_pil():
    image = _colors().round()
    expected = np.asarray(_to_pil(image).convert("L")).astype(np.float32)
    gray = _alone(to_grayscale, image, 0)
    assert gray.shape == image.shape
    assert np.abs(gray.numpy() - expected).max() <= 0.51


def _blurred(image, sigma):
    return _alone(GaussianBlur(math.ceil(3 * sigma)), image, sigma)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.7, 2.0])
def test_blur_agrees_with_torchvision(sigma):
    image = _colors()
    radius = math.ceil(3 * sigma)
    inner = (..., slice(radius, -radius), slice(radius, -radius))  # the borders are mirrored there
    expected = functional.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)
    assert (_blurred(image, sigma) - expected)[inner].abs().max() < 1e-2


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_blur_is_as_strong_as_pils(sigma):
    noise = _colors(120, 120)[:, 18:].round()
    theirs = np.asarray(_to_pil(noise).filter(ImageFilter.GaussianBlur(sigma))).transpose(2, 0, 1)
    ours = _blurred(noise, sigma).numpy()
    inner = (slice(None), slice(10, -10), slice(10, -10))
    assert np.sqrt(((ours - theirs)[inner] ** 2).mean()) < 1.6  # of noise with a deviation of 74
    assert ours[inner].std() == pytest.approx(theirs[inner].std(), rel=0.04)


def test_blur_has_the_deviation_it_is_asked_for():
    for sigma in (0.7, 1.0, 2.0):
        image = torch.zeros(1, 41, 41)
        image[:, 20, 20] = 1
        blurred = _blurred(image, sigma)[0]
        assert blurred.sum() == pytest.approx(1, rel=1e-4)
        for dim in (0, 1):
            spread = ((torch.arange(41) - 20) ** 2 * blurred.sum(dim)).sum().sqrt()
            assert spread == pytest.approx(sigma, rel=0.03)


def test_blur_keeps_a_flat_image_up_to_its_edges():
    image = torch.full((3, 9, 7), 200.0)
    assert torch.allclose(_blurred(image, 2.0), image, atol=1e-2)


# --- what is drawn, how often ----------------------------------------------------------------------------

COUNT = 1500


def _drawn(view, count=COUNT):
    """For many images the names and amounts of the changes that the view draws, in their order."""
    numbers = torch.from_numpy(np.random.default_rng(0).random((count, 9), dtype=np.float32))
    changes = [[] for _ in range(count)]
    for group in view.groups(numbers):
        name = "gaussian_blur" if isinstance(group.change, GaussianBlur) else group.change.__name__
        for row, amount in zip(group.rows.tolist(), group.amounts.tolist(), strict=True):
            changes[row].append((name, amount))
    return changes


def _names(view):
    return [[name for name, _ in drawn] for drawn in _drawn(view)]


def _share_is(share, probability, count=COUNT):
    return abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / count)


def test_changes_come_as_often_as_published():
    names = _names(StrongView())
    for name, probability in (
        ("adjust_brightness", 0.8),
        ("adjust_contrast", 0.8),
        ("adjust_saturation", 0.8),
        ("adjust_hue", 0.8),
        ("to_grayscale", 0.2),
        ("gaussian_blur", 0.5),
    ):
        assert _share_is(np.mean([name in drawn for drawn in names]), probability)


def test_decisions_are_independent():
    names = _names(StrongView())
    both = np.mean(["adjust_hue" in drawn and "gaussian_blur" in drawn for drawn in names])
    assert _share_is(both, 0.4)


def test_jitter_comes_in_any_order_and_before_grayscale_and_blur():
    names = _names(StrongView(jitter_probability=1))
    orders, counts = np.unique([",".join(drawn[:4]) for drawn in names], return_counts=True)
    assert len(orders) == 24
    assert counts.min() > COUNT / 24 * 0.5
    assert {tuple(drawn[4:]) for drawn in names} == {
        (),
        ("to_grayscale",),
        ("gaussian_blur",),
        ("to_grayscale", "gaussian_blur"),
    }


def test_amounts_are_uniform_in_their_ranges():
    view = StrongView(brightness=0.3, contrast=1.5, jitter_probability=1, blur_probability=1)
    amounts = {}
    for name, amount in itertools.chain.from_iterable(_drawn(view)):
        amounts.setdefault(name, []).append(amount)
    for name, low, high in (
        ("adjust_brightness", 0.7, 1.3),
        ("adjust_contrast", 0.0, 2.5),  # a factor is never negative
        ("adjust_saturation", 0.6, 1.4),
        ("adjust_hue", -0.1, 0.1),
        ("gaussian_blur", 0.1, 2.0),
    ):
        values = np.sort(amounts[name])
        assert low <= values[0]
        assert values[-1] <= high
        # Kolmogorov-Smirnov, far beyond any usual level
        distance = np.abs((values - low) / (high - low) - (np.arange(COUNT) + 0.5) / COUNT).max()
        assert distance < 2 / math.sqrt(COUNT)


def test_the_whole_view_jitters_as_often_as_asked():
    # through __call__, with the keyed numbers
    images = images_on_canvas([(8, 8)] * 32, (8, 8))
    view = StrongView(jitter_probability=0.3, grayscale_probability=0, blur_probability=0, erasings=())
    changed = [(_view(view, images, step=step).pixels != images.pixels).flatten(1).any(1) for step in range(30)]
    assert _share_is(torch.cat(changed).double().mean().item(), 0.3, 960)


def test_chain_applies_the_drawn_changes():
    images = images_on_canvas([(30, 40)], (32, 64))
    view = StrongView(brightness=0.5, contrast=0, saturation=0, hue=0, **{**OFF, "jitter_probability": 1})
    area = images.pixels[0, :, :30, :40].double()
    changed = _view(view, images).pixels[0, :, :30, :40].double()
    unclamped = (changed < 255) & (area > 100)
    factors = (changed / area)[unclamped]
    assert factors.max() - factors.min() < 0.011  # rounding to integers, once
    assert 0.5 <= factors.median() <= 1.5


def test_views_look_as_those_of_the_published_chain():
    """Of 400 views of one picture: ours, and those made with PIL and torchvision."""
    coarse = 40 + 160 * torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(coarse, (64, 80), mode="bilinear")[0].byte()
    ours = _view(StrongView(), ImageBatch(picture.expand(400, -1, -1, -1), torch.tensor([[64, 80]] * 400))).pixels
    torch.manual_seed(0)
    np.random.seed(0)
    theirs = torch.stack([peers._pil_chain(_to_pil(picture)) for _ in range(400)])
    for (name, own), other in zip(_looks(ours).items(), _looks(theirs).values(), strict=True):
        places = np.sort(np.concatenate([own, other]))
        below = [np.searchsorted(np.sort(values), places, side="right") / 400 for values in (own, other)]
        # Kolmogorov-Smirnov: of 10,000 pairs that are distributed alike one is further apart
        assert np.abs(below[0] - below[1]).max() < 2.23 * math.sqrt(2 / 400), name


def _looks(pixels):
    """A few numbers of every image; the medians see little of what is erased."""
    values = pixels.double()
    colorfulness = (values.amax(1) - values.amin(1)).flatten(1).median(1).values
    sharpness = values.diff(dim=3).abs().flatten(1).mean(1)
    return {
        "red": values[:, 0].flatten(1).median(1).values.numpy(),
        "brightness": values.flatten(1).median(1).values.numpy(),
        "deviation": values.std((1, 2, 3)).numpy(),
        "colorfulness": colorfulness.numpy(),
        "sharpness": sharpness.numpy(),
    }


# --- erasing ---------------------------------------------------------------------------------------------


def _rectangles(erasing, count, height, width, seed=0):
    """(top, left, height, width) of the rectangles of many images; empty ones are left out."""
    numbers = torch.from_numpy(np.random.default_rng(seed).random((count, 23), dtype=np.float32))
    top, left, bottom, right = erasing.rectangles(numbers, torch.tensor([[height, width]] * count)).T
    drawn = torch.stack([top, left, bottom - top, right - left], dim=1)
    return drawn[drawn[:, 2] > 0].numpy()


def test_erasing_draws_what_torchvision_draws():
    for area, ratio in (((0.05, 0.2), (0.3, 3.3)), ((0.02, 0.2), (0.05, 8.0))):
        ours = _rectangles(Erasing(probability=1, area=area, ratio=ratio), 2000, 100, 150)
        torch.manual_seed(0)
        blank = torch.empty(3, 100, 150)
        theirs = [RandomErasing.get_params(blank, area, ratio, [0.0])[:4] for _ in range(2000)]
        for own, other in zip(_statistics(ours), _statistics(theirs), strict=True):
            spread = math.sqrt(own.var() / len(own) + other.var() / len(other))
            assert abs(own.mean() - other.mean()) < 4 * spread
            assert own.std() == pytest.approx(other.std(), rel=0.08)


def _statistics(rectangles):
    top, left, height, width = np.array(rectangles, dtype=float).T
    return (
        height * width / 15000,
        np.log(height / width),
        top / (101 - height),
        left / (151 - width),
        height,
        width,
    )


def test_erasing_stays_inside_and_gives_up_where_nothing_fits():
    wide = Erasing(probability=1, area=(0.2, 0.9), ratio=(0.05, 8))
    drawn = _rectangles(wide, 1000, 40, 60, seed=1)
    assert len(drawn) > 900
    assert drawn[:, :2].min() >= 0
    assert (drawn[:, :2] + drawn[:, 2:] <= (40, 60)).all()
    long = Erasing(probability=1, area=(0.5, 0.5), ratio=(100, 100))
    assert not len(_rectangles(long, 1000, 40, 60))


def test_erasings_come_as_often_as_published():
    for erasing in StrongView().erasings:
        share = len(_rectangles(erasing, COUNT, 100, 120)) / COUNT
        assert abs(share - erasing.probability) < 0.06  # a few do not fit


@either_way
def test_noise_is_uniform_over_bytes_and_differs_between_images_and_rounds():
    half = Erasing(probability=1, area=(0.5, 0.5), ratio=(1.0, 1.0))
    images = ImageBatch(torch.zeros(2, 3, 400, 400, dtype=torch.uint8), torch.tensor([[400, 400]] * 2))
    view = StrongView(**{**OFF, "erasings": (half,)})
    strong = _view(view, images).pixels
    fills = []
    for image in strong:
        rows, columns = (image.amax((0, dim)).nonzero()[:, 0] for dim in (2, 1))
        fills.append(image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].flatten().numpy())
        assert len(fills[-1]) == 3 * 283**2
    for fill in fills:
        expected = len(fill) / 256
        chi_square = ((np.bincount(fill, minlength=256) - expected) ** 2 / expected).sum()
        assert chi_square < 255 + 4 * math.sqrt(2 * 255)
        values = fill.astype(float)
        for lag in (1, 2, 282, 283, 284, 283**2):  # neighbors along the bytes, a row and a channel
            assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 4 / math.sqrt(len(fill) - lag)
    assert abs(np.corrcoef(fills[0], fills[1])[0, 1]) < 4 / math.sqrt(len(fills[0]))


@either_way
def test_erasing_is_the_last_change():
    images = images_on_canvas([(64, 64)], (64, 64))
    erasing = (Erasing(probability=1, area=(0.3, 0.3), ratio=(1, 1)),)
    gray = _view(StrongView(**{**OFF, "grayscale_probability": 1, "erasings": erasing}), images).pixels[0]
    colored = (gray[0] != gray[1]) | (gray[1] != gray[2])
    assert colored.double().mean() == pytest.approx(0.3, abs=0.02)


def test_noise_is_the_documented_hash_in_unsigned_arithmetic():
    def mix(words, first, second):
        for shift, factor in ((16, first), (15, second)):
            words = (words ^ (words >> shift)) * np.uint32(factor)
        return words ^ (words >> 16)

    rows, columns = np.meshgrid(np.arange(20, dtype=np.uint32), np.arange(30, dtype=np.uint32), indexing="ij")
    words = mix(rows << 16 | columns, 0x7FEB352D, 0x846CA68B) ^ np.uint32(0.7 * 2**24)
    expected = mix(words, 0x21F0AAAD, 0xD35A2D97).astype("<u4")[..., None].view(np.uint8)[..., :3]
    places = scrambled_places(torch.empty(2, 3, 20, 30))
    drawn = noise(torch.tensor([0.2, 0.7], dtype=torch.float64), places)
    np.testing.assert_array_equal(drawn[1].permute(1, 2, 0).numpy(), expected)
    part = noise(torch.tensor([0.7], dtype=torch.float64), places[5:9, 11:])
    np.testing.assert_array_equal(part[0].permute(1, 2, 0).numpy(), expected[5:9, 11:])


@either_way
def test_known_bytes():
    """Fixes the stream: a run that is resumed with a later release must see the same views."""
    images = ImageBatch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[8, 8]]))
    erasing = (Erasing(probability=1, area=(0.3, 0.3), ratio=(1, 1)),)
    erased = _view(StrongView(**{**OFF, "erasings": erasing}), images).pixels
    assert erased[erased > 0][:6].tolist() == [82, 4, 167, 149, 205, 246]
