"""What the networks of the runs cost: parameters, measured times where there are any, training time."""

import functools
import inspect
import json
from collections.abc import Sequence
from typing import Any

import torch

import networks
from scripts.benchmark.cases import CASES
from scripts.benchmark.measure import PASSES
from scripts.benchmark.records import Record, latest
from scripts.catalog.bundles import BY_NAME
from scripts.experiments.collected import Line
from scripts.opened_bundle import InferenceConfig
from scripts.report.results import Results, training_seconds
from scripts.report.sheets import NONE, Cell, Sheet, duration

NOT_THE_NETWORK = ("in_channels", "out_channels", "img_size", "drop_path_rate", "dropout")


def network_arguments(run: Line) -> tuple[type, dict[str, Any]] | None:
    """Class and arguments of a run's network; None where the catalog has no such bundle or preset."""
    bundle = BY_NAME.get(run["bundle"])
    if bundle is None or run["preset"] not in bundle.presets:
        return None
    opened = InferenceConfig(run["bundle"], run["preset"])
    # a preset for any data has as many classes as those, which may not be here; the number costs next to nothing
    known = {} if bundle.presets[run["preset"]].classes else {"out_channels": 2}
    opened.override({**known, **{key: value for key, value in run["options"].items() if key in opened}})
    arguments = {name: value for name, value in opened.resolved("network_def").items() if not name.startswith("_")}
    return getattr(networks, bundle.network), arguments


def count_parameters(run: Line) -> int | None:
    """Parameters of a run's network; None as in ``network_arguments``."""
    return _count(run["bundle"], run["preset"], json.dumps({**run["options"], "pretrained": None}))


@functools.cache  # many runs have the same network
def _count(bundle: str, preset: str, options: str) -> int | None:
    found = network_arguments({"bundle": bundle, "preset": preset, "options": json.loads(options)})
    if found is None:
        return None
    network_class, arguments = found
    with torch.device("meta"):  # without memory and initialisation
        return sum(p.numel() for p in network_class(**arguments).parameters())


def benchmark_record(run: Line, records: Sequence[Record]) -> Record | None:
    """The measurement of the network with the same arguments, channels and size aside."""
    found = network_arguments(run)
    measured = latest(list(records))
    for case in CASES if found else ():
        network_class = getattr(networks, case.network)
        same_class = case.name in measured and network_class is found[0]
        if same_class and _essence(network_class, case.options) == _essence(*found):
            return measured[case.name]
    return None


def cost_sheet(runs: Sequence[Line], records: Sequence[Record]) -> Sheet | None:
    """One line per network.

    Args:
        runs: of which the first of each network is looked at.
        records: measurements of ``scripts.benchmark``.
    """
    rows = []
    for network in dict.fromkeys(run["network"] for run in runs):
        own = [run for run in runs if run["network"] == network]
        parameters, record = count_parameters(own[0]), benchmark_record(own[0], records)
        texts = [network, f"{parameters / 1e6:.1f}" if parameters else NONE]
        texts.append(f"{record['macs'] / 1e9:.2f}" if record else NONE)
        texts += [f"{record[name]['ratio']['median']:.2f}" if record else NONE for name in PASSES]
        rows.append([Cell(text) for text in [*texts, duration(training_seconds(own))]])
    if not rows:
        return None
    header = ["network", "parameters, M", "MACs, G", "forward / resnet50", "training step / resnet50", "time per run"]
    notes = ["MACs and times over resnet50's are those of scripts.benchmark at its own image size."]
    if all(row[2].text == NONE for row in rows):
        header, rows, notes = [*header[:2], header[5]], [[*row[:2], row[5]] for row in rows], []
    notes.append("The time per run is the median over all data sets, weights and seeds.")
    return Sheet("What the networks cost", header, rows, notes)


def costs(results: Results, data_set: str, records: Sequence[Record]) -> tuple[str, dict[str, float]]:
    """One cost of every variant that has runs on a data set, and what it is.

    The first that is known of all: measured time, time of the runs, parameters.
    """
    groups: dict[str, list[Line]] = {}
    for run in results.runs:
        if run["data_set"] == data_set:
            groups.setdefault(run["variant"], []).append(run)
    measured = {name: benchmark_record(runs[0], records) for name, runs in groups.items()} if records else {}
    if measured and all(measured.values()):
        values = {name: record["forward"]["ratio"]["median"] for name, record in measured.items()}
        return "time of a forward pass / resnet50's", values
    seconds = {name: training_seconds(runs) for name, runs in groups.items()}
    if all(seconds.values()):
        return "minutes of a run, training and scoring", {name: s / 60 for name, s in seconds.items()}
    parameters = {name: count_parameters(runs[0]) for name, runs in groups.items()}
    return "parameters, millions", {name: n / 1e6 for name, n in parameters.items() if n}


def _essence(network_class: type, options: dict[str, Any]) -> dict[str, Any]:
    defaults = {name: p.default for name, p in inspect.signature(network_class).parameters.items()}
    values = {name: value for name, value in (defaults | options).items() if name not in NOT_THE_NETWORK}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
