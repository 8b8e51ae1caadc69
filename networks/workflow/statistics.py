"""Means of result records with confidence intervals, as every table of scores shows them."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from networks.errors import UserError
from networks.workflow.data import patient
from networks.workflow.protocols import told_options
from networks.workflow.records import Record, number

ALL_CLASSES = "all classes"
CONFIDENCE = 0.95
RESAMPLES = 9999
MAX_ELEMENTS = 2_000_000  # of a batch of resamples: 16 MB


@dataclass(frozen=True)
class Table:
    """All values of one metric of one model.

    Attributes:
        model, dataset, split, protocol, metric, unit: as in the records.
        cases: sorted.
        classes: in the order of the records; ``ALL_CLASSES`` alone for a score over all classes.
        values: (cases, classes); NaN where missing. Mean over the seeds where there are several.
        seeds: of the runs.
        prediction: "labels" or "probabilities".
        options: words about how was predicted, as of :func:`networks.workflow.protocols.told_options`.
    """

    model: str
    dataset: str
    split: str
    protocol: str
    metric: str
    unit: str
    prediction: str
    cases: list[str]
    classes: list[str]
    values: np.ndarray
    seeds: list
    options: str

    @property
    def patients(self) -> list[str]:
        """Of whom each case is, as far as the names tell (:func:`networks.workflow.data.patient`); else the case."""
        return [patient(case, "") or case for case in self.cases]

    @property
    def size(self) -> str:
        """How many cases, and of how many patients where these are fewer."""
        cases, people = len(self.cases), len(set(self.patients))
        text = f"{cases} case{'s' * (cases > 1)}"
        return text if people == cases else f"{text} of {people} patient{'s' * (people > 1)}"


@dataclass(frozen=True)
class Summary:
    """One class of a table, or all of them: the mean over the finite values, and how many were not.

    Attributes:
        name: of the class. ``ALL_CLASSES`` is the mean of the classes' means, except for a score over all classes.
        mean: NaN if there is no finite value.
        low, high: bounds of the 95 % interval: percentile bootstrap over the patients, or over the cases where these
            are of different ones or nothing tells. NaN with fewer than two of them.
        median: over the finite and the infinite values.
        scored: finite values.
        missing: values of classes that neither truth nor prediction has.
        infinite: distances to an empty set.
    """

    name: str
    mean: float
    low: float
    high: float
    median: float
    scored: int
    missing: int
    infinite: int


def tables(records: Iterable[Record]) -> list[Table]:
    """Sort records into tables, in the order in which they come.

    Raises:
        UserError: a value is there twice for the same seed, a case lacks a class or a seed that others have, or what
            would be seeds of one model was predicted by different options.
    """
    keys = ("model", "dataset", "split", "protocol", "metric", "unit", "prediction")
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        groups[tuple(record[key] for key in keys)].append(record)
    return [_table(dict(zip(keys, group, strict=True)), members) for group, members in groups.items()]


def _table(ids: dict[str, str], records: Sequence[Record]) -> Table:
    options = list(dict.fromkeys(map(told_options, records)))
    if len(options) > 1:
        raise UserError(
            f"The model {ids['model']} was scored {' and '.join(told.strip() or 'as trained' for told in options)} "
            f"({ids['protocol']} protocol), which are no seeds of one model; give different runs different names, by "
            "--model of the evaluation."
        )
    values: dict[tuple, float] = {}
    for record in records:
        key = (record["case"], record["class"] or ALL_CLASSES, record["seed"])
        if key in values:
            raise UserError(
                f"{ids['metric']} of {key[1]} in {key[0]} is there twice for the model {ids['model']} and the seed "
                f"{key[2]} ({ids['protocol']} protocol); give different runs different names or seeds."
            )
        values[key] = number(record)
    cases, classes, seeds = (list(dict.fromkeys(key[i] for key in values)) for i in range(3))
    for case in cases:
        for c in classes:
            for seed in seeds:
                if (case, c, seed) not in values:
                    raise UserError(
                        f"{ids['metric']} of {c} in {case} is not there for the model {ids['model']} and the seed "
                        f"{seed} ({ids['protocol']} protocol), unlike for others; score all cases again."
                    )
    cases = sorted(cases)
    array = np.array([[[values[case, c, seed] for seed in seeds] for c in classes] for case in cases])
    means = nanmean(array, axis=2)
    return Table(**ids, cases=cases, classes=classes, values=means, seeds=seeds, options=options[0])


def summarise(table: Table) -> list[Summary]:
    """One summary per class, and one of all classes where there are several or it is a mean over them."""
    people, columns = table.patients, zip(table.classes, table.values.T, strict=True)
    rows = [_summary(name, column[:, None], people) for name, column in columns]
    return rows if table.classes == [ALL_CLASSES] else [*rows, summarise_all(table)]


def summarise_all(table: Table) -> Summary:
    """The last of :func:`summarise`, without the others."""
    return _summary(ALL_CLASSES, table.values, table.patients)


def class_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the cases, then over the classes, of the finite values of (..., cases, classes)."""
    return nanmean(nanmean(np.where(np.isfinite(values), values, np.nan), axis=-2), axis=-1)


def patient_means(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Mean of each patient's values (cases,), in the order of the patients' names."""
    names, number = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return np.array([values[number == i].mean() for i in range(len(names))])


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """``np.nanmean`` without its warning: the mean of nothing is NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def _summary(name: str, values: np.ndarray, patients: Sequence[str]) -> Summary:
    finite, missing = np.isfinite(values), np.isnan(values)
    low, high = _interval(values, patients)
    return Summary(
        name=name,
        mean=float(class_mean(values)),
        low=low,
        high=high,
        median=float(np.median(values[~missing])) if not missing.all() else np.nan,
        scored=int(finite.sum()),
        missing=int(missing.sum()),
        infinite=int(np.isinf(values).sum()),
    )


def _interval(values: np.ndarray, patients: Sequence[str]) -> tuple[float, float]:
    """Whole patients are resampled: neither the cases of one nor the classes of a case are independent."""
    names, number = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    finite = np.isfinite(values)
    np.add.at(sums, number, np.where(finite, values, 0))
    np.add.at(counts, number, finite)
    known = counts.any(axis=1)
    sums, counts = sums[known], counts[known]
    if len(sums) < 2:
        return np.nan, np.nan

    def mean(index: np.ndarray, axis: int) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a class that none of the drawn has
            return nanmean(sums[index].sum(axis=-2) / counts[index].sum(axis=-2), axis=-1)

    result = bootstrap(
        (np.arange(len(sums)),),
        mean,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=max(1, MAX_ELEMENTS // sums.size),
        random_state=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def markdown(found: Sequence[Table]) -> str:
    """The summaries as Markdown: for every data set, split and protocol one table, a column per metric."""
    groups: dict[tuple, list[Table]] = defaultdict(list)
    for table in found:
        groups[table.dataset, table.split, table.protocol].append(table)
    parts = []
    for (dataset, split, protocol), members in groups.items():
        cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        metrics = list(dict.fromkeys(_heading(table) for table in members))
        for table in members:
            for row in summarise(table):
                cells[_model(table), row.name][_heading(table)] = cell(row, table.unit)
        order = list(dict.fromkeys(key[0] for key in cells))
        rows = sorted(cells, key=lambda key: (order.index(key[0]), key[1] == ALL_CLASSES))
        parts.append(
            "\n".join(
                [
                    f"{dataset}, {split}: {protocol} protocol, {' or '.join(dict.fromkeys(t.size for t in members))}",
                    "",
                    f"| model | class | {' | '.join(metrics)} |",
                    f"| {' | '.join(['---'] * (2 + len(metrics)))} |",
                    *(
                        f"| {model} | {name} | {' | '.join(cells[model, name].get(m, '') for m in metrics)} |"
                        for model, name in rows
                    ),
                ]
            )
        )
    return "\n\n".join(parts)


def cell(summary: Summary, unit: str) -> str:
    """``mean [low, high]`` and :func:`counted`."""
    digits = _digits(unit)
    if np.isnan(summary.mean):
        text = "none"
    elif np.isnan(summary.low):
        text = f"{summary.mean:.{digits}f}"
    else:
        text = f"{summary.mean:.{digits}f} [{summary.low:.{digits}f}, {summary.high:.{digits}f}]"
    return f"{text} {counted(summary, unit)}"


def counted(summary: Summary, unit: str) -> str:
    """``n=scored``, what the mean leaves out, and the median where that takes in more."""
    text = f"n={summary.scored}"
    for count, what in ((summary.missing, "missing"), (summary.infinite, "infinite")):
        text += f", {count} {what}" if count else ""
    return text + (f", median {summary.median:.{_digits(unit)}f}" if summary.infinite else "")


def _digits(unit: str) -> int:
    return 2 if unit else 4


def _heading(table: Table) -> str:
    return f"{table.metric} ({table.unit})" if table.unit else table.metric


def _model(table: Table) -> str:
    seeds = f", {len(table.seeds)} seeds" if len(table.seeds) > 1 else ""
    thresholded = table.protocol == "paper" and table.metric.startswith("iou")
    maps = " (from label maps)" if thresholded and table.prediction == "labels" else ""
    return table.model + table.options + seeds + maps
