"""Score saved label maps, summarise results and compare models: ``python -m scripts.metrics <command>``."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from scipy.stats import rankdata, wilcoxon
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.checks import count_classes, loader, read_image, reader_of
from networks.workflow.data import Pair, case_list, case_name, class_names, dataset_name, load_datalist
from networks.workflow.evaluation import score_records
from networks.workflow.geometry import brought_onto
from networks.workflow.records import read_records, write_records
from networks.workflow.scores import TOLERANCE, check_protocol
from networks.workflow.statistics import ALL_CLASSES, Table, markdown, nanmean, tables
from scripts.metrics.predictions import find_predictions
from scripts.report.results import find_variants, name_variants


def score(
    predictions: str,
    dataset_dir: str,
    split: str = "test",
    protocol: str = "strict",
    model: str | None = None,
    output: str | None = None,
    seed: int | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Score saved label maps of any origin against the labels of a data set.

    The ``paper`` protocol scores pictures by probabilities, which label maps do not have: their results are marked
    "from label maps". Of volumes it takes the label maps as they are: the papers' own inference, slice by slice, is
    part of a bundle's evaluation (``presets/<data set>_paper.json``).

    Args:
        predictions: folder of label maps, on the grids of the labels and named as the images or the labels.
        dataset_dir: data set in the contract.
        split: list of ``dataset.json``.
        protocol: strict or paper.
        model: what the results are to be called; the folder's name by default.
        output: file to write; ``results_<protocol>.jsonl`` among the predictions by default.
        seed: of the run that made the predictions.
        tolerance: distance within which nsd takes two surfaces for the same, in mm or pixels.
    """
    check_protocol(protocol)
    folder, dataset_dir = str(predictions), str(dataset_dir)
    pairs = _labelled(case_list(load_datalist(dataset_dir), split), split)
    files = find_predictions(folder, pairs, dataset_dir)
    names = class_names(dataset_dir)
    if len(names) < 2:
        raise UserError(f'dataset.json of {dataset_dir} names no classes; add them to its "labels".')
    ids = {
        "model": str(model or Path(folder).resolve().name),
        "dataset": dataset_name(dataset_dir),
        "split": split,
        "seed": seed,
        "checkpoint": None,
    }
    records = []
    for pair, file in tqdm(list(zip(pairs, files, strict=True)), desc="Scoring", unit="case"):
        prediction, truth = _read(file, pair["label"], len(names))
        case = case_name(pair["image"], dataset_dir)
        records += score_records(prediction, truth, names, protocol, tolerance, case=case, **ids)
    path = Path(output or Path(folder) / f"results_{protocol}.jsonl")
    write_records(path, sorted(records, key=lambda record: record["case"]))
    print(f"Wrote {path}.\n\n{markdown(tables(records))}")


def summarise(*results: str) -> None:
    """Print the means of result files as Markdown, with 95 % intervals (bootstrap over the cases) and case counts.

    Args:
        *results: files that evaluations wrote.
    """
    print(markdown(tables(_read_all(results))))


def compare(*results: str, by_class: bool = False) -> None:
    """Compare models on the same cases, each with each, by Wilcoxon's signed-rank test with Holm's correction.

    A case counts with its mean over the classes that neither model misses; p is corrected over all lines of the table.

    Args:
        *results: files that evaluations wrote.
        by_class: compare every class on its own.
    """
    rows = comparisons(tables(_read_all(results)), by_class)
    if not rows:
        raise UserError(
            f"{', '.join(map(str, results))}: no two models were scored on the same data set and split by the same "
            "protocol and metric, both from labels or both from probabilities; give results of at least two."
        )
    print("| data set | protocol | metric | class | A | B | cases | A better | B better | median A - B | p | p, Holm |")
    print(f"|{' --- |' * 12}")
    for row in rows:
        a = row.a
        cells = [f"{a.dataset}, {a.split}", a.protocol, a.metric, row.name, a.model, row.b.model, str(row.cases)]
        cells += [str(row.a_better), str(row.b_better), f"{row.median:.4g}" if row.cases else "none"]
        print(f"| {' | '.join([*cells, f'{row.p:.3g}', f'{row.corrected:.3g}'])} |")


@dataclass(frozen=True)
class Comparison:
    """Two models on the same cases.

    Attributes:
        a, b: their tables.
        name: of the class, or "all classes".
        cases: that both were scored on.
        a_better, b_better: in how many of them.
        median: of the differences a - b; NaN without cases.
        p: of Wilcoxon's signed-rank test.
        corrected: by Holm, over all comparisons that were made at once.
    """

    a: Table
    b: Table
    name: str
    cases: int
    a_better: int
    b_better: int
    median: float
    p: float
    corrected: float


def comparisons(found: Sequence[Table], by_class: bool = False) -> list[Comparison]:
    """Compare every two models on the same data set, split, protocol and metric, as ``compare`` does.

    Raises:
        UserError: two of them were not scored on the same cases or classes.
    """
    groups: dict[tuple, list[Table]] = {}
    for table in found:
        kind = (table.dataset, table.split, table.protocol, table.prediction, table.metric)
        groups.setdefault(kind, []).append(table)
    pairs = [pair for group in groups.values() for pair in itertools.combinations(group, 2)]
    rows = [row for a, b in pairs for row in _compare(a, b, by_class)]
    corrected = holm([row.p for row in rows])
    return [replace(row, corrected=float(q)) for row, q in zip(rows, corrected, strict=True)]


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction of p-values for the family that they are."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def signed_rank_test(difference: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where no difference is left. Differences may be infinite."""
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    # the test knows ranks only, and scipy's arithmetic no infinity
    return float(wilcoxon(np.sign(difference) * rankdata(np.abs(difference))).pvalue)


def _compare(a: Table, b: Table, by_class: bool) -> list[Comparison]:
    """Of the classes or of their mean, not yet corrected."""
    for one, other in ((a, b), (b, a)):
        lacking = sorted(set(one.cases) - set(other.cases))
        if lacking:
            raise UserError(
                f"{other.model} was not scored on {len(lacking)} of the cases of {one.model} (such as {lacking[0]}); "
                "compare models on the same cases of the same split."
            )
    if a.classes != b.classes:
        raise UserError(
            f"{a.model} was scored on the classes {', '.join(a.classes)} and {b.model} on {', '.join(b.classes)}; "
            "compare models on the same classes."
        )
    missing = np.isnan(a.values) | np.isnan(b.values)
    both = [np.where(missing, np.nan, table.values) for table in (a, b)]
    if by_class and a.classes != [ALL_CLASSES]:
        columns = [(name, *(values[:, i] for values in both)) for i, name in enumerate(a.classes)]
    else:
        columns = [(ALL_CLASSES, *(nanmean(values, axis=1) for values in both))]
    rows = []
    for name, x, y in columns:
        scored = ~np.isnan(x)
        x, y = x[scored], y[scored]
        equal = x == y  # also two infinite distances
        difference = np.where(equal, 0, np.subtract(x, y, where=~equal, out=np.zeros_like(x)))
        higher, lower = int((difference > 0).sum()), int((difference < 0).sum())
        better = (lower, higher) if a.unit else (higher, lower)  # a distance is better when it is small
        median = float(np.median(difference)) if len(difference) else np.nan
        p = signed_rank_test(difference)
        rows.append(Comparison(a, b, name, len(difference), *better, median, p, corrected=p))
    return rows


def _read_all(results: Sequence[str]) -> list[dict]:
    if not results:
        raise UserError("No file was given; name one or more files of results (.jsonl).")
    records = [record for path in results for record in read_records(str(path))]
    return name_variants(records, find_variants(records))


def _labelled(pairs: list[Pair], split: str) -> list[Pair]:
    missing = [pair["image"] for pair in pairs if "label" not in pair]
    if missing:
        raise UserError(f'{missing[0]} of the list "{split}" has no label, so there is nothing to score it against.')
    return pairs


def _read(prediction: Path, label: str, num_classes: int) -> tuple[MetaTensor, MetaTensor]:
    """Both label maps (1, X, Y[, Z]) on the label's grid.

    Raises:
        UserError: they do not go together, or hold other values than class numbers.
    """
    found, truth = (read_image(loader(reader_of(path, is_label=True)), path) for path in (str(prediction), label))
    for path, values in ((str(prediction), found), (label, truth)):
        if values.shape[0] != 1 or values.ndim != truth.ndim:
            raise UserError(
                f"{path} has shape {tuple(values.shape)}, channels first; expected one channel of class numbers on "
                "the label's grid."
            )
        count_classes(path, values, num_classes, 'they are the numbers of the classes in "labels" of dataset.json')
    return brought_onto(found, truth, (prediction, label)), truth


COMMANDS = {"score": score, "summarise": summarise, "compare": compare}
