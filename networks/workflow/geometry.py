"""Where an image's voxels are, and bringing a label map onto the grid of its image: the one rule for it.

An affine takes the indices of a voxel to millimetres. Two files hold the same grid if the same centres of voxels are in
both, in whatever order of axes and in whatever direction: then one is the other transposed and flipped. Anything else
(another origin, spacing, direction or extent) needs resampling, and that is a decision of the person, not ours.
"""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from networks.errors import UserError

TOLERANCE = 0.01
"""How far, in voxels, centres may be apart that are meant to be the same. Headers are rounded: float32 leaves some
1e-5 of a voxel at the far corner of a volume, decimal text of six digits some 1e-3. The smallest real mistake, a corner
taken for a centre, is half a voxel."""

MIN_VOLUME = 1e-9  # mm^3 of a voxel; below it an axis leads nowhere
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}  # by NIfTI's unit of lengths


def spacing_of(volume: MetaTensor) -> list[float]:
    """Millimetres from voxel to voxel along each axis, whatever unit the volume's NIfTI header has; mm without one."""
    unit = str(nib.nifti1.unit_codes.label[int(volume.meta.get("xyzt_units", 0)) & 7])  # the other bits are of times
    return [float(size) * MILLIMETRES[unit] for size in volume.pixdim]


def check_affine(affine: np.ndarray | torch.Tensor, name: object) -> np.ndarray:
    """The affine (4, 4) as an array.

    Args:
        affine: from indices to millimetres.
        name: the file, for messages.

    Raises:
        UserError: NaN, infinite, or not invertible.
    """
    matrix = np.asarray(affine, dtype=float)
    if not np.isfinite(matrix).all():
        raise UserError(f"{name} has an affine with values that are NaN or infinite; write its header anew.")
    if not abs(np.linalg.det(matrix[:3, :3])) > MIN_VOLUME:
        raise UserError(
            f"{name} has an affine that is zero or singular, so where its voxels are is unknown; write its header anew."
        )
    return matrix


def turn(
    affine: np.ndarray | torch.Tensor,
    shape: Sequence[int],
    to_affine: np.ndarray | torch.Tensor,
    to_shape: Sequence[int],
    names: tuple[object, object],
) -> np.ndarray:
    """How an array must be turned to lie on another grid.

    Args:
        affine, shape: of the array, three axes.
        to_affine, to_shape: of the grid.
        names: the files of the array and of the grid, for messages.

    Returns:
        An orientation (3, 2) as nibabel's ``apply_orientation`` takes it: for every axis of the array the axis of the
        grid, and 1 or, where it runs backwards, -1.

    Raises:
        UserError: an affine that is not usable, or the grids are not the same up to the order and direction of axes.
    """
    own, other = check_affine(affine, names[0]), check_affine(to_affine, names[1])
    between = np.linalg.inv(other) @ own  # from indices of the array to those of the grid
    axes = np.abs(between[:3, :3]).argmax(axis=0)
    if sorted(axes) == [0, 1, 2]:
        signs = np.sign(between[axes, range(3)])
        turned = tuple(int(shape[i]) for i in np.argsort(axes))
        if turned != tuple(int(n) for n in to_shape):
            raise UserError(
                f"{names[0]} has shape {tuple(map(int, shape))}, but {names[1]} has "
                f"{tuple(map(int, to_shape))}; they must be equal."
            )
        # what maps the one box of indices exactly onto the other
        exact = np.eye(4)
        exact[:3] = 0
        exact[axes, range(3)] = signs
        exact[axes, 3] = np.where(signs < 0, np.asarray(shape) - 1, 0)
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in shape), [1], indexing="ij")).reshape(4, -1)
        apart = np.abs((between - exact) @ corners).max()
        if apart <= TOLERANCE:
            return np.stack([axes, signs], axis=1)
        what = f"their voxels are up to {apart:.3g} voxels apart"
    else:
        what = "their axes do not go together"
    raise UserError(
        f"{names[0]} and {names[1]} do not lie on the same grid in millimetres ({what}); resample the one to "
        "the other, or correct the header that is wrong."
    )


def brought_onto(label: MetaTensor, image: MetaTensor, names: tuple[object, object]) -> MetaTensor:
    """A label map on the grid of its image: transposed and flipped where it is stored in another orientation.

    Pictures, which have no place in millimetres, are only compared by their shape.

    Args:
        label, image: (channels, X, Y[, Z]) with their affines.
        names: their files, for messages.

    Raises:
        UserError: as :func:`turn`.
    """
    if image.ndim != 4 or label.ndim != 4:
        if image.shape[1:] != label.shape[1:]:
            raise UserError(
                f"{names[0]} has shape {tuple(label.shape[1:])}, but {names[1]} has "
                f"{tuple(image.shape[1:])}; they must be equal."
            )
        return label
    orientation = turn(label.affine, label.shape[1:], image.affine, image.shape[1:], names)
    array = np.moveaxis(nib.apply_orientation(np.moveaxis(np.asarray(label), 0, -1), orientation), -1, 0)
    meta = {key: value for key, value in label.meta.items() if key != "affine"}
    meta["spatial_shape"] = np.asarray(image.shape[1:])
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=image.affine.clone(), meta=meta)
