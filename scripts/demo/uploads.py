"""Taking over what was uploaded: bounded, without a way out of its folder, and only what stands for itself."""

import math
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from networks.errors import UserError
from networks.workflow.data import NIFTI_SUFFIXES, PICTURE_SUFFIXES, VOLUME_SUFFIXES
from networks.workflow.pictures import image_io, opened_picture
from scripts.datasets.dicom import series_geometry
from scripts.predict.cases import Case
from scripts.zoo.archive import check_places

MAX_FILES = 20_000
MB = 10**6
# MetaImage and NRRD may name other files of this computer that hold their voxels; how their headers end
_META_END = re.compile(rb"^\s*ElementDataFile\b[\s=:]*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_NRRD_END = re.compile(rb"\n\n")
_NRRD_DETACHED = re.compile(rb"^\s*data ?file\s*:", re.IGNORECASE | re.MULTILINE)
_HEADER = 1 << 16


def receive(files: Sequence[str], folder: Path, limit: int) -> Path:
    """Move uploaded files into a folder, zip files unpacked.

    Args:
        files: temporary files under the names that they were uploaded with.
        folder: an empty one.
        limit: bytes that the files, and what is in zip files, may have together.

    Returns:
        What to segment: the file, or the folder if there are several.

    Raises:
        UserError: too much, a damaged zip file, one that would write elsewhere, or voxels in another file.
    """
    paths = [Path(file) for file in files]
    try:
        _check_total(sum(path.stat().st_size for path in paths), len(paths), limit, "The upload")
        for number, path in enumerate(paths):
            if path.suffix.lower() == ".zip":
                _unpack(path, folder / f"{number}_{path.stem}", limit)
                continue
            # files of a series from several folders may share a name
            target = folder / path.name if not (folder / path.name).exists() else folder / f"{number}_{path.name}"
            shutil.move(path, target)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    received = [path for path in folder.rglob("*") if path.is_file()]
    for path in received:
        if path.name == "dataset.json":  # a data set's lists may name any file of this computer
            path.unlink()
        elif not _stands_alone(path):
            raise UserError(f"{path.name} keeps its voxels in another file, or may; convert it to NIfTI.")
    return received[0] if len(received) == 1 and received[0].is_file() else folder


def _stands_alone(path: Path) -> bool:
    """Whether a file holds its own voxels; of a MetaImage or NRRD its header has to say so within its first bytes."""
    name = path.name.lower()
    if not name.endswith(VOLUME_SUFFIXES) or name.endswith(NIFTI_SUFFIXES):
        return True
    with path.open("rb") as file:
        head = file.read(_HEADER)
    # ITK ends lines of NRRD at a lone carriage return too, those of MetaImage only at some places: both readings count
    lines = head.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if name.endswith(".nrrd"):
        end = _NRRD_END.search(lines)
        return end is not None and _NRRD_DETACHED.search(lines, 0, end.end()) is None
    return {end[1].upper() for text in (head, lines) for end in _META_END.finditer(text)} == {b"LOCAL"}


def check_image(case: Case, limit: int) -> None:
    """Refuse, by its header, an image that would fill the memory; one that cannot be read is left to its reader.

    Raises:
        UserError: its values have more than ``limit`` bytes.
        CaseError: as :func:`scripts.datasets.dicom.series_geometry`.
    """
    name, values = case.files[0].lower(), 0
    if case.is_series:
        values = int(np.prod(series_geometry([Path(file) for file in case.files]).shape, dtype=np.int64))
    elif name.endswith(NIFTI_SUFFIXES):
        try:
            values = int(np.prod(nib.load(case.files[0]).shape, dtype=np.int64))
        except Exception:
            return
    elif name.endswith(PICTURE_SUFFIXES):
        try:
            with opened_picture(case.files[0]) as image:
                values = image.width * image.height * 3
        except Exception:
            return
    elif name.endswith(VOLUME_SUFFIXES):
        try:
            io = image_io(Path(case.files[0]))
        except (UserError, RuntimeError):
            return
        values = math.prod(io.GetDimensions(i) for i in range(io.GetNumberOfDimensions())) * io.GetNumberOfComponents()
    if values * 4 > limit:
        raise UserError(
            f"{case.name} has {values * 4 / MB:.0f} MB in memory, but this page takes {limit / MB:.0f} MB; segment it "
            "by python -m scripts.predict, or start the page with a larger --max_mb."
        )


def _unpack(path: Path, target: Path, limit: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_places(path, members)
            # no more than what a member says of its size is ever unpacked
            _check_total(sum(member.file_size for member in members), len(members), limit, path.name)
            archive.extractall(target)
    # zipfile raises NotImplementedError for ways of compression that it does not know, RuntimeError for a password
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise UserError(
            f"{path.name} cannot be unpacked ({error}); zip the folder again, without a password."
        ) from error


def _check_total(size: int, count: int, limit: int, what: str) -> None:
    if size > limit:
        raise UserError(
            f"{what} has {size / MB:.0f} MB, but this page takes {limit / MB:.0f} MB; start it with a larger --max_mb."
        )
    if count > MAX_FILES:
        raise UserError(
            f"{what} has {count} files, but this page takes {MAX_FILES}; give one image or series at a time."
        )
    if count == 0:
        raise UserError(f"{what} holds no files; give one image or series.")
