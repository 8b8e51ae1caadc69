"""The Medical Segmentation Decathlon (Antonelli et al., Nature Communications 13, 4128 (2022)): any of its ten tasks.

Source: a folder such as ``Task09_Spleen`` with its ``dataset.json``, or the ``.tar`` that it comes in. The published
test images have no labels, so validation and test are carved from the labelled training cases.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.apps import DecathlonDataset, download_url
from monai.apps.utils import HashCheckError
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.data import parse_labels
from scripts.datasets.source import Source, open_source
from scripts.datasets.splits import Choice, carve_both
from scripts.datasets.volumes import nifti_stem, read_nifti, turned_like
from scripts.datasets.writer import SYNAPSE_RANGE, CaseError, dataset_writer, reading

FORMAT = 'expected {"labels": {"0": name, ...}, "modality": {"0": name}, "training": [{"image", "label"}]}'


def convert_msd(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    channel: int | str | None = None,
    validation: Choice = 0.1,
    test: Choice = 0.2,
    seed: int = 0,
    download: str | None = None,
) -> None:
    """Convert a task: the labelled cases, voxel for voxel, in training, validation and test.

    Arguments as of the command ``msd``, where they are described.

    Raises:
        UserError: ``source`` is missing or holds no task, or the download failed.
        UserError: ``output_dir`` exists and is not empty.
        UserError: a malformed ``dataset.json``, an unknown channel or case, or no usable case for a list.
    """
    with open_source(_download(download, Path(str(source))) if download else source) as opened:
        root = _task_folder(opened)
        task = _read_task(opened, root / "dataset.json")
        modality = {int(number): str(name) for number, name in task["modality"].items()}
        kept = None if channel is None else _channel(channel, modality)
        names = parse_labels(task["labels"], root / "dataset.json")
        cases = _cases(task["training"], root / "dataset.json")
        validated, tested = carve_both(list(cases), validation, test, seed, key=_stem)
        lists = dict.fromkeys(tested, "test") | dict.fromkeys(validated, "validation")
        used = modality if kept is None else {0: modality[kept]}
        description = {
            "name": str(task.get("name", root.name)),
            "description": f"{task.get('description', '')} Medical Segmentation Decathlon; {len(validated)} cases for "
            f"validation and {len(tested)} for the test carved from the {len(cases)} labelled ones (seed {seed}). The "
            "published test images have no labels and are left out.",
            "licence": str(task.get("licence", "CC-BY-SA 4.0")),
            "tensorImageSize": "3D" if len(used) == 1 else "4D",
            "modality": {str(number): name for number, name in used.items()},
        }
        is_ct = all(name.upper() == "CT" for name in used.values())
        values = ("HU", SYNAPSE_RANGE) if is_ct else (f"{', '.join(used.values())} in arbitrary units", None)
        required = ["training", *(["validation"] if validated else []), *(["test"] if tested else [])]
        with dataset_writer(output_dir, opened.root, names, required, *values, **description) as writer:
            for stem, item in tqdm(sorted(cases.items()), desc=f"Converting {root.name}", unit="case"):
                paths = root / item["image"], root / item["label"]
                with writer.rejecting(paths[0]), opened.opened(*paths) as local:
                    image = _image(local[0], len(modality), kept)
                    label = turned_like(read_nifti(local[1]), image)
                    writer.add(lists.get(stem, "training"), stem, image, label, paths)


def _download(task: str, folder: Path) -> Path:
    """The task's tar below ``folder``, fetched unless a whole one is there."""
    resources = DecathlonDataset.resource
    if task not in resources:
        raise UserError(f"The task {task!r} is unknown; choose {', '.join(resources)}.")
    target = folder / f"{task}.tar"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        download_url(resources[task], target, DecathlonDataset.md5[task], hash_type="md5", progress=True)
    except (OSError, RuntimeError, HashCheckError) as error:
        raise UserError(
            f"{task} could not be fetched from {resources[task]} ({error}); fetch it on a machine with a network and "
            f"give the file as --source, without --download. If {target} exists, it is damaged: delete it."
        ) from error
    return target


def _task_folder(source: Source) -> Path:
    found = sorted({path.parent for path in source.files() if path.name == "dataset.json"})
    if len(found) != 1:
        listed = ", ".join(str(path) for path in found[:5]) or "none"
        raise UserError(
            f"{source.root} holds {len(found)} folders with a dataset.json ({listed}); give --source one task, such as "
            "Task09_Spleen or Task09_Spleen.tar."
        )
    return found[0]


def _read_task(source: Source, path: Path) -> dict:
    try:
        with source.opened(path) as (local,), reading(path):
            task = json.loads(local.read_text("utf-8-sig"))
        paths = [Path(item[key]) for item in task["training"] for key in ("image", "label")]
        if not paths or not task["labels"] or not task["modality"]:
            raise KeyError
        if any(p.is_absolute() or ".." in p.parts for p in paths):
            raise ValueError
    except (CaseError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a Decathlon task; {FORMAT}.") from error
    return task


def _cases(items: Sequence[Mapping[str, str]], path: Path) -> dict[str, Mapping[str, str]]:
    """The labelled cases by the names of their images."""
    cases: dict[str, Mapping[str, str]] = {}
    for item in items:
        other = cases.setdefault(nifti_stem(Path(item["image"])), item)
        if other is not item:
            raise UserError(
                f"{path} lists {other['image']} and {item['image']}, which would be one case by their name; rename the "
                "files and correct their names there, or convert them with 'folder'."
            )
    return cases


def _channel(channel: int | str, modality: dict[int, str]) -> int:
    by_name = {name.lower(): number for number, name in modality.items()}
    number = by_name.get(str(channel).lower(), channel)
    if number not in modality:
        listed = ", ".join(f"{number} ({name})" for number, name in modality.items())
        raise UserError(f"--channel {channel} is not one of the task's channels: {listed}.")
    return int(number)


def _image(path: Path, channels: int, kept: int | None) -> nib.Nifti1Image:
    """The image with all its channels or one, in the type that it is stored in."""
    image = read_nifti(path, (3, 4))
    found = image.shape[3] if image.ndim == 4 else 1
    if found != channels:
        raise CaseError(f"{path.name} has {found} channels; the task's dataset.json names {channels}.")
    if image.ndim == 3 or kept is None:
        return image
    with reading(path):
        # Only this channel's voxels are read from the disk where the file is not compressed.
        array = np.asanyarray(image.dataobj[..., kept])
    return nib.Nifti1Image(array, image.affine, image.header, dtype=array.dtype)


def _stem(name: str) -> str:
    return nifti_stem(Path(name))
