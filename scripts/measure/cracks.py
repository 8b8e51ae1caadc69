"""Cracks: long, thin objects whose length is that of their skeleton."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects as boxes_of
from scipy.ndimage import zoom
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage.morphology import skeletonize

from scripts.measure.objects import find_objects, shapes
from scripts.measure.particles import rows_of
from scripts.measure.quantities import Row, statistics


def measure_cracks(mask: np.ndarray, spacing: Sequence[float], min_pixels: int = 1) -> tuple[Row, list[Row]]:
    """Measure the cracks of a picture.

    A crack's skeleton is the line of single pixels in its middle. Its length is that of the links between the centres
    of neighbouring pixels, along the diagonals too.

    Args:
        mask, spacing, min_pixels: as for :func:`scripts.measure.particles.measure_particles`.

    Returns:
        Quantities of the picture, and of every crack.
    """
    objects = find_objects(mask, spacing, split_touching=False, min_pixels=min_pixels)
    found = shapes(objects, spacing)
    lengths = np.zeros((len(found["area"]), 2))
    for i, box in enumerate(boxes_of(objects)):
        lengths[i] = skeleton_lengths(objects[box] == i + 1, spacing)
    found["length"], found["longest_path"] = lengths.T
    with np.errstate(divide="ignore"):
        width = found["area"] / found["length"]
    found["width"] = np.where(found["length"] > 0, width, np.nan)
    found["spacing"], gaps = _spacings(found)
    has_length = found["length"] > 0
    total = float(found["length"].sum())
    mean_width = float(found["area"][has_length].sum()) / total if total else None
    picture: Row = {
        "area_fraction": float(mask.mean()),
        "number": len(lengths),
        "number_at_border": int(found["at_border"].sum()),
        "total_length": total,
        "length_density": total / (mask.size * float(np.prod(spacing))),
        **statistics(found["length"], "length", ["mean", "median", "max"]),
        "mean_width": mean_width,
        **statistics(gaps, "spacing", ["mean", "min", "max"]),
    }
    return picture, rows_of(found)


def skeleton_lengths(mask: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """Length of an object's whole skeleton, and of the longest of the shortest paths in it.

    Pixels that are not square are divided first: of links along their diagonals a line would be up to a fifth too long.

    Args:
        mask: (height, width) of bool, one object.
        spacing: height and width of a pixel.
    """
    if not np.isclose(*spacing):
        side = min(spacing)
        mask = zoom(mask.astype(float), np.divide(spacing, side), order=1, grid_mode=True, mode="nearest") >= 0.5
        spacing = (side, side)
    skeleton = np.pad(skeletonize(np.pad(mask, 1), method="lee") > 0, 1)
    numbers = np.full(skeleton.shape, -1)
    numbers[skeleton] = np.arange(int(skeleton.sum()))
    height, width = spacing
    starts, ends, links = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        other = np.roll(skeleton, (-dy, -dx), (0, 1))
        linked = skeleton & other
        if dy and dx:  # at a corner the way leads over the pixel in it, and no diagonal beside it counts
            linked &= ~np.roll(skeleton, -dy, 0) & ~np.roll(skeleton, -dx, 1)
        starts.append(numbers[linked])
        ends.append(np.roll(numbers, (-dy, -dx), (0, 1))[linked])
        links.append(np.full(int(linked.sum()), np.hypot(dy * height, dx * width)))
    length = float(np.concatenate(links).sum())
    count = int(skeleton.sum())
    if count < 2:
        return length, length
    graph = coo_array(
        (np.concatenate(links), (np.concatenate(starts), np.concatenate(ends))), shape=(count, count)
    ).tocsr()
    # the pixel that is farthest from any pixel is an end of the longest path; exact where there are no loops
    start = _farthest(dijkstra(graph, directed=False, indices=0))
    distances = dijkstra(graph, directed=False, indices=start)
    return length, float(distances[_farthest(distances)])


def _farthest(distances: np.ndarray) -> int:
    return int(np.where(np.isfinite(distances), distances, -1).argmax())


def _spacings(found: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of every crack the distance to the next, across their mean direction, and all distances between neighbours.

    The mean direction is weighted by length; an angle and its opposite are one direction.
    """
    count = len(found["length"])
    if count < 2:
        return np.full(count, np.nan), np.empty(0)
    double = np.exp(2j * np.radians(found["orientation"])) * found["length"]
    direction = np.angle(double.sum()) / 2
    # y runs down in a picture, angles count counter-clockwise
    across = found["x"] * np.sin(direction) + found["y"] * np.cos(direction)
    order = np.argsort(across)
    gaps = np.diff(across[order])
    nearest = np.empty(count)
    nearest[order] = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    return nearest, gaps
