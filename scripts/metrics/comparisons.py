"""Comparing models on the same cases, each with each, by Wilcoxon's signed-rank test with Holm's correction.

Cases of one patient are not independent, so that their mean is one pair of the test.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata, wilcoxon

from networks.errors import UserError
from networks.workflow.statistics import ALL_CLASSES, Table, nanmean, patient_means, tables
from scripts.measure.agreement import PROTOCOL
from scripts.metrics.variants import read_named


def compare(*results: str, by_class: bool = False) -> None:
    """Do what the command ``compare`` of this tool describes, with the same arguments."""
    records, files = read_named(results), ", ".join(map(str, results))
    if any(record["protocol"] == PROTOCOL for record in records):
        raise UserError(
            f"{files}: records of the protocol {PROTOCOL} are quantities, of which neither large nor small ones are "
            "better; compare models by the bias and the limits of agreement that scripts.measure tells beside a truth."
        )
    rows = comparisons(tables(records), by_class)
    if not rows:
        raise UserError(
            f"{files}: no two models were scored on the same data set and split by the same "
            "protocol and metric, both from labels or both from probabilities; give results of at least two."
        )
    print("| data set | protocol | metric | class | A | B | pairs | A better | B better | median A - B | p | p, Holm |")
    print(f"|{' --- |' * 12}")
    for row in rows:
        a = row.a
        cells = [f"{a.dataset}, {a.split}", a.protocol, a.metric, row.name]
        cells += [a.model + a.options, row.b.model + row.b.options, str(row.pairs)]
        cells += [str(row.a_better), str(row.b_better), f"{row.median:.4g}" if row.pairs else "none"]
        print(f"| {' | '.join([*cells, f'{row.p:.3g}', f'{row.corrected:.3g}'])} |")


@dataclass(frozen=True)
class Comparison:
    """Two models on the same cases.

    Attributes:
        a, b: their tables.
        name: of the class, or "all classes".
        pairs: patients that both were scored on; cases where these are of different ones or nothing tells.
        a_better, b_better: in how many of them.
        median: of the differences a - b; NaN without pairs.
        p: of Wilcoxon's signed-rank test.
        corrected: by Holm, over all comparisons that were made at once.
    """

    a: Table
    b: Table
    name: str
    pairs: int
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
        people = [who for who, known in zip(a.patients, scored, strict=True) if known]
        x, y = patient_means(x[scored], people), patient_means(y[scored], people)
        equal = x == y  # also two infinite distances
        difference = np.where(equal, 0, np.subtract(x, y, where=~equal, out=np.zeros_like(x)))
        higher, lower = int((difference > 0).sum()), int((difference < 0).sum())
        better = (lower, higher) if a.unit else (higher, lower)  # a distance is better when it is small
        median = float(np.median(difference)) if len(difference) else np.nan
        p = signed_rank_test(difference)
        rows.append(Comparison(a, b, name, len(difference), *better, median, p, corrected=p))
    return rows
