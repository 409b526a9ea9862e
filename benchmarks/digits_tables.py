"""The paper's tables and sweeps on Digits, as results files.

    python benchmarks/digits_tables.py table1 table6 [--folds 1 2 3] [--jobs 2] [--output RUNS]

Trains what is missing (see ``denseteacher reproduce``; tables share their runs) and writes
``results/digits_NAME.json``. An experiment may be a YAML file.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from denseteacher.experiments.reproduce import reproduce
from denseteacher.experiments.schema import experiment_names
from denseteacher.experiments.table import content
from result_file import write_result

DATA = "Digits small: 200 labeled, 4,000 unlabeled, 300 validation images, 1,600 steps"


def main() -> None:
    """Runs the experiments one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help=", ".join(experiment_names()))
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/digits"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    for name in arguments.experiments:
        result = reproduce(
            name,
            profile="digits",
            folds=arguments.folds,
            output=arguments.output,
            jobs=arguments.jobs,
            overrides=arguments.overrides,
        )
        if result.stopped_by is not None or result.failures:
            raise SystemExit(f"{name}: {result.stopped_by or result.failures}")
        table = content(result.table)
        rows = [row for row in table["rows"] if row["seeds"]]
        about = {"title": table["title"], "metrics": table["metrics"], "note": table["note"], "data": DATA}
        print(write_result(f"digits_{Path(name).stem}", rows, gains(rows), **about))


def gains(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Relative gain in AP of each row over the supervised one of its detector, where the table has it."""
    found = {}
    for row in rows:
        detector = " (RetinaNet)" if "RetinaNet" in row["label"] else ""
        base = next((one for one in rows if one["label"] == f"Supervised{detector}"), None)
        if base is not None and base is not row:
            found[f"{row['label']} over Supervised"] = round(
                mean(row["values"]["AP"]) / mean(base["values"]["AP"]) - 1, 4
            )
    return found


if __name__ == "__main__":
    main()
