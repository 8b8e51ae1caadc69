"""NIfTI volumes as they are on disk, brought to one grid and one set of class numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from networks.workflow.geometry import check_affine, turn
from scripts.datasets.writer import CaseError, case_error, reading


def nifti_stem(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def read_nifti(path: Path, dimensions: tuple[int, ...] = (3,)) -> nib.Nifti1Image:
    """A NIfTI file whose voxels stay on disk until they are asked for.

    Raises:
        CaseError: not NIfTI, colours or complex numbers, another number of dimensions, or an affine that maps the grid
            to nothing.
    """
    with reading(path):
        image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise CaseError(f"{path.name} is not a NIfTI file.")
    if image.get_data_dtype().kind not in "iuf":
        raise CaseError(f"{path.name} holds colours or complex numbers; expected one real number for each voxel.")
    if image.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise CaseError(f"{path.name} has {image.ndim} dimensions; expected {wanted}.")
    with case_error():
        check_affine(image.affine, path.name)
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
    """The label stored on the image's grid; itself if it is so already.

    Args:
        label: class numbers.
        image: a volume, or anything with its ``shape`` and ``affine``.

    Raises:
        CaseError: they do not lie on the same grid, as :func:`networks.workflow.geometry.turn` has it.
    """
    with case_error():
        orientation = turn(label.affine, label.shape, image.affine, image.shape[:3], ("The label", "the image"))
    if np.array_equal(orientation, [[0, 1], [1, 1], [2, 1]]):
        return label
    return label.as_reoriented(orientation)


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
