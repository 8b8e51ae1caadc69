"""What the lists of a data set may not share, so that a score on one measures more than memory of another."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite import distributed as idist

from networks.errors import UserError
from networks.workflow.data import LISTS, Pair, json_path, load_datalist, patient
from networks.workflow.files import file_hash, lies_in
from networks.workflow.ids import truth

logger = logging.getLogger(__name__)
MIDDLE = 1 << 16  # bytes that tell most files of the same size apart


def check_lists(
    dataset_dir: str,
    allow_overlap: bool | str = False,
    say: Callable[[str], Any] = logger.warning,
    **lists: Sequence[Pair],
) -> None:
    """Refuse lists of which one knows what another should not: scores on such lists measure memory.

    Args:
        dataset_dir: folder of the data set; the lists of its ``dataset.json`` that are not given are looked at as well
            if all cases lie in it.
        allow_overlap: accept them all the same.
        say: gets a sentence for files of one list that are equal, which is odd but takes nothing from a score.
        **lists: items by name of the list. Of ``dataset.json`` only training, validation and test are compared. What an
            image belongs to beside its patient, such as "source a.tif", its item may name as ``of``.

    Raises:
        UserError: fewer validation cases than processes share them; a case is twice in a list (by its path) or in two
            lists (by its path or its content), an image has two labels, or a patient, or what else images belong to,
            is in two lists.
    """
    processes = idist.get_world_size()
    if 0 < len(lists.get("validation", ())) < processes:
        raise UserError(
            f"The list of validation cases has {len(lists['validation'])}, fewer than the {processes} processes that "
            "share them; start fewer processes, or add cases to it."
        )
    given = (case["image"] for cases in lists.values() for case in cases)
    if json_path(dataset_dir).is_file() and all(lies_in(image, dataset_dir) for image in given):
        lists = {**load_datalist(dataset_dir, say=lambda text: None), **lists}
    if truth(allow_overlap):
        return
    found = _overlap({name: lists[name] for name in LISTS if lists.get(name)}, dataset_dir, say)
    if found:
        raise UserError(
            f"{found}, so that a score would measure memory; correct the lists of the data set, or set "
            "--allow_overlap true if this is meant."
        )


def _overlap(lists: Mapping[str, Sequence[Pair]], dataset_dir: str, say: Callable[[str], Any]) -> str:
    """The first overlap as the beginning of a sentence, or nothing."""
    images: dict[Path, tuple[str, Pair]] = {}
    units: dict[str, tuple[str, Pair]] = {}
    for name, cases in lists.items():
        for case in cases:
            path = Path(case["image"]).resolve()
            if path in images:
                other, first = images[path]
                if first.get("label") != case.get("label"):
                    return f"{case['image']} is listed with two labels, {first.get('label')} and {case.get('label')}"
                return f"{case['image']} is {_both(other, name)}"
            images[path] = name, case
            who = patient(case["image"], dataset_dir)
            for unit in (*case.get("of", ()), *([f"patient {who}"] if who else [])):
                other, first = units.setdefault(unit, (name, case))
                if other != name:
                    return f"The {unit} is in {other} ({first['image']}) and in {name} ({case['image']})"
    for one, twin in same_content(list(images)):
        (name, first), (other_name, second) = images[one], images[twin]
        same = f"{first['image']} and {second['image']} hold the same image"
        if name != other_name:
            return f"{same}, which is {_both(name, other_name)}"
        if idist.get_rank() == 0:
            say(f"{same}; it counts twice in {name}.")
    return ""


def _both(one: str, other: str) -> str:
    return f"twice in {one}" if one == other else f"in {one} and in {other}"


def same_content(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Files that are equal to the last byte. Only what has the same size and the same middle is read to its end."""
    similar: dict[tuple[int, bytes], list[Path]] = {}
    sizes: dict[int, list[Path]] = {}
    for path in paths:
        sizes.setdefault(path.stat().st_size, []).append(path)
    for size, group in sizes.items():
        for path in group if len(group) > 1 else []:
            with path.open("rb") as file:
                file.seek(max(size - MIDDLE, 0) // 2)
                similar.setdefault((size, file.read(MIDDLE)), []).append(path)
    found = []
    for group in similar.values():
        hashes: dict[str, Path] = {}
        for path in group if len(group) > 1 else []:
            first = hashes.setdefault(file_hash(path), path)
            found += [(first, path)] if first != path else []
    return found
