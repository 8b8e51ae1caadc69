"""The files that a measurement writes: tables for spreadsheets, records, figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from networks.workflow.evaluation import write_csv
from networks.workflow.files import atomic
from networks.workflow.records import Record, write_records
from scripts.measure.quantities import Row
from scripts.measure.volumes import CHAMBERS, ejection_fraction, find_beats

if TYPE_CHECKING:
    from scripts.measure.agreement import Agreement
    from scripts.measure.maps import Measured

TABLES = {"objects": "objects.csv", "profiles": "profiles.csv", "slices": "slices.csv"}
IMAGES, BEATS, RECORDS = "images.csv", "ejection_fraction.csv", "measurements.jsonl"
DISTRIBUTION, BLAND_ALTMAN = "distribution.png", "bland_altman.png"


def write_tables(
    folder: Path,
    measured: Sequence["Measured"],
    beats: Sequence[Row],
    records: Sequence[Record],
    lines: Sequence["Agreement"],
) -> None:
    """Write all tables and figures; those that an earlier measurement left and this one does not have are removed."""
    from scripts.measure.figures import draw_bland_altman, draw_distribution

    tables: dict[str, list[dict[str, Any]]] = {IMAGES: [row for one in measured for row in image_rows(one)]}
    tables |= {file: [row for one in measured for row in _part_rows(one, name)] for name, file in TABLES.items()}
    tables[BEATS] = list(beats)
    figures = {DISTRIBUTION: draw_distribution(measured), BLAND_ALTMAN: draw_bland_altman(lines)}
    for name, rows in tables.items():
        if rows:
            write_csv(folder / name, rows)
        else:
            (folder / name).unlink(missing_ok=True)
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic(folder / name) as temporary:
            figure.savefig(temporary, dpi=110)
    write_records(folder / RECORDS, records)


def image_rows(one: "Measured") -> list[dict[str, Any]]:
    """One row per class, the numbers of the truth as ``truth_...`` behind those of the label map."""
    ids: Row = {"image": one.item.case}
    about: Row = {"unit": one.unit, "size_from": one.source or "none"}
    names = ("pixel_height", "pixel_width") if len(one.spacing) == 2 else ("voxel_x", "voxel_y", "voxel_z")
    about |= dict(zip(names, one.spacing, strict=True))
    truths = one.truth.classes if one.truth is not None else [{} for _ in one.found.classes]
    rows = []
    for found, truth in zip(one.found.classes, truths, strict=True):
        beside = {f"truth_{key}": value for key, value in truth.items() if key not in ("class", "kind")}
        rows.append(ids | {"class": found["class"], "kind": found["kind"]} | about | found | beside)
    return rows


def _part_rows(one: "Measured", name: str) -> list[dict[str, Any]]:
    """Objects, places or slices of the label map, then of the truth."""
    return [
        {"image": one.item.case, "of": of, "unit": one.unit, **row}
        for of, made in (("prediction", one.found), ("truth", one.truth))
        if made is not None
        for row in getattr(made, name)
    ]


def ejection_rows(measured: Sequence["Measured"], root: str) -> tuple[list[Row], list[str]]:
    """Ejection fractions of the patients that have two volumes, and the patients that have not.

    Which of the two is end-diastole is decided by the truth where there is one, so that both have the same.

    Args:
        measured: volumes.
        root: folder of the data set.
    """
    chambers = [str(row["class"]) for row in measured[0].found.classes if CHAMBERS.fullmatch(str(row["class"]))]
    if not chambers or measured[0].found.classes[0]["kind"] != "volume":
        return [], []
    found = {one.item.case: _volumes(one.found.classes) for one in measured}
    truth = {one.item.case: _volumes(one.truth.classes) for one in measured if one.truth is not None}
    decisive = truth if len(truth) == len(found) else found
    beats, alone = find_beats({case: {c: decisive[case][c] for c in chambers} for case in found}, root)
    rows: list[Row] = []
    for beat in beats:
        for chamber in chambers:
            row: Row = {"patient": beat.patient, "class": chamber, "ed": beat.diastole, "es": beat.systole}
            row["phases_by"] = beat.by
            for prefix, volumes in (("", found), ("truth_", truth)):
                if volumes:
                    ed, es = (volumes[case][chamber] for case in (beat.diastole, beat.systole))
                    fraction = ejection_fraction(ed, es)
                    row |= {f"{prefix}ed_volume": ed, f"{prefix}es_volume": es, f"{prefix}ejection_fraction": fraction}
            rows.append(row)
    return rows, alone


def _volumes(classes: Sequence[Row]) -> dict[str, float]:
    return {str(row["class"]): float(row["volume"] or 0) for row in classes}
