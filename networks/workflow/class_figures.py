"""Figures about classifiers: what is taken for what, and the pictures that were."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from networks.workflow.files import atomic
from networks.workflow.pictures import read_picture

MANY = 20  # classes; more leave no room for numbers in the cells
COLUMNS, ROWS = 8, 6
SIDE = 200  # pixels of a thumbnail
Wrong = tuple[Path, str, str, float]


def save_figure(figure: Figure, path: Path, dots_per_inch: int = 120) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=dots_per_inch, format="png")


def confusion_figure(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The confusion matrix (classes, classes), truth by rows, coloured by the share of the truth's pictures."""
    number = len(class_names)
    side = min(max(4 + 0.25 * number, 6), 26)
    figure = Figure((side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(number), class_names, rotation=90, fontsize=8)
    axes.set_yticks(range(number), class_names, fontsize=8)
    axes.set_xlabel("taken for")
    axes.set_ylabel("truth")
    right = int(np.trace(counts))
    axes.set_title(f"{right} of {int(counts.sum())} pictures right")
    if number <= MANY:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the truth's pictures")
    return figure


def misclassified_figure(wrong: Sequence[Wrong], window: Sequence[float] | None = None) -> Figure:
    """A sheet of pictures with (path, truth, answer, its probability), as many as there is room for.

    Args:
        wrong: see above.
        window: of 16-bit pictures, as the network sees them; see :func:`networks.workflow.pictures.read_picture`.
    """
    shown = wrong[: COLUMNS * ROWS]
    columns = max(min(COLUMNS, len(shown)), 3)
    rows = max(-(-len(shown) // columns), 1)
    figure = Figure((1.9 * columns, 2.3 * rows + 0.5), layout="constrained")
    more = f", the {len(shown)} surest" if len(shown) < len(wrong) else ""
    figure.suptitle(f"{len(wrong)} pictures taken for another class{more}")
    for place, (path, truth, answer, probability) in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, place)
        pixels = read_picture(path, 3, window)
        step = max(max(pixels.shape[:2]) // SIDE, 1)
        axes.imshow(pixels[::step, ::step])
        axes.set_title(f"truth: {truth}\nanswer: {answer}, {probability:.0%}", fontsize=7)
        axes.set_axis_off()
    return figure
