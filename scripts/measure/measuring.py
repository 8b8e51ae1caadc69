"""The command: which label maps to measure, and writing what was measured."""

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from networks.errors import UserError
from networks.workflow.data import class_names, dataset_name, load_datalist
from networks.workflow.files import atomic, json_text, locked, write_json
from networks.workflow.saving import LABEL_NAMES
from scripts.opened_bundle import read_labels
from scripts.predict.cases import Case

if TYPE_CHECKING:  # without scikit-image there is no measuring, but scripts.predict has to be imported
    from scripts.measure.cases import Item
    from scripts.measure.maps import Options

FOLDER, RECORD = "measurements", "measure.json"


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
    from scripts.measure.maps import Options

    how = Options(kinds, pixel_size, unit, colours, split_touching, min_pixels)
    source, target = Path(str(predictions)), Path(str(output))
    others = [None if path is None else Path(str(path)) for path in (truth, images)]
    dataset_dir = None if dataset_dir is None else str(dataset_dir)
    items = find_items(source, dataset_dir, split, *others, results=target)
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
    paths = {"predictions": source, "dataset_dir": dataset_dir, "truth": others[0], "images": others[1]}
    _measure_into(target, items, names, how, ids, paths, dataset_dir or str(folder), overwrite)


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
    from scripts.measure.maps import Options

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
    paths = {"predictions": output, "dataset_dir" if is_set else "images": source}
    _measure_into(target, items, names, Options(pixel_size=pixel_size), ids, paths, root, overwrite=True)


def require_skimage() -> None:
    """Raise UserError where scikit-image is not installed."""
    if importlib.util.find_spec("skimage") is None:
        raise UserError("Measuring needs scikit-image: python -m pip install 'segmentation-bundles[measure]'.")


def _measure_into(
    target: Path,
    items: Sequence["Item"],
    names: Mapping[int, str] | None,
    how: "Options",
    ids: dict[str, str],
    paths: Mapping[str, str | Path | None],
    root: str,
    overwrite: bool,
) -> None:
    """Measure, then write everything, so that a mistake in one file leaves what was there before."""
    from scripts.measure.agreement import agreements, make_records, summary_text
    from scripts.measure.maps import measure_items
    from scripts.measure.tables import ejection_rows, write_tables

    measured, regions, notes = measure_items(items, names, how)
    beats, alone = ejection_rows(measured, root)
    if alone:
        notes.append(f"No ejection fraction of {', '.join(alone)}: it needs two volumes of a patient.")
    record = {
        **ids,
        "paths": {name: str(Path(path).resolve()) for name, path in paths.items() if path is not None},
        "regions": [{"class": r.name, "numbers": list(r.numbers), "measured_as": r.kind} for r in regions],
        "options": {key: value for key, value in vars(how).items() if value is not None},
        "images": len(measured),
        "with_truth": sum(one.truth is not None for one in measured),
        "pixel_sizes": dict(Counter(one.source or "none: in pixels" for one in measured)),
        "units": sorted({one.unit for one in measured}),
    }
    records = make_records(measured, beats, ids)
    lines = agreements(records)
    text = summary_text(lines, regions, measured, notes)
    file = target / RECORD
    with locked(target, "measurement", "give another folder"):
        if file.is_file() and not overwrite and file.read_text(encoding="utf-8") != json_text(record):
            raise UserError(
                f"{target} holds other measurements ({RECORD} tells which); give another folder, or --overwrite true."
            )
        write_tables(target, measured, beats, records, lines)
        with atomic(target / "summary.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_json(file, record)
    print(f"{text}\nWrote {target}.")
