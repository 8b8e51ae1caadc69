"""ACDC: cine MR of the heart, end diastole and end systole (Bernard et al., IEEE TMI 37(11), 2018).

Source: ``training/patient001/patient001_frame01.nii.gz`` with ``patient001_frame01_gt.nii.gz`` and ``Info.cfg``, which
says which frame is which phase; ``testing/patient101`` and so on in the same form. The four-dimensional files are not
used. Labels: 1 right ventricle, 2 myocardium, 3 left ventricle.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from networks.class_names import HEART
from networks.errors import UserError
from scripts.datasets.source import Source, open_source
from scripts.datasets.splits import Choice, carve, name_list
from scripts.datasets.volumes import read_nifti, turned_like
from scripts.datasets.writer import CaseError, Writer, dataset_writer, reading

LABELS = ("background", *HEART)
PHASES = ("ED", "ES")
OFFICIAL = "testing"
FRAME = re.compile(r"(patient\d{3})_frame(\d+)(_gt)?\.nii(?:\.gz)?")
LISTED = re.compile(r"(?:patient|case)_?(\d{1,3})(?!\d)")  # patient001_frame01, case_001_sliceED_0, case_001_volume_ES
LICENCE = "that of the ACDC challenge (CC BY-NC-SA 4.0), creatis.insa-lyon.fr/Challenge/acdc"


class Patient(NamedTuple):
    """One patient's files.

    Attributes:
        name: patient001.
        group: DCM, HCM, MINF, NOR or RV; "" if unknown.
        frames: the pairs of image and label by ED and ES.
        is_testing: from the challenge's folder ``testing``.
    """

    name: str
    group: str
    frames: dict[str, tuple[Path, Path]]
    is_testing: bool


def convert_acdc(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    validation: Choice | None = None,
    test: Choice | None = None,
    training: Choice | None = None,
    seed: int = 0,
) -> None:
    """Convert both phases of every patient to NIfTI, split by patient.

    Arguments as of the command ``acdc``, where they are described.

    Raises:
        UserError: ``source`` is missing or holds no patient.
        UserError: ``output_dir`` exists and is not empty.
        UserError: a patient in two lists, an unknown patient, or no usable patient for a list.
    """
    description = {"name": "ACDC", "licence": LICENCE, "tensorImageSize": "3D", "modality": {"0": "MR"}}
    with open_source(source) as opened:
        files = opened.files()
        if not any(FRAME.fullmatch(path.name) for path in files):
            raise UserError(
                f"{opened.root} holds no patientXXX_frameYY.nii.gz; give --source the folder with ACDC's training."
            )
        patients, rejected = _find(opened, files)
        lists, about = _split(patients, training, validation, test, seed)
        description["description"] = f"Cine MR of the heart in end diastole (ED) and end systole (ES). {about}"
        required = ["training", *(name for name in ("validation", "test") if lists[name])]
        values = ("MR signal in arbitrary units", None)
        with dataset_writer(output_dir, opened.root, LABELS, required, *values, **description) as writer:
            for file, reason in rejected:
                writer.reject(file, reason)
            work = [(name, patients[p], phase) for name, members in lists.items() for p in members for phase in PHASES]
            for name, patient, phase in tqdm(work, desc="Converting", unit="volume"):
                if phase in patient.frames:
                    _add(opened, writer, name, f"{patient.name}_{phase}", patient.frames[phase])


def _add(source: Source, writer: Writer, name: str, stem: str, paths: tuple[Path, Path]) -> None:
    with writer.rejecting(paths[0]), source.opened(*paths) as (image_path, label_path):
        image = read_nifti(image_path)
        writer.add(name, stem, image, turned_like(read_nifti(label_path), image), paths)


def _find(source: Source, files: Sequence[Path]) -> tuple[dict[str, Patient], list[tuple[Path, str]]]:
    """Patients by name, and the files that cannot be used with the reason."""
    frames: dict[Path, dict[int, dict[str, Path]]] = {}
    for path in files:
        if match := FRAME.fullmatch(path.name):
            kinds = frames.setdefault(path.parent, {}).setdefault(int(match[2]), {})
            kinds["label" if match[3] else "image"] = path
    patients: dict[str, Patient] = {}
    rejected: list[tuple[Path, str]] = []
    for folder, numbered in sorted(frames.items()):
        name = FRAME.fullmatch(next(iter(next(iter(numbered.values())).values())).name)[1]
        if name in patients:
            raise UserError(f"{name} is in several folders, one of them {folder}; give --source one copy of ACDC.")
        try:
            info = _info(source, folder / "Info.cfg")
        except CaseError as error:
            rejected.append((folder, str(error)))
            continue
        pairs = {}
        for number, kinds in sorted(numbered.items()):
            phase = next((p for p in PHASES if info.get(p) == str(number)), None)
            if len(kinds) < 2:
                (path,) = kinds.values()
                rejected.append((path, f"There is no {'label' if 'image' in kinds else 'image'} for it."))
            elif phase is None:
                rejected.append((kinds["image"], f"Info.cfg names frame {number} neither ED nor ES."))
            else:
                pairs[phase] = kinds["image"], kinds["label"]
        patients[name] = Patient(name, info.get("Group", ""), pairs, OFFICIAL in folder.relative_to(source.root).parts)
    return patients, rejected


def _info(source: Source, path: Path) -> dict[str, str]:
    """``Info.cfg``: lines ``ED: 1``, ``ES: 12``, ``Group: DCM`` and others."""
    with source.opened(path) as (local,), reading(path):
        lines = local.read_text("utf-8").splitlines()
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    info = {key.strip(): value.strip() for key, value in entries.items()}
    if not {*PHASES} <= info.keys():
        raise CaseError("Info.cfg does not say which frames are ED and ES.")
    return info


def _split(
    patients: Mapping[str, Patient],
    training: Choice | None,
    validation: Choice | None,
    test: Choice | None,
    seed: int,
) -> tuple[dict[str, list[str]], str]:
    """Patients by list, and a sentence about how they were chosen."""
    official = [name for name, patient in patients.items() if patient.is_testing]
    rest = [name for name in patients if name not in official]
    by_rule = _by_rule([patients[name] for name in rest])
    about = []
    lists = {"training": training, "validation": validation, "test": None if test == OFFICIAL else test}
    # who is named for one list is drawn for no other
    named = {
        option: {_patient_name(name) for name in name_list(choice)}
        for option, choice in lists.items()
        if choice is not None and not isinstance(choice, int | float)
    }

    def choose(option: str, choice: Choice | None, names: Sequence[str]) -> list[str]:
        elsewhere = {name for other, listed in named.items() if other != option for name in listed}
        names = [name for name in names if name not in elsewhere]
        if choice is None:
            about.append(f"{option} by the rule of ten")
            return [name for name in by_rule[option] if name in names]
        about.append(f"{option} by --{option} {choice}")
        if isinstance(choice, int | float):
            about[-1] += f" (seed {seed})"
            return carve(names, choice, seed, option, total=len(rest))
        # A list may name any patient, those of the official test too.
        return carve(list(patients), name_list(choice), seed, option, key=_patient_name)

    if test == OFFICIAL:
        about.append("test is the challenge's")
        chosen_test = sorted(official)
    else:
        chosen_test = choose("test", test, rest)
    left = [name for name in rest if name not in chosen_test]
    chosen_validation = choose("validation", validation, left)
    left = [name for name in left if name not in chosen_validation]
    chosen_training = sorted(left) if training is None else choose("training", training, left)
    chosen = {"training": chosen_training, "validation": chosen_validation, "test": chosen_test}
    for a, b in (("training", "validation"), ("training", "test"), ("validation", "test")):
        common = sorted({*chosen[a]} & {*chosen[b]})
        if common:
            raise UserError(f"{', '.join(common[:5])} would be in {a} and {b}; a patient belongs to one list.")
    return chosen, f"Split by patient: {'; '.join(about)}."


def _by_rule(patients: Sequence[Patient]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    groups: dict[str, list[str]] = {}
    for patient in sorted(patients):
        groups.setdefault(patient.group, []).append(patient.name)
    place = 0
    for group in sorted(groups):
        for name in groups[group]:
            kind = "training" if place % 10 < 7 else "validation" if place % 10 == 7 else "test"
            lists[kind].append(name)
            place += 1
    return {kind: sorted(names) for kind, names in lists.items()}


def _patient_name(line: str) -> str:
    """The patient that a line of a published list is about."""
    match = LISTED.search(line) or re.fullmatch(r"(\d{1,3})", line)
    return f"patient{int(match[1]):03d}" if match else line
