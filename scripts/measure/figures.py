"""Figures of measurements: distributions, and Bland-Altman plots."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from scripts.measure.agreement import Agreement
    from scripts.measure.maps import Measured

FOUND, TRUTH = "#0072B2", "#D55E00"
COLUMNS = 3
BINS = 24
# of every kind: the table and the column whose distribution is shown, and what it is called
SHOWN = {
    "particles": ("objects", "diameter", "equivalent diameter"),
    "layer": ("profiles", "thickness", "thickness along the layer"),
    "crack": ("objects", "length", "length of the skeleton"),
    "volume": ("classes", "volume", "volume"),
}
COMPARED = {
    "particles": ("area_fraction", "number", "mean_diameter"),
    "layer": ("mean_thickness", "upper_rq", "lower_rq"),
    "crack": ("number", "total_length", "mean_width"),
    "volume": ("volume", "largest_slice_area", "ejection_fraction"),
}


def draw_distribution(measured: Sequence["Measured"]) -> Figure | None:
    """A histogram per class over all images, the truth's as an outline over it; None where there is nothing to show.

    Of images of different units only those of the most frequent one are shown.
    """
    units = [one.unit for one in measured]
    unit = max(dict.fromkeys(units), key=units.count)
    shown = [one for one in measured if one.unit == unit]
    panels = []
    for row in shown[0].found.classes:
        table, column, title = SHOWN[str(row["kind"])]
        values = [
            np.array([value for one in shown for value in _column(getattr(one, part), table, row["class"], column)])
            for part in ("found", "truth")
        ]
        if values[0].size or values[1].size:
            panels.append((str(row["class"]), f"{title}, {'ml' if row['kind'] == 'volume' else unit}", values, table))
    if not panels:
        return None
    figure, axes = _grid(len(panels))
    for axis, (name, title, (found, truth), table) in zip(axes, panels, strict=False):
        bins = np.histogram_bin_edges(np.concatenate([found, truth]), bins=BINS)
        axis.hist(found, bins, color=FOUND, alpha=0.6, label=f"label maps, n = {len(found)}")
        if truth.size or shown[0].truth is not None:
            axis.hist(truth, bins, histtype="step", color=TRUTH, linewidth=1.5, label=f"truth, n = {len(truth)}")
        axis.set_title(name)
        axis.set_xlabel(title)
        axis.set_ylabel({"objects": "objects", "profiles": "places", "classes": "images"}[table])
        axis.legend(fontsize=8)
    return figure


def draw_bland_altman(lines: Sequence["Agreement"]) -> Figure | None:
    """Difference of label map and truth against their mean, with bias and limits of agreement; None without truth."""
    chosen = {quantity for quantities in COMPARED.values() for quantity in quantities}
    panels = [line for line in lines if line.truth is not None and line.bias is not None and line.quantity in chosen]
    panels = [line for line in panels if line.bias is not None and line.bias.scored]
    if not panels:
        return None
    figure, axes = _grid(len(panels))
    for axis, line in zip(axes, panels, strict=False):
        assert line.truth is not None and line.bias is not None
        mean, difference = (line.found + line.truth) / 2, line.found - line.truth
        axis.axhline(0, color="0.8", linewidth=1)
        axis.plot(mean, difference, "o", color=FOUND, markersize=5, alpha=0.8)
        axis.axhline(line.bias.mean, color=TRUTH, label=f"bias {line.bias.mean:.3g}")
        for i, limit in enumerate(line.limits):
            if np.isfinite(limit):
                text = f"limits {line.limits[0]:.3g} to {line.limits[1]:.3g}" if i == 0 else None
                axis.axhline(limit, color=TRUTH, linestyle="--", linewidth=1, label=text)
        quantity = line.quantity.replace("_", " ") + (f", {line.unit}" if line.unit else "")
        axis.set_title(f"{line.name}: {quantity}", fontsize=10)
        axis.set_xlabel("mean of label map and truth")
        axis.set_ylabel("label map - truth")
        axis.legend(fontsize=8)
    return figure


def _column(made: object, table: str, name: object, column: str) -> list[float]:
    """Values of one class; particles that the border cuts off have no known size."""
    rows = getattr(made, table, [])
    return [
        row[column]
        for row in rows
        if row["class"] == name and row.get(column) is not None and not (column == "diameter" and row["at_border"])
    ]


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
