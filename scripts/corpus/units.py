"""What has to stay in one split: pictures of one source, of one group, and those that show the same."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from networks.workflow.carving import joined
from scripts.corpus.index import DUPLICATES, Micrograph


def units_of(micrographs: Sequence[Micrograph]) -> list[str]:
    """For every picture the name of what has to stay together: sources, joined by groups, duplicates and files."""
    names = []
    for m in micrographs:
        more = {"group": m.group, "same": m.more.get(DUPLICATES), "file": m.image.resolve()}
        names.append([f"source {m.source}", *(f"{key} {value}" for key, value in more.items() if value)])
    return joined(names)


def left_out(micrographs: Sequence[Micrograph], dropped: Collection[int]) -> list[Micrograph]:
    """The pictures without some of them, which leave together what they linked.

    What only a dropped picture says belongs together, such as pictures of its specimen and one that shows the same as
    it does, gets one group: the first that there is among them, else the name of the first one's source.

    Args:
        micrographs: the pictures; one file may be listed several times.
        dropped: places of those that are left out.
    """
    units = units_of(micrographs)
    places = [i for i in range(len(micrographs)) if i not in dropped]
    parts = defaultdict(set)
    for i, unit in zip(places, units_of([micrographs[i] for i in places]), strict=True):
        parts[units[i]].add(unit)
    names: dict[str, str] = {}
    for i in sorted(range(len(units)), key=lambda i: not micrographs[i].group):
        names.setdefault(units[i], micrographs[i].group or micrographs[i].source)
    return [
        replace(micrographs[i], group=names[units[i]]) if len(parts[units[i]]) > 1 else micrographs[i] for i in places
    ]
