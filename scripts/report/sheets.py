"""Tables of a report, for the page and for Markdown: every number is formatted here and only here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from networks.workflow.statistics import ALL_CLASSES, Summary, Table
from scripts.benchmark import tables
from scripts.metrics.comparisons import comparisons
from scripts.report.published import Published, published
from scripts.report.results import DataSet, Results, overall

KEY_METRIC = "dice"  # of the strict protocol
SIGNIFICANT = 0.05
MANY = 12  # rows; longer tables are folded on the page
METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "iou_pooled": "pooled IoU",
    "iou_foreground": "foreground IoU",
    "hd95": "HD95",
    "top1": "top-1",
    "top5": "top-5",
}
UNITS = {"pixel": "px", "voxel": "voxels"}
CONTRADICTED = "†"
NONE = "\u2013"  # en dash
PER_CENT = "%"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: the number or name.
        detail: lines with what belongs to it, such as the interval; of a name, weights and recipe.
        strong: whether it is the best of its column.
        url: address that the text links to.
    """

    text: str
    detail: tuple[str, ...] = ()
    strong: bool = False
    url: str = ""

    def markdown(self) -> str:
        """For a Markdown table."""
        text = f"**{self.text}**" if self.strong else f"[{self.text}]({self.url})" if self.url else self.text
        return ", ".join([text, *self.detail]).replace(", [", " [").replace("|", "\\|")


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        caption: what it shows and by which protocol.
        header: names of the columns.
        rows: of cells.
        notes: sentences below it.
        names: columns at the left that hold names.
        folded: whether the page shows it on demand only.
    """

    caption: str
    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    names: int = 1
    folded: bool = False

    def markdown(self) -> str:
        """The caption, the table and the notes."""
        table = tables.markdown(self.header, [[cell.markdown() for cell in row] for row in self.rows])
        return "\n\n".join([f"{self.caption}.", table, *self.notes])


def number(value: float, unit: str) -> str:
    """A score as it is printed: ratios in percent, distances in their unit, two decimals."""
    if math.isnan(value):
        return NONE
    return f"{value if unit else 100 * value:.2f}".replace("-", "\u2212").replace("inf", "∞")


def duration(seconds: float | None) -> str:
    """Seconds, minutes, or hours and minutes."""
    if seconds is None:
        return NONE
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def metric_title(metric: str, unit: str, name: str | None = None) -> str:
    """Heading of a metric, or of one class of it."""
    if "@" in metric:
        base, tolerance = metric.split("@")
        title = f"{base.upper()} at {tolerance}"
    else:
        title = METRICS.get(metric, metric)
    return f"{title}{f' of {name}' if name else ''}, {UNITS.get(unit, unit) or PER_CENT}"


def cell(summary: Summary, unit: str, usual: int, strong: bool = False) -> Cell:
    """Mean and interval, and how many values are behind it where that is not the usual number."""
    lines = []
    if not math.isnan(summary.low):
        lines.append(f"[{number(summary.low, unit)}, {number(summary.high, unit)}]")
    if summary.scored != usual:
        counts = ((summary.missing, "missing"), (summary.infinite, "infinite"))
        lines.append(", ".join([f"n {summary.scored}", *(f"{count} {what}" for count, what in counts if count)]))
    if summary.infinite:
        lines.append(f"median {number(summary.median, unit)}")
    return Cell(number(summary.mean, unit), tuple(lines), strong)


def score_sheets(results: Results, data_set: DataSet, protocol: str) -> list[Sheet]:
    """Means over the classes of all metrics, then for each metric of several classes those of the classes."""
    found = data_set.of(protocol)
    if not found:
        return []
    where = f"{data_set.title}, {protocol} protocol"
    behind = _behind(results, found)
    metrics = data_set.metrics(protocol)
    columns = [(metric, unit, None) for metric, unit in metrics]
    sheets = [_scores(results, data_set, protocol, columns, f"{where}: all classes; {behind}")]
    for metric, unit in metrics:
        names = [s.name for s in data_set.of(protocol, metric)[0][1] if s.name != ALL_CLASSES]
        if names:
            columns = [(metric, unit, name) for name in names]
            caption = f"{where}: {metric_title(metric, unit)}, per class; {behind}"
            sheets.append(_scores(results, data_set, protocol, columns, caption, folded=metric != metrics[0][0]))
    return sheets


def _scores(
    results: Results,
    data_set: DataSet,
    protocol: str,
    columns: Sequence[tuple[str, str, str | None]],
    caption: str,
    folded: bool = False,
) -> Sheet:
    """Rows of variants, then published ones; columns of metrics over all classes or of one metric's classes."""
    found = {(t.model, t.metric): (t, s) for t, s in data_set.of(protocol)}
    most = _largest([t for t, _ in found.values()])
    models = list(dict.fromkeys(model for model, _ in found))
    summaries = {
        (model, column): _one(*found[model, column[0]], column[2])
        for model in models
        for column in columns
        if (model, column[0]) in found
    }
    whole = {key for key, (table, _) in found.items() if len(table.cases) == len(most.cases)}
    best = {
        column: _best([s for (m, c), s in summaries.items() if c == column and (m, c[0]) in whole], column[1])
        for column in columns
    }
    rows = []
    for model in models:
        row = [_name(results, model)]
        for column in columns:
            if (model, column) not in summaries:
                row.append(Cell(NONE))
                continue
            summary, table = summaries[model, column], found[model, column[0]][0]
            usual = len(most.cases) * (len(table.classes) if column[2] is None else 1)
            row.append(cell(summary, column[1], usual, strong=summary.mean == best[column]))
        rows.append(row)
    notes = []
    if protocol == "paper":
        others = published(data_set.name, data_set.split, protocol, {results.variants[m].network for m in models})
        shown = []
        for item in others:
            cells = [published_cell(item, column[0], column[2]) for column in columns]
            if any(c.text != NONE for c in cells):
                shown.append(item)
                rows.append([_published_name(item), *cells])
        notes += _where(shown) + [f"{CONTRADICTED} {said}" for item in shown for said in _said(item, columns)]
        if any(table.prediction == "labels" and table.metric.startswith("iou") for table, _ in data_set.of(protocol)):
            notes.append("Scored from label maps, not from probabilities as the papers do.")
    header = ["network", *(name if name else metric_title(metric, unit) for metric, unit, name in columns)]
    return Sheet(caption, header, rows, notes, folded=folded)


def published_cell(item: Published, metric: str, name: str | None) -> Cell:
    """A published number, marked where it fails its own mean."""
    value = item.values.get((metric, name))
    mark = CONTRADICTED if (metric, name) in item.contradictions else ""
    return Cell(f"{value}{mark}" if value else NONE)


def overview(results: Results, protocol: str) -> Sheet | None:
    """One number per variant and data set: strict Dice, or what the papers report."""
    columns = []
    for data_set in results.data_sets:
        column = _overview_column(results, data_set, protocol)
        if column:
            columns.append((data_set, *column))
    if not columns:
        return None
    found: dict[tuple[str, int], tuple[Summary, int]] = {}
    whole = set()
    for i, (data_set, metric, _, name) in enumerate(columns):
        scored = data_set.of(protocol, metric)
        most = _largest([table for table, _ in scored])
        for table, summaries in scored:
            classes = len(table.classes) if name is None else 1
            found[table.model, i] = _one(table, summaries, name), len(most.cases) * classes
            if len(table.cases) == len(most.cases):
                whole.add((table.model, i))
    best = {
        i: _best([s for key, (s, _) in found.items() if key[1] == i and key in whole], column[2])
        for i, column in enumerate(columns)
    }
    rows, notes = [], []
    for model in results.variants:
        row = [_name(results, model)]
        for i, column in enumerate(columns):
            summary, usual = found.get((model, i), (None, 0))
            row.append(Cell(NONE) if summary is None else cell(summary, column[2], usual, summary.mean == best[i]))
        rows.append(row)
    if protocol == "paper":
        others: dict[tuple, dict[int, Published]] = {}
        for i, (data_set, *_) in enumerate(columns):
            for item in _published(results, data_set.name, data_set.split, protocol):
                others.setdefault((item.network, item.weights, item.url), {})[i] = item
        for group in others.values():
            cells = [
                published_cell(group[i], metric, name) if i in group else Cell(NONE)
                for i, (_, metric, _, name) in enumerate(columns)
            ]
            rows.append([_published_name(next(iter(group.values()))), *cells])
            notes += [f"{CONTRADICTED} {s}" for i, item in group.items() for s in _said(item, [columns[i][1:]])]
        notes += _where(item for group in others.values() for item in group.values())
    header = ["network"]
    header += [f"{data_set.title}: {metric_title(metric, unit, name)}" for data_set, metric, unit, name in columns]
    caption = f"Mean scores, {protocol} protocol; 95 % intervals in brackets"
    sizes = [
        f"{data_set.title}: {_largest([table for table, _ in data_set.of(protocol, metric)]).size}"
        for data_set, metric, *_ in columns
    ]
    notes.append(f"{'; '.join(sizes)}.")
    return Sheet(caption, header, rows, notes)


def comparison_sheet(data_set: DataSet) -> Sheet | None:
    """Every two variants by the strict protocol's Dice."""
    found = [table for table, _ in data_set.of("strict", KEY_METRIC)]
    rows = []
    for row in comparisons(found):
        strong = row.corrected < SIGNIFICANT
        difference = number(row.median, row.a.unit) if row.pairs else NONE
        texts = [row.a.model, row.b.model, str(row.pairs), str(row.a_better), str(row.b_better), difference]
        rows.append([*map(Cell, texts), Cell(_p(row.p)), Cell(_p(row.corrected), strong=strong)])
    if not rows:
        return None
    pairs = max(len(set(table.patients)) for table in found)
    smallest = min(2 / 2**pairs, 1)
    whose = "patient" if pairs < max(len(table.cases) for table in found) else "case"
    note = f"Wilcoxon's signed-rank test of each {whose}'s mean over the classes; Holm's correction over this table."
    if smallest >= SIGNIFICANT:
        note += (
            f" With {pairs} pairs p cannot be below {_p(smallest)}: nothing here can be significant at {SIGNIFICANT}."
        )
    elif smallest * len(rows) >= SIGNIFICANT:
        note += (
            f" With {pairs} pairs and {len(rows)} comparisons the smallest corrected p cannot be below "
            f"{_p(min(smallest * len(rows), 1))}: nothing here can be significant at {SIGNIFICANT}."
        )
    header = ["A", "B", "pairs", "A better", "B better", "median of A - B, % points", "p", "p, Holm"]
    caption = f"{data_set.title}, strict protocol: every two compared by Dice on the same cases"
    return Sheet(caption, header, rows, [note], names=2, folded=len(rows) > MANY)


def _overview_column(results: Results, data_set: DataSet, protocol: str) -> tuple[str, str, str | None] | None:
    """Metric, unit and class (None for all) that stand for a data set."""
    metrics = dict(data_set.metrics(protocol))
    if not metrics:
        return None
    if protocol == "strict":
        metric = KEY_METRIC if KEY_METRIC in metrics else next(iter(metrics))
        return metric, metrics[metric], None
    for item in _published(results, data_set.name, "test", protocol):
        for metric, name in item.values:
            classes = [s.name for _, summaries in data_set.of(protocol, metric) for s in summaries]
            if (name is None and classes) or name in classes:
                return metric, metrics[metric], name
    metric = next(iter(metrics))
    return metric, metrics[metric], None


def _published(results: Results, data_set: str, split: str, protocol: str) -> list[Published]:
    """Published numbers of these networks, or of others where there are none."""
    names = {variant.network for variant in results.variants.values()}
    return published(data_set, split, protocol, names) or published(data_set, split, protocol, None)


def _largest(found: Sequence[Table]) -> Table:
    """The one with most cases: beside it, a mean over fewer says over how many, and is not held against others."""
    return max(found, key=lambda table: len(table.cases))


def _one(table: Table, summaries: Sequence[Summary], name: str | None) -> Summary:
    return overall(summaries) if name is None else next(s for s in summaries if s.name == name)


def _best(summaries: Sequence[Summary], unit: str) -> float | None:
    """The best mean, where there is a choice; a mean that leaves infinite distances out is not held against others."""
    known = [summary for summary in summaries if not math.isnan(summary.mean)]
    means = [s.mean for s in known if s.infinite == min(other.infinite for other in known)]
    return None if len(known) < 2 else min(means) if unit else max(means)


def _behind(results: Results, found: Sequence[tuple[Table, list[Summary]]]) -> str:
    """How many cases and seeds are behind the numbers, and the recipe if all have the same."""
    parts = [_largest([table for table, _ in found]).size]
    seeds = sorted({len(table.seeds) for table, _ in found})
    if any(table.seeds != [None] for table, _ in found):
        span = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        parts.append(f"{span} seed{'s' * (seeds[-1] > 1)}")
    recipes = _recipes(results)
    parts += [f"recipe {recipes[0]}"] if len(recipes) == 1 and recipes[0] else []
    return ", ".join([*parts, "95 % intervals in brackets"])


def _recipes(results: Results) -> list[str]:
    return list(dict.fromkeys(variant.recipe for variant in results.variants.values()))


def _name(results: Results, model: str) -> Cell:
    variant = results.variants[model]
    several = len(_recipes(results)) > 1
    parts = (variant.weights, variant.recipe if several else "")
    return Cell(variant.network, tuple(dict.fromkeys(part for part in parts if part)))


def _published_name(item: Published) -> Cell:
    return Cell(item.network, tuple(part for part in (item.weights, "published") if part), url=item.url)


def _where(items: Iterable[Published]) -> list[str]:
    """A note that names papers and tables, if there are any."""
    places = list(dict.fromkeys(f"{item.title} ({item.table})" for item in items))
    return [f"Published: {'; '.join(places)}."] if places else []


def _said(item: Published, columns: Sequence[tuple[str, str, str | None]]) -> list[str]:
    return [item.contradictions[m, name] for m, _, name in columns if (m, name) in item.contradictions]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
