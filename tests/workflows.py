"""Running a bundle's configs inside the test process, with a network that is small enough for it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from scripts.catalog.bundles import Bundle
from tests.small import SMALL

ROOT = Path(__file__).resolve().parent.parent


def config_paths(bundle: Bundle, *names: str) -> list[str]:
    """Paths of configs, relative to the repository's root."""
    return [f"bundles/{bundle.name}/configs/{name}.json" for name in names]


def tiny_network(bundle: Bundle) -> dict[str, Any]:
    """Options that make the bundle's network small; its other arguments stay."""
    return {f"network_def::{name}": _plain(value) for name, value in SMALL[bundle.network].items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def tiny_overrides(bundle: Bundle, folder: Path, dataset_dir: Path, **others: Any) -> dict[str, Any]:
    """Options for a run of seconds that writes below ``folder`` only."""
    where = {"bundle_root": str(folder), "dataset_dir": str(dataset_dir)}
    return {**tiny_network(bundle), **where, "img_size": [48, 48], "device": "cpu", **others}


def training_overrides(bundle: Bundle, folder: Path, dataset_dir: Path, **others: Any) -> dict[str, Any]:
    """``tiny_overrides`` with a short training."""
    return tiny_overrides(bundle, folder, dataset_dir, **{"epochs": 2, "batch_size": 4, **others})


def run(files: Sequence[str], kind: str | None = None, run_id: str = "run", **overrides: Any) -> ConfigWorkflow:
    """Initialise, run and finalise the configs as ``python -m monai.bundle run`` does."""
    workflow = ConfigWorkflow(
        config_file=list(files), workflow_type=kind, run_id=run_id, logging_file=False, **overrides
    )
    path, hook = list(sys.path), sys.excepthook
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    finally:
        sys.path[:], sys.excepthook = path, hook
        logging.getLogger("ignite").setLevel(logging.WARNING)
    return workflow


def command_line(files: Sequence[str], run_id: str = "run", **overrides: Any) -> list[str]:
    """The same run as arguments of ``python``."""
    options = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    return ["-m", "monai.bundle", "run", run_id, "--config_file", str(list(files)), *options]


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
