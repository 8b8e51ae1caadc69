"""Results of a suite: a file of scores and one of the runs, which say what was asked for and how it went."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow.files import atomic
from networks.workflow.records import Record, read_records
from scripts.experiments.runs import RunFolder
from scripts.experiments.suite import Run, run_name

RUNS_SUFFIX = "_runs.jsonl"
RUN_KEYS = ("suite", "network", "data_set", "pretraining", "recipe", "seed", "bundle", "preset", "options", "curve")
# what a score has of its run, beside the network, which is its model
LABELS = ("data_set", "setting", "pretraining", "suite", "recipe", "bundle", "seed")
Line = dict[str, Any]


def result_files(results_dir: str | Path, suite: str) -> tuple[Path, Path]:
    """The files of scores and of runs."""
    return Path(results_dir) / f"{suite}.jsonl", Path(results_dir) / f"{suite}{RUNS_SUFFIX}"


def result_of(folder: RunFolder) -> tuple[Line, list[Record]]:
    """The line and the scores of a run that is done."""
    record = folder.record()
    line = {
        **_spec(folder.run),
        **({"digests": record["digests"]} if "digests" in record else {}),  # earlier versions kept none
        "seconds": folder.seconds(),
        "curve": folder.curve(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(record["started"])),
        "machine": record.get("machine"),
    }
    labels = {"model": line["network"]} | {key: line[key] for key in LABELS}
    return line, [score | labels for path in folder.score_files() for score in read_records(path)]


def collected(scores_file: Path, runs_file: Path) -> dict[str, tuple[Line, list[Record]]]:
    """Lines and scores that the files have, by the runs' names.

    Raises:
        UserError: one file is there without the other, or a line is not what it should be.
    """
    there = [file for file in (scores_file, runs_file) if file.is_file()]
    if not there:
        return {}
    if len(there) == 1:
        missing = runs_file if there == [scores_file] else scores_file
        raise UserError(
            f"{there[0]} is there without {missing}, so that what it has of other machines' runs would be lost; put "
            "that file back, or move this one away."
        )
    scores: dict[str, list[Record]] = defaultdict(list)
    for record in read_records(scores_file):
        scores[run_name(record | {"network": record["model"]})].append(record)
    return {run_name(line): (line, scores[run_name(line)]) for line in read_runs(runs_file)}


def is_of(line: Line, run: Run) -> bool:
    """Whether a line is about a run as it is asked for now."""
    spec = _spec(run)
    return {key: line.get(key) for key in spec} == spec


def read_runs(path: Path) -> list[Line]:
    """Lines of a file that ``experiments collect`` wrote about the runs.

    Raises:
        UserError: no such file; or a line is not about a run; names it.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a file that 'experiments collect' wrote.")
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            run = json.loads(line)
            missing = [key for key in RUN_KEYS if key not in run]
        except (ValueError, TypeError) as error:
            raise UserError(f"Line {number} of {path} is not about a run: {error}.") from error
        if missing:
            raise UserError(f"Line {number} of {path} is not about a run: it has no {', '.join(missing)}.")
        runs.append(run)
    return runs


def write_runs(path: Path, lines: Iterable[Line]) -> None:
    """Write one line per run, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _spec(run: Run) -> Line:
    """What decides a run's result, without the folders of the machine."""
    spec = run.spec()
    options = {key: _portable(value) for key, value in spec["options"].items()}
    return spec | {"options": options, "dataset_dir": Path(run.dataset_dir).name}


def _portable(value: object) -> object:
    """An option without the folders of the machine that it was used on."""
    if isinstance(value, str) and os.sep in value:
        return Path(value).name
    return [_portable(v) for v in value] if isinstance(value, list) else value
