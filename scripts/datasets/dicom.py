"""DICOM series to a data set of NIfTI volumes for inference, read with ITK's GDCM.

The way back, a label map as DICOM SEG, is in ``scripts/datasets/dicom_seg.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import itk
import nibabel as nib
import numpy as np
from pydicom import Dataset, dcmread
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.files import files_below
from scripts.datasets.volumes import to_nifti
from scripts.datasets.writer import SYNAPSE_RANGE, CaseError, dataset_writer, reading

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's x and y run to the left and the back
TOLERANCE = 0.01  # mm, of slice positions
MAX_UNEVEN = 0.01  # of the distance between slices
NO_SERIES = "is no DICOM file of a series, or it is damaged"
# what GDCM tells series of one folder apart by, as text
DETAILS = ("SeriesInstanceUID", "SeriesNumber", "SequenceName", "SliceThickness", "Rows", "Columns")
NO_IMAGES = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG")


class Geometry(NamedTuple):
    """Where the slices of a series are.

    Attributes:
        files: one per slice, from the first along the normal to the last; or one file with all of them.
        shape: columns, rows, slices.
        affine: (4, 4), from indices (column, row, slice) to millimetres in NIfTI's axes (right, front, head).
        modality: CT, MR, ...
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    modality: str


def convert_dicom(source: str | os.PathLike, output_dir: str | os.PathLike) -> None:
    """Convert every series below a folder to a NIfTI volume in the list ``test``, ready for inference.

    Arguments as of the command ``dicom``, where they are described.

    Raises:
        UserError: ``source`` is missing.
        UserError: ``output_dir`` exists and is not empty.
        UserError: no usable series, or series of several modalities, which no one network takes.
    """
    root = Path(str(source))
    if not root.is_dir():
        raise UserError(f"The folder {root} does not exist; give --source the folder with the DICOM files.")
    series, strangers = find_series(root)
    modality = _common_modality(series)
    unit = ("HU", SYNAPSE_RANGE) if modality == "CT" else (f"{modality} values in arbitrary units", None)
    description = {
        "name": root.resolve().name,
        "description": "DICOM series for inference; there are no labels.",
        "tensorImageSize": "3D",
        "modality": {"0": modality},
    }
    with dataset_writer(output_dir, root, (), ("test",), *unit, **description) as writer:
        for file in strangers:
            kind = _kind(file)
            reason = f"is of the kind {kind}, which is no image" if kind in NO_IMAGES else NO_SERIES
            writer.reject(file, f"It {reason}.")
        for files in tqdm(series, desc="Converting", unit="series"):
            with writer.rejecting(files[0]):
                folder = files[0].parent
                stem = "_".join(folder.relative_to(root).parts) or root.resolve().name
                writer.add("test", stem, read_series(files), None, (files[0],))


def find_series(root: Path) -> tuple[list[tuple[Path, ...]], list[Path]]:
    """The files of every series of images below a folder, and the files that belong to none.

    What archives keep beside the images, such as segmentations, doses and reports, is no series here. Slices whose
    headers write one number in different text, such as "5" and "5.0", are of one series.
    """
    folders: dict[Path, set[Path]] = {}
    for file in files_below(root):
        if file.name != "DICOMDIR":
            folders.setdefault(file.parent, set()).add(file)
    series, strangers = [], []
    for folder, files in sorted(folders.items()):
        generator = itk.GDCMSeriesFileNames.New()
        generator.SetUseSeriesDetails(True)
        generator.SetDirectory(str(folder))
        found: dict[tuple, tuple[Path, ...]] = {}
        for uid in generator.GetSeriesUIDs():
            # GDCM looks into hidden files too
            own = tuple(path for path in map(Path, generator.GetFileNames(uid)) if path in files)
            if own and _kind(own[0]) not in NO_IMAGES:
                details = _details(own[0])
                found[details] = (*found.get(details, ()), *own)
                files -= set(own)
        series += found.values()
        strangers += sorted(files)
    return series, strangers


def read_only_series(folder: Path) -> nib.Nifti1Image:
    """The one series of a folder; raises CaseError if there is none or more than one."""
    series, _ = find_series(folder)
    if len(series) != 1:
        raise CaseError(f"{folder.name} holds {len(series)} DICOM series; expected one.")
    return read_series(series[0])


def read_series(files: Sequence[Path]) -> nib.Nifti1Image:
    """A series as a volume with the rescaled values, such as HU.

    Raises:
        CaseError: damaged, no image, colours, one slice, missing slices, a tilted gantry, or frames in one file that
            differ in more than their place or are in no order.
    """
    geometry = series_geometry(files)
    image = itk.Image[itk.F, 3]
    with reading(geometry.files[0]):
        if len(geometry.files) == 1:
            volume = itk.imread(str(geometry.files[0]), itk.F)
        else:
            reader = itk.ImageSeriesReader[image].New(
                FileNames=[str(file) for file in geometry.files], ImageIO=itk.GDCMImageIO.New()
            )
            reader.Update()
            volume = reader.GetOutput()
    array = itk.array_from_image(volume).T  # ITK's arrays have the slice first
    if array.shape != geometry.shape:
        raise CaseError(f"The slices make a volume of shape {array.shape}; expected {geometry.shape}.")
    return to_nifti(array, geometry.affine)


def series_geometry(files: Sequence[Path]) -> Geometry:
    """Order and place of the slices, from their headers alone.

    Raises:
        CaseError: as :func:`read_series`.
    """
    headers = [_header(file) for file in files]
    first = headers[0]
    for file, header in zip(files, headers, strict=True):
        if header.size != first.size or not np.allclose(header.axes, first.axes, atol=1e-4):
            raise CaseError(f"{file.name} has another size, spacing or orientation than {files[0].name}.")
    # Columns of the rotation are the directions of a row, of a column and the normal of the slices.
    row, column = first.axes[:, 0], first.axes[:, 1]
    normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
    if len(files) == 1:
        if first.size[2] < 2:
            raise CaseError("The series has one slice, so it is a localiser or a picture and not a volume.")
        origins = _frame_origins(files[0], first)
        names = [f"frame {number}" for number in range(1, len(origins) + 1)]
        if (origins[-1] - origins[0]) @ normal < 0:
            normal = -normal  # the frames stay in the order of the file
    elif first.size[2] != 1:
        raise CaseError(f"The series has {len(files)} files with several frames each; expected one slice per file.")
    else:
        origins = np.array([header.origin for header in headers])
        names = [file.name for file in files]
    places = origins @ normal
    order = np.argsort(places)
    steps = np.diff(places[order])
    if steps.min() < TOLERANCE:
        at = order[int(steps.argmin())]
        raise CaseError(f"Several slices lie at the place of {names[at]}; the series holds several volumes.")
    if len(files) == 1 and (np.diff(order) < 0).any():
        raise CaseError("The frames of the file are not in the order of their places; save it as one slice per file.")
    if steps.max() - steps.min() > max(TOLERANCE, MAX_UNEVEN * steps.min()):
        at = order[int(steps.argmax())]
        raise CaseError(
            f"The slices are {steps.min():.2f} to {steps.max():.2f} mm apart, with the widest gap after "
            f"{names[at]}; slices are missing or unevenly spaced."
        )
    start, end = origins[order[0]], origins[order[-1]]
    if np.linalg.norm(np.cross(end - start, normal)) > 0.1 * np.linalg.norm(row):
        raise CaseError("The slices are shifted against each other (a tilted gantry); resample the series first.")
    affine = _affine(row, column, normal * steps.mean(), start)
    shape = (*first.size[:2], len(origins))
    sorted_files = tuple(files) if len(files) == 1 else tuple(files[i] for i in order)
    return Geometry(sorted_files, shape, affine, first.modality)


def _frame_origins(file: Path, header: _Header) -> np.ndarray:
    """Where each frame (frames, 3) of a file with all slices lies: GDCM tells of the first one, and guesses the rest.

    Raises:
        CaseError: it says nothing of that, or frames differ in spacing, orientation or the scale of their values, of
            which GDCM takes those of the first.
    """
    with reading(file):
        data = dcmread(file, stop_before_pixels=True)
    frames = data.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        if "SpacingBetweenSlices" not in data:
            raise CaseError(f"{file.name} does not say where its frames lie, so it is a film and not a volume.")
        return header.origin + np.arange(header.size[2])[:, None] * header.axes[:, 2]
    shared = next(iter(data.get("SharedFunctionalGroupsSequence") or ()), Dataset())

    def told(frame: Dataset, *keywords: str) -> list[Any]:
        """Elements of a functional group, the first keyword, of one frame or of all."""
        group = next(iter(frame.get(keywords[0]) or shared.get(keywords[0]) or ()), Dataset())
        return [group.get(keyword) for keyword in keywords[1:]]

    for group, what in (
        (("PlaneOrientationSequence", "ImageOrientationPatient"), "orientations"),
        (("PixelMeasuresSequence", "PixelSpacing"), "spacings"),
        (("PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept"), "scales of their values"),
    ):
        if any(told(frame, *group) != told(frames[0], *group) for frame in frames):
            raise CaseError(f"The frames of {file.name} have different {what}; save it as one slice per file.")
    origins = [told(frame, "PlanePositionSequence", "ImagePositionPatient")[0] for frame in frames]
    if None in origins or len(origins) != header.size[2]:
        raise CaseError(f"{file.name} does not say where each of its frames lies.")
    return np.array(origins, dtype=float)


def _kind(file: Path) -> str:
    """The modality that a DICOM file states, which ITK tells of images only; nothing of other and damaged files."""
    try:
        return str(dcmread(file, specific_tags=["Modality"], stop_before_pixels=True).get("Modality") or "").strip()
    except Exception:  # there is no common one for all that a damaged file can hold; reading its series says more
        return ""


def _details(file: Path) -> tuple:
    """By what a series is told from the others of its folder: numbers, where GDCM compares texts."""
    try:
        data = dcmread(file, specific_tags=[*DETAILS], stop_before_pixels=True)
        number, thickness = data.get("SeriesNumber"), data.get("SliceThickness")
        given = {
            "SeriesNumber": None if number is None else int(number),
            "SliceThickness": None if thickness is None else round(float(thickness), 2),  # within TOLERANCE
        }
        return tuple(given.get(key, data.get(key)) for key in DETAILS)
    except Exception:  # as in `_kind`
        return (file,)


class _Header(NamedTuple):
    size: tuple[int, int, int]
    axes: np.ndarray  # (3, 3): one step along each index in mm, in columns
    origin: np.ndarray
    modality: str


def _header(file: Path) -> _Header:
    io = itk.GDCMImageIO.New()
    io.SetFileName(str(file))
    try:
        io.ReadImageInformation()
    except RuntimeError as error:
        raise CaseError(f"{file.name} holds no image, or it is damaged.") from error
    tags = io.GetMetaDataDictionary()
    modality = tags["0008|0060"].strip() if tags.HasKey("0008|0060") else ""
    if modality in NO_IMAGES:
        raise CaseError(f"{file.name} is of the kind {modality}, which is no image.")
    if io.GetNumberOfComponents() != 1:
        raise CaseError(f"{file.name} has {io.GetNumberOfComponents()} colours; expected grey values.")
    size = tuple(int(io.GetDimensions(i)) if i < io.GetNumberOfDimensions() else 1 for i in range(3))
    axes = np.array([np.array(io.GetDirection(i)) * io.GetSpacing(i) for i in range(3)]).T
    return _Header(size, axes, np.array([io.GetOrigin(i) for i in range(3)]), modality or "other")


def _affine(row: np.ndarray, column: np.ndarray, step: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3] = np.column_stack([row, column, step, origin])
    return TO_RAS @ affine


def _common_modality(series: Sequence[Sequence[Path]]) -> str:
    found: dict[str, Path] = {}
    for files in series:
        try:
            found.setdefault(_header(files[0]).modality, files[0])
        except CaseError:  # the conversion reports it
            continue
    if len(found) > 1:
        examples = ", ".join(f"{modality} in {file.parent}" for modality, file in sorted(found.items()))
        raise UserError(f"The source holds series of several modalities ({examples}); give --source one of them.")
    return next(iter(found), "other")
