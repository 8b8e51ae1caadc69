"""Carving validation and test out of labelled cases, the same way in every converter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from networks.errors import UserError

Choice = int | float | str | Sequence[str | int]
"""A number of names, a share of them (below 1), names (a list, or separated by commas), or a text file of names."""


def carve(
    names: Sequence[str],
    choice: Choice,
    seed: int | Sequence[int] = 0,
    option: str = "validation",
    key: Callable[[str], str] = str,
    total: int | None = None,
) -> list[str]:
    """Choose from ``names``, each of which stands for everything of one patient, so that no patient is on two sides.

    Args:
        names: what there is to choose from; the order does not matter.
        choice: see ``Choice``; numbers and shares are drawn at random.
        seed: start of the random numbers.
        option: name of the command's option, for messages.
        key: turns what the user wrote (``5``, ``case0005_slice012``) into one of ``names``.
        total: what a share is a share of; the number of names by default.

    Returns:
        The chosen names, sorted.

    Raises:
        UserError: more names are wanted than there are, or a name is unknown.
    """
    names = sorted(names)
    if not _is_number(choice):
        chosen = {key(name) for name in name_list(choice)}
        unknown = sorted(str(name) for name in chosen - set(names))
        if unknown:
            some = ", ".join(names[:3])
            raise UserError(f"--{option} names {', '.join(unknown[:5])}, which cannot be chosen here; {some} can, say.")
        return sorted(chosen)
    count = round(choice * (total or len(names))) if isinstance(choice, float) and 0 < choice < 1 else choice
    if count != int(count) or not 0 <= count <= len(names):
        raise UserError(
            f"--{option} is {choice}, but the source has {len(names)} cases to choose from; "
            "give a smaller number, a share below 1, names, or a text file with a name per line."
        )
    count = max(int(count), 1) if choice else 0  # a share of a few cases is at least one
    return sorted(np.random.default_rng(seed).permutation(names)[:count].tolist())


def carve_both(
    names: Sequence[str], validation: Choice, test: Choice, seed: int, key: Callable[[str], str] = str
) -> tuple[list[str], list[str]]:
    """Choose names for validation and test as :func:`carve`, the test first; what is named for one is drawn for none.

    Raises:
        UserError: as :func:`carve`, or a name is wanted in both.
    """
    wanted: list[set[str]] = [
        set() if _is_number(choice) else {key(name) for name in name_list(choice)} for choice in (validation, test)
    ]
    if both := sorted(wanted[0] & wanted[1]):
        raise UserError(f"{', '.join(both[:5])} is named by --validation and by --test; leave it in one of them.")
    free = [name for name in names if name not in wanted[0]] if _is_number(test) else names
    tested = carve(free, test, seed, "test", key, total=len(names))
    left = [name for name in names if name not in set(tested)]
    return carve(left, validation, seed, key=key, total=len(names)), tested


def _is_number(choice: Choice) -> bool:
    return isinstance(choice, int | float) and not isinstance(choice, bool)


def is_file(text: str) -> bool:
    """Whether a text is the path of a file; one that is too long for a path, such as a list of names, is none."""
    try:
        return Path(text).is_file()
    except OSError:
        return False


def name_list(choice: str | Sequence[str | int]) -> list[str]:
    """Names from a list, a text with commas, or a text file with one per line (``#`` starts a remark).

    Raises:
        UserError: the choice looks like a text file that does not exist.
        UserError: it is no list of names.
    """
    if isinstance(choice, str):
        if is_file(choice):
            lines = [line.split("#")[0].strip() for line in Path(choice).read_text("utf-8").splitlines()]
        elif choice.endswith((".txt", ".list", ".lst")):
            raise UserError(f"The list of names {choice} does not exist.")
        else:
            lines = [part.strip() for part in choice.split(",")]
        return [line for line in lines if line]
    if not isinstance(choice, list | tuple) or not all(isinstance(name, str | int) for name in choice):
        raise UserError(f"{choice!r} is no list of names; give names separated by commas, or a text file.")
    return [str(name) for name in choice]
