"""The tables of results for the README and the documents."""

import json
from collections.abc import Sequence
from typing import Any

from networks.workflow.records import read_records
from scripts.benchmark.records import RESULTS
from scripts.benchmark.tables import markdown
from scripts.measure.agreement import agreement_table, agreements
from scripts.report.results import load
from scripts.report.sheets import Cell, Sheet, overview, score_sheets


def microstructure_table() -> str:
    """The suite microstructure_robust as the papers score, beside published numbers: a line for each set of images."""
    sheet = overview(load([RESULTS / "microstructure_robust.jsonl"]), "paper")
    return _turned(sheet).markdown()


def hippocampus_table() -> str:
    """The suite hippocampus by the strict protocol, and the peers that were scored on the same cases."""
    results = load([RESULTS / "hippocampus.jsonl", *sorted(RESULTS.glob("hippocampus_peer_*.jsonl"))])
    return score_sheets(results, results.data_sets[0], "strict")[0].markdown()


def measured_table(name: str, quantities: Sequence[str]) -> str:
    """Measurements of the predictions of weights that come with the bundles, beside those of the truth."""
    return agreement_table(agreements(read_records(RESULTS / f"measure_{name}.jsonl")), quantities)


def clusters_table() -> str:
    """The clusters of the pollen pictures: as many as the silhouette chose, and as many as classes."""
    rows = []
    for record in _lines("pollen73s_clusters.jsonl"):
        if record["chosen"] or record["clusters"] == record["classes"]:
            why = "best silhouette up to 30" if record["chosen"] else "number of classes"
            scores = [f"{record[key]:.3f}" for key in ("silhouette", "adjusted_rand_index", "purity")]
            rows.append([record["network"], f"{record['clusters']} ({why})", *scores])
    return markdown(["features", "clusters", "silhouette", "adjusted Rand index", "purity"], rows)


def compression_table() -> str:
    """What compression cost and gained, each network beside the one it was made of, which was measured in its turn."""
    lines = _lines("compression.jsonl")
    before = {(line["variant"], line["data_set"]): line for line in lines if line["variant"] == line["baseline"]}
    rows = []
    for line in lines:
        dice, first = line["dice"], before[line["baseline"], line["data_set"]]
        lost = "" if line is first else f"{100 * (dice['mean'] - first['dice']['mean']):+.2f}"
        rows.append(
            [
                first["variant"] if first["variant"] == first["bundle"] else f"{first['variant']} ({first['bundle']})",
                "not compressed" if line is first else _compressed(line),
                f"{line['data_set']}, {dice['cases']}",
                f"{100 * dice['mean']:.2f} [{100 * dice['low']:.2f}, {100 * dice['high']:.2f}]",
                lost,
                f"{line['bytes'] / 1e6:.2f}",
                f"{line['float32_bytes'] / line['bytes']:.1f}",
                "1" if line is first else f"{line['forward']['speedup']:.2f}",
            ]
        )
    header = ["network", "how", "test cases", "strict Dice, %", "points", "MB", "smaller than float32", "faster"]
    return markdown(header, rows)


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def _compressed(line: dict[str, Any]) -> str:
    steps = ", ".join(step["summary"] for step in line["steps"])
    if line["runtime"] == "torch":
        return steps
    return ", ".join(filter(None, [steps, f"{line['dtype']} in {line['runtime']}"]))


def _turned(sheet: Sheet) -> Sheet:
    """Columns as rows."""
    names = [row[0].markdown() for row in sheet.rows]
    columns = [[row[i] for row in sheet.rows] for i in range(1, len(sheet.header))]
    rows = [[Cell(title), *cells] for title, cells in zip(sheet.header[1:], columns, strict=True)]
    return Sheet(sheet.caption, ["images: score", *names], rows, sheet.notes)
