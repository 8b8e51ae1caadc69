"""What the tests of the converters share: reading a converted data set, and the command line."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from scripts.datasets import __main__ as cli

REAL = Path(__file__).parents[2] / "shared" / "data"
NASA = REAL / "nasa_microscopy" / "benchmark_segmentation_data"
TOTAL = REAL / "totalsegmentator"
needs_nasa = pytest.mark.skipif(not NASA.is_dir(), reason="the real micrographs are not here")
needs_total = pytest.mark.skipif(not TOTAL.is_dir(), reason="the real scans are not here")
# y is flipped and the axes are turned, as scanners leave them
ODD_AFFINE = np.array([[0.0, 0, -5, 30], [-0.75, 0, 0, 12], [0, 0.8, 0, -7], [0, 0, 0, 1]])


def report(folder: Path) -> dict:
    """``conversion.json``."""
    return json.loads((folder / "conversion.json").read_text())


def content(folder: Path) -> dict:
    """``dataset.json``."""
    return json.loads((folder / "dataset.json").read_text())


def lists(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The lists of ``dataset.json`` as MONAI reads them."""
    found = {key: value for key, value in content(folder).items() if isinstance(value, list)}
    return {
        name: load_decathlon_datalist(folder / "dataset.json", data_list_key=name) if items else items
        for name, items in found.items()
    }


def names(folder: Path) -> dict[str, list[str]]:
    """File names of the images by list."""
    return {name: [Path(item["image"]).name for item in items] for name, items in lists(folder).items()}


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = ODD_AFFINE) -> None:
    """Write a NIfTI file in the array's own type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)


def voxels(path: str | Path) -> np.ndarray:
    """The array of a NIfTI file."""
    return np.asanyarray(nib.load(path).dataobj)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str | int:
    """The exit code and message of the command line."""
    monkeypatch.setattr(sys, "argv", ["datasets", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as exit_:
        return exit_.code
    return 0
