"""What a package needs besides its code: one version, marks of types, metadata that parse, pages that are reached."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import denseteacher

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["name"] == "dense-teacher"
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    source = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert re.findall(r'^__version__ = "(.+)"$', source, re.M) == [denseteacher.__version__]
    assert f"## {denseteacher.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_version_is_said(call):
    assert call("--version")[:2] == (0, f"dense-teacher {denseteacher.__version__}\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source archive, and the wheel that is built from it, unpacked: their folders."""
    pytest.importorskip("hatchling", reason="needs hatchling")
    folder = tmp_path_factory.mktemp("built")

    def build(kind, source):
        script = f"import hatchling.build; hatchling.build.build_{kind}({str(folder)!r})"
        subprocess.run([sys.executable, "-c", script], cwd=source, check=True)
        (archive,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
        shutil.unpack_archive(archive, folder / kind, "gztar" if kind == "sdist" else "zip")
        return folder / kind

    (source,) = build("sdist", ROOT).iterdir()
    return source, build("wheel", source)


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_archives_hold_the_package_and_nothing_else(built):
    source, wheel = built
    package = {f"denseteacher/{name}" for name in files_of(ROOT / "src" / "denseteacher") if not name.endswith(".pyc")}
    assert "denseteacher/py.typed" in package
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE", "licenses/NOTICE"}
    named = f"dense_teacher-{denseteacher.__version__}.dist-info"
    assert files_of(wheel) == package | {f"{named}/{name}" for name in about}
    beside = {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "NOTICE",
        "CITATION.cff",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }
    assert files_of(source) == {f"src/{name}" for name in package} | beside


def test_the_wheel_works_where_there_is_no_checkout(built, tmp_path):
    _, wheel = built
    environment = os.environ | {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    for arguments, said in {
        ("-c", "import denseteacher; print(denseteacher.__file__)"): str(wheel),
        ("-m", "denseteacher", "--help"): "semi-supervised object detection",
        ("-m", "denseteacher", "demo", "--help"): "--steps",
        ("-m", "denseteacher", "doctor"): "precision",
    }.items():
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said.lower() in done.stdout.lower()


def test_types_are_marked():
    assert (ROOT / "src" / "denseteacher" / "py.typed").is_file()


def test_the_citation_has_what_its_schema_asks_for():
    """Fields and kinds of the Citation File Format 1.2.0, as far as they are used."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what it requires
    assert set(cited) <= {
        *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
        *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-code"),
        *("title", "type", "url", "version"),
    }
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] in ("software", "dataset")
    assert cited["license"] == PROJECT["project"]["license"]
    paper = cited["preferred-citation"]
    assert paper["type"] == "conference-paper"
    assert paper["title"].startswith("Dense Teacher: ")
    assert paper["year"] == 2022
    for author in (*cited["authors"], *paper["authors"]):
        assert set(author) <= {"family-names", "given-names", "name", "orcid", "affiliation"}
        assert all(isinstance(value, str) for value in author.values())
    assert [author["family-names"] for author in paper["authors"]][0::6] == ["Zhou", "Sun"]


def test_the_dockerfile_is_one_that_linters_let_pass():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
    words = {word for word, _ in steps}
    assert words <= {"FROM", "LABEL", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    bases = [rest for word, rest in steps if word == "FROM"]
    assert all(re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*", base) for base in bases)  # pinned, and not "latest"
    users = [rest for word, rest in steps if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    last = max(place for place, (word, _) in enumerate(steps) if word == "USER")
    assert all(word != "RUN" for word, _ in steps[last:])
    for _, command in (step for step in steps if step[0] == "RUN"):
        assert "sudo" not in command
        assert "pip install" not in command or "--no-cache-dir" in command
        assert "cd " not in command
        assert "apt-get install" not in command or "rm -rf /var/lib/apt/lists" in command
    assert all(rest.startswith("/") for word, rest in steps if word == "WORKDIR")
    assert all(rest.startswith("[") for word, rest in steps if word in ("ENTRYPOINT", "CMD"))
    for names in (rest for word, rest in steps if word == "COPY"):
        assert all((ROOT / name).exists() for name in names.split()[:-1])
        assert all(f"!{Path(name).name}" in (ROOT / ".dockerignore").read_text() for name in names.split()[:-1])
    extras = re.search(r"\.\[(.+?)\]", (ROOT / "Dockerfile").read_text())[1].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize("file", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "Dockerfile"])
def test_the_files_are_reached_from_the_readme(file):
    assert f"]({file})" in (ROOT / "README.md").read_text()


def _pages():
    return [ROOT / "README.md", *ROOT.glob("[A-Z]*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", sorted(set(_pages())), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_every_page_of_the_documentation_is_in_the_site():
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if page not in nav} == set()


def test_completion_of_the_shell_is_offered(call, monkeypatch):
    # a process without a terminal above it, as in CI, has no shell to find
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    code, out, _ = call("--show-completion")
    assert code == 0
    assert "_DENSETEACHER_COMPLETE=complete_bash" in out


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("denseteacher aud", ["audit"]),
        ("denseteacher train custom --mon", ["--monitor"]),
        ("denseteacher label run pool --to ", ["coco", "yolo", "voc", "label-studio"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(call, monkeypatch, typed, words):
    monkeypatch.setenv("_DENSETEACHER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    code, out, _ = call()
    assert code == 0
    assert out.split() == words
