"""Volumes of structures, slice by slice, and what the heart's chambers eject."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from networks.workflow.data import patient
from scripts.measure.quantities import Row

CHAMBERS = re.compile(r"(left|right)[ _](ventric(le|ular[ _]cavity)|atrium)|[lr](v|a)([ _]cavity)?", re.IGNORECASE)
_LEFT_VENTRICLE = re.compile(r"left[ _]ventric|lv", re.IGNORECASE)  # of the chambers
_PHASE = re.compile(r"(?<![a-z0-9])(ed|es)(?![a-z0-9])", re.IGNORECASE)
MM3_PER_ML = 1000


def measure_volume(mask: np.ndarray, spacing: Sequence[float]) -> tuple[Row, list[Row]]:
    """Volume of a structure, and its area in every slice.

    Args:
        mask: (x, y, z) of bool.
        spacing: of the voxels in mm; slices are along z.

    Returns:
        Quantities of the volume, and of every slice that has the structure.
    """
    areas = mask.sum(axis=(0, 1)) * (spacing[0] * spacing[1])
    found = np.flatnonzero(areas)
    row: Row = {
        "volume": float(areas.sum() * spacing[2] / MM3_PER_ML),
        "slices": len(found),
        "largest_slice_area": float(areas.max()),
    }
    slices: list[Row] = [
        {"slice": int(z) + 1, "position": float((z + 0.5) * spacing[2]), "slice_area": float(areas[z])} for z in found
    ]
    return row, slices


@dataclass(frozen=True)
class Beat:
    """Two volumes of one patient.

    Attributes:
        patient: as the names of the files say.
        diastole, systole: cases.
        by: how it is known which is which.
    """

    patient: str
    diastole: str
    systole: str
    by: str


def find_beats(volumes: Mapping[str, Mapping[str, float]], root: str) -> tuple[list[Beat], list[str]]:
    """Pair end-diastole with end-systole.

    The names of the files say which is which ("ED", "ES"); where they do not, the frame with the larger chamber is
    end-diastole: the left ventricle's, or the first chamber's.

    Args:
        volumes: of the chambers in every case, by their names.
        root: folder of the data set, for :func:`networks.workflow.data.patient`.

    Returns:
        The pairs, and the patients that have another number of cases than two.
    """
    groups: dict[str, list[str]] = {}
    for case in volumes:
        who = patient(case, root)
        if who is not None:
            groups.setdefault(who, []).append(case)
    beats = []
    for who, cases in groups.items():
        if len(cases) != 2:
            continue
        phases = [_PHASE.findall(PurePath(case).name) for case in cases]
        told = {found[0].lower(): case for found, case in zip(phases, cases, strict=True) if len(found) == 1}
        if len(told) == 2:
            beats.append(Beat(who, told["ed"], told["es"], "name"))
            continue
        chambers = list(volumes[cases[0]])
        chamber = next((name for name in chambers if _LEFT_VENTRICLE.match(name)), chambers[0])
        small, large = sorted(cases, key=lambda case: volumes[case][chamber])
        beats.append(Beat(who, large, small, f"volume of the {chamber}"))
    return beats, [who for who, cases in groups.items() if len(cases) != 2]


def ejection_fraction(diastole: float, systole: float) -> float | None:
    """(ED - ES) / ED in per cent; None without a volume at end-diastole."""
    return 100 * (diastole - systole) / diastole if diastole > 0 else None
