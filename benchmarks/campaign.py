"""Attacks on training runs, files and recipes, for as long as is asked for: how many got through.

    python benchmarks/campaign.py --minutes 12 [--seed 0] [--kind LABEL --trial N]

Kills, abrupt ends at every file event, full disks, damaged checkpoints and run folders, damaged and hostile detector
files, annotations, images and recipes. An attack is held where what comes of it is right, and refused where one
sentence says what is wrong; anything else is a failure: a traceback, a hang, a crash, a difference, something let in.
Each trial is drawn from the seed, its kind and its number, and ``--kind --trial`` repeats it; only the moments of
SIGKILL depend on the clock. Writes ``results/campaign.json``.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch

from attacks.annotations import AnnotationFiles
from attacks.detectors import DetectorFiles, OnnxFiles
from attacks.images import Images
from attacks.kind import FAILED, HELD, REFUSED, Kind, Verdict, Worker
from attacks.recipes import Recipes
from attacks.run_files import DamagedCheckpoints, DamagedResumes, DamagedRunFolders
from attacks.runs import Events, FullDisk, Kills
from attacks.small_data import FORMATS
from attacks.tiny_run import TinyRun
from result_file import write_result

_TURN = 5.0  # seconds of a worker
_SHOWN = 10  # failures of a kind


def main() -> None:
    """Attacks and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="The one kind to try, by its label.")
    parser.add_argument("--trial", type=int, help="The one trial of it to make; nothing is written.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that workers end too
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        kinds = [one for one in all_kinds(Path(name)) if arguments.kind in (None, one.label)]
        if not kinds:
            sys.exit(f"no kind {arguments.kind!r}: {', '.join(one.label for one in all_kinds(Path(name)))}")
        prepare(kinds, Path(name))
        if arguments.trial is not None:
            with Worker(kinds[0], arguments.seed) as worker:
                print(worker.attempt(arguments.trial))
            return
        verdicts = []
        for verdict in campaign(kinds, arguments.seed, 60 * arguments.minutes):
            verdicts.append(verdict)
            if verdict.outcome == FAILED:
                print(f"{verdict.kind}, trial {verdict.trial}: {verdict.reason}", flush=True)
    report(kinds, verdicts, arguments.seed, arguments.minutes)


def all_kinds(folder: Path) -> list[Kind]:
    """The kinds, which share one run that is trained when it is asked for first.

    Args:
        folder: Where that run is.
    """
    runs: list[TinyRun] = []

    def run() -> TinyRun:
        if not runs:
            (folder / "run").mkdir()
            runs.append(TinyRun(folder / "run"))
        return runs[0]

    on_runs = (Kills, Events, FullDisk, DamagedResumes, DamagedCheckpoints, DamagedRunFolders)
    files = [DetectorFiles(), OnnxFiles(), *(AnnotationFiles(name) for name in FORMATS), Images(), Recipes()]
    return [*(kind(run) for kind in on_runs), *files]


def prepare(kinds: Sequence[Kind], folder: Path) -> None:
    """Prepares each kind in a folder of its own."""
    for number, kind in enumerate(kinds):
        own = folder / f"kind-{number}"
        own.mkdir()
        kind.prepare(own)


def campaign(kinds: Sequence[Kind], seed: int, seconds: float) -> Iterator[Verdict]:
    """Attacks for some time, which the kinds have by their shares; each has one trial at least.

    Args:
        kinds: Prepared.
        seed: Of all trials.
        seconds: How long.
    """
    end = time.perf_counter() + seconds
    spent, tried = {kind.label: 0.0 for kind in kinds}, {kind.label: 0 for kind in kinds}
    while True:
        waiting = [kind for kind in kinds if not tried[kind.label]]
        if not waiting and time.perf_counter() >= end:
            return
        kind = min(waiting or kinds, key=lambda one: spent[one.label] / one.share)
        start = time.perf_counter()
        with Worker(kind, seed) as worker:
            while worker.is_usable:
                verdict = worker.attempt(tried[kind.label])
                tried[kind.label] += 1
                yield verdict
                now = time.perf_counter()
                if verdict.reason.startswith(("hang", "crash")) or now >= end or now - start > _TURN:
                    break
        spent[kind.label] += time.perf_counter() - start


def report(kinds: Sequence[Kind], verdicts: Sequence[Verdict], seed: int, minutes: float) -> None:
    """Prints the figures and writes them."""
    rows, failures = [], []
    for kind in kinds:
        own = [one for one in verdicts if one.kind == kind.label]
        counts = {name: sum(one.outcome == name for one in own) for name in (HELD, REFUSED, FAILED)}
        values = {"trials": [len(own)], "failures": [counts[FAILED]], HELD: [counts[HELD]], REFUSED: [counts[REFUSED]]}
        values |= {"seconds": [round(sum(one.seconds for one in own))]}
        rows.append({"label": kind.label, "seeds": [seed], "values": values})
        failed = [one for one in own if one.outcome == FAILED]
        failures += [{"kind": one.kind, "trial": one.trial, "reason": one.reason} for one in failed[:_SHOWN]]
        print(f"{kind.label:32} {len(own):6} trials {counts[FAILED]:4} failures", values)
    totals = {name: sum(row["values"][name][0] for row in rows) for name in ("trials", "failures")}
    print(totals, write_result("campaign", rows, totals, minutes=minutes, failures=failures))


if __name__ == "__main__":
    main()
