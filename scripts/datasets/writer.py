"""What every converter shares: checks of each case, a report, and a folder that appears only when complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from networks.phantom import new_folder

Savable = Image.Image | nib.Nifti1Image
FOLDERS = {
    "training": ("imagesTr", "labelsTr"),
    "validation": ("imagesVa", "labelsVa"),
    "test": ("imagesTs", "labelsTs"),
}
AFFINE_TOLERANCE = 1e-3  # mm


class CaseError(ValueError):
    """A case that cannot be used, with the reason in one sentence."""


@contextlib.contextmanager
def dataset_writer(
    output_dir: str | os.PathLike,
    source: Path,
    labels: Sequence[str],
    required: Sequence[str] = ("training", "validation", "test"),
    **description,
) -> Iterator[Writer]:
    """Yield a ``Writer``; write ``dataset.json`` and ``conversion.json`` and put the folder in place at the end.

    Args:
        output_dir: folder to create.
        source: folder that the originals are in; the report names files relative to it.
        labels: class names, background first.
        required: lists that must not be empty.
        **description: further entries of ``dataset.json`` (name, description, licence, tensorImageSize, modality).

    Raises:
        FileExistsError: ``output_dir`` exists and is not an empty folder.
        ValueError: a required list stayed empty; nothing is left behind.
    """
    with new_folder(output_dir) as folder:
        writer = Writer(folder, source, labels)
        yield writer
        for file, reason in writer.rejected.items():
            print(f"Rejected {file}: {reason}", file=sys.stderr)
        empty = [name for name in required if not writer.lists.get(name)]
        if empty:
            raise ValueError(
                f"{source} gives no usable case for {' and '.join(empty)} "
                f"(files rejected: {len(writer.rejected)}); nothing was written."
            )
        writer.finish(description)
    counts = ", ".join(f"{len(items)} {name}" for name, items in writer.lists.items())
    print(f"Wrote {output_dir}: {counts}; files rejected: {len(writer.rejected)} (see conversion.json).")


class Writer:
    """Writes the cases of one data set, one at a time, and keeps the lists and the report.

    Attributes:
        lists: items of ``dataset.json`` by list name.
        rejected: reason by file, relative to the source.
    """

    def __init__(self, folder: Path, source: Path, labels: Sequence[str]) -> None:
        self.folder = folder
        self.source = source
        self.labels = list(labels)
        self.lists: dict[str, list[dict[str, str]]] = {name: [] for name in FOLDERS}
        self.rejected: dict[str, str] = {}
        self._cases: list[dict] = []
        self._renamed: dict[str, str] = {}
        self._seen: dict[str, str] = {}  # original image by the hash of its values
        self._taken: set[str] = set()  # paths in use, in lower case since some file systems ignore it

    def reject(self, file: Path, reason: str) -> None:
        """Note that ``file`` is left out."""
        self.rejected[self._relative(file)] = reason

    @contextlib.contextmanager
    def rejecting(self, file: Path) -> Iterator[None]:
        """Turn a ``CaseError`` in the block into an entry of the report; any other error ends the conversion."""
        try:
            yield
        except CaseError as error:
            self.reject(file, str(error))

    def add(
        self, lists: str | Sequence[str], stem: str, image: Savable, label: Savable, sources: Sequence[Path]
    ) -> None:
        """Check a case, write it, and enter it in one list or, as the same files, in several.

        Args:
            lists: name or names in ``dataset.json``; the folder is that of the first.
            stem: file name without suffix; characters that some file systems refuse become underscores.
            image: 2D image (saved as PNG) or volume (saved as NIfTI).
            label: class numbers, of the same kind and shape.
            sources: the original image and label.

        Raises:
            CaseError: shape, grid or label values are wrong, or the image is there already.
        """
        lists = [lists] if isinstance(lists, str) else list(lists)
        counts = self._check(image, label)
        digest = hashlib.sha1(_array(image).tobytes()).hexdigest()
        if digest in self._seen:
            raise CaseError(f"It is the same image as {self._seen[digest]}, so it would count twice or leak.")
        self._seen[digest] = self._relative(sources[0])

        suffix = ".png" if isinstance(image, Image.Image) else ".nii.gz"
        folders = FOLDERS.get(lists[0], (f"images_{lists[0]}", f"labels_{lists[0]}"))
        safe = self._safe_name(folders[0], stem)
        if safe != stem:
            self._renamed[self._relative(sources[0])] = safe
        item = {}
        for kind, folder, data in zip(("image", "label"), folders, (image, label), strict=True):
            path = self.folder / folder / f"{safe}{suffix}"
            path.parent.mkdir(exist_ok=True)
            data.save(path) if isinstance(data, Image.Image) else nib.save(data, path)
            item[kind] = f"./{folder}/{safe}{suffix}"
        for name in lists:
            self.lists.setdefault(name, []).append(item)
        origin = dict(zip(("source_image", "source_label"), map(self._relative, sources), strict=True))
        self._cases.append({**item, "lists": lists, **origin, "label_counts": counts})

    def finish(self, description: dict) -> None:
        """Write ``conversion.json`` and, last, ``dataset.json``."""
        report = {"cases": self._cases, "renamed": self._renamed, "rejected": self.rejected}
        _write_json(self.folder / "conversion.json", report)
        numbers = {f"num{name.capitalize()}": len(items) for name, items in self.lists.items()}
        labels = {str(i): name for i, name in enumerate(self.labels)}
        _write_json(self.folder / "dataset.json", {**description, "labels": labels, **numbers, **self.lists})

    def _check(self, image: Savable, label: Savable) -> dict[str, int]:
        """Pixels or voxels by class name; raises ``CaseError`` if image and label do not go together."""
        values = _array(label)
        shape = _array(image).shape[: values.ndim]
        if shape != values.shape:
            raise CaseError(f"The image has shape {shape} but its label has {values.shape}.")
        if isinstance(image, nib.Nifti1Image) and not np.allclose(image.affine, label.affine, atol=AFFINE_TOLERANCE):
            raise CaseError("The image and its label have different affines, so they do not lie on the same grid.")
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
    except CaseError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[-1].strip()[:200].rstrip(".")  # ITK puts the place in its source first
        raise CaseError(f"{file.name} cannot be read ({reason}).") from error


def source_folder(source: str | os.PathLike) -> Path:
    """The folder ``source``; raises FileNotFoundError if it is not there."""
    folder = Path(str(source))
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist; give --source the folder with the originals.")
    return folder


def _array(data: Savable) -> np.ndarray:
    return np.asarray(data) if isinstance(data, Image.Image) else np.asanyarray(data.dataobj)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
