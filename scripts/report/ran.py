"""What was run of what a suite asks for, when, on what, and what was not."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.experiments.collected import Line
from scripts.experiments.suite import SUITES_DIR, Run, load_suite
from scripts.report.results import VALIDATION, Results, best_validation, training_seconds
from scripts.report.sheets import MANY, NONE, Cell, Sheet, duration

PARTS = {
    "data_set": "the data set",
    "network": "the network",
    "pretraining": "the weights",
    "recipe": "the recipe",
    "seed": "the seed",
}


@dataclass(frozen=True)
class Ran:
    """An account of the runs.

    Attributes:
        title: of the report.
        description: of the suites.
        sentences: how much was done, when, on what, what was not.
        sheet: one line per data set and variant; None without runs.
    """

    title: str
    description: str
    sentences: list[str]
    sheet: Sheet | None


def account(results: Results, suites_dir: Path = SUITES_DIR) -> Ran:
    """Hold the runs of the results against their suites, as far as their files are there."""
    asked: list[Run] = []
    descriptions, unknown = [], []
    for name in results.suites:
        path = suites_dir / f"{name}.json"
        if path.is_file():
            suite = load_suite(path)
            asked += suite.runs
            descriptions.append(suite.description)
        else:
            unknown.append(name)
    sentences = [*_done(results.runs, asked, unknown), *_circumstances(results.runs), *_not_done(results.runs, asked)]
    title = " of ".join(["Results", *([", ".join(results.suites)] if results.suites else [])])
    return Ran(title, " ".join(descriptions), sentences, _sheet(results))


def _done(runs: Sequence[Line], asked: Sequence[Run], unknown: Sequence[str]) -> list[str]:
    if not runs:
        return ["There is no file of runs beside these scores: what was run is known from the scores alone."]
    if unknown or not asked:
        names = ", ".join(unknown) or "these results"
        return [f"{len(runs)} runs are done; how many were asked for is not known without the suite file of {names}."]
    wanted = {_key(run.spec()) for run in asked}
    done = len(wanted & {_key(run) for run in runs})
    sentence = f"{done} of the suite's {len(wanted)} runs are done."
    others = len({_key(run) for run in runs} - wanted)
    return [sentence + (f" {others} more are not in the suite as it is now." if others else "")]


def _circumstances(runs: Sequence[Line]) -> list[str]:
    sentences = []
    dates = sorted(run["date"] for run in runs if run.get("date"))
    if dates:
        span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        sentences.append(f"Date: {span}.")
    machines = dict.fromkeys(_machine(run["machine"]) for run in runs if run.get("machine"))
    if machines:
        sentences.append(f"Hardware: {'; '.join(machines)}.")
    elif runs:
        sentences.append("The hardware is not recorded.")
    times = [run["seconds"] for run in runs if run.get("seconds")]
    if times:
        whole = datetime.timedelta(seconds=round(sum(times)))
        without = len(runs) - len(times)
        known = f"the {len(times)} runs that were not interrupted" if without else "all runs"
        sentences.append(f"Time of {known}: {whole}.")
    return sentences


def _not_done(runs: Sequence[Line], asked: Sequence[Run]) -> list[str]:
    """What is lacking: whole data sets, networks, ... first, then how many single runs."""
    missing = [run.spec() for run in asked if _key(run.spec()) not in {_key(run) for run in runs}]
    if not missing:
        return []
    said = []
    for key, what in PARTS.items():
        done = {run[key] for run in runs}
        lacking = list(dict.fromkeys(str(spec[key]) for spec in missing if spec[key] not in done))
        if lacking:
            said.append(f"{what}{'s' if len(lacking) > 1 and what != 'the weights' else ''} {', '.join(lacking)}")
        missing = [spec for spec in missing if spec[key] in done]
    if missing:
        names = [f"{s['network']} on {s['data_set']} from {_weights(s)} (seed {s['seed']})" for s in missing]
        rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
        said.append(f"single runs: {', '.join(names[:5])}{rest}")
    return [f"Not run: {'; '.join(said)}."]


def _sheet(results: Results) -> Sheet | None:
    groups: dict[tuple[str, str], list[Line]] = {}
    for run in results.runs:
        groups.setdefault((run["data_set"], run["variant"]), []).append(run)
    if not groups:
        return None
    rows = []
    for (data_set, variant), runs in groups.items():
        epochs = sorted({len(run["curve"]) for run in runs})
        best = best_validation(runs)
        texts = [data_set, runs[0].get("setting") or NONE, variant, runs[0]["recipe"]]
        texts += [", ".join(str(run["seed"]) for run in runs)]
        texts += [str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"]
        texts += [NONE if best is None else f"{100 * best:.2f}", duration(training_seconds(runs))]
        rows.append([Cell(text) for text in texts])
    logged = {key for run in results.runs for epoch in run["curve"] for key in epoch}
    measure = " or ".join(what for key, what in VALIDATION.items() if key in logged)
    header = ["data set", "setting", "network", "recipe", "seeds", "epochs", f"best validation {measure}, %"]
    header += ["time per run"]
    note = "The time is the median over the seeds, training and scoring together, of runs that were not interrupted."
    return Sheet("The runs", header, rows, [note], names=5, folded=len(rows) > MANY)


def _key(run: Line) -> tuple:
    return tuple(run[key] for key in PARTS)


def _weights(spec: Line) -> str:
    return "scratch" if spec["pretraining"] == "none" else spec["pretraining"]


def _machine(facts: dict) -> str:
    return f"{facts.get('gpu') or facts.get('cpu')}, PyTorch {facts.get('torch')}"
