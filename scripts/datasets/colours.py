"""Masks in which colours, or values that are no class numbers, stand for the classes."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from networks.errors import UserError
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


def class_numbers(mask: np.ndarray, colours: Mapping[Colour, int] | None) -> np.ndarray:
    """Class numbers (height, width) of a mask (height, width, channels).

    Args:
        mask: as ``read_index_map`` gives it.
        colours: class of each colour, as :func:`colour_map` gives it; None for a mask that holds numbers.

    Raises:
        CaseError: the mask is coloured but there are no colours for it, or it has others.
    """
    if mask.shape[2] > 2:
        mask = mask[..., :3]
    elif mask.shape[2] == 2:
        mask = mask[..., :1]  # grey and alpha
    if mask.shape[2] == 3 and (colours is None or len(next(iter(colours))) == 1):
        if (mask != mask[..., :1]).any():
            raise CaseError("The mask is coloured; give --colours the class of each colour.")
        mask = mask[..., :1]
    if colours is None:
        return mask[..., 0].astype(np.uint8) if mask.max() < 256 else mask[..., 0]
    if mask.shape[2] != len(next(iter(colours))):
        mask = np.repeat(mask, 3, axis=2)
    label = np.full(mask.shape[:2], 255, np.uint8)
    known = np.zeros(mask.shape[:2], bool)
    for colour, number in colours.items():
        where = (mask == np.array(colour)).all(axis=2)
        label[where], known[where] = number, True
    if not known.all():
        strange, counts = np.unique(mask[~known], axis=0, return_counts=True)
        order = np.argsort(-counts)[:MAX_LISTED]
        listed = "; ".join(f"{','.join(map(str, strange[i].tolist()))} ({counts[i]} pixels)" for i in order)
        more = f" and {len(strange) - MAX_LISTED} more" if len(strange) > MAX_LISTED else ""
        raise CaseError(f"The mask has colours that --colours does not have: {listed}{more}.")
    return label
