"""Any folder of images and masks, paired by the patterns of their names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.data import NIFTI_SUFFIXES, PICTURE_SUFFIXES, patient
from networks.workflow.pictures import as_picture, highest_of_16_bit, is_dark, read_pixels
from scripts.datasets.colours import Colour, colour_map, read_class_numbers
from scripts.datasets.source import open_source
from scripts.datasets.splits import Choice, carve, carve_both
from scripts.datasets.volumes import mapped, read_nifti, turned_like
from scripts.datasets.writer import Savable, dataset_writer, reading

SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"}


def convert_folder(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    images: str,
    masks: str,
    labels: str | Sequence[str],
    colours: str | Mapping[str, int] | None = None,
    validation: Choice = 0.15,
    test: Choice = 0.15,
    seed: int = 0,
    channels: int = 3,
    window: tuple[float, float] | None = None,
    unit: str = "unknown units",
    training: Choice | None = None,
) -> None:
    """Convert pictures (PNG, TIFF, JPEG, BMP; 8 or 16 bit) to 8-bit PNG, or NIfTI volumes as they are.

    Arguments as of the command ``folder``, where they are described.

    Raises:
        UserError: ``source`` is missing.
        UserError: ``output_dir`` exists and is not empty.
        UserError: a pattern or option makes no sense, nothing matches, or no usable case for a list.
    """
    names = [str(name).strip() for name in (labels.split(",") if isinstance(labels, str) else labels)]
    classes = colour_map(colours, len(names)) if colours is not None else None
    patterns = _compile(images, "images"), _compile(masks, "masks")
    if channels not in (1, 3):
        raise UserError(f"--channels is {channels}; expected 1 or 3.")
    if window is not None and not (isinstance(window, list | tuple) and len(window) == 2 and window[0] < window[1]):
        raise UserError(f"--window is {window}; expected two values such as 0,4095, the lower one first.")
    if set(patterns[0].groupindex) != set(patterns[1].groupindex) or not patterns[0].groupindex:
        raise UserError("--images and --masks need the same placeholders, at least one, such as {case}.")
    with open_source(source) as opened:
        pairs, rejected = _pairs(opened.root, opened.files(), *patterns)
        if not pairs:
            raise UserError(
                f"No image matching {images} in {opened.root} has a mask matching {masks}; the patterns are paths "
                "below --source."
            )
        lists = _lists(opened.root, pairs, validation, test, training, seed)
        is_volume = any(image.name.lower().endswith(NIFTI_SUFFIXES) for image, _ in pairs.values())
        if is_volume and classes is not None and len(next(iter(classes))) > 1:
            raise UserError('--colours of volumes are single values, such as {"255": 1}; these have three.')
        description = {
            "name": opened.root.resolve().name,
            "description": f"Images {images} and masks {masks}."
            + ("" if "split" in patterns[0].groupindex else f" Split with seed {seed}."),
            **({"intensity": {"window": list(window)}} if window is not None and not is_volume else {}),
            "tensorImageSize": "3D" if is_volume else "2D",
            "modality": {"0": unit if is_volume else "picture"},
        }
        required = ["training", *(name for name in ("validation", "test") if name in lists.values())]
        values = (unit if is_volume else None, None)
        pictures = _Pictures(classes, channels, window)
        convert = partial(_volumes, classes) if is_volume else pictures.convert
        with dataset_writer(output_dir, opened.root, names, required, *values, **description) as writer:
            for file, reason in rejected:
                writer.reject(file, reason)
            wanted = sorted((key, paths) for key, paths in pairs.items() if key in lists)
            for key, paths in tqdm(wanted, desc="Converting", unit="image"):
                with writer.rejecting(paths[0]), opened.opened(*paths) as local:
                    writer.add(lists[key], _stem(key), *convert(*local), paths)
            if len(wanted) < len(pairs):
                writer.warn(f"{len(pairs) - len(wanted)} images are in no list, because of --training {training}.")
            if pictures.hint():
                writer.warn(pictures.hint())


Key = tuple[tuple[str, str], ...]
"""Placeholders and what they stand for in one pair."""


def _compile(pattern: str, option: str) -> re.Pattern[str]:
    """A pattern with ``{name}``, ``*`` and ``**`` as a regular expression over a path with slashes."""
    parts = re.split(r"(\{[^{}]*\}|\*\*/?|\*)", str(pattern).removeprefix("./"))
    expression, seen = "", set()
    for part in parts:
        name = part[1:-1]
        if part.startswith("{"):
            if not name.isidentifier():
                raise UserError(f"--{option} {pattern} has the placeholder {part}; expected a name such as {{case}}.")
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        elif part.startswith("**"):
            expression += "(?:.*/)?" if part.endswith("/") else ".*"
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
    return re.compile(expression)


def _pairs(
    root: Path, files: Sequence[Path], images: re.Pattern[str], masks: re.Pattern[str]
) -> tuple[dict[Key, tuple[Path, Path]], list[tuple[Path, str]]]:
    """Pairs by key, and the image files that are in none with the reason."""
    found: tuple[dict[Key, Path], dict[Key, Path]] = ({}, {})
    rejected = []
    for path in files:
        name = path.relative_to(root).as_posix()
        # A mask's name often matches the images' pattern too (a_mask.png and {case}.png).
        kind, match = (1, masks.fullmatch(name)) if masks.fullmatch(name) else (0, images.fullmatch(name))
        if match is None:
            if path.name.lower().endswith((*PICTURE_SUFFIXES, *NIFTI_SUFFIXES)):
                rejected.append((path, "It matches neither --images nor --masks."))
            continue
        key = tuple(sorted(match.groupdict().items()))
        if key in found[kind]:
            rejected.append((path, f"{found[kind][key].name} has the same placeholders."))
        else:
            found[kind][key] = path
    images_by_key, masks_by_key = found
    rejected += [(images_by_key[key], "There is no mask for it.") for key in images_by_key.keys() - masks_by_key]
    rejected += [(masks_by_key[key], "There is no image for it.") for key in masks_by_key.keys() - images_by_key]
    pairs = {key: (path, masks_by_key[key]) for key, path in images_by_key.items() if key in masks_by_key}
    return pairs, sorted(rejected)


def _lists(
    root: Path,
    pairs: Mapping[Key, tuple[Path, Path]],
    validation: Choice,
    test: Choice,
    training: Choice | None,
    seed: int,
) -> dict[Key, str]:
    """The list of every pair that is in one; raises UserError where a group's pairs are in several."""
    placeholders = {name for name, _ in next(iter(pairs))}
    grouped = "group" in placeholders
    unit = {key: dict(key)["group"] if grouped else _unit(key, image, root) for key, (image, _) in pairs.items()}
    stems = {} if grouped else {_stem(key): name for key, name in unit.items()}

    def named(text: str) -> str:
        return text if grouped else stems.get(text) or patient(text, "") or text

    if "split" in placeholders:
        lists = {key: SPLIT_NAMES.get(dict(key)["split"].lower(), dict(key)["split"].lower()) for key in pairs}
        first: dict[str, str] = {}
        for key, list_ in lists.items() if grouped else ():
            other = first.setdefault(unit[key], list_)
            if other != list_:
                raise UserError(
                    f"The group {unit[key]} is in the lists {other} and {list_}, and what it stands for has to be in "
                    "one; sort the files anew, or leave {split} out of the patterns."
                )
    else:
        validated, tested = map(set, carve_both(sorted(set(unit.values())), validation, test, seed, named))
        lists = {
            key: "test" if name in tested else "validation" if name in validated else "training"
            for key, name in unit.items()
        }
    if training is None:
        return lists
    names = sorted({unit[key] for key, list_ in lists.items() if list_ == "training"})
    trained = set(carve(names, training, seed, "training", named))
    return {key: list_ for key, list_ in lists.items() if list_ != "training" or unit[key] in trained}


def _unit(key: Key, image: Path, root: Path) -> str:
    """What stays in one list: everything of a patient where the name, or only the path that it is from, says whose."""
    stem = _stem(key)
    return patient(stem, "") or patient(str(image), str(root)) or stem


def _stem(key: Key) -> str:
    """Everything that tells a pair from others, but for its list."""
    return "_".join(value for name, value in key if name != "split") or "image"


def _volumes(colours: Mapping[Colour, int] | None, image: Path, mask: Path) -> tuple[Savable, Savable]:
    scan, label = read_nifti(image, (3, 4)), read_nifti(mask)
    if colours is None:
        return scan, turned_like(label, scan)
    numbers = {colour[0]: number for colour, number in colours.items()}
    return scan, turned_like(mapped(label, mask, numbers, set(numbers)), scan)


class _Pictures:
    """Turns pairs of files into 8-bit images and index maps, and notes how much of 16 bit is used."""

    def __init__(self, colours: Mapping[Colour, int] | None, channels: int, window: tuple[float, float] | None) -> None:
        self.colours, self.channels, self.window = colours, channels, window
        self._highest = 0  # value in any 16-bit image

    def convert(self, image_path: Path, mask_path: Path) -> tuple[Image.Image, Image.Image]:
        """Image and label as they are to be written."""
        with reading(image_path):
            pixels = read_pixels(image_path)
        self._highest = max(self._highest, highest_of_16_bit(pixels))
        with reading(mask_path):
            label = read_class_numbers(mask_path, self.colours)
        image = as_picture(pixels, self.channels, self.window)
        return Image.fromarray(image if self.channels == 3 else image[..., 0]), Image.fromarray(label)

    def hint(self) -> str:
        """A sentence if the 16-bit images would come out dark, else nothing."""
        if self.window is None and is_dark(self._highest):
            return (
                f"The 16-bit images have no value above {self._highest}, so they came out dark; convert again with "
                f"--window 0,{self._highest}."
            )
        return ""
