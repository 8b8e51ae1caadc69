"""Reading what a report is made of: scores, runs, and which network, weights and recipe they belong to."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.records import Record, read_records
from networks.workflow.statistics import ALL_CLASSES, Summary, Table, nanmean, summarise, tables
from scripts.experiments.collected import RUNS_SUFFIX, Line, read_runs
from scripts.metrics.variants import Variant, find_variants, identity, name_variants

VALIDATION = {
    "val_mean_dice": "Dice",
    "val_top1": "top-1",
}  # columns of the log of epochs: who segments, who classifies


@dataclass(frozen=True)
class DataSet:
    """The scores on one split of one data set.

    Attributes:
        name: its label.
        setting: such as "one-shot", or empty.
        split: list of ``dataset.json``.
        tables: with the variants' names as models.
        summaries: of each table.
    """

    name: str
    setting: str
    split: str
    tables: list[Table]
    summaries: list[list[Summary]]

    @property
    def title(self) -> str:
        """Unlike that of any other data set of the report."""
        return self.name if self.split == "test" else f"{self.name}, {self.split.replace('_', ' ')}"

    def of(self, protocol: str, metric: str | None = None) -> list[tuple[Table, list[Summary]]]:
        """Tables of a protocol, and of one metric of it, with their summaries."""
        pairs = zip(self.tables, self.summaries, strict=True)
        return [(t, s) for t, s in pairs if t.protocol == protocol and metric in (None, t.metric)]

    def metrics(self, protocol: str) -> list[tuple[str, str]]:
        """Names and units of a protocol's metrics."""
        return list(dict.fromkeys((table.metric, table.unit) for table, _ in self.of(protocol)))


@dataclass(frozen=True)
class Results:
    """Everything a report is made of.

    Attributes:
        suites: their names.
        variants: by name, in the order of the records.
        data_sets: in the order of the records.
        runs: lines of the files of runs, each with its ``variant``.
    """

    suites: list[str]
    variants: dict[str, Variant]
    data_sets: list[DataSet]
    runs: list[Line]


def load(paths: Sequence[str | Path]) -> Results:
    """Read files of scores and, where they lie beside them or are given too, their files of runs.

    Raises:
        UserError: no file is given or one does not exist, a line is no record, or a variant was not scored on all
            cases.
    """
    files = [Path(path) for path in paths]
    scores = [path for path in files if not path.name.endswith(RUNS_SUFFIX)]
    if not scores:
        raise UserError(
            "No file of scores was given; name one or more, such as results/SUITE.jsonl of 'experiments collect'."
        )
    beside = [path.with_name(f"{path.stem}{RUNS_SUFFIX}") for path in scores]
    run_files = dict.fromkeys([path for path in files if path not in scores] + [p for p in beside if p.is_file()])
    records = [record for path in scores for record in read_records(path)]
    runs = [run for path in run_files for run in read_runs(path)]
    variants = find_variants([*records, *({**run, "model": run["network"]} for run in runs)])
    named = name_variants(records, variants)
    runs = [{**run, "variant": variants[identity(run | {"model": run["network"]})].name} for run in runs]
    scored = dict.fromkeys(record["model"] for record in named)
    return Results(
        suites=list(dict.fromkeys(r["suite"] for r in [*records, *runs] if r.get("suite"))),
        variants={v.name: v for v in variants.values() if v.name in scored},
        data_sets=_data_sets(named),
        runs=runs,
    )


def case_means(table: Table) -> np.ndarray:
    """Mean of every case (cases,) over the classes that it has; infinite where a distance is."""
    return nanmean(table.values, axis=1)


def overall(summaries: Sequence[Summary]) -> Summary:
    """The summary over all classes."""
    return next(s for s in summaries if s.name == ALL_CLASSES) if len(summaries) > 1 else summaries[0]


def training_seconds(runs: Sequence[Line]) -> float | None:
    """Median time of those runs whose time is known: training and evaluations together."""
    times = [run["seconds"] for run in runs if run.get("seconds")]
    return statistics.median(times) if times else None


def best_validation(runs: Sequence[Line]) -> float | None:
    """The best mean Dice, or top-1, on the validation split that any of the runs reached, if one was validated."""
    found = [float(epoch[key]) for run in runs for epoch in run["curve"] for key in VALIDATION if epoch.get(key)]
    return max(found, default=None)


def _data_sets(records: Sequence[Record]) -> list[DataSet]:
    settings = {record["dataset"]: record.get("setting") or "" for record in records}
    found = tables(records)
    summaries = [summarise(table) for table in tqdm(found, desc="Intervals", unit="table", leave=False)]
    groups: dict[tuple[str, str], list[int]] = {}
    for i, table in enumerate(found):
        groups.setdefault((table.dataset, table.split), []).append(i)
    return [
        DataSet(name, settings[name], split, [found[i] for i in members], [summaries[i] for i in members])
        for (name, split), members in groups.items()
    ]
