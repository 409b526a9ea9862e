"""Every recipe loads and trains; wrong keys and values are explained."""

import json
import re
from importlib import resources

import pytest
import yaml

import denseteacher
from denseteacher.detectors.codings import DeltaCoding
from denseteacher.errors import InputError
from denseteacher.methods import ARSL, DenseTeacher, Supervised, UnbiasedTeacher
from denseteacher.recipes.differences import changed_keys
from denseteacher.recipes.resolve import with_lengths
from denseteacher.recipes.schema import builtin_recipes, dump_recipe, load_recipe

NAMES = [
    *("arsl", "bccd", "coco_full", "coco_full_lsj", "coco_standard", "consistent_teacher", "crowdhuman", "custom"),
    *("custom_small", "digits", "masks", "mixpl", "voc", "voc_coco20cls"),
]


def test_the_recipes_are_listed_with_their_purpose():
    found = builtin_recipes()
    assert list(found) == NAMES
    assert all(found.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_being_written(name, tmp_path):
    recipe = load_recipe(name)
    file = tmp_path / "copy.yaml"
    file.write_text(dump_recipe(recipe))
    assert load_recipe(file) == recipe


OTHERS = [
    ["method.name=unbiased_teacher"],
    ["detector.name=retinanet"],
    ["detector.name=retinanet", "method.name=unbiased_teacher", "method.box=true"],
]


@pytest.mark.parametrize(("name", "other"), [*((name, []) for name in NAMES), *(("custom", extra) for extra in OTHERS)])
def test_a_recipe_trains(name, other, coco, unlabeled, tiny, tmp_path):
    overrides = [
        *other,
        *tiny,
        "data.builtin=null",
        "data.root=null",
        "data.split=none",
        "data.percent=null",
        "data.count=null",
        "data.unlabeled_images=null",
        "data.val_images=null",
        "method.burn_in=2",
        "method.ramp=1",
        *(["method.group_size=null"] if load_recipe(name, other).method.name == "dense_teacher" else []),
        "schedule.max_steps=4",
        "schedule.evaluate_every=4",
    ]
    result = denseteacher.train(
        name,
        labeled=coco,
        unlabeled=unlabeled,
        val=coco,
        images=coco.parent / "images",
        output=tmp_path / "run",
        overrides=overrides,
    )
    assert result.step == 4
    assert "teacher/AP" in result.metrics
    assert "student/AP" in result.metrics
    for file in ("detector.safetensors", "last_student.safetensors", "report.html", "split.json", "environment.json"):
        assert (tmp_path / "run" / file).stat().st_size > 0
    assert denseteacher.load(tmp_path / "run").class_names == ["red", "green", "blue"]


METHODS = [
    *("acrst", "arsl", "consistent_teacher", "csd", "dense_teacher", "dense_teacher_plus"),
    *("dynamic_threshold", "humble_teacher", "instant_teaching", "ismt", "mixpl", "soft_teacher", "stac"),
    "unbiased_teacher",
]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_four_times_as_many_unlabeled_images(name, coco, unlabeled, tiny, tmp_path):
    more = ["data.unlabeled_batch=8", "schedule.accumulate=2", "schedule.max_steps=3", f"method.name={name}"]
    more += [
        "method.burn_in=1",
        "method.ramp=0",
        *(["method.group_size=2"] if name.startswith("dense_teacher") else []),
    ]
    result = denseteacher.train(
        "custom_small", labeled=coco, unlabeled=unlabeled, output=tmp_path / "run", overrides=[*tiny, *more]
    )
    assert result.step == 3
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["loss"] is not None for row in rows)
    images = [round(row["images_per_second"] * row["step_seconds"]) for row in rows]
    assert images == [2, 10, 10]


def test_the_published_numbers_of_the_main_recipe():
    recipe = load_recipe("coco_standard")
    assert recipe.method == DenseTeacher(
        ratio=0.01,
        cls_weight=4,
        box_weight=1,
        quality_weight=1,
        burn_in=5000,
        group_size=2,
        count_padding=True,
        group_canvas=True,
    )
    assert (recipe.ema.decay, recipe.ema.start) == (0.9996, 3000)
    assert (recipe.optim.lr, recipe.optim.momentum, recipe.optim.clip_value) == (0.01, 0.9, 1.0)
    assert (recipe.schedule.max_steps, recipe.data.labeled_batch, recipe.data.unlabeled_batch) == (180_000, 16, 16)
    assert [e.probability for e in recipe.augment.strong.erasings] == [0.7, 0.5, 0.3]
    assert (recipe.schedule.evaluate_every, recipe.schedule.checkpoint_every) == (2000, 5000)
    text = resources.files("denseteacher.recipes").joinpath("coco_standard.yaml").read_text()
    comment = text.partition("# 1 % as published")[2].partition("name:")[0]
    one = load_recipe("coco_standard", re.findall(r"--set (\S+)", comment))
    assert (one.data.percent, one.data.labeled_batch, one.data.unlabeled_batch) == (1, 8, 8)
    assert (one.method.group_size, one.method.cls_weight) == (1, 3)  # one image a GPU
    full = load_recipe("coco_full")
    assert (full.method.cls_weight, full.method.burn_in, full.ema.start, full.schedule.max_steps) == (
        2,
        20_000,
        10_000,
        540_000,
    )
    assert load_recipe("coco_full_lsj").augment.weak.short_side == (400, 1200)
    assert full.data.empty_images == "drop"  # 117,266 of the 118,287 images of train2017 have a box
    weak = load_recipe("voc").augment.weak
    assert (weak.short_side, weak.sampling) == (tuple(range(480, 801, 32)), "choice")


@pytest.mark.parametrize(
    "name", ["arsl", "coco_full", "coco_full_lsj", "coco_standard", "crowdhuman", "voc", "voc_coco20cls"]
)
def test_the_published_runs_are_in_fp32(name):
    assert load_recipe(name).runtime.precision == "fp32"


@pytest.mark.parametrize(
    "name", ["arsl", "coco_full", "coco_full_lsj", "coco_standard", "crowdhuman", "voc", "voc_coco20cls"]
)
def test_the_published_box_branch_begins_at_0(name):
    assert load_recipe(name).detector.coding.initial_distance == 0
    other = ["detector.name=retinanet", *(["detector.quality=iou"] if name == "arsl" else [])]
    assert load_recipe(name, other).detector.coding == DeltaCoding()


def test_the_published_numbers_of_arsl():
    recipe = load_recipe("arsl")
    assert recipe.method == ARSL(burn_in=9000, ramp=2000)
    assert (recipe.data.labeled_batch, recipe.data.unlabeled_batch, recipe.schedule.max_steps) == (32, 32, 90_000)
    assert (recipe.ema.decay, recipe.ema.start) == (0.9996, 9000)
    assert (recipe.optim.lr, recipe.optim.clip_value, recipe.optim.warmup_factor) == (0.02, None, 0.3333)
    detector = recipe.detector
    assert (detector.name, detector.quality, detector.score_floor, detector.nms_threshold) == (
        "fcos",
        "iou",
        0.025,
        0.6,
    )


def test_another_method_drops_the_first_ones_options():
    assert load_recipe("coco_standard", ["method.name=supervised"]).method == Supervised(burn_in=5000)
    digits = load_recipe("digits", ["method.ramp=70", "method.name=unbiased_teacher", "method.threshold=0.4"])
    assert digits.method == UnbiasedTeacher(burn_in=1000, ramp=70, threshold=0.4)  # shared options stay


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.region=suppress"], "data.hidden_labels=true"),
        (["data.hidden_labels=true", "data.split=none"], "hidden_labels needs unlabeled images that have labels"),
        (["data.hidden_labels=true", "data.unlabeled=folder"], "hidden_labels needs unlabeled images that have labels"),
        (["augment.affine={}"], "augment.affine moves the strong views, but method 'dense_teacher'"),
        (["augment.affine={rotation: 400}", "method.name=unbiased_teacher"], "augment.affine.rotation"),
    ],
)
def test_analyses_and_moved_views_only_where_they_mean_something(overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("coco_standard", overrides)
    assert "\n" not in str(caught.value)


def test_a_moved_view_reaches_the_method_with_its_matrix_in_every_part(coco, tiny):
    import torch

    from denseteacher.data.augment.affine import AffineView
    from denseteacher.data.loading.strong_views import with_strong_views
    from denseteacher.data.open import open_data
    from denseteacher.runs.build import build_steps
    from denseteacher.structures import chunk

    overrides = ["data.split=seeded", "data.count=6", "data.hidden_labels=true", "method.burn_in=2", "method.ramp=0"]
    recipe = load_recipe("custom", [*tiny, *overrides, f"data.labeled={coco}"])
    data = open_data(recipe.data)
    assert [image.id for image in data.hidden.images] == [image.id for image in data.unlabeled]
    loaded = build_steps(recipe, data)[5]
    device, moving = torch.device("cpu"), recipe.augment.model_copy(update={"affine": AffineView(translation=0)})
    still = with_strong_views(loaded, recipe.augment, seed=1, device=device)
    moved = with_strong_views(loaded, moving, seed=1, device=device)
    assert still.unlabeled.to_strong is None
    assert not torch.equal(moved.unlabeled.strong.pixels, still.unlabeled.strong.pixels)
    assert torch.equal(moved.labeled.strong.pixels, still.labeled.strong.pixels)
    positions = moved.unlabeled.positions.tolist()
    for row, position in enumerate(positions):
        boxes, matrix = data.hidden.boxes[position], moved.unlabeled.to_weak[row].numpy()
        assert int(moved.unlabeled.hidden_targets.mask[row].sum()) == len(boxes)
        for box, seen in zip(boxes, moved.unlabeled.hidden_targets.boxes[row].tolist(), strict=False):
            x1, x2 = sorted((matrix[0, 0] * box[[0, 2]] + matrix[0, 2]).tolist())
            assert seen == pytest.approx([x1, matrix[1, 1] * box[1], x2, matrix[1, 1] * box[3]], abs=1e-3)
    halves = chunk(moved, 2)
    assert [half.unlabeled.positions.tolist() for half in halves] == [positions[:1], positions[1:]]
    assert torch.equal(torch.cat([half.unlabeled.to_strong for half in halves]), moved.unlabeled.to_strong)
    assert all(half.unlabeled.hidden_targets.boxes.shape[0] == 1 for half in halves)


def test_auto_values_follow_the_data():
    recipe = load_recipe("custom", ["detector.init=backbone"])
    small = with_lengths(recipe, labeled=100, unlabeled=1000)
    large = with_lengths(recipe, labeled=5000, unlabeled=50_000)
    assert small.schedule.max_steps == 5000
    assert with_lengths(load_recipe("custom_small"), labeled=10, unlabeled=400).schedule.max_steps == 1000
    assert with_lengths(load_recipe("custom_small"), labeled=5000, unlabeled=400).schedule.max_steps == 10_000
    assert large.schedule.max_steps == 75_000
    for resolved in (small, large):
        steps = resolved.schedule.max_steps
        assert resolved.method.burn_in == steps // 6
        assert resolved.ema.start <= resolved.method.burn_in
        assert 1 / (1 - resolved.ema.decay) == pytest.approx(min(steps / 30, 2500))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.ratoi=0.1", r"no key 'method\.ratoi' \(did you mean 'ratio'\?\); valid here: .*ratio"),
        ("optim.lr=fast", r"optim\.lr: .*number.*'fast'"),
        ("optim.lr=-1", r"optim\.lr: .*greater than 0.*-1"),
        ("schedule.max_steps=long", r"schedule\.max_steps: .*integer, or 'auto', not 'long'"),
        ("schedule.least_steps=100000", r"least_steps is 100000, above most_steps, which is 90000"),
        ("sizes.usual=2000", r"usual is 2000, above most, the bound of all sides, which is 1333"),
        ("augment.weak.short_side=auto", r"auto.* becomes a range: set sampling to \"range\" too"),
        ("augment.weak.short_side=[]", r"short_side must hold positive lengths"),
        ("detector.nme=fcos", "did you mean 'name'"),
        ("metod.ratio=1", "did you mean 'method'"),
        ("detector={name: retinanet, background_iou: 0.6}", "background_iou is 0.6, above foreground_iou 0.5"),
        ("method.burn_in=200000", "unlabeled images would never be used"),
        (
            "method.name=dense_techer",
            r"no method 'dense_techer' \(did you mean 'dense_teacher'\?\): use one of acrst, arsl, consistent_teacher",
        ),
        ("schedule.accumulate=3", "not a multiple of the 3 parts"),
        ("method.group_size=5", r"method\.group_size is 5, but each process has 16 unlabeled images"),
        ("data.orientation_group=3", r"data\.orientation_group is 3, but each process has 16 labeled images"),
        ("ema.start=9000", r"ema\.start is 9000, after the burn-in"),
        ("data.split=seeded", "published' needs|needs either percent or count"),
        ("optim.lr", "KEY=VALUE"),
        ("optim.lr=[1", r"can't be read as YAML"),
    ],
)
def test_wrong_overrides_are_explained_in_one_sentence(override, message):
    extra = ["data.count=5"] if override == "data.split=seeded" else []
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("coco_standard", [override, *extra])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [", r"can't be read as YAML"),
        ("- a\n- b\n", "must be a YAML mapping"),
        ("name: x\nname: y\n", "stands twice"),
        ("a: &a [*a]\n", r"an alias \(\*name\) stands inside of what it names"),
        ("name: !!python/object/apply:os.system ['true']\n", r"can't be read as YAML"),
        ("extends: nothing\nname: x\n", "no recipe 'nothing'"),
        ("description: no name\n", "name: Field required"),
    ],
)
def test_broken_recipe_files_are_explained(content, message, tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        load_recipe(file)


def test_a_recipe_file_extends_another_and_circles_are_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: custom\nname: base\nseed: 3\n")
    (tmp_path / "child.yaml").write_text("extends: base.yaml\nname: child\noptim: {lr: 0.5}\n")
    recipe = load_recipe(tmp_path / "child.yaml")
    assert (recipe.name, recipe.seed, recipe.optim.lr, recipe.optim.clip_norm) == ("child", 3, 0.5, 10.0)
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["custom", "digits"])
@pytest.mark.parametrize("method", ["supervised", "dense_teacher"])
def test_a_recipe_from_before_a_key_was_there_is_the_same(name, method):
    recipe = load_recipe(name, [f"method.name={method}"])
    before = recipe.model_dump(mode="json")
    del before["detector"]["coding"]["initial_distance"], before["data"]["empty_images"]
    before["method"].pop("unlabeled_weight", None)
    assert changed_keys(recipe, before, ()) == []
    assert changed_keys(load_recipe(name, ["detector.initial_distance=0"]), before, ("method",)) == [
        "detector.coding.initial_distance"
    ]


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(InputError, match=r"no recipe 'coco_standart' \(did you mean 'coco_standard'\?\).*digits"):
        load_recipe("coco_standart")


def test_recipes_show_is_yaml():
    assert yaml.safe_load(dump_recipe(load_recipe("digits")))["name"] == "digits"
