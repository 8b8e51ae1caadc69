"""Synapse multi-organ CT: the 30 labelled scans of "Beyond the Cranial Vault" (BTCV, synapse.org, syn3193805).

Two forms are read. The challenge's NIfTI files: ``averaged-training-images/img0001.nii.gz`` with
``averaged-training-labels/label0001.nii.gz``, or ``RawData/Training/img`` and ``label``. And what the TransUNet line of
papers preprocessed from them: ``train_npz/case0005_slice000.npz`` and ``test_vol_h5/case0001.npy.h5``, keys ``image``
(clipped to [-125, 275] HU and scaled to [0, 1]) and ``label``.

The 18 training and 12 test cases are those of these papers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from networks.class_names import ORGANS
from networks.errors import UserError
from scripts.datasets.source import Source, open_source
from scripts.datasets.splits import Choice, carve, is_file
from scripts.datasets.volumes import mapped, mapped_values, read_nifti, to_nifti, turned_like
from scripts.datasets.writer import SYNAPSE_RANGE, CaseError, Writer, dataset_writer, reading

TEST_CASES = ("0001", "0002", "0003", "0004", "0008", "0022", "0025", "0029", "0032", "0035", "0036", "0038")
BTCV_ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
BTCV_IDS = {name: number for number, name in enumerate(BTCV_ORGANS, 1)}
PAPER_IDS = {name: number for number, name in enumerate(ORGANS, 1)}  # of the preprocessed files with eight organs
RAW = re.compile(r"(img|label)(\d{4})\.nii(?:\.gz)?")
SLICE = re.compile(r"case(\d{4})_slice(\d+)\.npz")
VOLUME = re.compile(r"case(\d{4})\.npy\.h5")
LICENCE = "that of the BTCV challenge (synapse.org, syn3193805): registration needed, no redistribution"

OrganMap = dict[str, tuple[int, ...]]
"""Original label ids by class name, in the order of the classes 1, 2, ..."""


def convert_synapse(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    organs: int | str | Mapping[str, Any] = 8,
    validation: Choice = 3,
    seed: int = 0,
) -> None:
    """Convert BTCV scans, or the TransUNet line's files, to NIfTI volumes with the papers' 18/12 split.

    Arguments as of the command ``synapse``, where they are described.

    Raises:
        UserError: ``source`` is missing or holds neither form.
        UserError: ``output_dir`` exists and is not empty.
        UserError: both forms at once, an impossible organ map or validation, or no usable case for a list.
    """
    with open_source(source) as opened:
        raw, slices, volumes = _find(opened)
        if bool(raw) == bool(slices or volumes):
            what = "both forms" if raw else "neither imgXXXX.nii.gz with labelXXXX.nii.gz nor caseXXXX_sliceYYY.npz"
            raise UserError(
                f"{opened.root} holds {what}; give --source the folder with BTCV's NIfTI files, or the one with "
                "train_npz and test_vol_h5."
            )
        ids = BTCV_IDS if raw else _ids_of_preprocessed(opened, slices, volumes)
        organ_map = _organ_map(organs, ids)
        cases = sorted(raw or {*slices, *volumes})
        training = [case for case in cases if case not in TEST_CASES]
        chosen = carve(training, validation, seed, key=_case_number)
        lists = {case: "validation" if case in chosen else "training" for case in training}
        description = {
            "name": "Synapse multi-organ CT",
            "description": _about(bool(raw), chosen, len(training), validation, seed),
            "licence": LICENCE,
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            **({} if raw else {"spacing": "unknown"}),
        }
        values = ("HU", SYNAPSE_RANGE) if raw else ("HU clipped to [-125, 275] and scaled to [0, 1]", (0.0, 1.0))
        required = ("training", "validation", "test") if chosen else ("training", "test")
        names = ["background", *organ_map]
        with dataset_writer(output_dir, opened.root, names, required, *values, **description) as writer:
            converter = _Converter(opened, writer, organ_map, set(ids.values()))
            for case in tqdm(cases, desc="Converting", unit="case"):
                name = lists.get(case, "test")
                if raw:
                    converter.add_raw(case, name, raw[case])
                elif name == "test":
                    converter.add_volume(case, volumes.get(case), slices.get(case, {}))
                else:
                    converter.add_slices(case, name, slices.get(case, {}), volumes.get(case))
            converter.check_liver()


class _Converter:
    """Adds cases in either form to the data set and counts the voxels of every class."""

    def __init__(self, source: Source, writer: Writer, organ_map: OrganMap, known: set[int]) -> None:
        self.source, self.writer, self.known = source, writer, known
        self.names = list(organ_map)
        self.numbers = {i: number for number, ids in enumerate(organ_map.values(), 1) for i in ids}
        self._voxels = np.zeros(len(self.names) + 1, np.int64)

    def add_raw(self, case: str, name: str, files: Mapping[str, Path]) -> None:
        """A NIfTI image with its label."""
        if set(files) != {"img", "label"}:
            (path,) = files.values()
            missing = "label" if "img" in files else "image"
            self.writer.reject(path, f"There is no {missing} for it.")
            return
        paths = files["img"], files["label"]
        with self.writer.rejecting(paths[0]), self.source.opened(*paths) as (image_path, label_path):
            image = read_nifti(image_path)
            label = mapped(read_nifti(label_path), paths[1], self.numbers, self.known)
            self._add(name, case, image, turned_like(label, image), paths)

    def add_volume(self, case: str, path: Path | None, slices: Mapping[int, Path]) -> None:
        """A test case's HDF5 file; slices of a test case are left out."""
        for file in slices.values():
            self.writer.reject(file, "It is of a test case, so it must not be trained on.")
        if path is None:
            return
        with self.writer.rejecting(path), self.source.opened(path) as (local,):
            self._add_arrays("test", case, *_read_h5(local), (path, path))

    def add_slices(self, case: str, name: str, slices: Mapping[int, Path], volume: Path | None) -> None:
        """The slices of a case as one volume; a damaged or missing one is reported and left out."""
        if volume is not None:
            self.writer.reject(volume, "It is of a training case, so it must not be tested on.")
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for number in range(max(slices, default=-1) + 1):
            if number not in slices:
                path = next(iter(slices.values())).with_name(f"case{case}_slice{number:03d}.npz")
                self.writer.reject(path, "It is missing, so the volume has a gap there.")
                continue
            with self.writer.rejecting(slices[number]), self.source.opened(slices[number]) as (local,):
                pair = _read_npz(local)
                if pair[0].shape != pair[1].shape:
                    raise CaseError(f"The label has shape {pair[1].shape}, the image {pair[0].shape}.")
                if found and pair[0].shape != found[0][0].shape:
                    raise CaseError(f"The slice has shape {pair[0].shape}; the first has {found[0][0].shape}.")
                found.append(pair)
        if found:
            first = next(iter(slices.values()))
            with self.writer.rejecting(first):
                images, labels = (np.stack(arrays) for arrays in zip(*found, strict=True))
                self._add_arrays(name, case, images, labels, (first, first))

    def check_liver(self) -> None:
        """Warn if the class called liver is not the largest organ, since ids may be numbered in another order."""
        largest = self.names[int(self._voxels[1:].argmax())]
        if "liver" in self.names and largest != "liver" and self._voxels.any():
            text = (
                f"The largest organ is {largest} and not the liver, so the ids of the source are probably in another "
                "order; look at the contact sheet of 'check' and give --organs a map of its ids."
            )
            self.writer.warn(text)

    def _add_arrays(self, name: str, case: str, image: np.ndarray, label: np.ndarray, paths: Sequence[Path]) -> None:
        """Arrays (slice, row, column) as volumes (row, column, slice) without a known spacing."""
        if image.ndim != 3 or image.shape != label.shape:
            raise CaseError(f"The image has shape {image.shape} and its label {label.shape}; expected equal volumes.")
        if image.min() < 0 or image.max() > 1:
            raise CaseError(f"The image's values are {image.min():g} to {image.max():g}; expected 0 to 1.")
        label = mapped_values(label, self.numbers, self.known)
        volumes = [to_nifti(np.moveaxis(array, 0, -1), np.eye(4)) for array in (image.astype(np.float32), label)]
        for volume in volumes:
            volume.header.set_xyzt_units("unknown")
        self._add(name, case, *volumes, paths)

    def _add(self, name: str, case: str, image: nib.Nifti1Image, label: nib.Nifti1Image, paths: Sequence[Path]) -> None:
        self.writer.add(name, f"case{case}", image, label, paths)
        self._voxels += np.bincount(np.asanyarray(label.dataobj).ravel(), minlength=len(self._voxels))


def _find(
    source: Source,
) -> tuple[dict[str, dict[str, Path]], dict[str, dict[int, Path]], dict[str, Path]]:
    """Raw files by case and kind, slices by case and number, volumes by case."""
    raw: dict[str, dict[str, Path]] = {}
    slices: dict[str, dict[int, Path]] = {}
    volumes: dict[str, Path] = {}
    for path in source.files():
        if match := RAW.fullmatch(path.name):
            target, key = raw.setdefault(match[2], {}), match[1]
        elif match := SLICE.fullmatch(path.name):
            target, key = slices.setdefault(match[1], {}), int(match[2])
        elif match := VOLUME.fullmatch(path.name):
            target, key = volumes, match[1]
        else:
            continue
        if key in target:
            raise UserError(f"{path} and {target[key]} are of the same case; give --source one folder of them.")
        target[key] = path
    return raw, slices, volumes


def _ids_of_preprocessed(
    source: Source, slices: Mapping[str, Mapping[int, Path]], volumes: Mapping[str, Path]
) -> dict[str, int]:
    """The papers' eight ids, or BTCV's thirteen if any label goes beyond eight."""
    readers = [(path, _read_npz) for numbered in slices.values() for path in numbered.values()]
    readers += [(path, _read_h5) for path in volumes.values()]
    for path, read in tqdm(readers, desc="Looking at labels", unit="file", leave=False):
        try:
            with source.opened(path) as (local,):
                if read(local, ("label",))[0].max() > len(ORGANS):
                    return BTCV_IDS
        except CaseError:  # the conversion reports it
            continue
    return PAPER_IDS


def _organ_map(organs: int | str | Mapping[str, Any], ids: Mapping[str, int]) -> OrganMap:
    if str(organs) in ("8", "13"):
        names = ORGANS if str(organs) == "8" else BTCV_ORGANS
        missing = [name for name in names if name not in ids]
        if missing:
            raise UserError(f"The labels of the source have eight organs, not {', '.join(missing)}; give --organs 8.")
        return {name: (ids[name],) for name in names}
    try:
        if isinstance(organs, str):
            organs = json.loads(Path(organs).read_text("utf-8") if is_file(organs) else organs)
        result = {str(k): tuple(int(i) for i in (v if isinstance(v, list | tuple) else [v])) for k, v in organs.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f'--organs is {organs!r}; expected 8, 13, or JSON (or a file) such as {{"liver": 6, "kidney": [2, 3]}}.'
        ) from error
    used = [i for numbers in result.values() for i in numbers]
    unknown = sorted(set(used) - set(ids.values()))
    if not used or unknown or len(set(used)) != len(used):
        raise UserError(f"--organs must name each id of the source at most once, from 1 to {max(ids.values())}.")
    return result


def _case_number(name: str) -> str:
    """``5``, ``0005``, ``case0005_slice012`` -> ``0005``."""
    match = re.search(r"\d+", name)
    return f"{int(match[0]):04d}" if match else name


def _read_npz(path: Path, keys: Sequence[str] = ("image", "label")) -> list[np.ndarray]:
    with reading(path), np.load(path, allow_pickle=False) as content:
        return list(_arrays(path, content, keys))


def _read_h5(path: Path, keys: Sequence[str] = ("image", "label")) -> list[np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise UserError("test_vol_h5 needs h5py: python -m pip install 'segmentation-bundles[data]'.") from error
    with reading(path), h5py.File(path, "r") as content:
        return list(_arrays(path, content, keys))


def _arrays(path: Path, content: Mapping[str, Any], keys: Sequence[str]) -> Iterator[np.ndarray]:
    for key in keys:
        if key not in content:
            raise CaseError(f"{path.name} has no {key!r} but {', '.join(content)}; expected the keys image and label.")
        array = np.asarray(content[key])
        if array.size == 0 or not np.isfinite(array).all():
            raise CaseError(f"{path.name} has an empty {key} or one with values that are NaN or infinite.")
        yield array


def _about(raw: bool, chosen: Sequence[str], available: int, validation: Choice, seed: int) -> str:
    how = f" (--validation {validation}, seed {seed})" if isinstance(validation, int | float) else ""
    parts = [
        "BTCV abdomen CT with the 18/12 split of the TransUNet line of papers.",
        f"Validation: {', '.join(chosen) or 'none'}, carved from the {available} training cases{how}.",
    ]
    if not raw:
        parts.append(
            "From the preprocessed npz and h5 files: spacing, origin and orientation are unknown, so the affine is the "
            "identity and distances are in voxels."
        )
    return " ".join(parts)
