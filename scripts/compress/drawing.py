"""Accuracy against bytes and against time, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from networks.workflow.files import atomic

AXES = {
    "weights, MB": lambda line: line["bytes"] / 1e6,
    "forward pass, s": lambda line: line["forward"]["seconds"],
}


def draw(lines: Sequence[dict[str, Any]], output: str | Path) -> None:
    """Draw mean Dice with its 95 % interval against size and time.

    Args:
        lines: of ``compress compare``.
        output: picture to write; its suffix says how (.svg, .png, .pdf).
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, (label, value) in zip(panels, AXES.items(), strict=True):
        for number, line in enumerate(lines):
            dice = line["dice"]
            error = [[dice["mean"] - dice["low"]], [dice["high"] - dice["mean"]]]
            name = f"{line['variant']} ({line['runtime']})"
            panel.errorbar(value(line), dice["mean"], error, fmt="o", capsize=3, color=f"C{number % 10}", label=name)
        panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    first = lines[0]
    panels[0].set_ylabel(f"mean Dice on {first['data_set']} ({first['split']}), strict")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    target = Path(output)
    with atomic(target) as temporary:
        figure.savefig(temporary, format=target.suffix.lstrip("."))
    print(f"Wrote {target}.")
