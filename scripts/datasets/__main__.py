"""Command line: ``python -m scripts.datasets <name> --source ... --output_dir ...``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import fire

from networks.phantom import write_ct_phantom, write_precipitate_phantom
from scripts.datasets.nasa import convert_nasa
from scripts.datasets.totalsegmentator import convert_totalsegmentator

PHANTOMS = {"ct": write_ct_phantom, "precipitate": write_precipitate_phantom}


def phantom(kind: str, output_dir: str, **options) -> None:
    """Write a phantom data set: ``ct`` (abdomens with eight organs) or ``precipitate`` (micrographs).

    Args:
        kind: ct or precipitate.
        output_dir: folder to create.
        **options: num_training, num_validation, num_test, size, seed, as in ``networks.phantom``.
    """
    if kind not in PHANTOMS:
        raise ValueError(f"The phantom {kind!r} is unknown; choose {' or '.join(PHANTOMS)}.")
    print(f"Wrote {PHANTOMS[kind](str(output_dir), **options)}.")


def check(dataset_dir: str, in_channels: int | None = None, out_channels: int | None = None) -> None:
    """Read every image and label of a data set and stop at the first that cannot be trained on.

    Args:
        dataset_dir: folder with ``dataset.json``.
        in_channels: channels that the images must have; not checked by default.
        out_channels: number of classes with background; by default the number of ``labels`` in ``dataset.json``.
    """
    from networks.workflow.checks import check_dataset  # needs Ignite, which the converters do without

    index = Path(str(dataset_dir)) / "dataset.json"
    if out_channels is None and index.is_file():
        labels = json.loads(index.read_text("utf-8")).get("labels", {})
        out_channels = len(labels) or None
    counts = check_dataset(str(dataset_dir), in_channels, out_channels)
    print(f"{dataset_dir} is fine: {', '.join(f'{n} {name}' for name, n in counts.items())}.")


def main() -> None:
    """Run the command; a mistake of the user ends it with one sentence and exit code 1."""
    commands = {"phantom": phantom, "nasa": convert_nasa, "totalsegmentator": convert_totalsegmentator, "check": check}
    try:
        fire.Fire(commands, name="datasets")
    except (OSError, ValueError) as error:
        if os.environ.get("NETWORKS_TRACEBACK"):
            raise
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
