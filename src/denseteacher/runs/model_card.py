"""The page of a detector on the hub: what it finds, what it was trained on, how good it is, how to use it."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from denseteacher.detectors import DetectorCard
from denseteacher.detectors.hub import HubPlace
from denseteacher.errors import visible
from denseteacher.evaluation.gain import UnlabeledGain
from denseteacher.evaluation.summary import RunEvaluation
from denseteacher.recipes.schema import Recipe

_PAPER = """```bibtex
@inproceedings{zhou2022dense,
  title     = {Dense Teacher: Dense Pseudo-Labels for Semi-supervised Object Detection},
  author    = {Zhou, Hongyu and Ge, Zheng and Liu, Songtao and Mao, Weixin and Li, Zeming and Yu, Haiyan and Sun, Jian},
  booktitle = {European Conference on Computer Vision},
  year      = {2022}
}
```"""
_HEADS = {"fcos": "FCOS", "retinanet": "RetinaNet", "gfl": "GFL"}
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def public_recipe(recipe: Recipe) -> str:
    """The recipe as YAML in which a path is the last part of it: where somebody's files lie is nobody else's matter."""
    content = recipe.model_dump(mode="json")
    detector = content["detector"]
    content["data"] = _without_folders(content["data"])
    content["detector"] = detector | _without_folders({key: detector[key] for key in ("init", "pretrained")})
    return yaml.safe_dump(content, sort_keys=False)


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return PurePath(value.replace("\\", "/")).name if isinstance(value, str) and re.search(r"[/\\]", value) else value


def model_card(
    place: HubPlace,
    card: DetectorCard,
    recipe: Recipe,
    *,
    sizes: tuple[int, int],
    evaluation: RunEvaluation | None,
    gain: UnlabeledGain | None,
    license: str | None,
) -> str:
    """The page as Markdown, with the hub's metadata in front.

    Args:
        place: Where it will be.
        card: What the detector says of itself.
        recipe: Of its run.
        sizes: Labeled and unlabeled images.
        evaluation: What it reaches; None where it was not evaluated.
        gain: What the unlabeled images were worth, where that was measured.
        license: SPDX name of the weights' license, where the owner has said one.
    """
    labeled, unlabeled = sizes
    validation = None if evaluation is None else evaluation.images
    network = f"{_HEADS[recipe.detector.name]} on {recipe.detector.backbone}"
    parts = [
        f"---\n{yaml.safe_dump(_metadata(place, evaluation, license), sort_keys=False)}---",
        f"# {place.repo.rpartition('/')[2]}",
        f"Detects {len(card.categories):,} kinds of objects: {network}, trained with denseteacher on "
        f"{labeled:,} labeled and {unlabeled:,} unlabeled images by the method `{recipe.method.name}`.",
        _usage(place),
        _results(evaluation, gain),
        _classes(card, evaluation),
        _data(recipe, labeled, unlabeled, validation),
        _training(card, recipe),
        f"## License\n\n{_license(license)}",
        f"## Citation\n\n{_PAPER}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(place: HubPlace, evaluation: RunEvaluation | None, license: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "library_name": "denseteacher",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "semi-supervised", "pseudo-labels"],
    }
    if license is not None:
        found["license"] = license
    if evaluation is not None:
        metrics = [
            {"type": name, "name": f"COCO {name}", "value": round(value, 2)}
            for name, value in _headline(evaluation).items()
        ]
        task = {"type": "object-detection"}
        data = {"type": "custom", "name": "validation images of the run"}
        found["model-index"] = [
            {"name": place.repo.rpartition("/")[2], "results": [{"task": task, "dataset": data, "metrics": metrics}]}
        ]
    return found


def _headline(evaluation: RunEvaluation) -> dict[str, float]:
    names = ("AP", "AP50", "AP75")
    return {name: value for name in names if (value := evaluation.metrics.get(name)) is not None}


def _usage(place: HubPlace) -> str:
    return f"""## Use

```bash
pip install dense-teacher
denseteacher predict {place} picture.jpg --output found
```

```python
import denseteacher

detector = denseteacher.load("{place}")
boxes, scores, labels = detector.predict(["picture.jpg"])[0]
print([detector.class_names[label] for label in labels])
```

The file holds tensors and a description, no code."""


def _results(evaluation: RunEvaluation | None, gain: UnlabeledGain | None) -> str:
    if evaluation is None:
        return "## Results\n\nIt was not evaluated."
    table = "\n".join(f"| {name} | {value:.1f} |" for name, value in _headline(evaluation).items())
    text = (
        f"## Results\n\nOn {evaluation.images:,} validation images of the owner, in percent, by COCO's protocol:\n\n"
        f"| metric | |\n|---|---:|\n{table}"
    )
    if (best := evaluation.best) is not None:
        text += (
            f"\n\nScores above {best.score:.2f} give the best F1 of all classes together at IoU 0.5: {best.f1:.2f}, "
            f"with precision {best.precision:.2f} and recall {best.recall:.2f}. `denseteacher predict --score auto` "
            "takes the best score of each class."
        )
    return text if gain is None else f"{text}\n\n{gain.sentence} {gain.certainty}"


def _classes(card: DetectorCard, evaluation: RunEvaluation | None) -> str:
    scores = {} if evaluation is None else {one.name: one for one in evaluation.classes}
    rows = []
    for _, name in card.categories:
        one = scores.get(name)
        value = None if one is None else one.scores.get("AP")
        objects = "" if one is None else f"{one.objects:,}"
        best = "" if one is None or one.best is None else f"{one.best.score:.2f}"
        rows.append(f"| {_escaped(name)} | {objects} | {'' if value is None else f'{value:.1f}'} | {best} |")
    return "\n".join(
        ["## Classes\n", "| class | validation objects | AP | best score |", "|---|---:|---:|---:|", *rows]
    )


def _data(recipe: Recipe, labeled: int, unlabeled: int, validation: int | None) -> str:
    """How many images of what: the names of files and folders, not where they lie."""
    data = _without_folders(recipe.data.model_dump(mode="json"))
    pool = data["unlabeled"] if isinstance(data["unlabeled"], list) else [data["unlabeled"]]
    cut = "" if data["split"] == "none" else f"; cut by the split {_escaped(data['split'])}, fold {data['fold']}"
    facts = {
        "labeled images": f"{labeled:,}{_named(data['builtin'] or data['labeled'] or data['root'])}{cut}",
        "unlabeled images": f"{unlabeled:,}{_named(*(one['path'] if isinstance(one, dict) else one for one in pool))}",
        "validation images": "none" if validation is None else f"{validation:,}{_named(data['val'])}",
    }
    return "\n".join(["## Data\n", "| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items())])


def _named(*names: str | None) -> str:
    shown = dict.fromkeys(_escaped(name) for name in names if name is not None)
    return f", of {', '.join(shown)}" if shown else ""


def _training(card: DetectorCard, recipe: Recipe) -> str:
    facts: Mapping[str, object] = {
        "recipe": f"`{recipe.name}` (`recipe.yaml` here: all values; paths without their folders)",
        "method": f"`{recipe.method.name}`",
        "steps": f"{recipe.schedule.max_steps:,}; the weights are those of the teacher after "
        f"{card.trained.get('step', '?')}",
        "images are resized to": f"{card.short_side} px, the longer side up to {card.max_side}",
        "boxes below this score are left out": f"{card.detector.score_floor}",
        "random seed": f"{recipe.seed}",
    }
    return "\n".join(["## Training\n", "| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items())])


def _license(license: str | None) -> str:
    if license is None:
        return "The owner of these weights has not said one; ask before you use them."
    return f"{_escaped(license)}. denseteacher itself is Apache-2.0."


def _escaped(text: str) -> str:
    """A text from data as Markdown shows it: nothing in it is a mark, a link or HTML."""
    return _MARKS.sub(r"\\\1", visible(text).replace("\n", " "))
