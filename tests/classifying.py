"""Running the configs of the classifying bundle with a network of a second, for tests."""

from pathlib import Path
from typing import Any

from scripts.catalog.classification import CLASSIFIERS
from tests.workflows import run

(BUNDLE,) = CLASSIFIERS
CONFIGS = Path("bundles", BUNDLE.name, "configs")
SMALL = {"embed_dim": 12, "num_heads": [1, 1, 2, 2]}
TINY = {f"network_def::{name}": value for name, value in SMALL.items()} | {"depths": [1, 1, 1, 1], "window_size": 4}


def paths(*names: str) -> list[str]:
    """Paths of configs."""
    return [str(CONFIGS / f"{name}.json") for name in names]


def options(folder: Path, dataset_dir: Path, **others: Any) -> dict[str, Any]:
    """Options for a run of a second that writes below ``folder`` only."""
    where = {"bundle_root": str(folder), "dataset_dir": str(dataset_dir), "device": "cpu"}
    return {**TINY, **where, "img_size": [32, 32], "short_side": 32, "batch_size": 8, "epochs": 2, **others}


def evaluate(trained: Path, dataset_dir: Path, output_dir: Path, **others: Any) -> None:
    """As a person does it, who gives the checkpoint and none of the network's options but those for tests."""
    where = {"bundle_root": str(trained), "dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
    tiny = {f"network_def::{name}": value for name, value in SMALL.items()}
    run(paths("train", "evaluate"), "train", **{**where, **tiny, "device": "cpu", **others})


def chain(error: BaseException | None) -> str:
    """The messages of an error and of its causes, which MONAI wraps."""
    found = []
    while error is not None:
        found.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(found)
