"""A label map back to DICOM: a multi-segment SEG object for the series that was segmented, written with highdicom."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from networks.errors import UserError
from networks.workflow.data import parse_labels
from networks.workflow.files import atomic
from scripts.datasets.dicom import TO_RAS, Geometry, find_series, series_geometry
from scripts.datasets.volumes import read_nifti, turned_like
from scripts.datasets.writer import CaseError, reading

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

MANUFACTURER = "segmentation-bundles"
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


def write_dicom_seg(
    segmentation: str | os.PathLike,
    source: str | os.PathLike,
    labels: str | os.PathLike,
    output: str | os.PathLike,
    algorithm: str = "segmentation network",
) -> None:
    """Write a label map as DICOM SEG that refers to the slices of its series, and read it back to compare.

    Arguments as of the command ``dicom_seg``, where they are described.

    Raises:
        UserError: a file or folder is missing.
        UserError: ``output`` exists.
        UserError: no series, or several, on the label map's grid; a class without a name, or
            nothing but background; highdicom is not installed.
    """
    hd = _highdicom()
    target = Path(str(output))
    if target.exists():
        raise UserError(f"{target} already exists; choose another name or remove it first.")
    names = _class_names(Path(str(labels)))
    geometry, values = _on_series(Path(str(segmentation)), Path(str(source)))
    order = sorted(set(np.unique(values).tolist()) - {0})  # viewers choke on segments without a frame
    if not order:
        raise UserError(f"{segmentation} is background everywhere, so there is no segment to write.")
    unnamed = [number for number in order if number not in names]
    if unnamed:
        raise UserError(
            f"{segmentation} holds the class numbers {unnamed}, which {labels} has no names for; give --labels the "
            "dataset.json or metadata.json that the network was trained with."
        )
    slices = [dcmread(file, stop_before_pixels=True) for file in geometry.files]
    _fill_uids(slices)
    # NIfTI has the column first, DICOM the slice, then the row.
    frames = np.ascontiguousarray(values.transpose(2, 1, 0)).astype(np.uint8)
    numbered = np.zeros(max(order) + 1, np.uint8)  # segments are numbered 1, 2, ... without a gap
    numbered[order] = range(1, len(order) + 1)
    frames = numbered[frames]
    seg = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(number, names[c], algorithm) for number, c in enumerate(order, 1)],
        series_instance_uid=hd.UID(),
        series_number=_next_number(slices),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm[:64],
        software_versions=_version(),
        device_serial_number="0",
        series_description=f"Segmentation: {algorithm}"[:64],
    )
    with atomic(target) as temporary:
        seg.save_as(temporary)
        _compare(temporary, frames, geometry)
    found = ", ".join(f"{names[c]} {int((frames == n).sum())}" for n, c in enumerate(order, 1))
    print(f"Wrote {target}: {len(order)} segments over {len(frames)} slices (voxels: {found}).")


def _highdicom() -> ModuleType:
    try:
        import highdicom
    except ImportError as error:
        raise UserError("DICOM SEG needs highdicom: python -m pip install 'segmentation-bundles[data]'.") from error
    return highdicom


def _class_names(path: Path) -> dict[int, str]:
    """Names by class number, without background."""
    if not path.is_file():
        raise UserError(f"The file with class names {path} does not exist.")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        names = content.get("labels") or content["network_data_format"]["outputs"]["pred"]["channel_def"]
        found = dict(list(enumerate(parse_labels(names, path)))[1:])
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no class names; expected a dataset.json or a bundle's metadata.json.") from error
    if not found or max(found) > 255:
        raise UserError(f"{path} names {len(found)} classes beside the background; expected 1 to 255.")
    return found


def _on_series(segmentation: Path, source: Path) -> tuple[Geometry, np.ndarray]:
    """The series on whose grid the label map lies, and its class numbers turned to that grid (column, row, slice)."""
    for path in (segmentation, source):
        if not path.exists():
            raise UserError(f"{path} does not exist.")
    label = read_nifti(segmentation)
    fitting, others = [], []
    for files in find_series(source)[0]:
        try:
            geometry = series_geometry(files)
        except CaseError as error:
            others.append(f"{files[0].parent.name}: {error}")
            continue
        try:
            fitting.append((geometry, turned_like(label, geometry)))
        except CaseError:
            others.append(f"{files[0].parent.name}: another grid, shape {geometry.shape}")
    if len(fitting) != 1:
        found = "; ".join(others[:5]) or "nothing else"
        raise UserError(
            f"{source} has {len(fitting)} series on the grid of {segmentation}, expected one (also found: {found}); "
            "give --source the folder of the series that was segmented."
        )
    geometry, turned = fitting[0]
    with reading(segmentation):
        values = np.asanyarray(turned.dataobj)
    if (values != np.round(values)).any() or values.min() < 0 or values.max() > 255:
        raise UserError(f"{segmentation} holds other values than class numbers from 0 to 255.")
    return geometry, values.astype(np.uint8)


def uid_notice(image: Dataset) -> str:
    """What the user of a SEG has to know if a slice of its series lacks UIDs, else nothing."""
    missing = [name for name in UIDS if not image.get(name)]
    if not missing:
        return ""
    return (
        f"The series has no {' and '.join(missing)}; the SEG gets new ones, so a viewer may not connect it to the "
        "series by itself."
    )


def _fill_uids(slices: Sequence[Dataset]) -> None:
    """Make up what careless anonymisation left empty, always the same for the same slices, and say so."""
    for image in slices:
        if not image.get("SOPInstanceUID"):
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
        if not image.get("SOPClassUID"):
            image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID
    notice = uid_notice(slices[0])
    for name in [name for name in UIDS if not slices[0].get(name)]:
        uid = generate_uid(entropy_srcs=[name, *(image.SOPInstanceUID for image in slices)])
        for image in slices:
            setattr(image, name, uid)
    if notice:
        print(notice)


def _describe(number: int, name: str, algorithm: str) -> SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    # SNOMED's code where the name is one of DICOM's, else one of our own with the name as its meaning.
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    sides = [word for word in words if word in ("left", "right")]
    keyword = "".join(word.title() for word in words)
    bare = "".join(word.title() for word in words if word not in sides)
    side = None
    if hasattr(codes.SCT, keyword):
        kind = getattr(codes.SCT, keyword)
    elif len(sides) == 1 and hasattr(codes.SCT, bare):
        kind, side = getattr(codes.SCT, bare), getattr(codes.SCT, sides[0].title())
    else:
        kind = hd.sr.CodedConcept("".join(words).upper()[:16] or f"CLASS{number}", "99SEGBUNDLES", name[:64])
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm[:64],
            version=_version(),
            family=codes.DCM.ArtificialIntelligence,
        ),
    )
    if side is not None:
        concept = hd.sr.CodedConcept.from_code(side)
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept]
    return description


def _next_number(slices: Sequence[Dataset]) -> int:
    return int(slices[0].get("SeriesNumber") or 0) + 1000  # beside the scanner's own


def _version() -> str:
    try:
        return version(MANUFACTURER)
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


def _compare(path: Path, frames: np.ndarray, geometry: Geometry) -> None:
    """Read the file and raise RuntimeError unless voxels and places are those that were to be written."""
    import highdicom as hd

    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    # Volume indices are (slice, row, column).
    affine = (TO_RAS @ geometry.affine)[:, [2, 1, 0, 3]]
    grid = hd.VolumeGeometry(affine, frames.shape, coordinate_system="PATIENT")
    if not np.array_equal(volume.match_geometry(grid).array, frames):
        raise RuntimeError(f"{path} does not give the voxels back that were written; please report this.")


def require_highdicom() -> None:
    """Raise UserError where highdicom is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise UserError(
            "DICOM SEG needs highdicom: python -m pip install 'segmentation-bundles[data]', or choose --format nifti."
        )
