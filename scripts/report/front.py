"""The tables of results for the README and the documents."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from networks.workflow.records import read_records
from scripts.benchmark.records import RESULTS
from scripts.benchmark.tables import markdown
from scripts.measure.agreement import agreement_table, agreements
from scripts.report.results import best_validation, load
from scripts.report.sheets import NONE, Cell, Sheet, overview, score_sheets


def microstructure_table(brief: bool = False) -> str:
    """The suite microstructure_robust as the papers score, a line for each set of images, beside published numbers.

    Of each set's runs it is the one with the best validation, so that the test images choose nothing.

    Args:
        brief: only what there are published numbers for, with one note.
    """
    results = load([RESULTS / "microstructure_robust.jsonl"])
    sheet = overview(results, "paper")
    ours, published = sheet.rows[: len(results.variants)], sheet.rows[len(results.variants) :]
    chosen = _best_by_validation(results.runs)
    rows = []
    for i, title in enumerate(sheet.header[1:], start=1):
        (data_set,) = {data_set.name for data_set in results.data_sets if title.startswith(f"{data_set.title}: ")}
        name, score = next(
            (row[0], row[i]) for row, v in zip(ours, results.variants, strict=True) if v == chosen[data_set]
        )
        others = [float(row[i].text) for row in published if row[i].text != NONE]
        if brief and not others:
            continue
        above = bool(others) and float(score.text) > max(others)
        rows.append([Cell(title), replace(score, strong=above), Cell(name.markdown()), *(row[i] for row in published)])
    header = ["images: score", "ours", "which", *(row[0].markdown() for row in published)]
    notes = ["Bold: above both published numbers.", *([] if brief else sheet.notes)]
    return Sheet(sheet.caption, header, rows, notes).markdown()


def acdc_table() -> str:
    """The suite acdc_cpu by both protocols, and what is published of networks on 20 test patients, maybe others."""
    results = load(_with_peers("acdc_cpu"))
    paper, strict = (overview(results, protocol) for protocol in ("paper", "strict"))
    cells = [row[1] for row in strict.rows] + [Cell(NONE)] * (len(paper.rows) - len(strict.rows))
    rows = [[*row, cell] for row, cell in zip(paper.rows, cells, strict=True)]
    header = ["network", "Dice, %, paper protocol", "Dice, %, strict protocol"]
    return Sheet("Mean over the classes; 95 % intervals in brackets", header, rows, paper.notes).markdown()


def hippocampus_table() -> str:
    """The suite hippocampus by the strict protocol, and the peers that were scored on the same cases."""
    results = load(_with_peers("hippocampus"))
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


def pollen_table() -> str:
    """The suite pollen73s: accuracy on the test pictures, and when the training had its best and its last epoch."""
    results = load([RESULTS / "pollen73s.jsonl"])
    sheet = score_sheets(results, results.data_sets[0], "strict")[0]
    runs = {run["variant"]: run for run in results.runs}
    models = dict.fromkeys(table.model for table, _ in results.data_sets[0].of("strict"))
    rows = []
    for row, model in zip(sheet.rows, models, strict=True):
        curve = runs[model]["curve"]
        best = max(curve, key=lambda epoch: float(epoch["val_top1"]))
        rows.append([*row, Cell(str(best["epoch"])), Cell(str(curve[-1]["epoch"]))])
    header = [*sheet.header, "best epoch", "stopped after"]
    return Sheet(sheet.caption, header, rows, sheet.notes).markdown()


def strict_table(suite: str) -> str:
    """A suite by the strict protocol: a line for each network and its start, a column for each data set."""
    return overview(load([RESULTS / f"{suite}.jsonl"]), "strict").markdown()


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
                f"{line['float32_bytes'] / line['bytes']:.1f}" if line["float32_bytes"] else "",
                "1" if line is first else f"{line['forward']['speedup']:.2f}",
            ]
        )
    header = ["network", "how", "test cases", "strict Dice, %", "points", "MB", "smaller than float32", "faster"]
    return markdown(header, rows)


def _with_peers(suite: str) -> list[Path]:
    return [RESULTS / f"{suite}.jsonl", *sorted(RESULTS.glob(f"{suite}_peer_*.jsonl"))]


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def _compressed(line: dict[str, Any]) -> str:
    steps = ", ".join(step["summary"] for step in line["steps"])
    if line["runtime"] == "torch":
        return steps
    return ", ".join(filter(None, [steps, f"{line['dtype']} in {line['runtime']}"]))


def _best_by_validation(runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Of each data set the variant of the run whose mean Dice on the validation split was the best."""
    best: dict[str, tuple[float, str]] = {}
    for run in runs:
        score = best_validation([run])
        if score is not None:
            best[run["data_set"]] = max(best.get(run["data_set"], (0.0, "")), (score, run["variant"]))
    return {data_set: variant for data_set, (_, variant) in best.items()}
