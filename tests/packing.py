"""A small trained bundle to pack."""

import os
import shutil
from pathlib import Path

from scripts.catalog.bundles import BY_NAME
from tests.workflows import ROOT, config_paths, run, training_overrides

BUNDLE = BY_NAME["attention_unet"]
NAME = BUNDLE.name
ZIP = f"{NAME}_v{BUNDLE.version}.zip"
CHANNELS = [4, 8, 8, 8, 8]


def repository(folder: Path) -> Path:
    """A repository of links, whose bundles have weights of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "networks", folder / "networks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "bundles" / NAME).mkdir(parents=True)
    return folder


def copy_of(trained: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of a repository with trained bundles, and its folder for the small one."""
    root = repository(folder)
    shutil.copytree(trained / "bundles", root / "bundles", dirs_exist_ok=True)
    return root, root / "bundles" / NAME


def train(root: Path, dataset_dir: Path) -> None:
    """Train and evaluate a small Attention U-Net, with options of its own, in a repository's folder for it."""
    options = training_overrides(BUNDLE, root / "bundles" / NAME, dataset_dir, epochs=1)
    options = {key: value for key, value in options.items() if not key.startswith("network_def")}
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        run(config_paths(BUNDLE, "train"), "train", "training", **options, channels=CHANNELS)
        run(config_paths(BUNDLE, "train", "evaluate"), "train", **options, channels=CHANNELS)
    finally:
        os.chdir(here)
