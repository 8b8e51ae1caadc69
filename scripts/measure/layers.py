"""Layers such as an oxide: thickness along them, and the roughness of their two boundaries."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects as boxes_of
from skimage.measure import label as number_objects

from scripts.measure.quantities import Row, statistics

FRAGMENT = 0.1  # of the largest piece's area; smaller ones are no part of a layer
OVERLAP = 0.05  # of the shorter piece's length, above which two pieces are two layers


def measure_layers(mask: np.ndarray, spacing: Sequence[float]) -> tuple[Row, list[Row], list[Row]]:
    """Measure the layers of a picture.

    Layers run from left to right, or from the top to the bottom of the picture, whichever makes them longer for their
    height. In every column (row) a layer reaches from its first to its last pixel, pores and cracks inside included;
    the thickness is that length, square to the straight line that fits the layer's middle best. Columns in which the
    picture's border cuts the layer off are left out. Pieces beside each other are one layer with a gap, pieces above
    each other are two layers.

    Roughness is of the boundary's distance from its own best straight line, square to the layer: Ra the mean of its
    absolute values, Rq their root mean square, over the whole length without a filter.

    Args:
        mask: (height, width) of bool.
        spacing: height and width of a pixel, in the unit of the results.

    Returns:
        Quantities of the picture, of every layer (the thickest first), and of every place along them.
    """
    picture: Row = {"area_fraction": float(mask.mean())}
    pieces = _pieces(mask)
    # joined both ways: a piece between two gaps may be higher than wide, and so may layers above each other be together
    lying, upright = _joined(pieces), _joined([piece.T for piece in pieces])
    is_upright = _elongation(upright, spacing[::-1]) > _elongation(lying, spacing)
    if is_upright:
        spacing = spacing[::-1]
    layers, profiles = [], []
    for layer in upright if is_upright else lying:
        row, profile = _measure(layer, spacing, is_upright)
        layers.append(row)
        profiles += [{"object": len(layers), **place} for place in profile]
    picture["number"] = len(layers)
    picture["coverage"] = max((row["coverage"] for row in layers), default=0.0)
    picture |= statistics([place["thickness"] for place in profiles], "thickness", ["mean", "min", "max", "std"])
    for name in ("upper_ra", "upper_rq", "lower_ra", "lower_rq"):
        known = [row for row in layers if row[name] is not None]
        weights = [row["length"] for row in known]
        picture[name] = float(np.average([row[name] for row in known], weights=weights)) if known else None
    return picture, layers, profiles


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    """The connected pieces of a layer, the largest first, without fragments."""
    numbers = number_objects(mask, connectivity=2)
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    order = np.argsort(sizes, kind="stable")[::-1]
    return [numbers == i for i in order if sizes[i] and sizes[i] >= FRAGMENT * sizes.max()]


def _elongation(layers: Sequence[np.ndarray], spacing: Sequence[float]) -> float:
    """Width / height of layers that run from left to right, the mean by area; 0 without any."""
    ratios = []
    for layer in layers:
        ((rows, columns),) = boxes_of(layer.astype(int))
        ratios.append((columns.stop - columns.start) * spacing[1] / ((rows.stop - rows.start) * spacing[0]))
    return float(np.average(ratios, weights=[layer.sum() for layer in layers])) if layers else 0.0


def _joined(pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pieces that lie one after the other, as one layer."""
    layers: list[np.ndarray] = []
    for piece in pieces:
        columns = piece.any(axis=0)
        for i, layer in enumerate(layers):
            others = layer.any(axis=0)
            if (columns & others).sum() <= OVERLAP * min(columns.sum(), others.sum()):
                layers[i] = layer | piece
                break
        else:
            layers.append(piece)
    return layers


def _measure(mask: np.ndarray, spacing: Sequence[float], is_upright: bool) -> tuple[Row, list[Row]]:
    """One layer that runs from left to right, as a row, and its places."""
    dy, dx = spacing
    first, last = mask.argmax(axis=0), mask.shape[0] - mask[::-1].argmax(axis=0)
    present = mask.any(axis=0)
    is_cut = present & ((first == 0) | (last == mask.shape[0]))
    columns = np.flatnonzero(present & ~is_cut)
    x, upper, lower = (columns + 0.5) * dx, first[columns] * dy, last[columns] * dy
    slope = np.polyfit(x, (upper + lower) / 2, 1)[0] if len(columns) > 1 else 0.0
    cosine = 1 / np.hypot(1, slope)
    thickness = (lower - upper) * cosine
    angle = np.degrees(np.arctan(-slope))  # y runs down
    row: Row = {
        "area": float(mask.sum() * dy * dx),
        "length": float(len(columns) * dx / cosine),
        "coverage": float(present.mean()),
        "orientation": round(float(90 - angle if is_upright else angle), 6) % 180,
        "at_border": bool(is_cut.any()),
        **statistics(thickness, "thickness", ["mean", "min", "max", "std"]),
    }
    for name, boundary in (("upper", upper), ("lower", lower)):
        rough = (boundary - np.polyval(np.polyfit(x, boundary, 1), x)) * cosine if len(columns) > 2 else None
        row[f"{name}_ra"] = None if rough is None else float(np.abs(rough).mean())
        row[f"{name}_rq"] = None if rough is None else float(np.sqrt(np.square(rough).mean()))
    places = np.stack([x / cosine, thickness, upper, lower], axis=1).tolist()
    return row, [dict(zip(("position", "thickness", "upper", "lower"), place, strict=True)) for place in places]
