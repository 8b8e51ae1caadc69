"""One corpus of several sources, such as all the micrographs at hand, to learn from without labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from networks.errors import UserError
from networks.workflow.labelled_pictures import SPLITS
from scripts.corpus.index import DUPLICATES, Micrograph
from scripts.corpus.readers import corpus_beside
from scripts.corpus.sheets import Tile, sample, write_sheet
from scripts.corpus.steps import step
from scripts.corpus.units import left_out

PER_SOURCE = 8  # pictures of each on the sheet


def join(*sources: str, output_dir: str, layout: str = "auto") -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: fewer than two sources, one as in :func:`scripts.corpus.readers.corpus_beside`, or a folder of
            other sources.
    """
    if len(sources) < 2:
        raise UserError("Give at least two sources to join, and the folder of the result by --output_dir.")
    corpora = [corpus_beside(source, output_dir, layout) for source in sources]
    names = _names(sources)
    with step(output_dir, "join", {"sources": names}) as work:
        joined = join_corpora(dict(zip(names, corpora, strict=True)))
        work.check_index(joined)
        tiles = []
        for name in names:
            members = [m for m in joined if m.source.startswith(f"{name}/")]
            chosen = [members[i] for i in sample(len(members), PER_SOURCE)]
            tiles += [Tile(m.image, f"{name}\n{' '.join(filter(None, (m.split, m.kind)))}") for m in chosen]
        write_sheet(work.folder / "sheet.png", tiles, "pictures of every source", columns=PER_SOURCE)
        counts = Counter(m.split for m in joined)
        if any(counts[split] for split in SPLITS):
            print("pictures: " + ", ".join(f"{counts[split]} {split}" for split in SPLITS))
        work.finish(joined)


def join_corpora(corpora: dict[str, Sequence[Micrograph]]) -> list[Micrograph]:
    """The pictures of all corpora: those for test first, each file once.

    Where some corpora are split, the pictures of the others are for training. A file that is listed twice is for test
    if it is so anywhere, and stays with all that belongs to it in any corpus; of copies that are files of their own,
    :mod:`scripts.corpus.duplicates` finds the later one, which is never the one for test.

    Args:
        corpora: the pictures by name of the corpus, by which sources, groups and duplicates of different corpora are
            told apart.
    """
    is_split = any(m.split for micrographs in corpora.values() for m in micrographs)
    listed: list[Micrograph] = []
    chosen: dict[Path, int] = {}
    for name, micrographs in corpora.items():
        for m in micrographs:
            own = replace(
                m,
                split=m.split or ("training" if is_split else ""),
                source=_of(name, m.source),
                group=_of(name, m.group),
                more={**m.more, DUPLICATES: _of(name, m.more.get(DUPLICATES, ""))},
            )
            file = m.image.resolve()
            if file not in chosen or (own.split == "test" and listed[chosen[file]].split != "test"):
                chosen[file] = len(listed)
            listed.append(own)
    found = left_out(listed, set(range(len(listed))) - set(chosen.values()))
    return sorted(found, key=lambda m: m.split != "test")


def _of(name: str, value: str) -> str:
    return f"{name}/{value}" if value else ""


def _names(sources: Sequence[str]) -> list[str]:
    """A name for every source: as many of its path's last parts as tell it from the others."""
    parts = [Path(source).absolute().parts for source in sources]
    if len(set(parts)) < len(parts):
        twice = next(source for i, source in enumerate(sources) if parts[i] in parts[:i])
        raise UserError(f"{twice} is given twice; name every source once.")
    names = []
    for part in parts:
        length = next(n for n in range(1, len(part) + 1) if sum(other[-n:] == part[-n:] for other in parts) == 1)
        names.append("/".join(part[-length:]))
    return names
