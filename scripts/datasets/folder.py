"""Any folder of images and masks, paired by the patterns of their names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.data import NIFTI_SUFFIXES, PICTURE_SUFFIXES, patient
from networks.workflow.pictures import as_picture, read_index_map, read_pixels
from scripts.datasets.source import open_source
from scripts.datasets.splits import Choice, carve
from scripts.datasets.volumes import mapped, read_nifti, turned_like
from scripts.datasets.writer import CaseError, Savable, dataset_writer, reading

SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"}
MAX_LISTED = 5
Colour = tuple[int, ...]


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
) -> None:
    """Convert pictures (PNG, TIFF, JPEG, BMP; 8 or 16 bit) to 8-bit PNG, or NIfTI volumes as they are.

    Arguments as of the command ``folder``, where they are described.

    Raises:
        UserError: ``source`` is missing.
        UserError: ``output_dir`` exists and is not empty.
        UserError: a pattern or option makes no sense, nothing matches, or no usable case for a list.
    """
    names = [str(name).strip() for name in (labels.split(",") if isinstance(labels, str) else labels)]
    classes = _colour_map(colours, len(names)) if colours is not None else None
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
        lists = _lists(pairs, validation, test, seed)
        is_volume = any(image.name.lower().endswith(NIFTI_SUFFIXES) for image, _ in pairs.values())
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
            for key, paths in tqdm(sorted(pairs.items()), desc="Converting", unit="image"):
                with writer.rejecting(paths[0]), opened.opened(*paths) as local:
                    writer.add(lists[key], _stem(key), *convert(*local), paths)
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


def _lists(pairs: Mapping[Key, Any], validation: Choice, test: Choice, seed: int) -> dict[Key, str]:
    """The list of every pair."""
    placeholders = {name for name, _ in next(iter(pairs))}
    if "split" in placeholders:
        return {key: SPLIT_NAMES.get(dict(key)["split"].lower(), dict(key)["split"].lower()) for key in pairs}
    unit = {key: dict(key)["group"] if "group" in placeholders else _unit(_stem(key)) for key in pairs}
    names = sorted(set(unit.values()))
    tested = set(carve(names, test, seed, "test", _unit))
    left = [name for name in names if name not in tested]
    validated = set(carve(left, validation, seed, key=_unit, total=len(names)))
    return {
        key: "test" if name in tested else "validation" if name in validated else "training"
        for key, name in unit.items()
    }


def _unit(stem: str) -> str:
    """What stays in one list: everything of a patient where the name says whose it is."""
    return patient(stem, "") or stem


def _stem(key: Key) -> str:
    """Everything that tells a pair from others, but for its list."""
    return "_".join(value for name, value in key if name != "split") or "image"


def _colour_map(colours: str | Mapping[str, int], classes: int) -> dict[Colour, int]:
    try:
        if isinstance(colours, str):
            colours = json.loads(Path(colours).read_text("utf-8") if Path(colours).is_file() else colours)
        result = {tuple(int(v) for v in str(key).strip("()[] ").split(",")): int(n) for key, n in colours.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'--colours is {colours!r}; expected a JSON object such as {{"255,0,0": 1}}.') from error
    lengths = {len(colour) for colour in result}
    if len(lengths) != 1 or lengths - {1, 3}:
        raise UserError("--colours needs keys of three values (red, green, blue), or all of one grey value.")
    if any(not 0 <= number < classes for number in result.values()):
        raise UserError(f"--colours gives classes beyond the {classes} names of --labels.")
    return {(0,) * lengths.pop(): 0} | result


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
        if pixels.dtype != np.uint8:
            self._highest = max(self._highest, int(pixels.max()))
        with reading(mask_path):
            label = self._classes(read_index_map(mask_path))
        image = as_picture(pixels, self.channels, self.window)
        return Image.fromarray(image if self.channels == 3 else image[..., 0]), Image.fromarray(label)

    def hint(self) -> str:
        """A sentence if the 16-bit images would come out dark, else nothing."""
        if self.window is None and 0 < self._highest < 2**15:
            return (
                f"The 16-bit images have no value above {self._highest}, so they came out dark; convert again with "
                f"--window 0,{self._highest}."
            )
        return ""

    def _classes(self, mask: np.ndarray) -> np.ndarray:
        """Class numbers (height, width) of a mask (height, width, channels)."""
        if mask.shape[2] > 2:
            mask = mask[..., :3]
        elif mask.shape[2] == 2:
            mask = mask[..., :1]  # grey and alpha
        if mask.shape[2] == 3 and (self.colours is None or len(next(iter(self.colours))) == 1):
            if (mask != mask[..., :1]).any():
                raise CaseError("The mask is coloured; give --colours the class of each colour.")
            mask = mask[..., :1]
        if self.colours is None:
            return mask[..., 0].astype(np.uint8) if mask.max() < 256 else mask[..., 0]
        if mask.shape[2] != len(next(iter(self.colours))):
            mask = np.repeat(mask, 3, axis=2)
        label = np.full(mask.shape[:2], 255, np.uint8)
        known = np.zeros(mask.shape[:2], bool)
        for colour, number in self.colours.items():
            where = (mask == np.array(colour)).all(axis=2)
            label[where], known[where] = number, True
        if not known.all():
            strange, counts = np.unique(mask[~known], axis=0, return_counts=True)
            order = np.argsort(-counts)[:MAX_LISTED]
            listed = "; ".join(f"{','.join(map(str, strange[i].tolist()))} ({counts[i]} pixels)" for i in order)
            more = f" and {len(strange) - MAX_LISTED} more" if len(strange) > MAX_LISTED else ""
            raise CaseError(f"The mask has colours that --colours does not have: {listed}{more}.")
        return label
