"""Scans with multi-label files of TotalSegmentator (github.com/wasserth/TotalSegmentator).

The labels are the outputs of that program, not drawings by a person: good for trying readers, orientation and label
mapping, not for claims about accuracy. Without ``--pairs`` the source is the folder of its test files, which hold two
CT patients (``example_ct_sm`` is cut out of ``example_ct``) and one MR patient.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from tqdm import tqdm

from networks.class_names import ORGANS
from networks.errors import UserError, did_you_mean
from scripts.datasets.dicom import read_only_series
from scripts.datasets.volumes import mapped, nifti_stem, read_nifti, to_nifti, turned_like
from scripts.datasets.writer import SYNAPSE_RANGE, CaseError, dataset_writer, reading

# The eight organs of the Synapse papers, in the order of their tables: ids 1 to 8.
SYNAPSE_ORGANS = tuple("_".join(reversed(name.split())) for name in ORGANS)
LISTS = ("training", "validation", "test")
TASKS = {"ct": "total", "mr": "total_mr"}


class Pair(NamedTuple):
    """A scan (NIfTI file or folder with one DICOM series), its label file and the lists that they go to."""

    image: str
    label: str
    lists: tuple[str, ...]


KNOWN_PAIRS = {
    "ct": (
        Pair("example_ct.nii.gz", "example_seg_fast_force_split.nii.gz", ("training",)),
        Pair("example_ct_dicom", "example_seg_dicom.nii.gz", ("validation", "test")),
    ),
    "mr": (Pair("example_mr_sm.nii.gz", "example_seg_mr.nii.gz", ("training",)),),
}
LEFT_OUT = {
    "ct": {"example_ct_sm.nii.gz": "It is cut out of example_ct, the same patient, so it adds nothing."},
    "mr": {},
}
ABOUT_KNOWN = {
    "ct": "Two patients: one for training, the other for both validation and test, so that a test score is not "
    "independent of the choice of the checkpoint.",
    "mr": "One patient.",
}
ABOUT_LABELS = (
    "The labels are outputs of TotalSegmentator, not drawings by a person: "
    "no score against them is evidence of accuracy."
)


def convert_totalsegmentator(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    modality: str = "ct",
    labels: str | os.PathLike | None = None,
    organs: Sequence[str] | str | None = None,
    pairs: str | os.PathLike | None = None,
    allow_same_patient: bool = False,
) -> None:
    """Convert scans with multi-label files to NIfTI with the classes ``organs``; every other label becomes background.

    Arguments as of the command ``totalsegmentator``, where they are described.

    Raises:
        UserError: ``source``, ``labels`` or ``pairs`` is missing.
        UserError: ``output_dir`` exists and is not empty.
        UserError: an unknown modality or organ, a malformed file, or no usable training case.
    """
    folder = Path(str(source))
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist; give --source the folder with the files.")
    if modality not in TASKS:
        raise UserError(f"The modality {modality!r} is unknown; choose ct or mr.")
    organs = [organs] if isinstance(organs, str) else list(organs or SYNAPSE_ORGANS)
    label_ids = _label_ids(Path(labels) if labels else folder / "labels.json", TASKS[modality])
    known = _check_organs(organs, label_ids)
    work = list(KNOWN_PAIRS[modality]) if pairs is None else _read_pairs(Path(pairs))
    about = [ABOUT_LABELS] if pairs else [ABOUT_LABELS, ABOUT_KNOWN[modality]]
    if allow_same_patient:
        empty = tuple(name for name in LISTS if not any(name in pair.lists for pair in work))
        work = [pair._replace(lists=pair.lists + empty) if "training" in pair.lists else pair for pair in work]
        if empty:
            about.append(f"The lists {' and '.join(empty)} repeat the training scans: a score on them measures memory.")
    description = {
        "name": f"TotalSegmentator {modality.upper()}",
        "description": " ".join(about),
        "licence": "Apache-2.0 (the program's test files)" if pairs is None else "that of the source",
        "tensorImageSize": "3D",
        "modality": {"0": modality.upper()},
    }
    names = ["background", *map(_display_name, organs)]
    values = ("HU", SYNAPSE_RANGE) if modality == "ct" else ("MR signal in arbitrary units", None)
    with dataset_writer(output_dir, folder, names, ("training",), *values, **description) as writer:
        for pair in tqdm(work, desc="Converting", unit="scan"):
            with writer.rejecting(folder / pair.image):
                image_path, label_path = folder / pair.image, folder / pair.label
                image = _load(image_path)
                label = mapped(_load(label_path), label_path, known, set(label_ids.values()))
                label = turned_like(label, image)
                writer.add(pair.lists, nifti_stem(image_path), image, label, (image_path, label_path))
        if pairs is None:
            for file, reason in LEFT_OUT[modality].items():
                if (folder / file).exists():
                    writer.reject(folder / file, reason)


def _label_ids(path: Path, task: str) -> dict[str, int]:
    """Ids by name of a task."""
    if not path.is_file():
        raise UserError(f"The label map {path} does not exist; give one with --labels.")
    try:
        ids = {name: int(number) for number, name in json.loads(path.read_text("utf-8"))["label_ids"][task].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is no label map; expected {{"label_ids": {{"{task}": {{id: name}}}}}}.') from error
    return ids


def _check_organs(organs: Sequence[str], label_ids: dict[str, int]) -> dict[int, int]:
    """New class number by label id."""
    for organ in organs:
        if organ not in label_ids:
            hint = did_you_mean(organ, label_ids, "see the label map for its names")
            raise UserError(f"The organ {organ!r} is not in the label map; {hint}")
    if len(set(organs)) != len(organs) or not organs:
        raise UserError("Give --organs at least one name, and each name once.")
    return {label_ids[organ]: number for number, organ in enumerate(organs, 1)}


def _read_pairs(path: Path) -> list[Pair]:
    if not path.is_file():
        raise UserError(f"The list of pairs {path} does not exist.")
    try:
        pairs = [Pair(item["image"], item["label"], (item["list"],)) for item in json.loads(path.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is malformed; expected a list of {{"image", "label", "list"}}.') from error
    for pair in pairs:
        if pair.lists[0] not in LISTS:
            raise UserError(f"{path} puts {pair.image} into {pair.lists[0]!r}; choose from {', '.join(LISTS)}.")
    return pairs


def _display_name(organ: str) -> str:
    """``kidney_left`` -> ``left kidney``, as in the published tables."""
    for side in ("left", "right"):
        if organ.endswith(f"_{side}"):
            organ = f"{side}_{organ.removesuffix(f'_{side}')}"
    return organ.replace("_", " ")


def _load(path: Path) -> nib.Nifti1Image:
    """A NIfTI file, or the one DICOM series of a folder."""
    if not path.exists():
        raise CaseError(f"{path.name} does not exist.")
    if path.is_dir():
        return read_only_series(path)
    image = read_nifti(path)
    with reading(path):
        return to_nifti(np.asanyarray(image.dataobj), image.affine)
