"""What the tests of the converters share: reading a converted data set, and the command line."""

import json
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from PIL import Image

from scripts import command_line
from scripts.datasets import __main__ as cli

REAL = Path(__file__).parents[2] / "shared" / "data"
NASA = REAL / "nasa_microscopy" / "benchmark_segmentation_data"
TOTAL = REAL / "totalsegmentator"
needs_nasa = pytest.mark.skipif(not NASA.is_dir(), reason="the real micrographs are not here")
needs_total = pytest.mark.skipif(not TOTAL.is_dir(), reason="the real scans are not here")
needs_acdc = pytest.mark.skipif(not (REAL / "acdc").is_dir(), reason="the real hearts are not here")
ODD_NAMES = ("SE_15kv_50kx_precip - untested-2_0", "040617#2_S127(2)0015", "plain.v1")
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


def save_tiff(path, array):
    """Write (H, W) or (H, W, channels) of 8 or 16 bit; Pillow cannot write 16-bit colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.ndim == 2:
        return Image.fromarray(array).save(path)
    component = {"uint8": itk.UC, "uint16": itk.US}[array.dtype.name]
    itk.imwrite(itk.image_view_from_array(array, ttype=itk.VectorImage[component, 2]), str(path))


def make_super(folder, bits=8, names=ODD_NAMES):
    """A set in the layout of Super1; returns the expected (grey, label) by stem."""
    rng = np.random.default_rng(bits)
    full, kind = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    expected = {}
    for split in ("train", "val", "test", "different_test"):
        for name in names:
            stem = f"{name}_{split}"
            grey = rng.integers(0, full + 1, (12, 16)).astype(kind)
            label = rng.integers(0, 3, grey.shape).astype(np.uint8)
            painted = np.dstack([grey, grey, grey, np.full_like(grey, full)])
            painted[label == 1] = (0, 0, full, full)
            painted[label == 2] = (full, 0, 0, full)
            save_tiff(folder / split / f"{stem}.tif", np.dstack([grey] * 3))
            save_tiff(folder / f"{split}_annot" / f"{stem}_mask.tif", painted)
            expected[stem] = np.round(grey / (1 if bits == 8 else 257)).astype(np.uint8), label
    return expected


def make_ebc(folder):
    rng = np.random.default_rng(1)
    expected = {}
    for split in ("train", "val", "test"):
        for name in ODD_NAMES:
            grey, label = rng.integers(0, 256, (9, 7)).astype(np.uint8), rng.integers(0, 3, (9, 7)).astype(np.uint8)
            save_tiff(folder / split / f"{name}_{split}.tif", np.dstack([grey] * 3))
            save_tiff(folder / f"{split}_annot" / f"{name}_{split}.tif", label)
            expected[f"{name}_{split}"] = grey, label
    return expected


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str | int:
    """The exit code and message of the command line."""
    monkeypatch.setattr(sys, "argv", ["datasets", *map(str, arguments)])
    try:
        command_line.run(cli.COMMANDS, "datasets")
    except SystemExit as exit_:
        return exit_.code
    return 0
