"""Measuring label maps, one after the other, each in the unit that its file tells."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.checks import count_classes
from networks.workflow.pixel_size import METRES, PixelSize, parse_pixel_size
from scripts.datasets.colours import colour_map
from scripts.measure.cases import (
    MAX_CLASSES,
    Item,
    is_volume_file,
    name_classes,
    pixel_size_of,
    read_picture_label,
    read_volume_labels,
)
from scripts.measure.kinds import Region, choose_regions
from scripts.measure.measurement import Measurements, measure_map

UNITS = ("nm", "µm", "mm")
PIXEL = "pixel"


@dataclass(frozen=True)
class Measured:
    """What was measured of one label map.

    Attributes:
        item: its files.
        unit: of lengths: one of ``UNITS``, or "pixel".
        spacing: of the pixels in that unit, height first; of voxels in mm, x first.
        source: where the size of the pixels is from; empty where there is none.
        found: of the label map.
        truth: of the true one, if there is one.
    """

    item: Item
    unit: str
    spacing: tuple[float, ...]
    source: str
    found: Measurements
    truth: Measurements | None


@dataclass(frozen=True)
class Options:
    """How to measure; the options of the command line that have these names."""

    kinds: str | None = None
    pixel_size: str | None = None
    unit: str | None = None
    colours: str | None = None
    split_touching: bool = False
    min_pixels: int = 1


def measure_items(
    items: Sequence[Item], names: Mapping[int, str] | None = None, how: Options | None = None
) -> tuple[list[Measured], list[Region], list[str]]:
    """Measure label maps.

    Args:
        items: of one kind, pictures or volumes.
        names: of the classes by number; by default as many as there are numbers.
        how: the options.

    Returns:
        The measurements, what was measured as what, and sentences that the person should read.

    Raises:
        UserError: names the file that cannot be read or does not fit the others, or the option that is wrong.
    """
    how = how or Options()
    if how.unit not in (None, *UNITS, "um"):
        raise UserError(f"--unit is {how.unit!r}; expected one of {', '.join(UNITS)} (um is µm).")
    if not isinstance(how.min_pixels, int) or how.min_pixels < 1:
        raise UserError(f"--min_pixels is {how.min_pixels}; expected a whole number from 1.")
    kinds = {is_volume_file(path) for item in items for path in (item.label, item.truth) if path is not None}
    if len(kinds) > 1:
        raise UserError("The label maps are volumes and pictures; measure them one kind at a time.")
    (is_volume,) = kinds
    if is_volume:
        given = {"pixel_size": how.pixel_size, "unit": how.unit, "colours": how.colours}
        wrong = next((name for name, value in given.items() if value is not None), None)
        if wrong is not None:
            raise UserError(f"--{wrong} is of pictures; volumes have millimetres in their files.")
    read = _Reader(is_volume, names, how)
    if names is None:
        values: set[int] = set()
        for item in tqdm(items, desc="Looking for classes", unit="image", leave=False, disable=None):
            values |= {int(value) for part in read(item)[:2] if part is not None for value in np.unique(part)}
        names = name_classes(values)
    regions = choose_regions(names, is_volume, how.kinds)
    sizes, notes = ({}, []) if is_volume else _pixel_sizes(items, how)
    notes += _advice(regions)
    unit = "mm" if is_volume else _common_unit(list(sizes.values()), how.unit)
    measured = []
    for item in tqdm(items, desc="Measuring", unit="image", disable=None):
        label, truth, spacing = read(item)
        for path, array in ((item.label, label), (item.truth, truth)):
            if array is not None:
                _check_numbers(path, array, names)
        source, own_unit = "the file's voxels", unit
        if not is_volume:
            size = sizes[item.case]
            own_unit, source = (unit, size.source) if size is not None else (PIXEL, "")
            spacing = tuple(x / METRES[unit] for x in (size.height, size.width)) if size is not None else (1.0, 1.0)
        found, true = (
            None if array is None else measure_map(array, regions, spacing, how.split_touching, how.min_pixels)
            for array in (label, truth)
        )
        assert found is not None
        measured.append(Measured(item, own_unit, spacing, source, found, true))
    if is_volume and all(one.spacing == (1, 1, 1) for one in measured):
        notes.append(
            "All voxels are 1 x 1 x 1 mm. If that stands for an unknown size, millilitres and areas mean nothing; "
            "ejection fractions do not depend on it."
        )
    return measured, regions, notes


def _advice(regions: Sequence[Region]) -> list[str]:
    """What may be meant otherwise: cracks through a layer."""
    layers, cracks = ([region for region in regions if region.kind == kind] for kind in ("layer", "crack"))
    inside = {number for region in layers if len(region.numbers) > 1 for number in region.numbers}
    return [
        f"Pixels of {crack.name} are no part of {layer.name} and interrupt it; --kinds "
        f'"{layer.name}+{crack.name}:layer" measures the layer with them.'
        for layer in layers
        for crack in cracks
        if len(layer.numbers) == 1 and not {*layer.numbers, *crack.numbers} <= inside
    ]


class _Reader:
    """Label map, true label map and a volume's voxel size of an item."""

    def __init__(self, is_volume: bool, names: Mapping[int, str] | None, how: Options) -> None:
        self._is_volume = is_volume
        classes = max(names) + 1 if names else MAX_CLASSES
        self._colours = None if how.colours is None else colour_map(how.colours, classes)

    def __call__(self, item: Item) -> tuple[np.ndarray, np.ndarray | None, tuple[float, ...]]:
        if self._is_volume:
            return read_volume_labels(item.label, item.truth)
        label = read_picture_label(item.label, self._colours)
        truth = None if item.truth is None else read_picture_label(item.truth, self._colours)
        if truth is not None and truth.shape != label.shape:
            raise UserError(
                f"{item.label} has {label.shape[1]} x {label.shape[0]} pixels, but {item.truth} has "
                f"{truth.shape[1]} x {truth.shape[0]}; they must be equal."
            )
        return label, truth, ()


def _check_numbers(path: Path | None, label: np.ndarray, names: Mapping[int, str]) -> None:
    remedy = "give --labels the file that names all classes, or --colours the class of each value"
    found = np.ascontiguousarray(label).astype(np.int64)
    counts = count_classes(str(path), found, max(names) + 1, remedy)  # type: ignore[arg-type]
    assert counts is not None
    nameless = next((n for n in counts.nonzero().flatten().tolist() if n and n not in names), None)
    if nameless is not None:
        raise UserError(f"{path} has the class {nameless}, for which there is no name: {remedy}.")


def _pixel_sizes(items: Sequence[Item], how: Options) -> tuple[dict[str, PixelSize | None], list[str]]:
    """By case; and what to say about those that have none."""
    given = None if how.pixel_size is None else parse_pixel_size(how.pixel_size)
    sizes, reasons = {}, Counter()
    for item in items:
        sizes[item.case], why = pixel_size_of(item, given)
        if sizes[item.case] is None:
            reasons[why] += 1
    notes = [
        f"{count} of {len(items)} pictures are measured in pixels ({why}); give --pixel_size, such as 4.2nm, if it is "
        "known."
        for why, count in reasons.items()
    ]
    return sizes, notes


def _common_unit(sizes: Sequence[PixelSize | None], wanted: str | None) -> str:
    """The unit in which pixels are a handy number: the largest in which most have more than a fiftieth."""
    if wanted is not None:
        return "µm" if wanted == "um" else wanted
    known = [size.width for size in sizes if size is not None]
    if not known:
        return UNITS[0]
    return next((unit for unit in reversed(UNITS) if np.median(known) >= 0.02 * METRES[unit]), UNITS[0])
