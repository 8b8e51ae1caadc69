"""The micrographs of Stuckner, Harder and Smith, npj Computational Materials 8, 200 (2022).

Source: the folder of one set in ``benchmark_segmentation_data`` of github.com/nasa/pretrained-microscopy-models (MIT).
``<set>/<split>`` holds the images and ``<set>/<split>_annot`` the annotations.

- Super1 to Super4 (Ni superalloys): ``X.tif`` goes with ``X_mask.tif``, which is the micrograph itself with pure blue
  painted over the secondary and pure red over the tertiary precipitates. The rest, in its grey values, is matrix.
- EBC1 to EBC3 (barrier coatings): the annotation has the image's name and holds 0 background, 1 oxide layer, 2 crack
  in it. The authors score the oxide alone; both classes are kept here, so a score has to say what it counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from networks.phantom import PHASES
from scripts.datasets.images import IMAGE_SUFFIXES, read_pixels, to_8_bit
from scripts.datasets.writer import CaseError, dataset_writer, source_folder

SPLITS = {"train": "training", "val": "validation", "test": "test"}
MASK = "_mask"
LICENCE = "MIT (github.com/nasa/pretrained-microscopy-models)"
MIN_COMMON_GREY = 0.99  # share of unpainted pixels that equal the image's; all of them do in the published sets


def convert_nasa(source: str | os.PathLike, output_dir: str | os.PathLike) -> None:
    """Convert one set: 8-bit RGB PNG images and indexed PNG labels, one list per split of the original.

    ``different_test`` (other alloys and voltages) becomes a list of its own.

    Args:
        source: folder of one set, such as ``benchmark_segmentation_data/Super1``.
        output_dir: folder to create.

    Raises:
        FileNotFoundError: ``source`` or one of its split folders is missing.
        FileExistsError: ``output_dir`` exists and is not empty.
        ValueError: a split has no usable pair.
    """
    folder = source_folder(source)
    missing = [f"{split}{end}" for split in SPLITS for end in ("", "_annot") if not (folder / f"{split}{end}").is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no folder {' or '.join(missing)}; give --source the folder of one set, such as Super1."
        )
    splits = {name: name for name in _annotated(folder)} | SPLITS
    painted = any(p.stem.endswith(MASK) for split in splits for p in _files(folder / f"{split}_annot"))
    suffix, read_label, labels = (
        (MASK, _painted_label, ("matrix", *PHASES)) if painted else ("", _index_label, ("background", "oxide", "crack"))
    )
    description = {
        "name": folder.name,
        "description": f"Electron micrographs, {'Ni superalloy' if painted else 'environmental barrier coating'}, "
        "Stuckner et al., npj Comput. Mater. 8, 200 (2022). 16-bit files were brought to 8 bit by round(v / 257).",
        "licence": LICENCE,
        "tensorImageSize": "2D",
        "modality": {"0": "SEM"},
    }
    with dataset_writer(output_dir, folder, labels, **description) as writer:
        work = []
        for split, name in splits.items():
            pairs, unpaired = _pairs(folder, split, suffix)
            work += [(name, image, label) for image, label in pairs]
            for file, reason in unpaired:
                writer.reject(file, reason)
        for name, image_path, label_path in tqdm(work, desc=f"Converting {folder.name}", unit="image"):
            with writer.rejecting(image_path):
                image, label = _convert(image_path, label_path, read_label)
                writer.add(name, image_path.stem, image, label, (image_path, label_path))


def _annotated(folder: Path) -> list[str]:
    """Names of the folders that have a folder of annotations beside them."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.with_name(f"{p.name}_annot").is_dir())


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _pairs(folder: Path, split: str, suffix: str) -> tuple[list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """Pairs of image and annotation of a split, and the files without a partner with the reason."""
    unpaired = []
    found: list[dict[str, Path]] = []
    for directory, end in ((folder / split, ""), (folder / f"{split}_annot", suffix)):
        by_stem: dict[str, Path] = {}
        for file in _files(directory):
            if file.suffix.lower() not in IMAGE_SUFFIXES:
                unpaired.append((file, f"It is not an image file (known: {', '.join(IMAGE_SUFFIXES)})."))
            elif not file.stem.endswith(end):
                unpaired.append((file, f"The name of an annotation in this set ends in {end}."))
            elif file.stem.removesuffix(end) in by_stem:
                unpaired.append((file, f"{by_stem[file.stem.removesuffix(end)].name} has the same name."))
            else:
                by_stem[file.stem.removesuffix(end)] = file
        found.append(by_stem)
    images, labels = found
    unpaired += [(images[s], f"There is no annotation {s}{suffix} in {split}_annot.") for s in images.keys() - labels]
    unpaired += [(labels[s], f"There is no image {s} in {split}.") for s in labels.keys() - images]
    return [(images[s], labels[s]) for s in sorted(images.keys() & labels)], sorted(unpaired)


def _convert(
    image_path: Path, label_path: Path, read_label: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[Image.Image, Image.Image]:
    pixels, annotation = read_pixels(image_path), read_pixels(label_path)
    if pixels.shape[:2] != annotation.shape[:2]:
        raise CaseError(f"The image has shape {pixels.shape[:2]} but its annotation has {annotation.shape[:2]}.")
    colour = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1]  # without alpha
    if (colour != colour[..., :1]).any():
        raise CaseError("The image is coloured; a micrograph has three identical channels.")
    grey = to_8_bit(colour[..., 0])
    label = read_label(annotation, grey)
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2)), Image.fromarray(label)


def _painted_label(annotation: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Class numbers (uint8) from the colours of an annotation (height, width, 3 or 4)."""
    if annotation.shape[2] < 3:
        raise CaseError("The annotation has no colours; expected blue and red painted over the micrograph.")
    red, green, blue = np.moveaxis(annotation[..., :3], 2, 0)  # alpha is full everywhere
    full = np.iinfo(annotation.dtype).max
    secondary = (red == 0) & (green == 0) & (blue == full)
    tertiary = (red == full) & (green == 0) & (blue == 0)
    unpainted = (red == green) & (green == blue)
    strange = ~(secondary | tertiary | unpainted)
    if strange.any():
        example = tuple(annotation[strange][0, :3].tolist())
        raise CaseError(
            f"The annotation has {strange.sum()} pixels that are neither grey nor pure blue nor pure red, "
            f"such as (red, green, blue) = {example}."
        )
    common = (to_8_bit(red) == grey)[unpainted]
    if common.size and common.mean() < MIN_COMMON_GREY:
        raise CaseError(
            f"Only {common.mean():.0%} of the annotation's unpainted pixels have the image's grey value, "
            "so it belongs to another micrograph or one of the two is damaged."
        )
    return (secondary + 2 * tertiary).astype(np.uint8)


def _index_label(annotation: np.ndarray, _: np.ndarray) -> np.ndarray:
    if annotation.shape[2] != 1:
        raise CaseError(f"The annotation has {annotation.shape[2]} channels; expected one, with class numbers.")
    return annotation[..., 0]
