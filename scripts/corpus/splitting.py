"""Training, validation and test by source, so that no part of a picture is trained on and another tested."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from networks.errors import UserError
from networks.workflow.carving import units_by_class
from networks.workflow.ids import truth
from networks.workflow.labelled_pictures import SPLITS
from scripts.corpus.index import Micrograph, classes_of
from scripts.corpus.readers import corpus_beside
from scripts.corpus.sheets import Tile, sample, write_sheet
from scripts.corpus.steps import step
from scripts.corpus.units import units_of
from scripts.datasets.splits import carve

PER_SPLIT = 24  # pictures of each on the sheet


def split(
    source: str,
    output_dir: str,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    again: bool = False,
    layout: str = "auto",
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no pictures, an option out of range, splits are there already, or a folder of other settings.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise UserError(
            f"--validation {validation} and --test {test} leave nothing; expected shares from 0 to below 1."
        )
    micrographs = corpus_beside(source, output_dir, layout)
    if micrographs[0].split and not truth(again):
        raise UserError(f"{source} is split already; give --again true to split it anew, forgetting those splits.")
    with step(output_dir, "split", {"validation": validation, "test": test, "seed": seed}) as work:
        work.check_index(micrographs)
        units = units_of(micrographs)
        found = splits_of(micrographs, units, validation, test, seed)
        result = [replace(micrograph, split=found[units[i]]) for i, micrograph in enumerate(micrographs)]
        tiles = []
        for name in SPLITS:
            members = [micrograph for micrograph in result if micrograph.split == name]
            chosen = [members[i] for i in sample(len(members), PER_SPLIT)]
            tiles += [Tile(m.image, f"{m.split}: {m.kind}\n{m.source.rpartition('/')[2]}") for m in chosen]
        write_sheet(work.folder / "sheet.png", tiles, "pictures of every split")
        _tell(result, [found[unit] for unit in set(units)])
        work.finish(result)


def splits_of(
    micrographs: Sequence[Micrograph], units: Sequence[str], validation: float, test: float, seed: int
) -> Mapping[str, str]:
    """The split of every unit, the shares taken of the units of every class by itself.

    A unit is of the class of most of its pictures. Of a class of two units one is for training and one for the test, of
    a single one all is for training, and so is a unit that is the last with pictures of any class.
    """
    found = {}
    training = Counter(m.kind for m in micrographs)
    for kind, members in units_by_class(units, [m.kind for m in micrographs]).items():
        names = list(members)
        shares = {"test": test if len(names) > 1 else 0, "validation": validation if len(names) > 2 else 0}
        left = names
        for name, share in shares.items():
            own = [seed, zlib.crc32(f"{name} {kind}".encode())]  # other classes leave this one's draw as it is
            chosen = set()
            for unit in carve(left, share, own, name, total=len(names)):
                if all(training[other] > number for other, number in members[unit].items()):
                    chosen.add(unit)
                    training.subtract(members[unit])
            found.update(dict.fromkeys(chosen, name))
            left = [unit for unit in left if unit not in chosen]
        found.update(dict.fromkeys(left, "training"))
    return found


def _tell(result: Sequence[Micrograph], units: Sequence[str]) -> None:
    counts, sources = Counter((m.kind, m.split) for m in result), Counter(units)
    print(
        "pictures (sources): "
        + ", ".join(
            f"{sum(n for (_, s), n in counts.items() if s == name)} ({sources[name]}) {name}" for name in SPLITS
        )
    )
    few = [kind for kind in classes_of(result) if not all(counts[kind, name] for name in SPLITS)]
    if few:
        print(f"  {len(few)} classes are not in every split, such as {few[0]!r}, for want of sources.")
