"""Measuring label maps, one after the other, and writing the tables."""

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.checks import count_classes
from networks.workflow.data import class_names, dataset_name, load_datalist
from networks.workflow.files import atomic, json_text, locked, write_json
from networks.workflow.pixel_size import METRES, PixelSize, parse_pixel_size
from networks.workflow.saving import LABEL_NAMES
from scripts.measure.kinds import Region, choose_regions
from scripts.opened_bundle import read_labels
from scripts.predict.cases import Case

if TYPE_CHECKING:
    from scripts.measure.cases import Item
    from scripts.measure.measurement import Measurements

FOLDER, RECORD = "measurements", "measure.json"
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

    item: "Item"
    unit: str
    spacing: tuple[float, ...]
    source: str
    found: "Measurements"
    truth: "Measurements | None"


@dataclass(frozen=True)
class Options:
    """How to measure; the options of the command line that have these names."""

    kinds: str | None = None
    pixel_size: str | None = None
    unit: str | None = None
    colours: str | None = None
    split_touching: bool = False
    min_pixels: int = 1


def measure(
    predictions: str,
    output: str,
    dataset_dir: str | None = None,
    split: str = "test",
    truth: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    kinds: str | None = None,
    pixel_size: str | None = None,
    unit: str | None = None,
    split_touching: bool = False,
    min_pixels: int = 1,
    colours: str | None = None,
    model: str | None = None,
    overwrite: bool = False,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: files that are missing, cannot be read or do not go together, a mistake in the options, or other
            measurements in the output folder.
    """
    require_skimage()
    from scripts.measure.cases import find_items

    how = Options(kinds, pixel_size, unit, colours, split_touching, min_pixels)
    source, target = Path(str(predictions)), Path(str(output))
    others = [None if path is None else Path(str(path)) for path in (truth, images)]
    dataset_dir = None if dataset_dir is None else str(dataset_dir)
    items = find_items(source, dataset_dir, split, *others)
    folder = source if source.is_dir() else source.parent
    names = None
    if labels is not None or (dataset_dir is None and (folder / LABEL_NAMES).is_file()):
        names = read_labels(Path(str(labels)) if labels is not None else folder / LABEL_NAMES)
    elif dataset_dir is not None:
        names = dict(enumerate(class_names(dataset_dir))) or None
    ids = {
        "model": str(model or folder.resolve().name),
        "dataset": dataset_name(dataset_dir) if dataset_dir is not None else folder.resolve().name,
        "split": split if dataset_dir is not None else "",
    }
    if target.resolve() == folder.resolve():
        raise UserError(f"{target} is the folder of the label maps; give another one for the measurements.")
    _measure_into(target, items, names, how, ids, dataset_dir or str(folder), overwrite)


def measure_cases(
    source: Path, output: Path, cases: Sequence[Case], names: Mapping[int, str], pixel_size: str | None
) -> None:
    """Measure what ``scripts.predict`` has written, by default beside it in ``measurements``.

    Args:
        source: its input; a data set whose whole test list has labels gives the truth.
        output: its output.
        cases: that are done.
        names: of the classes.
        pixel_size: as the option.

    Raises:
        UserError: as :func:`measure`.
    """
    from scripts.measure.cases import Item

    if not cases:
        return
    is_set = source.is_dir() and (source / "dataset.json").is_file()
    root = str(source if source.is_dir() else source.parent)
    truths = {pair["image"]: pair.get("label") for pair in load_datalist(root)["test"]} if is_set else {}
    if not all(truths.values()):
        truths = {}
    items = []
    for case in cases:
        truth = truths.get(case.files[0])
        items.append(Item(case.name, Path(case.label), Path(truth) if truth else None, Path(case.files[0])))
    is_file = len(cases) == 1 and str(output) == cases[0].label
    target = output.with_name(f"{output.name.split('.')[0]}_{FOLDER}") if is_file else output / FOLDER
    ids = {
        "model": output.resolve().name.split(".")[0],
        "dataset": dataset_name(root) if is_set else source.resolve().name,
        "split": "test" if is_set else "",
    }
    _measure_into(target, items, names, Options(pixel_size=pixel_size), ids, root, overwrite=True)


def require_skimage() -> None:
    """Raise UserError where scikit-image is not installed."""
    if importlib.util.find_spec("skimage") is None:
        raise UserError("Measuring needs scikit-image: python -m pip install 'segmentation-bundles[measure]'.")


def measure_items(
    items: Sequence["Item"], names: Mapping[int, str] | None = None, how: Options | None = None
) -> tuple[list[Measured], list[Region], list[str]]:
    """Measure label maps.

    Args:
        items: of one kind, pictures or volumes.
        names: of the classes by number; by default as many as there are numbers.
        how: the options.

    Returns:
        The measurements, what was measured as what, and sentences that the person should read.

    Raises:
        UserError: as :func:`measure`.
    """
    from scripts.measure import cases
    from scripts.measure.measurement import measure_map

    how = how or Options()
    if how.unit not in (None, *UNITS, "um"):
        raise UserError(f"--unit is {how.unit!r}; expected one of {', '.join(UNITS)} (um is µm).")
    if not isinstance(how.min_pixels, int) or how.min_pixels < 1:
        raise UserError(f"--min_pixels is {how.min_pixels}; expected a whole number from 1.")
    kinds = {cases.is_volume_file(path) for item in items for path in (item.label, item.truth) if path is not None}
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
        names = cases.name_classes(values)
    regions = choose_regions(names, is_volume, how.kinds)
    sizes, notes = ({}, []) if is_volume else _pixel_sizes(items, how)
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
    return measured, regions, notes


class _Reader:
    """Label map, true label map and a volume's voxel size of an item."""

    def __init__(self, is_volume: bool, names: Mapping[int, str] | None, how: Options) -> None:
        from scripts.datasets.colours import colour_map
        from scripts.measure import cases

        self._cases, self._is_volume = cases, is_volume
        classes = max(names) + 1 if names else cases.MAX_CLASSES
        self._colours = None if how.colours is None else colour_map(how.colours, classes)

    def __call__(self, item: "Item") -> tuple[np.ndarray, np.ndarray | None, tuple[float, ...]]:
        if self._is_volume:
            return self._cases.read_volume_labels(item.label, item.truth)
        label = self._cases.read_picture_label(item.label, self._colours)
        truth = None if item.truth is None else self._cases.read_picture_label(item.truth, self._colours)
        if truth is not None and truth.shape != label.shape:
            raise UserError(
                f"{item.label} has {label.shape[1]} x {label.shape[0]} pixels, but {item.truth} has "
                f"{truth.shape[1]} x {truth.shape[0]}; they must be equal."
            )
        return label, truth, ()


def _check_numbers(path: Path | None, label: np.ndarray, names: Mapping[int, str]) -> None:
    count_classes(
        str(path),
        np.ascontiguousarray(label).astype(np.int64),  # type: ignore[arg-type]
        max(names) + 1,
        "give --labels the file that names all classes, or --colours the class of each value",
    )


def _pixel_sizes(items: Sequence["Item"], how: Options) -> tuple[dict[str, PixelSize | None], list[str]]:
    """By case; and what to say about those that have none."""
    from scripts.measure.cases import pixel_size_of

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


def _measure_into(
    target: Path,
    items: Sequence["Item"],
    names: Mapping[int, str] | None,
    how: Options,
    ids: dict[str, str],
    root: str,
    overwrite: bool,
) -> None:
    """Measure, then write everything, so that a mistake in one file leaves what was there before."""
    from scripts.measure.agreement import agreements, make_records, summary_text
    from scripts.measure.tables import ejection_rows, write_tables

    with locked(target, "measurement", "give another folder"):
        measured, regions, notes = measure_items(items, names, how)
        beats, alone = ejection_rows(measured, root)
        record = {
            **ids,
            "regions": [{"class": r.name, "numbers": list(r.numbers), "measured_as": r.kind} for r in regions],
            "options": {key: value for key, value in vars(how).items() if value is not None},
            "images": len(measured),
            "with_truth": sum(one.truth is not None for one in measured),
            "pixel_sizes": dict(Counter(one.source or "none: in pixels" for one in measured)),
            "units": sorted({one.unit for one in measured}),
        }
        file = target / RECORD
        if file.is_file() and not overwrite and file.read_text(encoding="utf-8") != json_text(record):
            raise UserError(
                f"{target} holds other measurements ({RECORD} tells which); give another folder, or --overwrite true."
            )
        records = make_records(measured, beats, ids)
        lines = agreements(records)
        if alone:
            notes.append(f"No ejection fraction of {', '.join(alone)}: it needs two volumes of a patient.")
        text = summary_text(lines, regions, measured, notes)
        write_tables(target, measured, beats, records, lines)
        with atomic(target / "summary.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_json(file, record)
    print(f"{text}\nWrote {target}.")
