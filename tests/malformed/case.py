"""What a case is, and a small data set of volumes to spoil."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from networks.workflow import check_dataset

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])
GOOD = {"image": "imagesTr/case0.nii.gz", "label": "labelsTr/case0.nii.gz"}
OTHER = {"image": "imagesTr/case1.nii.gz", "label": "labelsTr/case1.nii.gz"}


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        name: of the test.
        make: writes the input below a folder and returns what has to refuse it.
        says: texts that the sentence has to have.
        words: the same as a command line, as far as it is one; for the sample of real processes.
    """

    name: str
    make: Callable[[Path], Callable[[], Any]]
    says: tuple[str, ...]
    words: Callable[[Path], list[str]] | None = None


def volume(path: Path, data: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """A small NIfTI file: an image of ramps by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) if data is None else data
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def labels(values: Any = (0, 1, 2), shape: tuple[int, ...] = (6, 5, 4), dtype: Any = np.uint8) -> np.ndarray:
    """A label map whose voxels repeat some values."""
    return np.resize(np.asarray(values, dtype), shape)


def data_set(folder: Path, cases: int = 3, **changes: Any) -> Path:
    """A data set of small volumes with three classes, with entries of ``dataset.json`` changed; None removes one."""
    items = []
    for i in range(cases):
        image = np.arange(120, dtype=np.int16).reshape(6, 5, 4) + i
        volume(folder / f"imagesTr/case{i}.nii.gz", image)
        volume(folder / f"labelsTr/case{i}.nii.gz", labels())
        items.append({"image": f"imagesTr/case{i}.nii.gz", "label": f"labelsTr/case{i}.nii.gz"})
    content = {
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": items[:1],
        "validation": items[1:2],
        "test": items[2:],
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def checking(folder: Path) -> Callable[[], Any]:
    """The check of a data set of three classes."""
    return lambda: check_dataset(str(folder), 1, 3)


def one_case(
    image: Callable[[Path], Any] | None = None, label: Callable[[Path], Any] | None = None
) -> Callable[[Path], Callable[[], Any]]:
    """A data set whose first image or label is replaced."""

    def make(folder: Path) -> Callable[[], Any]:
        data_set(folder)
        if image is not None:
            image(folder / GOOD["image"])
        if label is not None:
            label(folder / GOOD["label"])
        return checking(folder)

    return make


def bytes_of(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def cut(share: float) -> Callable[[Path], Any]:
    """The file without its end."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def array(data: np.ndarray, affine: np.ndarray = AFFINE) -> Callable[[Path], Any]:
    return lambda path: volume(path, data, affine)
