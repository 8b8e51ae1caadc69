"""Particles, grains, pores: objects that are counted and whose sizes and shapes matter."""

from collections.abc import Sequence

import numpy as np

from scripts.measure.objects import find_objects, neighbour_distances, perimeters, shapes
from scripts.measure.quantities import Row, statistics


def measure_particles(
    mask: np.ndarray, spacing: Sequence[float], split_touching: bool = False, min_pixels: int = 1
) -> tuple[Row, list[Row]]:
    """Measure the particles of a picture.

    Sizes, shapes and distances are averaged over the whole particles: of one that the picture's border cuts off, none
    is known. All are counted, and all are neighbours.

    Args:
        mask: (height, width) of bool.
        spacing: height and width of a pixel, in the unit of the results.
        split_touching, min_pixels: as for :func:`scripts.measure.objects.find_objects`.

    Returns:
        Quantities of the picture, and of every particle.
    """
    objects = find_objects(mask, spacing, split_touching, min_pixels)
    found = shapes(objects, spacing)
    found["diameter"] = np.sqrt(4 / np.pi * found["area"])
    found["perimeter"] = perimeters(objects, spacing)
    found["neighbour_distance"] = neighbour_distances(found["y"], found["x"])
    whole = ~found["at_border"]
    number = len(whole)
    picture: Row = {
        "area_fraction": float(mask.mean()),
        "number": number,
        "number_at_border": int((~whole).sum()),
        "number_density": number / (mask.size * float(np.prod(spacing))),
        **statistics(found["area"][whole], "area", ["mean"]),
        **statistics(found["diameter"][whole], "diameter", ["mean", "median", "std"]),
        **statistics(found["aspect_ratio"][whole], "aspect_ratio", ["mean"]),
        **statistics(found["perimeter"][whole], "perimeter", ["mean"]),
        **statistics(found["neighbour_distance"][whole], "neighbour_distance", ["mean"]),
    }
    return picture, rows_of(found)


def rows_of(columns: dict[str, np.ndarray]) -> list[Row]:
    """Arrays (objects,) as one row for every object, NaN as None."""
    lists = {name: [None if value != value else value for value in column.tolist()] for name, column in columns.items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
