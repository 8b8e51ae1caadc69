"""Accuracy against bytes and against time, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from networks.errors import UserError
from networks.workflow.files import atomic

KINDS = (".svg", ".png", ".pdf")
MARKERS = "os^D"
AXES = {
    "weights, MB": lambda line: line["bytes"] / 1e6,
    # not in seconds: every line was measured at another moment, beside the network before
    "forward pass, share of the time before": lambda line: 1 / line["forward"]["speedup"],
}


def draw(lines: Sequence[dict[str, Any]], output: str | Path) -> None:
    """Draw mean Dice with its 95 % interval against size and time, in a row for each network before compression.

    Args:
        lines: of ``compress compare``.
        output: picture to write; its suffix says how (.svg, .png, .pdf).

    Raises:
        UserError: another suffix, or no lines.
    """
    check_picture(output)
    if not lines:
        raise UserError("There is nothing to draw; give files that 'compress compare' wrote.")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["baseline"], line["data_set"]), []).append(line)
    figure = Figure(figsize=(12, 4.5 * len(groups)), layout="constrained")
    for part, members in zip(np.atleast_1d(figure.subfigures(len(groups), 1)), groups.values(), strict=True):
        _row(part, members)
    target = Path(output)
    with atomic(target) as temporary:
        figure.savefig(temporary, format=target.suffix.lstrip("."))
    print(f"Wrote {target}.")


def check_picture(output: str | Path) -> None:
    """Raise UserError where a file's name is not that of a picture that :func:`draw` can write."""
    if Path(output).suffix not in KINDS:
        raise UserError(f"{output} is no name of a picture; give one that ends in {', '.join(KINDS)}.")


def _row(part: SubFigure, lines: Sequence[dict[str, Any]]) -> None:
    panels = part.subplots(1, len(AXES), sharey=True)
    for panel, (label, value) in zip(panels, AXES.items(), strict=True):
        for number, line in enumerate(lines):
            dice = line["dice"]
            error = [[dice["mean"] - dice["low"]], [dice["high"] - dice["mean"]]]
            name = f"{line['variant']} ({line['runtime']})"
            marker = "*" if line["variant"] == line["baseline"] else MARKERS[number // 10 % len(MARKERS)]
            panel.errorbar(value(line), dice["mean"], error, fmt=marker, capsize=3, color=f"C{number % 10}", label=name)
        panel.set_xlim(left=0)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    first = lines[0]
    panels[0].set_ylabel(f"mean Dice on {first['data_set']} ({first['split']}), strict")
    part.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
