"""What every converter shares: checks of each case, a report, and a folder that appears only when complete."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from networks.errors import UserError
from networks.phantom import new_folder
from networks.workflow.files import write_json
from networks.workflow.geometry import turn

Savable = Image.Image | nib.Nifti1Image
FOLDERS = {
    "training": ("imagesTr", "labelsTr"),
    "validation": ("imagesVa", "labelsVa"),
    "test": ("imagesTs", "labelsTs"),
}
SYNAPSE_RANGE = (-125.0, 275.0)  # HU, the window of the TransUNet line of papers and the default of the configs
MAX_SAMPLES = 1_000_000  # voxels per image that percentiles are taken of


_DAMAGED = (
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
)


class CaseError(UserError):
    """A case that cannot be used, with the reason in one sentence."""


@contextlib.contextmanager
def dataset_writer(
    output_dir: str | os.PathLike,
    source: Path,
    labels: Sequence[str],
    required: Sequence[str] = ("training", "validation", "test"),
    unit: str | None = None,
    intensity_range: Sequence[float] | None = None,
    **description,
) -> Iterator[Writer]:
    """Yield a ``Writer``; write ``dataset.json`` and ``conversion.json`` and put the folder in place at the end.

    Args:
        output_dir: folder to create.
        source: folder that the originals are in; the report names files relative to it.
        labels: class names, background first.
        required: lists that must not be empty.
        unit: what the images' values are, such as HU; None where there is nothing to choose, as for 8-bit pictures.
        intensity_range: values that a config should scale to 0 and 1; by default the medians over the training images
            of the percentiles 0.5 and 99.5.
        **description: further entries of ``dataset.json`` (name, description, licence, tensorImageSize, modality).

    Raises:
        UserError: ``output_dir`` exists and is not an empty folder.
        UserError: a required list stayed empty; nothing is left behind.
    """
    _tell_leftovers(Path(output_dir))
    with new_folder(output_dir) as folder:
        writer = Writer(folder, source, labels)
        yield writer
        for file, reason in writer.rejected.items():
            print(f"Rejected {file}: {reason}", file=sys.stderr)
        for text in writer.warnings:
            print(f"Warning: {text}", file=sys.stderr)
        empty = [name for name in required if not writer.lists.get(name)]
        if empty:
            raise UserError(
                f"{source} gives no usable case for {' and '.join(empty)} "
                f"(files rejected: {len(writer.rejected)}); nothing was written."
            )
        intensity = writer.intensity(unit, intensity_range) if unit else None
        writer.finish({**description, "intensity": intensity} if intensity else description)
    counts = ", ".join(f"{len(items)} {name}" for name, items in writer.lists.items())
    print(f"Wrote {output_dir}: {counts}; files rejected: {len(writer.rejected)} (see conversion.json).")
    if intensity:
        low, high = intensity["intensity_range"]
        print(
            f"The values are {unit}, {intensity['minimum']:g} to {intensity['maximum']:g}: "
            f'pass --intensity_range "[{low:g},{high:g}]" to a config for volumes.'
        )


class Writer:
    """Writes the cases of one data set, one at a time, and keeps the lists and the report.

    Attributes:
        lists: items of ``dataset.json`` by list name.
        rejected: reason by file, relative to the source.
        warnings: sentences about the whole data set.
    """

    def __init__(self, folder: Path, source: Path, labels: Sequence[str]) -> None:
        self.folder = folder
        self.source = source
        self.labels = list(labels)
        self.lists: dict[str, list[dict[str, str]]] = {name: [] for name in FOLDERS}
        self.rejected: dict[str, str] = {}
        self.warnings: list[str] = []
        self._cases: list[dict] = []
        self._renamed: dict[str, str] = {}
        self._seen: dict[str, str] = {}  # original image by the hash of its values
        self._extremes = (np.inf, -np.inf)
        self._percentiles: list[np.ndarray] = []
        self._taken: set[str] = set()  # paths in use, in lower case since some file systems ignore it

    def reject(self, file: Path, reason: str) -> None:
        """Note that ``file`` is left out."""
        self.rejected[self._relative(file)] = reason

    def warn(self, text: str) -> None:
        """Note something about the whole data set that its user has to look at."""
        self.warnings.append(text)

    @contextlib.contextmanager
    def rejecting(self, file: Path) -> Iterator[None]:
        """Turn a ``CaseError`` in the block into an entry of the report; any other error ends the conversion."""
        try:
            yield
        except CaseError as error:
            self.reject(file, str(error))

    def add(
        self, lists: str | Sequence[str], stem: str, image: Savable, label: Savable | None, sources: Sequence[Path]
    ) -> None:
        """Check a case, write it, and enter it in one list or, as the same files, in several.

        A NIfTI image whose voxels were not touched since ``nib.load`` is copied byte for byte.

        Args:
            lists: name or names in ``dataset.json``; the folder is that of the first.
            stem: file name without suffix; characters that some file systems refuse become underscores.
            image: 2D image (saved as PNG) or volume (saved as NIfTI).
            label: class numbers, of the same kind and shape; None for an image to predict on.
            sources: the originals of image and label.

        Raises:
            CaseError: a file is damaged, shape, grid or label values are wrong, or the image is there already.
        """
        lists = [lists] if isinstance(lists, str) else list(lists)
        data = {"image": image} if label is None else {"image": image, "label": label}
        arrays = {}
        for (kind, content), path in zip(data.items(), sources, strict=True):
            with reading(path):
                arrays[kind] = _array(content)
        if not np.isfinite(arrays["image"]).all():
            raise CaseError("The image holds values that are NaN or infinite.")
        counts = None if label is None else self._check(image, label, arrays)
        digest = hashlib.sha1(str(arrays["image"].shape).encode() + arrays["image"].tobytes()).hexdigest()
        if digest in self._seen:
            raise CaseError(f"It is the same image as {self._seen[digest]}, so it would count twice or leak.")
        self._seen[digest] = self._relative(sources[0])
        self._note_values(lists, arrays["image"])

        folders = FOLDERS.get(lists[0], (f"images_{lists[0]}", f"labels_{lists[0]}"))
        safe = self._safe_name(folders[0], stem)
        if safe != stem:
            self._renamed[self._relative(sources[0])] = safe
        item = {}
        for (kind, content), folder in zip(data.items(), folders, strict=False):
            name = f"{folder}/{safe}{_suffix(content)}"
            (self.folder / folder).mkdir(exist_ok=True)
            _save(content, self.folder / name)
            item[kind] = f"./{name}"
        for name in lists:
            self.lists.setdefault(name, []).append(item)
        origin = {f"source_{kind}": self._relative(path) for kind, path in zip(data, sources, strict=True)}
        self._cases.append({**item, "lists": lists, **origin, **({"label_counts": counts} if counts else {})})

    def intensity(self, unit: str, intensity_range: Sequence[float] | None) -> dict:
        """What ``dataset.json`` says about the images' values."""
        measured = np.median(self._percentiles or [self._extremes], axis=0)
        low, high = measured if intensity_range is None else intensity_range
        minimum, maximum = (float(f"{v:.6g}") for v in self._extremes)
        return {
            "unit": unit,
            "minimum": minimum,
            "maximum": maximum,
            "intensity_range": [float(f"{low:.4g}"), float(f"{high:.4g}")],
        }

    def finish(self, description: dict) -> None:
        """Write ``conversion.json`` and, last, ``dataset.json``."""
        report = {
            "cases": self._cases,
            "renamed": self._renamed,
            "rejected": self.rejected,
            "warnings": self.warnings,
        }
        write_json(self.folder / "conversion.json", report)
        numbers = {f"num{name.capitalize()}": len(items) for name, items in self.lists.items()}
        labels = {str(i): name for i, name in enumerate(self.labels)}
        write_json(self.folder / "dataset.json", {**description, "labels": labels, **numbers, **self.lists})

    def _note_values(self, lists: Sequence[str], values: np.ndarray) -> None:
        low, high = self._extremes
        self._extremes = min(low, float(values.min())), max(high, float(values.max()))
        if "training" in lists:
            sample = values.ravel()[:: values.size // MAX_SAMPLES + 1]
            self._percentiles.append(np.percentile(sample, (0.5, 99.5)))

    def _check(self, image: Savable, label: Savable, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        """Pixels or voxels by class name; raises ``CaseError`` if image and label do not go together."""
        values = arrays["label"]
        shape = arrays["image"].shape[: values.ndim]
        if shape != values.shape:
            raise CaseError(f"The image has shape {shape} but its label has {values.shape}.")
        if isinstance(image, nib.Nifti1Image):
            with case_error():
                turn(label.affine, values.shape, image.affine, shape, ("The label", "the image"))
        numbers, counts = np.unique(values, return_counts=True)
        wrong = [n for n in numbers.tolist() if n not in range(len(self.labels))]
        if wrong:
            listed = ", ".join(f"{n:g}" for n in wrong[:10]) + (", ..." if len(wrong) > 10 else "")
            raise CaseError(f"The label holds the values {listed}; expected 0 to {len(self.labels) - 1}.")
        found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        return {name: found.get(i, 0) for i, name in enumerate(self.labels)}

    def _safe_name(self, folder: str, stem: str) -> str:
        # Spaces, # and parentheses stay; what Windows refuses or a shell hides does not. A leading % or @ would be
        # taken for a reference when a path is written into a config.
        safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", stem)
        safe = re.sub(r"^[.%@$~-]", "_", safe).rstrip(". ") or "_"
        name, number = safe, 2
        while f"{folder}/{name}".lower() in self._taken:
            name, number = f"{safe}_{number}", number + 1
        self._taken.add(f"{folder}/{name}".lower())
        return name

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.source).as_posix() if file.is_relative_to(self.source) else file.name


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged ``file`` into a ``CaseError``."""
    try:
        yield
    except UserError as error:  # reports name files, not where a copy of an archive's member lay
        raise CaseError(str(error).replace(str(file), file.name)) from error
    except (OSError, EOFError, RuntimeError, ValueError, *_DAMAGED) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # a full disk is no fault of the file
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[-1].strip()[:200].rstrip(".")  # ITK puts the place in its source first
        raise CaseError(f"{file.name} cannot be read ({reason}).") from error


@contextlib.contextmanager
def case_error() -> Iterator[None]:
    """Turn a mistake in one case into a ``CaseError``, which leaves the case out and not the data set."""
    try:
        yield
    except UserError as error:
        raise CaseError(str(error)) from error


def _tell_leftovers(output_dir: Path) -> None:
    left = sorted(output_dir.absolute().parent.glob(f".{glob.escape(output_dir.name)}.*.tmp"))
    if left:
        names = ", ".join(str(path) for path in left)
        print(f"Left by a conversion that was killed, or is still running: {names}. Delete what is not in use.")


def _suffix(content: Savable) -> str:
    if isinstance(content, Image.Image):
        return ".png"
    return ".nii" if _is_untouched(content) and content.get_filename().endswith(".nii") else ".nii.gz"


def _is_untouched(image: nib.Nifti1Image) -> bool:
    return nib.is_proxy(image.dataobj) and str(image.get_filename()).endswith((".nii", ".nii.gz"))


def _save(content: Savable, path: Path) -> None:
    if isinstance(content, Image.Image):
        content.save(path)
    elif _is_untouched(content):
        shutil.copyfile(content.get_filename(), path)
    else:
        nib.save(content, path)


def _array(data: Savable) -> np.ndarray:
    return np.asarray(data) if isinstance(data, Image.Image) else np.asanyarray(data.dataobj)
