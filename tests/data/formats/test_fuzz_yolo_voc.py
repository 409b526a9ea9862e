"""Damaged and strange files, drawn with a fixed seed: a reader gives a result or one sentence, nothing else."""

import contextlib
import shutil

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from denseteacher.data.formats import labeled_images, read_annotations, read_unlabeled
from denseteacher.errors import InputError
from denseteacher.recipes.schema import load_recipe
from support.published_datasets import save, scenes, voc_xml, yolo_lines

SEEDED = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NASTY = st.sampled_from(
    [
        *(
            b"",
            b"\0",
            b"\xff",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\xd0\xd0",
            b"\xe9",
            b"\xed\xa0\x80",
            b"\t",
            b"\r",
            b"\n\n",
        ),
        *(
            b"9" * 400,
            b"9" * 5000,
            b"-1",
            b"1e999",
            b"nan",
            b".inf",
            b"0x_",
            b"0b_",
            b"1:30",
            b"2001-99-99",
            b"yes",
            b"null",
        ),
        *(
            b"/",
            b"../",
            b"..\\",
            b"~",
            b"C:\\",
            b"x" * 300,
            b"'",
            b'"',
            b"#",
            b"%",
            b": ",
            b"- ",
            b"? ",
            b"|",
            b"=",
            b"<<: ",
        ),
        *(b"[" * 50, b"{", b"*a", b"&a ", b"!!int ", b"!!python/name:os.system "),
        *(b"<object>", b"</annotation>", b"<a>" * 50, b"&x;", b"encoding='foo'", b"<!DOCTYPE a>"),
    ]
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), NASTY), min_size=1, max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
    | st.sampled_from(["images", "/", "..", "train.txt", ".", "~", "x" * 300]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=6,
)


def damaged(content, edits):
    """Bytes cut out at some places, and nasty ones put in."""
    for place, cut, put in edits:
        at = int(place * len(content))
        content = content[:at] + put + content[at + cut :]
    return content


def outcome(call):
    """Calls, and accepts one sentence in place of a result."""
    with contextlib.suppress(InputError):
        call()


def read_whole(folder):
    outcome(lambda: labeled_images(read_annotations(folder, on_fault=lambda _: None), bad_boxes="fix"))
    outcome(lambda: labeled_images(read_annotations(folder)))
    outcome(lambda: read_unlabeled(folder))


YAML = b"""path: .
train: images
val: [images, train.txt]
nc: 3
kpt_shape: [1, 2]
names:
  0: person
  1: car
  2: dog
"""


@pytest.fixture
def yolo(tmp_path):
    for scene in scenes(2):
        save(scene, tmp_path / "images" / f"{scene.number}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{scene.number}.txt").write_text(yolo_lines(scene))
    (tmp_path / "train.txt").write_text("images/1.jpg\nimages/2.jpg\n")
    (tmp_path / "obj.names").write_text("person\ncar\ndog\n")
    return tmp_path


@given(edits=EDITS)
@SEEDED
def test_damaged_yaml(yolo, edits):
    (yolo / "data.yaml").write_bytes(damaged(YAML, edits))
    read_whole(yolo)


@given(key=st.sampled_from(["path", "train", "names", "nc", "kpt_shape"]), value=VALUES)
@SEEDED
def test_strange_values_in_a_yaml(yolo, key, value):
    (yolo / "data.yaml").write_text(yaml.dump(yaml.safe_load(YAML) | {key: value}), encoding="utf-8", errors="replace")
    read_whole(yolo)


@pytest.mark.parametrize("name", ["labels/1.txt", "train.txt", "obj.names", "obj.data"])
@given(edits=EDITS)
@SEEDED
def test_damaged_text_files(yolo, name, edits):
    (yolo / "obj.data").write_text("classes = 3\ntrain = train.txt\nnames = obj.names\n")
    (yolo / "train.txt").write_text("images/1.jpg\nimages/2.jpg\n")
    (yolo / name).write_bytes(damaged((yolo / name).read_bytes()[:500], edits))
    read_whole(yolo)
    outcome(lambda: read_unlabeled(yolo / name))


@pytest.mark.parametrize("name", ["Annotations/1.xml", "ImageSets/Main/train.txt", "labelmap.txt"])
@given(edits=EDITS)
@SEEDED
def test_damaged_voc(tmp_path, name, edits):
    contents = {
        "Annotations/1.xml": voc_xml(scenes(1)[0]).encode(),
        "ImageSets/Main/train.txt": b"1\n",
        "labelmap.txt": b"# label:color\nperson:1,2,3::\ncar:::\ndog:::\n",
    }
    if not (tmp_path / "JPEGImages").exists():
        save(scenes(1)[0], tmp_path / "JPEGImages" / "1.jpg")
    for file, content in contents.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(damaged(content, edits) if file == name else content)
    read_whole(tmp_path)


RECIPE = b"""name: mine
extends: custom_small
seed: 3
optim: {lr: 0.01}
data:
  labeled: x
  fold: 2
method:
  name: stac
"""


@given(edits=EDITS)
@SEEDED
def test_damaged_recipes(tmp_path, edits):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(damaged(RECIPE, edits))
    outcome(lambda: load_recipe(file))


KEYS = ["name", "seed", "data", "data.labeled", "data.percent", "data.split", "data.unlabeled", "detector", "optim.lr",
        "method", "method.ratio", "schedule.max_steps", "augment.weak.short_side", "evaluation", "extends"]  # fmt: skip


@given(key=st.sampled_from(KEYS), value=VALUES)
@SEEDED
def test_strange_values_in_a_recipe(tmp_path, key, value):
    outcome(lambda: load_recipe("custom_small", {key: value}))
    text = yaml.dump(value).encode("utf-8", "replace").decode()
    outcome(lambda: load_recipe("custom_small", [f"{key}={text}"]))


def test_the_data_are_sound_before_they_are_damaged(yolo, tmp_path):
    """Or the tests above would only see the first sentence."""
    (yolo / "data.yaml").write_bytes(YAML.replace(b"kpt_shape: [1, 2]\n", b""))
    assert len(labeled_images(read_annotations(yolo)).images) == 2
    shutil.copy(yolo / "data.yaml", tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_bytes(RECIPE)
    assert load_recipe(tmp_path / "recipe.yaml").seed == 3
