"""The micrographs of Stuckner, Harder and Smith, npj Computational Materials 8, 200 (2022).

Source: ``benchmark_segmentation_data`` of github.com/nasa/pretrained-microscopy-models (MIT), or a zip of the whole
repository. ``<set>/<split>`` holds the images and ``<set>/<split>_annot`` the annotations.

- Super1 to Super4 (Ni superalloys): ``X.tif`` goes with ``X_mask.tif``, which is the micrograph itself with pure blue
  painted over the secondary and pure red over the tertiary precipitates. The rest, in its grey values, is matrix.
- EBC1 to EBC3 (barrier coatings): the annotation has the image's name and holds 0 background, 1 oxide layer, 2 crack
  in it. The authors score the oxide alone: their notebook counts cracks to it, ``oxide: [1, 2]``, which the loader of
  the same commit cannot take. ``ebc_labels`` chooses, and ``dataset.json`` says what was chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from networks.class_names import COATING, PRECIPITATES
from networks.errors import UserError
from networks.workflow.data import PICTURE_SUFFIXES
from networks.workflow.pictures import read_pixels, to_8_bit
from scripts.datasets.source import Source, open_source
from scripts.datasets.splits import name_list
from scripts.datasets.volumes import mapped_values
from scripts.datasets.writer import CaseError, dataset_writer, reading

SPLITS = {"train": "training", "val": "validation", "test": "test"}
MASK = "_mask"
LICENCE = "MIT (github.com/nasa/pretrained-microscopy-models)"
EBC_LABELS = {  # new class numbers by the annotation's, names, and what dataset.json says
    "oxide_crack": ({1: 1, 2: 2}, ("background", *COATING), "oxide and cracks are two classes"),
    "oxide": ({1: 1, 2: 1}, ("background", "oxide"), "cracks count as oxide"),
    "oxide_without_crack": ({1: 1}, ("background", "oxide"), "cracks count as background"),
}
MIN_COMMON_GREY = 0.99  # share of unpainted pixels that equal the image's; all of them do in the published sets


def convert_nasa(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    sets: str | Sequence[str] = "all",
    ebc_labels: str = "oxide_crack",
) -> None:
    """Convert sets to 8-bit RGB PNG images and indexed PNG labels, one list per split of the original.

    Arguments as of the command ``nasa``, where they are described.

    Raises:
        UserError: ``source`` is missing or holds no set.
        UserError: ``output_dir`` exists and is not empty.
        UserError: an unknown set or way to label, a set that is there twice, or a split has no usable pair.
    """
    if ebc_labels not in EBC_LABELS:
        raise UserError(f"The labels {ebc_labels!r} are unknown; choose {', '.join(EBC_LABELS)}.")
    with open_source(source) as opened:
        files = opened.files()
        roots: dict[str, Path] = {}
        for root in sorted({f.parent.parent for f in files if f.parent.name == "train_annot"}):
            other = roots.setdefault(root.name, root)
            if other != root:
                raise UserError(f"{root.name} is in {other} and in {root}; give --source one of them.")
        if not roots:
            raise UserError(
                f"{opened.root} holds no folder train with train_annot beside it; give --source the repository, "
                "benchmark_segmentation_data, a zip of either, or the folder of one set, such as Super1."
            )
        wanted = sorted(roots) if sets == "all" else name_list(sets)
        unknown = sorted(set(wanted) - set(roots))
        if unknown:
            raise UserError(f"{opened.root} has no set {', '.join(unknown)}; it has {', '.join(sorted(roots))}.")
        for name in wanted:
            is_one_set = roots[name] == opened.root
            target = Path(output_dir) if is_one_set else Path(output_dir) / name
            if not is_one_set and (target / "dataset.json").is_file():
                print(f"{target} is there already.")
                continue
            _convert_set(opened, roots[name], files, target, ebc_labels)


def _convert_set(source: Source, root: Path, files: Sequence[Path], output_dir: Path, ebc_labels: str) -> None:
    folders = _by_folder(root, files)
    splits = {name: name for name in sorted(folders) if f"{name}_annot" in folders} | SPLITS
    painted = any(path.stem.endswith(MASK) for split in splits for path in folders.get(f"{split}_annot", ()))
    if painted:
        suffix, read_label, labels = MASK, _painted_label, ("matrix", *PRECIPITATES)
        about = "Ni superalloy"
    else:
        suffix, (numbers, labels, note) = "", EBC_LABELS[ebc_labels]
        read_label = partial(_index_label, numbers)
        about = f"environmental barrier coating ({note})"
    description = {
        "name": root.name,
        "description": f"Electron micrographs, {about}, Stuckner et al., npj Comput. Mater. 8, 200 (2022). "
        "16-bit files were brought to 8 bit by round(v / 257).",
        "licence": LICENCE,
        "tensorImageSize": "2D",
        "modality": {"0": "SEM"},
    }
    with dataset_writer(output_dir, root, labels, **description) as writer:
        work = []
        for split, name in splits.items():
            pairs, unpaired = _pairs(folders, split, suffix)
            work += [(name, image, label) for image, label in pairs]
            for file, reason in unpaired:
                writer.reject(file, reason)
        for name, *paths in tqdm(work, desc=f"Converting {root.name}", unit="image"):
            with writer.rejecting(paths[0]), source.opened(*paths) as opened:
                writer.add(name, paths[0].stem, *_convert(*opened, read_label), paths)


def _by_folder(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files of the folders directly below ``root``."""
    folders: dict[str, list[Path]] = {}
    for file in files:
        if file.parent.parent == root:
            folders.setdefault(file.parent.name, []).append(file)
    return folders


def _pairs(
    folders: Mapping[str, Sequence[Path]], split: str, suffix: str
) -> tuple[list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """Pairs of image and annotation of a split, and the files without a partner with the reason."""
    unpaired = []
    found: list[dict[str, Path]] = []
    for folder, end in ((split, ""), (f"{split}_annot", suffix)):
        by_stem: dict[str, Path] = {}
        for file in folders.get(folder, ()):
            if file.suffix.lower() not in PICTURE_SUFFIXES:
                unpaired.append((file, f"It is not an image file (known: {', '.join(PICTURE_SUFFIXES)})."))
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
    with reading(image_path):
        pixels = read_pixels(image_path)
    with reading(label_path):
        annotation = read_pixels(label_path)
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


def _index_label(numbers: Mapping[int, int], annotation: np.ndarray, _: np.ndarray) -> np.ndarray:
    if annotation.shape[2] != 1:
        raise CaseError(f"The annotation has {annotation.shape[2]} channels; expected one, with class numbers.")
    return mapped_values(annotation[..., 0], numbers, {1, 2})
