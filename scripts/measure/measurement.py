"""Measuring one label map: an array and the size of its pixels become tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scripts.measure.cracks import measure_cracks
from scripts.measure.kinds import Region
from scripts.measure.layers import measure_layers
from scripts.measure.particles import measure_particles
from scripts.measure.quantities import Row
from scripts.measure.volumes import measure_volume


@dataclass
class Measurements:
    """Tables, every row with ``class`` and ``kind``.

    Attributes:
        classes: one row per region.
        objects: one row per particle, layer or crack.
        profiles: one row per place along a layer.
        slices: one row per slice of a volume.
    """

    classes: list[Row] = field(default_factory=list)
    objects: list[Row] = field(default_factory=list)
    profiles: list[Row] = field(default_factory=list)
    slices: list[Row] = field(default_factory=list)


def measure_map(
    label: np.ndarray,
    regions: Sequence[Region],
    spacing: Sequence[float],
    split_touching: bool = False,
    min_pixels: int = 1,
) -> Measurements:
    """Measure a label map.

    Args:
        label: class numbers: a picture (height, width), or a volume (x, y, z) whose slices are along z.
        regions: what is measured, of :func:`scripts.measure.kinds.choose_regions`.
        spacing: size of a pixel along every axis, in the unit that the results are to have; of a voxel in millimetres.
            Ones give results in pixels.
        split_touching: cut particles that touch.
        min_pixels: smaller particles and cracks are left out; they count in the area fraction.

    Returns:
        The tables; a class that the map does not have has its row too, with the number 0 and no sizes.
    """
    made = Measurements()
    for region in regions:
        mask = np.isin(label, region.numbers)
        ids: Row = {"class": region.name, "kind": region.kind}
        objects, profiles, slices = [], [], []
        if region.kind == "volume":
            row, slices = measure_volume(mask, spacing)
        elif region.kind == "layer":
            row, objects, profiles = measure_layers(mask, spacing)
        elif region.kind == "crack":
            row, objects = measure_cracks(mask, spacing, min_pixels)
        else:
            row, objects = measure_particles(mask, spacing, split_touching, min_pixels)
        made.classes.append(ids | row)
        made.objects += [{**ids, "object": number, **found} for number, found in enumerate(objects, start=1)]
        made.profiles += [ids | place for place in profiles]
        made.slices += [ids | part for part in slices]
    return made
