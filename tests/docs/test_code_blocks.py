"""Every command and script in the README and the documentation works as it stands there.

A page is read from top to bottom in a folder that holds what its text says the reader has. Commands of denseteacher
and Python run, on small data and with recipes shrunk; a ``text`` block right below a Python block is what it prints.
What can't run in a test is listed with the reason, and its options, recipes and keys are checked instead.
"""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
from PIL import Image

from denseteacher import api, cli
from denseteacher.analysis.analyze import FIGURES
from denseteacher.recipes.schema import load_recipe
from support.published_datasets import write_voc, write_yolo
from support.undrawn import undrawn

ROOT = Path(__file__).parents[2]
MASKS = ROOT.parent / "shared" / "data" / "masks"
# test_add_a_method.py and test_own_detector.py run them, and look at what came of it
ELSEWHERE = {"docs/add-a-method.md", "docs/add-a-detector.md"}
if MASKS.is_dir():
    ELSEWHERE.add("docs/tour.md")  # led through photographs below
PAGES = [
    page
    for page in ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
    if page not in ELSEWHERE
]
NOT_RUN = {
    r"denseteacher demo": "takes minutes",
    r"denseteacher train digits ": "takes minutes",
    r"denseteacher analyze ": "needs that run; tests/analysis draws the figures",
    r"denseteacher train .* --log ": "needs clients of trackers; tests/cli/test_trackers.py has stand-ins",
    r"denseteacher monitor ": "serves until Ctrl-C; tests/runs/test_monitor.py",
    r"denseteacher push ": "needs a token of the hub; tests/cli/test_push.py plays the hub",
    r"denseteacher train (coco|voc|crowdhuman)\w* ": "needs the published data",
    r"denseteacher reproduce (?!--list)": "takes hours; its runs are planned instead",
    r".*\s\.\.\.(\s|$)": "leaves something out",
}
LAUNCHED = r"(?:\w+=\S+ )*(?:torchrun .* -m|srun) (denseteacher .*)"  # several processes; tests/distributed starts some
NOT_OURS = r"(?:\w+=\S+ )*(pip install|python benchmarks/|bash benchmarks/|pytest|tensorboard|mkdocs|docker) ?.*"


class Block(NamedTuple):
    language: str
    title: str | None
    text: str
    output: str | None


def blocks(page):
    """The code blocks of a page, and for each the ``text`` block right below it."""
    pattern = r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```\n(?=(?:\n```text\n(.*?)^```$)?)'
    return [Block(*found) for found in re.findall(pattern, (ROOT / page).read_text(), re.M | re.S)]


def commands(text):
    """The commands of a shell block, continued lines joined and comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in re.sub(r"\s+# .*|^#.*", "", line).split("&&") if part.strip()]


def part(content, images):
    """Some images of a COCO file, with their annotations."""
    chosen = content["images"][images]
    ids = {image["id"] for image in chosen}
    annotations = [one for one in content["annotations"] if one["image_id"] in ids]
    return content | {"images": chosen, "annotations": annotations}


@pytest.fixture
def reader(coco, unlabeled, tiny, tmp_path, monkeypatch):
    """A reader's folder, in which any training takes seconds."""
    shrink(tiny, monkeypatch)
    content = json.loads(coco.read_text())
    for name, images in {"annotations": slice(None), "labeled": slice(8), "val": slice(8, None)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part(content, images)))
    shutil.copytree(coco.parent / "images", tmp_path / "images")
    for name in ("more_images", "new_images"):
        shutil.copytree(unlabeled, tmp_path / name)
    write_voc(tmp_path)
    write_yolo(tmp_path / "yolo")
    Image.open(next(unlabeled.iterdir())).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photographer(tiny, tmp_path, monkeypatch):
    """The folder of a reader with photographs: 40 labeled ones, as the tour has them."""
    if not MASKS.is_dir():
        pytest.skip(f"needs the photographs in {MASKS}")
    shrink(tiny, monkeypatch)
    for subset, chosen in {
        "train": {"labeled": slice(40), "more_images": slice(40, 70), "new_images": slice(70, 74)},
        "val": {"val": slice(12)},
    }.items():
        content = json.loads((MASKS / "annotations" / f"custom_{subset}.json").read_text())
        for name, images in chosen.items():
            few = part(content, images)
            folder = tmp_path / (name if name.endswith("images") else "images")
            folder.mkdir(exist_ok=True)
            for image in few["images"]:
                shutil.copy(MASKS / f"{subset}2017" / image["file_name"], folder)
            if folder.name == "images":
                (tmp_path / f"{name}.json").write_text(json.dumps(few))
    shutil.copy(next((tmp_path / "new_images").iterdir()), tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shrink(tiny, monkeypatch):
    """Makes any training one of a few steps of a small network, undrawn, and any check one of that network."""

    def small(function, more):
        def called(*arguments, overrides=(), **named):
            if isinstance(overrides, dict):
                overrides = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
            with undrawn():
                return function(*arguments, overrides=[*overrides, *tiny, *more], **named)

        return called

    monkeypatch.setattr(api, "train", small(api.train, ["schedule.evaluate_every=8"]))
    monkeypatch.setattr(api, "check", small(api.check, []))


def parse(command):
    """The options that a command line of denseteacher sets; a wrong one raises."""
    words = [word for word in shlex.split(command)[1:] if word != "..."]
    app = typer.main.get_command(cli.app)
    while hasattr(app, "commands"):
        app, *words = app.commands[words[0]], *words[1:]
    return app.make_context(app.name, words).params


def check_only(command, call):
    """That a command which is not run could be: its options, its recipe and keys."""
    options = parse(command)
    if "experiment" in options:
        code, _, err = call(*shlex.split(command)[1:], "--dry-run")
        assert code == 0, err
    elif "figure" in options:
        assert options["figure"] in FIGURES
    else:
        load_recipe(options.get("recipe", "digits"), options.get("overrides") or [])


def check_foreign(command):
    """That what a command of another program names is there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r"\.\[(.+?)\]", command):
        assert set(names.split(",")) <= set(extras), command
    for script in re.findall(r"(?:python|bash) (\S+)", command):
        assert (ROOT / script).is_file(), command


def run_command(command, call):
    if launched := re.fullmatch(LAUNCHED, command):
        check_only(launched[1], call)
    elif re.fullmatch(NOT_OURS, command):
        check_foreign(command)
    elif any(re.match(pattern, command) for pattern in NOT_RUN):
        check_only(command, call)
    else:
        program, *arguments = shlex.split(command)
        assert program == "denseteacher", f"{command}: run it, or say why it can't be"
        code, _, err = call(*arguments)
        assert code == 0, f"{command}: {err}"


@pytest.mark.timeout(900)  # own-data.md alone is a dozen commands, some of which train; a busy machine takes its time
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, reader, call, capsys):
    run_page(page, reader, call, capsys)


def test_the_tour_leads_through_photographs(photographer, call, capsys):
    run_page("docs/tour.md", photographer, call, capsys)
    names = [line.rpartition("/")[2] for line in (photographer / "next" / "suggested.txt").read_text().split()]
    assert len(set(names)) == 20
    assert set(names) <= {path.name for path in (photographer / "more_images").iterdir()}


def run_page(page, reader, call, capsys):
    """Runs the code blocks of a page from top to bottom."""
    scope = {}
    for block in blocks(page):
        if block.title is not None and block.title:
            (reader / block.title).write_text(block.text)
        elif block.language == "bash":
            for command in commands(block.text):
                run_command(command, call)
        elif block.language == "python":
            capsys.readouterr()
            exec(compile(block.text, page, "exec"), scope)
            assert block.output in ("", capsys.readouterr().out)
        else:
            assert block.language in ("text", "console"), f"{page}: a {block.language} block needs a title"


@pytest.mark.parametrize(
    "command",
    [
        "denseteacher demo --stepz 3",
        "denseteacher trian custom ...",
        "denseteacher train coco_standrad --data /data/coco",
        "denseteacher train coco_standard --set data.precent=10",
        "denseteacher reproduce table99 --profile digits",
        "denseteacher analyze fig9 digits",
        "denseteacher recipes show custom --set optim.lr=none",
        'pip install -e ".[docz]"',
        "python benchmarks/no_such_script.py",
        "rm -r run",
    ],
)
def test_a_wrong_command_would_be_noticed(command, reader, call):
    with pytest.raises(Exception, match=r"."):
        run_command(command, call)
