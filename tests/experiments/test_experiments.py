"""Every experiment is valid, every row of it trains, and the published numbers are the paper's."""

import re

import pytest
import yaml

import denseteacher
from denseteacher.errors import InputError
from denseteacher.experiments.costs import describe_experiments, image_views
from denseteacher.experiments.plan import make_run
from denseteacher.experiments.reproduce import _on_one_thread, _published, _with_quoted, make_plan, with_gains
from denseteacher.experiments.schema import cells, experiment_names, load_experiment
from denseteacher.experiments.table import TableCell
from denseteacher.recipes.schema import dump_recipe, load_recipe
from denseteacher.runs import build
from denseteacher.training.throughput import Throughput

NAMES = [
    "beyond", "fig2a", "fig2b", "methods", "table1", "table2", "table3", "table4", "table5", "table6", "table7a",
    "table7b",
]  # fmt: skip
BOTH = [name for name in NAMES if name not in ("table3", "table4")]
PHOTOGRAPHS = ["fig2a", "table1", "table6", "table7a"]
PROFILES = [
    *((name, "paper") for name in NAMES),
    *((name, "digits") for name in BOTH),
    *((name, profile) for name in PHOTOGRAPHS for profile in ("masks", "bccd")),
    ("beyond", "masks"),
    ("beyond", "bccd"),
]


def test_all_experiments_are_there():
    assert experiment_names() == NAMES


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_an_experiment_resolves(name, profile):
    experiment = load_experiment(name)
    assert experiment.name == name
    found = cells(experiment, profile)
    assert {cell.row.label for cell in found} <= {row.label for row in experiment.rows}
    assert len(found) == len({(cell.row.label, cell.column and cell.column.label) for cell in found})
    # no row is another by mistake
    assert len({make_run(cell.recipe, "").name for cell in found}) == len(found)
    for cell in found:
        assert (cell.recipe.data.builtin is not None) == (profile == "digits")


@pytest.mark.parametrize("name", BOTH)
def test_the_rows_of_one_fold_share_what_they_do_not_compare(name):
    plan = make_plan(name, profile="digits", folds=[4])
    assert {(run.recipe.seed, run.recipe.data.fold) for run in plan.runs} == {(4, 4)}
    burn_ins = {run.burn_in for run in plan.runs} - {None}
    assert len(burn_ins) == 1
    groups = {run.group for run in plan.runs}
    detectors = {
        (run.recipe.detector.model_dump_json(), run.recipe.data.percent, run.recipe.data.unlabeled_batch)
        for run in plan.runs
    }
    assert len(groups) == len(detectors)


@pytest.mark.parametrize("profile", ["masks", "bccd"])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_rows_on_photographs_share_their_burn_ins(name, profile):
    plan = make_plan(name, profile=profile, folds=[2])
    kinds = {(run.recipe.detector.name, run.recipe.data.split) for run in plan.runs}
    assert len({run.group for run in plan.runs}) == len(kinds)
    assert {run.recipe.data.fold for run in plan.runs} == {2}


def test_every_distinct_row_trains(coco, tiny, tmp_path, monkeypatch):
    """A step on labeled images alone, then two with the others at full weight."""
    monkeypatch.setattr("denseteacher.runs.train.finish_run", lambda *_: None)
    monkeypatch.setattr(build, "begin_previews", lambda *_, **__: None)
    monkeypatch.setattr(Throughput, "flops", None)  # counted anew for every run
    overrides = [
        *tiny,
        "seed=1", "data.fold=1", "data.builtin=null", "data.root=null", f"data.labeled={coco}",
        f"data.images={coco.parent / 'images'}", "data.unlabeled=null", "data.unlabeled_images=null", "data.val=null",
        "data.format=null", "data.subset=null", "data.val_subset=null",
        "data.split=seeded", "data.percent=null", "data.count=6", "method.burn_in=1", "method.ramp=0",
        "method.group_size=null", "detector.size_factor=8", "schedule.max_steps=3",
    ]  # fmt: skip
    found = [cell for name, profile in PROFILES for cell in cells(load_experiment(name), profile, overrides)]
    rows = {}
    for cell in found:
        recipe = cell.recipe
        assert recipe.schedule.max_steps == 3
        parts = repr((recipe.method, recipe.detector, recipe.augment.affine, recipe.data.hidden_labels))
        # rows whose numbers differ, and none is 0, go the same ways
        rows[re.sub(r"\d+(\.\d*)?(e-?\d+)?", lambda number: str(float(number[0]) != 0), parts)] = recipe
    assert len(rows) > 80
    for number, recipe in enumerate(rows.values()):
        file = tmp_path / f"{number}.yaml"
        file.write_text(dump_recipe(recipe))
        result = denseteacher.train(file, output=tmp_path / f"run-{number}")
        assert result.step == 3, recipe.method


def test_the_published_numbers():
    """As the paper prints them, one place each that is easily got wrong."""

    def row(name, label):
        return next(row for row in load_experiment(name).rows if row.label == label).published

    assert row("table1", "Unbiased Teacher (cls+box)") == {"AP": 33.13, "AP50": 49.96, "AP75": 35.36}
    assert row("table2", "Unbiased Teacher") == {
        "1 %": (18.31, 0.44), "2 %": (22.39, 0.26), "5 %": (27.73, 0.13), "10 %": (31.52, 0.15),
    }  # fmt: skip
    assert row("table2", "Soft Teacher, LSJ") == {"1 %": (20.46, 0.39), "5 %": (30.74, 0.08), "10 %": (34.04, 0.14)}
    assert row("table3", "Dense Teacher, VOC12 + COCO20cls") == {"AP50": 81.23, "AP": 57.52}
    assert row("table4", "Dense Teacher, LSJ (8x)") == {"AP": 46.12}
    assert row("table5", "Ignore (cls+box)") == {"AP": 34.72}
    assert row("table6", "Dense Teacher (FCOS, CrowdHuman)") == {"mMR": 60.7}
    assert row("table7a", "k = 0.5 %") == {"AP": 34.11, "AP50": 51.94, "AP75": 36.80}
    assert row("table7b", "COCO-Full, w = 4") == {"AP": 43.04, "AP50": 61.60, "AP75": 46.87}


def test_the_settings_that_the_paper_names():
    tables = [*(("table2", profile) for profile in ("paper", "digits")), ("table3", "paper"), ("table4", "paper")]
    tables += [(name, profile) for name in ("table6", "table7a") for profile in ("paper", "digits")]
    found = {
        (name, profile, cell.row.label, cell.column.label if cell.column else None): cell.recipe
        for name, profile in tables
        for cell in cells(load_experiment(name), profile)
    }

    def recipe(name, label, column=None, profile="paper"):
        return found[name, profile, label, column]

    one = recipe("table2", "Dense Teacher", "1 %")
    assert (one.data.percent, one.data.labeled_batch, one.data.unlabeled_batch, one.method.cls_weight) == (1, 8, 8, 3)
    assert one.method.group_size == 1  # one image a GPU
    assert recipe("table2", "Unbiased Teacher", "1 %").method.cls_weight == 4
    assert recipe("table2", "Dense Teacher", "10 %") == load_recipe("coco_standard")
    assert recipe("table2", "Dense Teacher, LSJ", "2 %").augment.weak.short_side == (400, 1200)
    assert recipe("table2", "Supervised", "5 %", "digits").data.percent == 5
    assert recipe("table4", "Dense Teacher (3x)").schedule.max_steps == 3 * 90_000
    assert recipe("table4", "Dense Teacher, LSJ (8x)").schedule.max_steps == 8 * 90_000
    assert recipe("table7a", "k = 5 %").method.ratio == 0.05
    assert recipe("table7a", "k = 5 %", profile="digits").method.ratio == 0.95
    assert recipe("table6", "Dense Teacher (RetinaNet)", profile="digits").detector.anchor_scale == 2
    assert recipe("table6", "Dense Teacher (FCOS, CrowdHuman)").detector.max_detections == 300
    assert recipe("table3", "Dense Teacher, VOC12").method.cls_weight == 2


def test_pseudo_boxes_on_coco_have_the_nms_that_the_paper_finds_best():
    """Fig. 2(b): 0.7 on COCO, 0.8 on CrowdHuman."""
    found = {}
    for name in ("methods", "table1", "table2", "table4", "table6"):
        for cell in cells(load_experiment(name), "paper"):
            if cell.recipe.method.name == "unbiased_teacher":
                crowd = "CrowdHuman" in cell.row.label
                found.setdefault(crowd, set()).add(cell.recipe.method.nms_threshold)
    assert found == {False: {0.7}, True: {0.8}}


def test_humble_teacher_on_coco_averages_as_in_the_original():
    decays = [
        cell.recipe.ema.decay
        for name in ("methods", "table2", "table4")
        for cell in cells(load_experiment(name), "paper")
        if cell.recipe.method.name == "humble_teacher"
    ]
    assert decays == [0.999] * 6


def table_of(name, values, profile="paper", folds=(1, 2)):
    """An experiment's table as if its runs had reached ``values``, by row and column label."""
    experiment = load_experiment(name)
    found = []
    for cell in cells(experiment, profile):
        place = cell.row.label, cell.column and cell.column.label
        reached = values.get(place, [])
        found.append(
            TableCell(
                *place, list(folds[: len(reached)]), {"AP": reached}, _published(cell.row, cell.column, "AP"), [], [],
                [], [],
            )
        )  # fmt: skip
    return with_gains(_with_quoted(found, experiment, profile), experiment)


def test_gains_are_fold_by_fold_and_the_papers():
    reached = {("Supervised", "5 %"): [20.0, 21.0], ("Dense Teacher", "5 %"): [30.0, 32.5]}
    found = {(cell.row, cell.column): cell for cell in table_of("table2", reached)}
    ours = found["Dense Teacher", "5 %"]
    assert (ours.gain.over, ours.gain.baselines, ours.gain.values) == ("Supervised", [20.0, 21.0], [10.0, 11.5])
    assert ours.published_gain("AP") == pytest.approx(30.83 - 20.82)
    assert found["Supervised", "5 %"].gain is None
    quoted = found["Unbiased Teacher (Faster R-CNN)", "10 %"]
    assert (quoted.published, quoted.gain.values) == ({"AP": (31.50, 0.10)}, [])
    assert list(dict.fromkeys(row for row, _ in found)) == [row.label for row in load_experiment("table2").rows]
    assert "Unbiased Teacher (Faster R-CNN)" not in {cell.row for cell in table_of("table2", {}, "digits")}


def test_gains_of_table_4_are_over_the_papers_baselines():
    published = {"CSD (3x)": -1.38, "STAC (6x)": -0.27, "ISMT (3x)": 1.83, "Instant Teaching (3x)": 2.57}
    published |= {"Unbiased Teacher (3x)": 1.10, "Humble Teacher (3x)": 4.74, "Li et al. (3x)": 3.10}
    published |= {"Dense Teacher (3x)": 2.68, "Dense Teacher (6x)": 3.72, "Soft Teacher, LSJ (8x)": 3.70}
    published |= {"Dense Teacher, LSJ (8x)": 4.88}
    found = {cell.row: cell.published_gain("AP") for cell in table_of("table4", {}) if cell.gain is not None}
    assert found == pytest.approx(published)


EXPERIMENT = {
    "name": "mine",
    "title": "Mine",
    "profiles": {"paper": {"recipe": "coco_standard", "overrides": {"optim.lr": 0.1}}, "digits": {"recipe": "digits"}},
    "columns": [{"label": "a", "overrides": {"optim.lr": 0.2, "method.cls_weight": 3}}, {"label": "b", "digits": None}],
    "rows": [
        {"label": "one", "overrides": {"method.name": "supervised"}, "published": {"a": [1, 0.5]}},
        {"label": "two", "overrides": {"optim.lr": 0.3}, "digits": {"optim.lr": 0.4, "method.cls_weight": 7}},
        {"label": "three", "digits": None, "paper": {"recipe": "custom"}},
    ],
}


def write(folder, **changes):
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT | changes))
    return file


def test_rows_go_over_columns_and_columns_over_the_profile(tmp_path):
    experiment = load_experiment(write(tmp_path))
    paper = {(c.row.label, c.column.label): c.recipe for c in cells(experiment, "paper")}
    rates = {place: recipe.optim.lr for place, recipe in paper.items()}
    assert rates == {
        ("one", "a"): 0.2, ("one", "b"): 0.1, ("two", "a"): 0.3, ("two", "b"): 0.3, ("three", "a"): 0.2,
        ("three", "b"): 0.1,
    }  # fmt: skip
    assert paper["three", "b"].name == "custom"
    assert paper["two", "a"].method.cls_weight == 3
    digits = {(c.row.label, c.column.label): c.recipe for c in cells(experiment, "digits")}
    assert list(digits) == [("one", "a"), ("two", "a")]
    assert (digits["two", "a"].optim.lr, digits["two", "a"].method.cls_weight) == (0.4, 7)


def test_a_users_key_is_left_out_where_the_method_has_no_such_option(tmp_path):
    experiment = load_experiment(write(tmp_path))
    methods = [cell.recipe.method for cell in cells(experiment, "digits", ["method.ramp=700", "optim.lr=0.9"])]
    assert [getattr(method, "ramp", None) for method in methods] == [None, 700]
    with pytest.raises(InputError, match=r"no key 'method\.bun_in' \(did you mean 'burn_in'"):
        cells(experiment, "digits", ["method.bun_in=700"])
    with pytest.raises(InputError, match=r"mine, row 'one': .*optim\.lr: .*'fast'"):
        cells(experiment, "digits", ["optim.lr=fast"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": EXPERIMENT["rows"][:1] * 2}, "'one' stands twice"),
        ({"rows": [{"label": "x", "published": {"c": 1.0}}]}, "row 'x' has a published 'c', none of a, b"),
        ({"profiles": {"coco": {"recipe": "custom"}}}, "profiles.coco"),
        ({"rows": []}, "rows: .*at least 1"),
        ({"gain_over": "nine"}, "gain_over names 'nine', none of the rows one, two, three"),
        ({"metric": ["AP"]}, "metric: Extra inputs"),
    ],
)
def test_broken_experiments_are_explained(changes, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        load_experiment(write(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_no_yaml_and_unknown_profile(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("name: [")
    with pytest.raises(InputError, match=r"can't be read as YAML"):
        load_experiment(file)
    with pytest.raises(InputError, match="table3 has no profile 'digits': it runs with --profile paper"):
        make_plan("table3", profile="digits")


def test_shards_are_all_runs_once_and_keep_groups_together():
    whole = make_plan("table1", profile="digits").runs
    assert [run.recipe.seed for run in whole] == [1] * 6 + [2] * 6 + [3] * 6
    parts = [make_plan("table1", profile="digits", shard=(number, 3)).runs for number in (1, 2, 3)]
    assert [run for part in parts for run in part] == whole
    assert [len({run.group for run in part}) for part in parts] == [1, 1, 1]
    many = [make_plan("table1", profile="digits", shard=(number, 4)).runs for number in (1, 2, 3, 4)]
    assert [run for part in many for run in part] == whole
    assert max(map(len, many)) - min(map(len, many)) <= 1


def test_a_run_is_the_same_in_every_table_on_every_machine():
    plans = {name: make_plan(name, profile="digits", folds=[2]) for name in ("table1", "table5", "table7a", "table7b")}
    names = [{run.name for run in plan.runs} for plan in plans.values()]
    assert len(set.intersection(*names)) == 1  # the full method
    moved = make_plan(
        "table1", profile="digits", folds=[2], root="/elsewhere", overrides=["runtime.threads=1", "optim.lr=0.002"]
    )
    assert {run.name for run in moved.runs} == names[0]
    for change in ("optim.lr=0.003", "method.cls_weight=2", "detector.name=retinanet"):
        other = make_plan("table1", profile="digits", folds=[2], overrides=[change], rows=["region, cls+box"])
        assert not names[0] & {run.name for run in other.runs}


@pytest.mark.parametrize(("profile", "precision"), [("paper", "fp32"), ("digits", "auto")])
def test_reproducing_trains_in_the_precision_of_the_recipe(profile, precision):
    plan = make_plan("table1", profile=profile, folds=[1])
    assert {run.recipe.runtime.precision for run in plan.runs} == {precision}
    for run, settled in zip(plan.runs, _on_one_thread(plan.runs, []), strict=True):
        runtime = settled.recipe.runtime.model_copy(update={"threads": None, "workers": run.recipe.runtime.workers})
        assert settled.recipe.model_copy(update={"runtime": runtime}) == run.recipe


def test_another_geometry_of_strong_views_is_another_run_of_one_burn_in():
    plain, moved = (load_recipe("digits", ["method.name=stac", *extra]) for extra in ([], ["augment.affine={}"]))
    assert make_run(plain, "").name != make_run(moved, "").name
    assert make_run(plain, "").group == make_run(moved, "").group


def test_the_costs():
    recipe = load_recipe("digits")
    assert image_views(recipe) == 2 * 8 * 2400 + 2 * 8 * 1400
    assert image_views(load_recipe("digits", ["method.name=supervised"])) == 2 * 8 * 2400
    text = describe_experiments("table1", "table6")
    assert "paper   30 runs (folds 1, 2, 3, 4, 5) of 180,000 steps and 5.76 to 11.36 million image views" in text
    assert "; 1,500.0 h" in text
    assert "Unbiased Teacher (FCOS, CrowdHuman) (not in digits)" in text
    # both tables have other runs in digits: 18 of six rows, 9 of three
    assert "all, digits: 27 different runs; 1.4 h" in text
