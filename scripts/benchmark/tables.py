"""Tables of the networks for the documents, made of the classes, the catalog and the measurements."""

import json
from collections.abc import Sequence

import torch

import networks
from networks.pretrained import sources
from scripts.benchmark.cases import CASES, Case
from scripts.benchmark.records import (
    RESULTS,
    Record,
    authors_cost,
    authors_ratio,
    latest,
    read_records,
)
from scripts.catalog.bundles import BUNDLES

USUAL, PREDICTIONS = "benchmark_cpu.jsonl", "predictions_cpu.jsonl"
MISSING = "Not measured yet: `python -m scripts.benchmark networks` measures and writes `results/{}`.".format


def architectures_table() -> str:
    """One line per case: paper, size, capabilities, and whose weights it starts from."""
    measured, authors = latest(read_records(RESULTS / USUAL)), authors_cost()["cases"]
    rows = []
    for case in CASES:
        network_class = getattr(networks, case.network)
        paper = next((bundle.paper for bundle in BUNDLES if bundle.network == case.network), None)
        record = measured.get(case.name)
        rows.append(
            [
                case.title,
                f"[{paper.title}]({paper.url})" if paper else "",
                f"{record['parameters'] / 1e6:.1f}" if record else "",
                f"{record['macs'] / 1e9:.2f}" if record else "",
                f"{authors[case.name]['macs'] / 1e9:.2f}" if case.name in authors else "",
                "that of the constructor" if network_class.fixed_img_size else "any",
                "yes" if network_class.scriptable else "no",
                "yes" if network_class.exportable else "no",
                pretraining(case),
            ]
        )
    header = ["network", "paper", "parameters, M", "MACs, G", "the authors' MACs, G", "image size", "TorchScript"]
    table = markdown([*header, "export, ONNX", "pretrained weights"], rows)
    return table if measured else f"{MISSING(USUAL)}\n\n{table}"


def pretraining(case: Case) -> str:
    """The formats that `networks.pretrained.load` takes for a case."""
    with torch.device("meta"):  # without memory and initialisation
        return ", ".join(sources(case.build()))


def speed_table(records: Sequence[Record] | None = None) -> str:
    """Times, work and memory; by default those of the usual settings on a CPU."""
    found = latest(read_records(RESULTS / USUAL) if records is None else list(records))
    if not found:
        return MISSING(USUAL)
    rows = []
    for case in CASES:
        if case.name not in found:
            continue
        record = found[case.name]
        row = [case.title]
        for name in ("forward", "forward_backward"):
            row.append(f"{record[name]['ratio']['median']:.2f}")
        row += [f"{100 * record[name]['matrix_share']:.0f} %" for name in ("forward", "forward_backward")]
        row += [memory(record[name]["peak_memory"]) for name in ("forward", "forward_backward")]
        rows.append(row)
    header = ["network", "forward / resnet50", "training / resnet50"]
    header += ["forward: share of the matrix rate", "training: share of the matrix rate"]
    header += ["forward: memory, GB", "training: memory, GB"]
    return f"{conditions(list(found.values()))}\n\n{markdown(header, rows)}"


def faster_table() -> str:
    """How many times faster the networks are than their authors' implementations."""
    ratio = authors_ratio()
    rows = [
        [case.title, *(_times(ratio["cases"][case.name][name]) for name in ("forward", "forward_backward"))]
        for case in CASES
        if case.name in ratio["cases"]
    ]
    return f"{ratio['protocol']}\n\n{markdown(['network', 'forward', 'training'], rows)}"


def predictions_table() -> str:
    """Wall time of scripts.predict from the shell, and where it goes."""
    records = [json.loads(line) for line in (RESULTS / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    rows = [
        [
            f"{record['name']}, {record['bundle']}",
            record["runtime"],
            *(f"{record[phase]:.1f}" for phase in ("wall", "start_up", "reading", "network", "writing")),
            memory(record["peak_memory"]),
            f"{100 * record['same_labels']:.3f}",
        ]
        for record in records
    ]
    machines = dict.fromkeys(
        f"{record['machine']['cpu']}, {record['threads']} threads, PyTorch {record['machine']['torch']}, median of "
        f"{record['repeats']}"
        for record in records
    )
    header = ["case, network", "runtime", "all, s", "start-up", "reading", "network", "writing", "memory, GB"]
    return f"{'; '.join(machines)}.\n\n{markdown([*header, 'same labels, %'], rows)}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def conditions(records: Sequence[Record]) -> str:
    """What all the records have in common: machine, settings, the yardstick's times, the matrix rate."""
    machines, rates = {}, [record["matrix_rate"] / 1e9 for record in records]
    for record in records:
        settings, facts = record["settings"], record["machine"]
        threads = f", {settings['threads']} thread{'s' * (settings['threads'] > 1)}"
        options = [name.replace("_", " ") for name in ("channels_last", "compile") if settings[name]]
        side = settings["img_size"]
        parts = [f"{facts['gpu'] or facts['cpu'] + threads}", f"PyTorch {facts['torch']}", settings["dtype"], *options]
        machines[", ".join([*parts, f"batch {settings['batch_size']}, {side} x {side}"])] = None
    times = [[r[name]["yardstick_seconds"]["median"] for r in records] for name in ("forward", "forward_backward")]
    span = " and ".join(f"{1000 * min(values):.0f} to {1000 * max(values):.0f} ms" for values in times)
    return (
        f"{'; '.join(machines)}. resnet50 took {span}, a matrix product ran at {min(rates):.0f} to {max(rates):.0f} "
        "GFLOP/s."
    )


def memory(size: int | None) -> str:
    """Bytes in gigabytes."""
    return "" if size is None else f"{size / 1e9:.2f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
