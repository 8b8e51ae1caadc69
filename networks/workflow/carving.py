"""Keeping a part of training for validation: what belongs together stays together, and every run draws the same."""

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

VALIDATION_SHARE = 0.2  # of the units of every class, where there is no validation list
VALIDATION_SEED = 0  # of no config: every run on a data set has to draw the same


def drawn_for_validation(units: Sequence[str], kinds: Sequence[str] | None = None) -> set[str]:
    """The units that are kept for validation: of every class a fifth of them, at least one, whatever their order.

    Every class keeps cases in training, so that nothing is drawn of one that has a single unit.

    Args:
        units: of every case the unit, such as its patient, which is drawn as a whole.
        kinds: of every case the class; by default all are of one.
    """
    kinds = [""] * len(units) if kinds is None else kinds
    left = Counter(kinds)
    drawn: set[str] = set()
    for kind, members in sorted(units_by_class(units, kinds).items()):
        wanted = max(round(VALIDATION_SHARE * len(members)), 1) if len(members) > 1 else 0
        names = sorted(members)
        # of the class's own random numbers, so that other classes leave its draw as it is
        order = np.random.default_rng([VALIDATION_SEED, zlib.crc32(kind.encode())]).permutation(len(names))
        for name in (names[i] for i in order):
            if wanted and all(left[other] > number for other, number in members[name].items()):
                drawn.add(name)
                left.subtract(members[name])
                wanted -= 1
    return drawn


def units_by_class(units: Sequence[str], kinds: Sequence[str]) -> dict[str, dict[str, Counter[str]]]:
    """The units of every class, with the number of their cases by class; a unit is of that of most of its cases.

    Args:
        units, kinds: of every case its unit and its class.
    """
    counts: dict[str, Counter[str]] = {}
    for unit, kind in zip(units, kinds, strict=True):
        counts.setdefault(unit, Counter())[kind] += 1
    found: dict[str, dict[str, Counter[str]]] = {}
    for unit, own in counts.items():
        found.setdefault(min(own, key=lambda kind: (-own[kind], kind)), {})[unit] = own
    return found


def joined(names: Sequence[Sequence[str]]) -> list[str]:
    """Of every case the name of its unit: cases that share a name, or are linked by cases that do, are one unit.

    Args:
        names: of every case its own, and those of what it belongs to.
    """
    units = DisjointSet(name for own in names for name in own)
    for own, *others in names:
        for other in others:
            units.merge(own, other)
    return [units[own] for own, *_ in names]
