"""Separate objects of a class in a picture: numbering them, splitting those that touch, shapes and perimeters."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from skimage.measure import label as number_objects
from skimage.measure import regionprops_table
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

SPLIT_DEPTH = 0.75
"""By how many pixels the neck between two objects must be nearer to the background than their centres, for a cut there;
less is the roughness of pixels."""


def find_objects(mask: np.ndarray, spacing: Sequence[float], split_touching: bool, min_pixels: int) -> np.ndarray:
    """Objects numbered from 1; pixels that touch at a corner are of one object.

    Args:
        mask: (height, width) of bool.
        spacing: height and width of a pixel.
        split_touching: cut at the necks between objects that touch: watershed of the distance to the background.
        min_pixels: smaller objects are left out.
    """
    objects = number_objects(mask, connectivity=2)
    if split_touching and objects.any() and not mask.all():
        # the distance in pixels of the smaller side, so that the depth means the same in every picture
        depth = distance_transform_edt(mask, sampling=np.divide(spacing, min(spacing)))
        centres = local_maxima(reconstruction(depth - SPLIT_DEPTH, depth)) & mask
        seeds = number_objects(centres, connectivity=2)
        # one that is too thin to have a centre stays whole
        lacking = np.setdiff1d(objects, objects[centres])
        seeds = np.where(np.isin(objects, lacking[lacking > 0]), objects + seeds.max(), seeds)
        objects = watershed(-depth, seeds, mask=mask, connectivity=2)
    sizes = np.bincount(objects.ravel())
    keep = sizes >= min_pixels
    keep[0] = False
    renumbered = np.zeros(len(sizes), dtype=np.int32)
    renumbered[keep] = np.arange(1, int(keep.sum()) + 1)
    return renumbered[objects]


def shapes(objects: np.ndarray, spacing: Sequence[float]) -> dict[str, np.ndarray]:
    """Area, place and ellipse of every object.

    The ellipse has the object's second moments, a pixel being a square and no point (hence the twelfth of its side
    squared): a single pixel has the aspect ratio 1, as in ImageJ.

    Returns:
        Arrays (objects,): ``area``, ``y`` and ``x`` of the centroid from the picture's corner, ``aspect_ratio`` of the
        ellipse's axes, ``orientation`` of the longer one in degrees (0 to 180, counter-clockwise from the horizontal),
        ``at_border``, and ``pixels``.
    """
    names = ("label", "num_pixels", "area", "centroid", "inertia_tensor", "bbox")
    found = regionprops_table(objects, properties=names, spacing=tuple(spacing))
    count = len(found["label"])
    inertia = np.array([[found[f"inertia_tensor-{i}-{j}"] for j in range(2)] for i in range(2)]).reshape(2, 2, count)
    # of a planar figure: the moments about the other axis, with the sign of the mixed one turned
    moments = np.moveaxis(np.array([[inertia[1, 1], -inertia[0, 1]], [-inertia[0, 1], inertia[0, 0]]]), -1, 0)
    moments = moments + np.diag(np.square(spacing) / 12)
    values, vectors = np.linalg.eigh(moments)
    long_y, long_x = vectors[:, 0, 1], vectors[:, 1, 1]
    height, width = objects.shape
    low, high = (np.array([found[f"bbox-{i + k}"] for i in range(2)]) for k in (0, 2))
    return {
        "pixels": found["num_pixels"],
        "area": found["area"],
        "y": found["centroid-0"] + spacing[0] / 2,  # a pixel's centre is half a pixel from its corner
        "x": found["centroid-1"] + spacing[1] / 2,
        "aspect_ratio": np.sqrt(values[:, 1] / values[:, 0]),
        "orientation": np.degrees(np.arctan2(-long_y, long_x)) % 180,
        "at_border": (low == 0).any(axis=0) | (high == np.array([[height], [width]])).any(axis=0),
    }


def perimeters(objects: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Perimeter (objects,) by Crofton's formula in four directions, the picture's edge counting as a border.

    scikit-image's ``perimeter_crofton``, for pixels that need not be square: along every direction the borders that
    parallel lines cross are counted, times the lines' distance and the direction's share of all angles.
    """
    count = int(objects.max())
    height, width = spacing
    # as near to 45 degrees as steps of whole pixels come
    steps = max(round(height / width), 1), max(round(width / height), 1)
    run, rise = steps
    diagonal = np.hypot(rise * height, run * width)
    tilt = np.arctan2(rise * height, run * width)
    padded = np.pad(objects, max(steps))
    # each direction stands for the angles that are nearer to it than to the next
    lines = (
        (padded[:, 1:], padded[:, :-1], height * tilt),
        (padded[1:], padded[:-1], width * (np.pi / 2 - tilt)),
        (padded[rise:, run:], padded[:-rise, :-run], height * width / diagonal * np.pi / 4),
        (padded[rise:, :-run], padded[:-rise, run:], height * width / diagonal * np.pi / 4),
    )
    total = np.zeros(count + 1)
    for one, other, weight in lines:
        differ = one != other
        for side in (one[differ], other[differ]):
            total += weight / 2 * np.bincount(side, minlength=count + 1)
    return total[1:]


def neighbour_distances(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance of every point to the next one; NaN for a single one."""
    if len(y) < 2:
        return np.full(len(y), np.nan)
    points = np.stack([y, x], axis=1)
    return cKDTree(points).query(points, k=2)[0][:, 1]
