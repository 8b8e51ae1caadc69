"""Figures of a report as SVG pictures that need nothing from outside the page."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogLocator, NullLocator

from scripts.experiments.collected import Line
from scripts.report.results import VALIDATION, DataSet, Results, case_means
from scripts.report.sheets import KEY_METRIC, metric_title, number

# Okabe and Ito's palette, which people with any colour vision can tell apart; its yellow is too pale for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.6,
}
WIDTH = 5.4  # inches; two side by side on a desktop, one on a phone
MOST_POINTS = 150
# matplotlib 3.10 has a new name for it and warns about the old one
ACROSS = {"orientation": "horizontal"} if matplotlib.__version_info__ >= (3, 10) else {"vert": False}


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows in words.

    Attributes:
        src: data URI.
        alt: what is to be seen, for those who do not see it.
        caption: below it.
    """

    src: str
    alt: str
    caption: str


class Look:
    """The same colour for a network, line for its weights and marker for both, in all figures of a report.

    Args:
        results: whose variants are drawn.
    """

    def __init__(self, results: Results) -> None:
        self.variants = results.variants
        self.networks = list(dict.fromkeys(v.network for v in self.variants.values()))
        self.kinds = list(dict.fromkeys((v.weights, v.recipe) for v in self.variants.values()))

    def colour(self, name: str) -> str:
        """Of a variant's network."""
        return COLOURS[self._network(name) % len(COLOURS)]

    def line(self, name: str) -> str:
        """Of a variant's weights and recipe."""
        return LINES[self._kind(name) % len(LINES)]

    def marker(self, name: str) -> str:
        """Of a variant's weights; shifted for networks that share a colour."""
        return MARKERS[(self._kind(name) + self._network(name) // len(COLOURS)) % len(MARKERS)]

    def _network(self, name: str) -> int:
        return self.networks.index(self.variants[name].network)

    def _kind(self, name: str) -> int:
        variant = self.variants[name]
        return self.kinds.index((variant.weights, variant.recipe))


def box_plots(data_set: DataSet, look: Look) -> list[Figure]:
    """Each case's mean over the classes: Dice and HD95 of the strict protocol."""
    figures = []
    for metric in (KEY_METRIC, "hd95"):
        found = [table for table, _ in data_set.of("strict", metric)]
        if not found:
            continue
        unit = found[0].unit
        with matplotlib.rc_context(STYLE):
            drawing, axes = _axes(0.9 + 0.45 * len(found))
            words, labels = [], []
            for i, table in enumerate(found):
                values = case_means(table)
                finite, infinite = values[np.isfinite(values)], int(np.isinf(values).sum())
                shown = finite if unit else 100 * finite
                colour = look.colour(table.model)
                _box(axes, shown, i, colour, look.marker(table.model))
                labels.append(f"{table.model}\n{infinite} infinite" if infinite else table.model)
                if len(finite):
                    low, high = number(finite.min(), unit), number(finite.max(), unit)
                    words.append(f"{table.model}: median {number(np.median(finite), unit)}, from {low} to {high}")
            axes.set_yticks(range(len(found)), labels)
            axes.set_ylim(len(found) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            axes.set_xlabel(metric_title(metric, unit))
            title = metric_title(metric, unit).split(",")[0]
            alt = f"Box plots of {title} per case on {data_set.title}. {'; '.join(words)}."
            caption = f"{title} of each of the {len(found[0].cases)} cases (mean over the classes), strict protocol"
            figures.append(Figure(_uri(drawing), alt, caption))
    return figures


def learning_curves(data_set: str, runs: Sequence[Line], look: Look) -> list[Figure]:
    """Training loss and validation Dice or top-1 over the epochs; seeds are averaged as far as all of them go."""
    figures = []
    validations = ((column, f"mean {what} on the validation split, %") for column, what in VALIDATION.items())
    for column, title in (("loss", "training loss"), *validations):
        curves = {}
        for name in look.variants:
            lines = [_curve(run, column) for run in runs if run["variant"] == name and run["data_set"] == data_set]
            if any(lines):
                curves[name] = _mean_curve([line for line in lines if line])
        if not curves:
            continue
        with matplotlib.rc_context(STYLE):
            drawing, axes = _axes(3.4 + 0.24 * math.ceil(len(curves) / 2))
            words = []
            for name, (epochs, values) in curves.items():
                if column != "loss":
                    values = 100 * values
                few = {"marker": look.marker(name), "markersize": 4} if len(epochs) < 20 else {}
                axes.plot(epochs, values, look.line(name), color=look.colour(name), label=name, **few)
                chosen = values.min() if column == "loss" else values.max()
                words.append(f"{name} {'lowest' if column == 'loss' else 'highest'} {chosen:.2f}")
            if column == "loss" and min(values.min() for _, values in curves.values()) > 0:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("epoch")
            axes.set_title(title, fontsize=11, loc="left")
            _legend_below(drawing, axes)
            alt = f"Curves of the {title} over the epochs on {data_set}. {'; '.join(words)}."
            figures.append(Figure(_uri(drawing), alt, f"{data_set}: {title}"))
    return figures


def cost_figure(data_set: DataSet, cost: dict[str, float], axis: str, look: Look) -> Figure | None:
    """Strict Dice against what a network costs.

    Args:
        data_set: whose scores.
        cost: of each variant.
        axis: what the cost is.
        look: of the figures.
    """
    points = {
        table.model: (cost[table.model], summaries[-1])
        for table, summaries in data_set.of("strict", KEY_METRIC)
        if table.model in cost and not math.isnan(summaries[-1].mean)
    }
    if not points:
        return None
    with matplotlib.rc_context(STYLE):
        drawing, axes = _axes(3.4 + 0.24 * math.ceil(len(points) / 2))
        words = []
        for name, (x, summary) in points.items():
            mean, low, high = (100 * v for v in (summary.mean, summary.low, summary.high))
            error = None if math.isnan(low) else [[mean - low], [high - mean]]
            style = {"color": look.colour(name), "marker": look.marker(name), "capsize": 3, "linestyle": "none"}
            axes.errorbar([x], [mean], yerr=error, label=name, **style)
            words.append(f"{name}: {number(summary.mean, '')} % at {x:.3g}")
        axes.set_xlim(left=0)
        axes.margins(x=0.1)
        axes.set_xlabel(axis)
        axes.set_title(f"{data_set.title}: Dice, %", fontsize=11, loc="left")
        _legend_below(drawing, axes)
        alt = f"Mean Dice on {data_set.title} against {axis}. {'; '.join(words)}."
        return Figure(_uri(drawing), alt, f"{data_set.title}: mean Dice, strict protocol, with its 95 % interval")


def _box(axes: Axes, values: np.ndarray, row: int, colour: str, marker: str) -> None:
    if not len(values):
        return
    dark = {"color": colour, "linewidth": 1.4}
    box = {"facecolor": f"{colour}22", "edgecolor": colour}
    options = {"boxprops": box, "medianprops": dark | {"linewidth": 2.4}, "whiskerprops": dark, "capprops": dark}
    if len(values) > 2:
        axes.boxplot([values], positions=[row], widths=0.55, showfliers=False, patch_artist=True, **options, **ACROSS)
    spread = row + 0.12 * np.sin(2.4 * np.arange(len(values)))  # the same on every rendering
    axes.plot(values, spread, marker, color=colour, markersize=4.5, alpha=0.75)


def _curve(run: Line, column: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row[column])) for row in run["curve"] if row.get(column)]


def _mean_curve(lines: Sequence[Sequence[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the seeds of the epochs that all have, thinned to what can be seen."""
    common = sorted(set.intersection(*({epoch for epoch, _ in line} for line in lines)))
    values = np.mean([[dict(line)[epoch] for epoch in common] for line in lines], axis=0)
    parts = np.array_split(np.arange(len(common)), min(len(common), MOST_POINTS))
    epochs = np.array(common)
    return np.array([epochs[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _axes(height: float) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(drawing)
    return drawing, drawing.add_subplot()


def _legend_below(drawing: Drawing, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        drawing.legend(handles, labels, loc="outside lower center", ncols=2)
    else:
        axes.set_title(f"{axes.get_title(loc='left')}: {labels[0]}", fontsize=11, loc="left")


def _uri(drawing: Drawing) -> str:
    file = io.BytesIO()
    empty = dict.fromkeys(("Date", "Creator", "Type", "Format"))
    drawing.savefig(file, format="svg", metadata=empty)
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
