"""What each class of label maps is measured as."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from networks.errors import UserError, did_you_mean

OF_PICTURES = ("particles", "layer", "crack")
KINDS = (*OF_PICTURES, "volume", "none")
# whole words; "_" is between words as well
_LAYERS = re.compile(r"(?<![^\W_])(oxide|layer|coating|film|scale)s?(?![^\W_])", re.IGNORECASE)
_CRACKS = re.compile(r"(?<![^\W_])cracks?(?![^\W_])", re.IGNORECASE)


@dataclass(frozen=True)
class Region:
    """A class, or several that are measured as one.

    Attributes:
        name: of the class; of several, joined by "+".
        numbers: of the classes in the label map.
        kind: one of ``KINDS``, but not "none".
    """

    name: str
    numbers: tuple[int, ...]
    kind: str


def default_kind(name: str, is_volume: bool) -> str:
    """Volumes are measured as such; in pictures a crack and a layer are known by their names, all else is particles."""
    if is_volume:
        return "volume"
    return "crack" if _CRACKS.search(name) else "layer" if _LAYERS.search(name) else "particles"


def choose_regions(names: Mapping[int, str], is_volume: bool, kinds: str | None = None) -> list[Region]:
    """The regions to measure: every class but the background, and joined ones that were asked for.

    Args:
        names: of the classes by number.
        is_volume: whether the label maps are volumes.
        kinds: what is measured otherwise than by default, such as ``oxide+crack:layer,pore:none``: names or numbers of
            classes, and one of ``KINDS``.

    Raises:
        UserError: an unknown class or kind, a kind that the label maps cannot have, or nothing is left.
    """
    chosen = {(number,): default_kind(name, is_volume) for number, name in names.items() if number}
    for part in filter(None, (part.strip() for part in (kinds or "").split(","))):
        classes, colon, kind = (text.strip() for text in part.rpartition(":"))
        if not colon or kind not in KINDS:
            raise UserError(
                f"--kinds has {part!r}; expected CLASS:KIND, such as oxide:layer, with a kind of {', '.join(KINDS)}."
            )
        if kind != "none" and (kind == "volume") != is_volume:
            what = "volumes, which are measured as volume" if is_volume else f"pictures: {', '.join(OF_PICTURES)}"
            raise UserError(f"--kinds has {part!r}, but the label maps are {what}.")
        chosen[_numbers(classes, names)] = kind
    regions = [
        Region("+".join(names[number] for number in numbers), numbers, kind)
        for numbers, kind in chosen.items()
        if kind != "none"
    ]
    if not regions:
        raise UserError(
            "There is no class to measure; leave one in by --kinds CLASS:KIND, or name classes by --labels."
        )
    return regions


def _numbers(text: str, names: Mapping[int, str]) -> tuple[int, ...]:
    numbers = {name.lower(): number for number, name in names.items()} | {str(number): number for number in names}
    parts = [text] if text.lower() in numbers else [part.strip() for part in text.split("+")]
    unknown = next((part for part in parts if part.lower() not in numbers), None)
    if unknown is not None:
        hint = did_you_mean(unknown, names.values(), f"the classes are {', '.join(names.values())}")
        raise UserError(f"--kinds names the class {unknown!r}, which the label maps do not have; {hint}")
    return tuple(sorted({numbers[part.lower()] for part in parts}))
