"""NIfTI volumes as they are on disk, brought to one grid and one set of class numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.datasets.writer import CaseError, reading

NIFTI_SUFFIXES = (".nii.gz", ".nii")


def nifti_stem(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def read_nifti(path: Path, dimensions: tuple[int, ...] = (3,)) -> nib.Nifti1Image:
    """A NIfTI file whose voxels stay on disk until they are asked for.

    Raises:
        CaseError: not NIfTI, another number of dimensions, or an affine that maps the grid to nothing.
    """
    with reading(path):
        image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise CaseError(f"{path.name} is not a NIfTI file.")
    if image.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise CaseError(f"{path.name} has {image.ndim} dimensions; expected {wanted}.")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise CaseError(f"{path.name} has an affine that is not invertible, so its spacing is unknown.")
    return image


def to_nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """An image in millimetres; whole numbers that fit 16 bit are stored so, other values as float32.

    Raises:
        CaseError: a value is NaN or infinite.
    """
    if not np.isfinite(array).all():
        raise CaseError("The image holds values that are NaN or infinite.")
    if array.dtype not in (np.uint8, np.int16):
        low, high = np.iinfo(np.int16).min, np.iinfo(np.int16).max
        whole = array.min() >= low and array.max() <= high and (array == np.round(array)).all()
        array = array.astype(np.int16 if whole else np.float32)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return image


def turned_like(label: nib.Nifti1Image, image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The label stored in the image's orientation; itself if it is so already. Spacing and origin stay unchecked."""
    stored, wanted = nib.io_orientation(label.affine), nib.io_orientation(image.affine)
    if np.array_equal(stored, wanted):
        return label
    return label.as_reoriented(nib.orientations.ornt_transform(stored, wanted))


def mapped(label: nib.Nifti1Image, path: Path, numbers: Mapping[int, int], known: set[int]) -> nib.Nifti1Image:
    """New class numbers (uint8): ``numbers`` by original value, everything else background.

    Args:
        label: original.
        path: its file, for messages.
        numbers: new class number by original value.
        known: the values that the source may hold beside 0; any other is a mistake and not background.

    Raises:
        CaseError: an unknown value, or the file is damaged.
    """
    with reading(path):
        values = np.asanyarray(label.dataobj)
    return to_nifti(mapped_values(values, numbers, known), label.affine)


def mapped_values(values: np.ndarray, numbers: Mapping[int, int], known: set[int]) -> np.ndarray:
    """As :func:`mapped`, for an array."""
    unknown = np.setdiff1d(values, [0, *known])
    if unknown.size:
        listed = ", ".join(f"{v:g}" for v in unknown[:10])
        raise CaseError(f"The label holds the values {listed}, which the label map does not have.")
    result = np.zeros(values.shape, np.uint8)
    for value, number in numbers.items():
        result[values == value] = number
    return result
