"""Masks in which colours, or values that are no class numbers, stand for the classes."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from networks.errors import UserError
from networks.workflow.pictures import read_pixels
from scripts.datasets.splits import is_file
from scripts.datasets.writer import CaseError

MAX_LISTED = 5
Colour = tuple[int, ...]


def colour_map(colours: str | Mapping[str, int], classes: int) -> dict[Colour, int]:
    """The option ``--colours``: class numbers by colour, black being background unless it says otherwise.

    Args:
        colours: JSON object or a file with one, such as ``{"255,0,0": 1}``.
        classes: number of classes with background.

    Raises:
        UserError: malformed, or a class beyond those.
    """
    try:
        if isinstance(colours, str):
            colours = json.loads(Path(colours).read_text("utf-8") if is_file(colours) else colours)
        result = {tuple(int(v) for v in str(key).strip("()[] ").split(",")): int(n) for key, n in colours.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'--colours is {colours!r}; expected a JSON object such as {{"255,0,0": 1}}.') from error
    lengths = {len(colour) for colour in result}
    if len(lengths) != 1 or lengths - {1, 3}:
        raise UserError("--colours needs keys of three values (red, green, blue), or all of one grey value.")
    if any(not 0 <= number < classes for number in result.values()):
        raise UserError(f"--colours gives classes beyond the {classes} names of --labels.")
    return {(0,) * lengths.pop(): 0} | result


def read_class_numbers(path: Path, colours: Mapping[Colour, int] | None) -> np.ndarray:
    """Class numbers (height, width) of a mask's file.

    Args:
        path: PNG, TIFF or BMP. What is transparent is background, whatever colour is hidden there.
        colours: class of each colour that a viewer shows, as :func:`colour_map` gives it; None for a mask that holds
            numbers, in a palette too.

    Raises:
        UserError: as :func:`networks.workflow.pictures.read_pixels`.
        CaseError: the mask is coloured but there are no colours for it, it has others, or it is partly transparent.
    """
    try:
        return _class_numbers(read_pixels(path, numbers=colours is None), colours)
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from error


def _class_numbers(mask: np.ndarray, colours: Mapping[Colour, int] | None) -> np.ndarray:
    clear = np.zeros(mask.shape[:2], bool)
    colour_channels = 3 if mask.shape[2] > 2 else 1
    if mask.shape[2] > colour_channels:
        alpha, mask = mask[..., colour_channels], mask[..., :colour_channels]
        clear = alpha == 0
        if not (clear | (alpha == np.iinfo(alpha.dtype).max)).all() or (clear.all() and mask.any()):
            raise CaseError(
                "The mask is partly transparent, or has colours that are all transparent; expected pixels that show "
                "either a class or nothing: save it without alpha, on black."
            )
        mask = np.where(clear[..., None], 0, mask)
    if mask.shape[2] == 3 and (colours is None or len(next(iter(colours))) == 1):
        if (mask != mask[..., :1]).any():
            raise CaseError("The mask is coloured; give --colours the class of each colour.")
        mask = mask[..., :1]
    if colours is None:
        return mask[..., 0].astype(np.uint8) if mask.max() < 256 else mask[..., 0]
    if mask.shape[2] != len(next(iter(colours))):
        mask = np.repeat(mask, 3, axis=2)
    label = np.full(mask.shape[:2], 255, np.uint8)
    known = clear.copy()
    for colour, number in colours.items():
        where = (mask == np.array(colour)).all(axis=2)
        label[where], known[where] = number, True
    label[clear] = 0  # even if black is a class
    if not known.all():
        strange, counts = np.unique(mask[~known], axis=0, return_counts=True)
        order = np.argsort(-counts)[:MAX_LISTED]
        listed = "; ".join(f"{','.join(map(str, strange[i].tolist()))} ({counts[i]} pixels)" for i in order)
        more = f" and {len(strange) - MAX_LISTED} more" if len(strange) > MAX_LISTED else ""
        raise CaseError(f"The mask has colours that --colours does not have: {listed}{more}.")
    return label
