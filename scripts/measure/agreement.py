"""How far measurements of label maps are from those of the truth, after Bland and Altman, and the summary."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from networks.workflow.records import SCHEMA, Record
from networks.workflow.statistics import Summary, Table, summarise, tables
from scripts.measure.kinds import Region
from scripts.measure.quantities import Row, unit_of

if TYPE_CHECKING:
    from scripts.measure.maps import Measured

PROTOCOL = "measure"
LIMITS = 1.96  # standard deviations of the differences, between which 95 % of them lie if they are normal
NOT_MEASURED = ("class", "kind")


@dataclass(frozen=True)
class Agreement:
    """One quantity of one class over all images of one unit.

    Attributes:
        name: of the class.
        quantity, unit: what was measured.
        dataset, model: as in the records.
        found: values (images,) of the label maps, NaN where there is none, or none in the truth.
        truth: those of the truth, NaN in the same images; None without truth.
        summary: mean of ``found`` and its interval.
        true_summary: of ``truth``.
        bias: mean of the differences, label map minus truth, and its interval.
        limits: of agreement: between them lie 95 % of the differences, if they are normal; NaN with fewer than two.
    """

    name: str
    quantity: str
    unit: str
    dataset: str
    model: str
    found: np.ndarray
    truth: np.ndarray | None
    summary: Summary
    true_summary: Summary | None
    bias: Summary | None
    limits: tuple[float, float]


def make_records(measured: Sequence["Measured"], beats: Sequence[Row], ids: dict[str, str]) -> list[Record]:
    """One record per image, class and quantity; the truth's number is the key ``truth``.

    Args:
        measured: the images.
        beats: ejection fractions, one row per patient and class.
        ids: model, dataset and split.
    """
    same = {**ids, "schema": SCHEMA, "protocol": PROTOCOL, "prediction": "labels", "seed": None, "checkpoint": None}
    records = []
    for one in measured:
        truths = one.truth.classes if one.truth is not None else [None] * len(one.found.classes)
        for found, truth in zip(one.found.classes, truths, strict=True):
            for quantity, value in found.items():
                if quantity not in NOT_MEASURED:
                    record = {**same, "case": one.item.case, "metric": quantity, "class": found["class"]}
                    record |= {"unit": unit_of(quantity, one.unit), "value": value}
                    records.append(record | ({} if truth is None else {"truth": truth[quantity]}))
    for row in beats:
        record = {**same, "case": row["patient"], "metric": "ejection_fraction", "class": row["class"]}
        record |= {"unit": unit_of("ejection_fraction", ""), "value": row["ejection_fraction"]}
        has_truth = "truth_ejection_fraction" in row
        records.append(record | ({"truth": row["truth_ejection_fraction"]} if has_truth else {}))
    return records


def agreements(records: Sequence[Record]) -> list[Agreement]:
    """The summary of records, class by class in their order."""
    order: dict[str, None] = dict.fromkeys(str(record["class"]) for record in records)
    lines = []
    for name in order:
        own = [record for record in records if record["class"] == name]
        with_truth = all("truth" in record for record in own)
        found = tables(own)
        truths = tables({**record, "value": record["truth"]} for record in own) if with_truth else [None] * len(found)
        lines += [_agreement(name, table, truth) for table, truth in zip(found, truths, strict=True)]
    return lines


def _agreement(name: str, found: Table, truth: Table | None) -> Agreement:
    ids = (name, found.metric, found.unit, found.dataset, found.model)
    if truth is None:
        return Agreement(*ids, found.values[:, 0], None, summarise(found)[0], None, None, (np.nan, np.nan))
    differences = found.values - truth.values
    # else the means would be of other images than their bias
    both = [np.where(np.isnan(differences), np.nan, table.values) for table in (found, truth)]
    summary, true_summary, bias = (summarise(replace(found, values=part))[0] for part in (*both, differences))
    known = differences[np.isfinite(differences)]
    spread = LIMITS * float(known.std(ddof=1)) if len(known) > 1 else np.nan
    limits = (bias.mean - spread, bias.mean + spread)
    return Agreement(*ids, both[0][:, 0], both[1][:, 0], summary, true_summary, bias, limits)


def summary_text(
    lines: Sequence[Agreement], regions: Sequence[Region], measured: Sequence["Measured"], notes: Sequence[str]
) -> str:
    """Markdown: what was measured as what, in which unit, and the means."""
    kinds = ", ".join(f"{region.name} as {region.kind}" for region in regions)
    sources = {one.source: one.spacing for one in measured if one.source}
    text = [f"# {len(measured)} label maps\n", f"Measured: {kinds}.\n"]
    if len(sources) == 1 and len({one.spacing for one in measured}) == 1:
        sizes = " x ".join(f"{value:.4g}" for value in measured[0].spacing)
        text.append(f"Size of the pixels: {sizes} {measured[0].unit}, from {measured[0].source}.\n")
    elif sources:
        text.append(f"Size of the pixels: from {', '.join(sources)}, image by image in images.csv.\n")
    text += [f"{note}\n" for note in notes]
    return "\n".join([*text, agreement_table(lines)]) + "\n"


def agreement_table(lines: Sequence[Agreement], quantities: Sequence[str] | None = None) -> str:
    """Means with 95 % intervals as a Markdown table, and beside them the truth where there is one.

    All means of a row are over the same images, where there is a truth those in which both have a value.

    Args:
        lines: what to show.
        quantities: only these.
    """
    shown = [line for line in lines if quantities is None or line.quantity in quantities]
    has_truth = any(line.truth is not None for line in shown)
    header = ["class", "quantity", "images", "mean"]
    header += ["truth", "bias", "limits of agreement"] if has_truth else []
    rows = [f"| {' | '.join(header)} |", f"| {' | '.join(['---'] * len(header))} |"]
    for line in shown:
        quantity = line.quantity.replace("_", " ") + (f", {line.unit}" if line.unit else "")
        images = f"{line.summary.scored}" + (f" of {len(line.found)}" if line.summary.scored < len(line.found) else "")
        cells = [line.name, quantity, images, _cell(line.summary)]
        if has_truth and line.bias is not None and line.true_summary is not None:
            low, high = line.limits
            cells += [_cell(line.true_summary), _cell(line.bias)]
            cells.append(f"{_number(low)} to {_number(high)}" if np.isfinite(low) else "")
        elif has_truth:
            cells += [""] * 3
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(summary: Summary) -> str:
    if np.isnan(summary.mean):
        return "none"
    interval = f" [{_number(summary.low)}, {_number(summary.high)}]" if np.isfinite(summary.low) else ""
    return _number(summary.mean) + interval


def _number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.3e}"
