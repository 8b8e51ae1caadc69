"""A suite to try."""

import json
from pathlib import Path

from tests.small import SMALL

EPOCHS = 4


def write_suite(folder: Path, dataset_dir: Path, **changes) -> Path:
    """A suite of one small network on the micrograph phantom."""
    small = {f"network_def::{key}": value for key, value in SMALL["CSUnet"].items()}
    options = {**small, "img_size": [48, 48], "batch_size": 2, "device": "cpu"}
    content = {
        "name": "trial",
        "description": "a trial",
        "data_sets": {"Phantom": {"dataset_dir": str(dataset_dir), "preset": "nasa_super", "setting": "full"}},
        "networks": {"CS-UNet": {"bundle": "cs_unet", "options": options}},
        "recipes": {"short": {"epochs": EPOCHS}},
    }
    path = folder / "trial.json"
    path.write_text(json.dumps(content | changes))
    return path
