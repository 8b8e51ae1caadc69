"""What the networks of the runs cost: parameters, measured times where there are any, training time."""

import inspect
import statistics
from collections.abc import Sequence
from typing import Any

import networks
import torch
from monai.bundle import ConfigParser

from scripts import configs
from scripts.benchmark.cases import CASES
from scripts.benchmark.records import Record, latest
from scripts.catalog import BY_NAME
from scripts.report.results import Run

NOT_THE_NETWORK = ("in_channels", "out_channels", "img_size", "drop_path_rate", "dropout")


def network_arguments(run: Run) -> tuple[type, dict[str, Any]] | None:
    """Class and arguments of a run's network; None where the catalog has no such bundle or preset."""
    bundle = BY_NAME.get(run["bundle"])
    if bundle is None or run["preset"] not in bundle.presets:
        return None
    parser = ConfigParser(configs.train(bundle) | configs.preset_overlay(bundle, bundle.presets[run["preset"]]))
    parser.update(run["options"])
    names = [name for name in parser["network_def"] if not name.startswith("_")]
    arguments = {name: parser.get_parsed_content(f"network_def::{name}") for name in names}
    return getattr(networks, bundle.network), arguments


def count_parameters(run: Run) -> int | None:
    """Parameters of a run's network."""
    found = network_arguments(run)
    if found is None:
        return None
    network_class, arguments = found
    with torch.device("meta"):  # without memory and initialisation
        return sum(p.numel() for p in network_class(**arguments).parameters())


def benchmark_record(run: Run, records: Sequence[Record]) -> Record | None:
    """The measurement of the network with the same arguments, channels and size aside."""
    found = network_arguments(run)
    measured = latest(list(records))
    for case in CASES if found else ():
        network_class, arguments = found
        same_class = getattr(networks, case.network) is network_class
        if case.name in measured and same_class and _essence(network_class, case.options) == _essence(*found):
            return measured[case.name]
    return None


def training_seconds(runs: Sequence[Run]) -> float | None:
    """Median time of those runs whose time is known: training and evaluations together."""
    times = [run["seconds"] for run in runs if run.get("seconds")]
    return statistics.median(times) if times else None


def _essence(network_class: type, options: dict[str, Any]) -> dict[str, Any]:
    defaults = {name: p.default for name, p in inspect.signature(network_class).parameters.items()}
    values = {name: value for name, value in (defaults | options).items() if name not in NOT_THE_NETWORK}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
