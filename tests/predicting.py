"""What the tests of prediction share: a network of random weights, the command in this process, and what it left."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from networks.workflow.checkpoints import save_atomically
from scripts.catalog.bundles import BY_NAME, Bundle
from scripts.opened_bundle import InferenceConfig
from scripts.predict.predicting import predict
from tests.tables import rows_of
from tests.workflows import tiny_network

VOLUMES = BY_NAME["unet"]


def options_of(bundle: Bundle) -> dict[str, Any]:
    return {**tiny_network(bundle), "img_size": [48, 48], "device": "cpu"}


def write_weights(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Options with weights whose predictions hold several classes."""
    torch.manual_seed(2)
    network = InferenceConfig(bundle.name, options=options_of(bundle))["network_def"]
    save_atomically(network.state_dict(), folder / "model.pt")
    return {**options_of(bundle), "ckpt_path": str(folder / "model.pt")}


def call(source: Path, output: Path, expected: int = 0, **options: Any) -> None:
    """Run the command in this process and check its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            predict(str(source), str(output), **options)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert caught.value.code == expected


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("[!.]*")) if p.is_file()}


def labels_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_of(folder).items() if "_seg." in name}


def failures(folder: Path) -> dict[str, str]:
    return {row["case"]: row["error"] for row in rows_of(folder / "failed.csv")}
