"""The measured quantities and their units."""

from collections.abc import Sequence

import numpy as np

Row = dict[str, float | int | str | bool | None]
# power of the unit of length
_POWERS = {
    "number_density": -2,
    "length_density": -1,
    **dict.fromkeys(("area", "mean_area"), 2),
    **dict.fromkeys(
        ("area_fraction", "number", "number_at_border", "coverage", "aspect_ratio", "mean_aspect_ratio"), 0
    ),
}
_OTHER = {
    "orientation": "°",
    "volume": "ml",
    "largest_slice_area": "mm²",
    "slice_area": "mm²",
    "ejection_fraction": "%",
    "slices": "",
}
_SUPERSCRIPTS = {1: "", 2: "²"}


def unit_of(quantity: str, length: str) -> str:
    """Unit of a quantity, empty for a plain number.

    Args:
        quantity: its name.
        length: unit of length, such as "nm" or "pixel".
    """
    if quantity in _OTHER:
        return _OTHER[quantity]
    power = _POWERS.get(quantity, 1)
    if power == 0:
        return ""
    return f"{'1/' * (power < 0)}{length}{_SUPERSCRIPTS[abs(power)]}"


def statistics(values: Sequence[float] | np.ndarray, name: str, functions: Sequence[str]) -> Row:
    """``mean_<name>`` and the like of values; None where there is none.

    Args:
        values: of objects or places.
        name: of the quantity.
        functions: of numpy: mean, median, min, max, std.
    """
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    return {f"{function}_{name}": float(getattr(np, function)(array)) if array.size else None for function in functions}
