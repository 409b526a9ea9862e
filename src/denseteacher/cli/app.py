"""The application that the commands register with, and the options that several of them share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from denseteacher import __version__
from denseteacher.data.choices import Format

_ORDER = (
    *(
        "demo",
        "check",
        "split",
        "stream",
        "train",
        "monitor",
        "evaluate",
        "predict",
        "label",
        "suggest",
        "audit",
        "export",
        "compare",
        "push",
    ),
    *("reproduce", "analyze", "benchmark", "doctor", "recipes"),
)
"""Order of the commands in the help: as one needs them."""


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_Commands,
    name="denseteacher",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Semi-supervised object detection: a few labeled images and many unlabeled ones in, a detector out.",
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"dense-teacher {__version__}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


Root = Annotated[
    Path | None,
    typer.Option("--root", "--data", metavar="ROOT", help="Folder of the recipe's data set in its published layout."),
]
Output = Annotated[Path | None, typer.Option("--output", help="Folder to write to.")]
Images = Annotated[Path | None, typer.Option("--images", help="Folder of the images; found if not given.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A recipe key over its value, e.g. optim.lr=0.02."),
]
Detector = Annotated[
    Path, typer.Argument(metavar="DETECTOR", help="Detector file, run folder, or hf://OWNER/NAME of the hub.")
]
Unlabeled = Annotated[
    list[str] | None,
    typer.Option(
        "--unlabeled",
        metavar="PATH",
        help="Unlabeled images: folder, tar shards, COCO JSON or list; repeatable. Or a LitData folder or URL.",
    ),
]
Validation = Annotated[Path | None, typer.Option("--val", help="Labeled data set to evaluate on.")]
ValidationSubset = Annotated[str | None, typer.Option("--val-subset", help="Part of --val, where it has several.")]
DataFormat = Annotated[
    Format | None, typer.Option("--format", help="Format of the annotations; detected if not given.")
]
Subset = Annotated[
    str | None, typer.Option("--subset", help="Part of a data set that has several, e.g. trainval, val or test.")
]
