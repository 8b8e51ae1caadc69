"""What every converter shares: streaming, checks of each case, a report, and a folder that appears only when complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
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


class Rejected(ValueError):
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
                f"({len(writer.rejected)} files rejected); nothing was written."
            )
        writer.finish(description)
    counts = ", ".join(f"{len(items)} {name}" for name, items in writer.lists.items())
    print(f"Wrote {output_dir}: {counts}; {len(writer.rejected)} files rejected (see conversion.json).")


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
        self._seen: dict[str, str] = {}  # name of the case by the hash of its image

    def reject(self, file: Path, reason: str) -> None:
        """Note that ``file`` is left out."""
        self.rejected[self._relative(file)] = reason

    @contextlib.contextmanager
    def rejecting(self, file: Path) -> Iterator[None]:
        """Turn an unusable or unreadable case in the block into an entry of the report."""
        try:
            yield
        except Rejected as error:
            self.reject(file, str(error))
        except (OSError, RuntimeError, ValueError, nib.filebasedimages.ImageFileError) as error:
            lines = [line for line in str(error).strip().splitlines() if line] or [type(error).__name__]
            self.reject(file, f"The file or its label cannot be read ({lines[-1][:200]}).")  # ITK's reason comes last

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
            Rejected: shape, grid or label values are wrong, or the image is there already.
        """
        lists = [lists] if isinstance(lists, str) else list(lists)
        counts = self._check(image, label)
        digest = hashlib.sha1(_array(image).tobytes()).hexdigest()
        if digest in self._seen:
            raise Rejected(f"It is the same image as {self._seen[digest]}, so it would count twice or leak.")
        self._seen[digest] = self._relative(sources[0])

        suffix = ".png" if isinstance(image, Image.Image) else ".nii.gz"
        safe = self._safe_name(lists[0], stem, suffix)
        if safe != stem:
            self._renamed[self._relative(sources[0])] = safe
        item = {}
        for kind, folder, data in zip(("image", "label"), _folders(lists[0]), (image, label), strict=True):
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
        """Pixels or voxels by class name; raises ``Rejected`` if image and label do not go together."""
        values = _array(label)
        shape = _array(image).shape[: values.ndim]
        if shape != values.shape:
            raise Rejected(f"The image has shape {shape} but its label has {values.shape}.")
        if isinstance(image, nib.Nifti1Image) and not np.allclose(image.affine, label.affine, atol=AFFINE_TOLERANCE):
            raise Rejected("The image and its label have different affines, so they do not lie on the same grid.")
        numbers, counts = np.unique(values, return_counts=True)
        wrong = [n for n in numbers.tolist() if n not in range(len(self.labels))]
        if wrong:
            listed = ", ".join(f"{n:g}" for n in wrong[:10]) + (", ..." if len(wrong) > 10 else "")
            raise Rejected(f"The label holds the values {listed}; expected 0 to {len(self.labels) - 1}.")
        found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        return {name: found.get(i, 0) for i, name in enumerate(self.labels)}

    def _safe_name(self, list_name: str, stem: str, suffix: str) -> str:
        # Spaces, # and parentheses stay; what Windows refuses or a shell hides does not. A leading % or @ would be
        # taken for a reference when a path is written into a config.
        safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", stem)
        safe = re.sub(r"^[.%@$~-]", "_", safe).rstrip(". ") or "_"
        taken = {Path(item["image"]).name.lower() for item in self.lists.get(list_name, [])}
        name, number = safe, 2
        while f"{name}{suffix}".lower() in taken:
            name, number = f"{safe}_{number}", number + 1
        return name

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.source).as_posix() if file.is_relative_to(self.source) else file.name


def source_folder(source: str | os.PathLike) -> Path:
    """The folder ``source``; raises FileNotFoundError if it is not there."""
    folder = Path(str(source))
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist; give --source the folder with the originals.")
    return folder


def _folders(list_name: str) -> tuple[str, str]:
    return FOLDERS.get(list_name, (f"images_{list_name}", f"labels_{list_name}"))


def _array(data: Savable) -> np.ndarray:
    return np.asarray(data) if isinstance(data, Image.Image) else np.asanyarray(data.dataobj)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
