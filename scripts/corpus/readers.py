"""Reading what people have: an index, a data set, a database of micrographs, folders per class, or any pictures.

- A CSV file, or a folder with ``labels.csv``: columns ``image`` (paths from the file's folder), ``class``, ``split``
  and whatever else; every step of this tool writes one.
- A data set of this project's converters or in their form: a folder with ``dataset.json``, whose images are pictures.
  They have no class; those of other lists than training and validation are for test.
- UHCS, the ultrahigh carbon steel micrographs of DeCost et al., https://hdl.handle.net/11256/940: a folder with
  ``microstructures.sqlite`` and the pictures at any depth beside it. The class is the primary microconstituent, the
  group the specimen, the pixel size that of the scale bar in the database.
- A folder per class, as the archives of Aversa et al. unpack (NFFA-EUROPE, Sci. Data 5, 180172, 2018,
  https://doi.org/10.1038/sdata.2018.172) and as MicroNet's pictures are sorted: every picture
  below a folder is of its class. Above the classes there may be folders of splits: train, val, test.
- A plain folder: pictures without classes, at any depth.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from networks.errors import UserError
from networks.workflow.data import PICTURE_SUFFIXES, json_path
from networks.workflow.files import files_below
from networks.workflow.labelled_pictures import SPLIT_NAMES, TABLE, pictures_to_segment
from networks.workflow.pixel_size import metres
from scripts.corpus.index import Micrograph, read_index

LAYOUTS = ("auto", "table", "dataset", "uhcs", "classes", "plain")
DATABASE = "microstructures.sqlite"


def read_corpus(source: str | os.PathLike, layout: str = "auto") -> list[Micrograph]:
    """The pictures of a source in the order of their paths, or that of the table.

    Args:
        source: a folder or CSV file; see the module.
        layout: one of LAYOUTS; "auto" takes the first that is there, and classes where folders hold all pictures.

    Raises:
        UserError: nothing is there, the layout is unknown or another, or a table or database is damaged.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout is {layout!r}; choose one of {', '.join(LAYOUTS)}.")
    root = Path(str(source))
    if root.is_file() and root.suffix.lower() == ".csv":
        return read_index(root)
    if not root.is_dir():
        raise UserError(f"{root} is neither a folder nor a CSV file; give the folder of the pictures, or their index.")
    files = files_below(root)
    table, database = root / TABLE, next((path for path in files if path.name == DATABASE), None)
    if layout == "table" or (layout == "auto" and table.is_file()):
        if not table.is_file():
            raise UserError(f"{root} has no {TABLE}; give the CSV file itself, or another --layout.")
        return read_index(table)
    if layout == "dataset" or (layout == "auto" and json_path(str(root)).is_file()):
        return _data_set(root)
    pictures = [path for path in files if path.name.lower().endswith(PICTURE_SUFFIXES) and path.is_file()]
    if layout == "uhcs" or (layout == "auto" and database):
        if database is None:
            raise UserError(f"{root} has no {DATABASE}, which names the classes of UHCS; add it, or choose --layout.")
        return _uhcs(root, database, pictures)
    if not pictures:
        raise UserError(f"{root} holds no pictures; expected files ending in {', '.join(PICTURE_SUFFIXES)}.")
    outer = {} if layout == "plain" else _splits(root, pictures)
    loose = [path for path in pictures if len(path.relative_to(root).parts) < (3 if outer else 2)]
    if layout == "classes" and loose:
        raise UserError(f"{loose[0]} lies in no folder of a class; put it into one, or choose --layout plain.")
    if layout == "auto" and 0 < len(loose) < len(pictures):
        print(
            f"{len(loose)} of the {len(pictures)} pictures of {root} lie in no folder of a class, such as {loose[0]}, "
            "so that none gets a class; move them for classes, or give --layout plain if there are none."
        )
    if layout == "plain" or loose:
        return [Micrograph(path, split=_split(outer, root, path), source=_name(root, path)) for path in pictures]
    return [
        Micrograph(path, path.relative_to(root).parts[bool(outer)], _split(outer, root, path), _name(root, path))
        for path in pictures
    ]


def _splits(root: Path, pictures: Iterable[Path]) -> dict[str, str]:
    """Splits by the names of the outer folders; nothing if these are not all splits."""
    names = {path.relative_to(root).parts[0] for path in pictures}
    found = {name: SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}
    if found and len(found) < len(names):
        raise UserError(
            f"{root} has folders of splits ({', '.join(sorted(found))}) beside others "
            f"({', '.join(sorted(names - set(found))[:3])}); give --layout plain, or sort them."
        )
    return found


def _split(outer: dict[str, str], root: Path, path: Path) -> str:
    return outer.get(path.relative_to(root).parts[0], "")


def _name(root: Path, path: Path) -> str:
    return f"{root.resolve().name}/{path.relative_to(root).as_posix()}"


def _data_set(root: Path) -> list[Micrograph]:
    # one that is in several lists is for test, if one of these is
    found = {image: split for image, _, split, _ in pictures_to_segment(str(root), say=print)}
    return [Micrograph(image, split=split, source=_name(root, image)) for image, split in found.items()]


def _uhcs(root: Path, database: Path, pictures: Sequence[Path]) -> list[Micrograph]:
    query = (
        "SELECT micrograph_id, path, micron_bar, micron_bar_units, micron_bar_px, sample_key, primary_microconstituent"
        " FROM micrograph ORDER BY micrograph_id"
    )
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{database} is not the database of UHCS ({error}); fetch it again.") from error
    files: dict[str, Path] = {}
    for path in pictures:
        files.setdefault(path.name.lower(), path)
        files.setdefault(path.stem.lower(), path)
    found, missing = [], 0
    for number, path, bar, unit, length, sample, constituent in rows:
        names = (Path(str(path or "")).name.lower(), Path(str(path or "")).stem.lower(), f"micrograph{number}")
        image = next((files[name] for name in names if name and name in files), None)
        if image is None:
            missing += 1
            continue
        scale = metres(str(unit or ""))
        size = float(bar) * scale * 1e9 / float(length) if scale and bar and length else None
        found.append(
            Micrograph(
                image,
                str(constituent or "").strip(),
                source=_name(root, image),
                group=f"specimen {sample}" if sample is not None else "",
                pixel_size=size,
                pixel_size_from="database" if size else "",
            )
        )
    if not found:
        raise UserError(f"None of the {len(rows)} pictures of {database} lies in {root}; put them beside it.")
    strange = len(set(pictures) - {micrograph.image for micrograph in found})
    if strange:
        print(
            f"{strange} of the {len(pictures)} pictures of {root} are not in {database.name} and left out; --layout "
            "plain takes all."
        )
    if missing:
        print(f"{missing} of the {len(rows)} pictures of {database.name} are not in {root} and left out.")
    return found


def corpus_beside(source: str, output_dir: str, layout: str) -> list[Micrograph]:
    """The pictures of a source that a step may read while it writes to ``output_dir``.

    Raises:
        UserError: as :func:`read_corpus`, or the output would be read as a part of the source the next time.
    """
    root, target = Path(str(source)).resolve(), Path(str(output_dir)).resolve()
    if target == root or (target in root.parents and root.is_file() and root.parent == target):
        raise UserError(f"{output_dir} is the source itself; give another folder for the result.")
    micrographs = read_corpus(source, layout)
    is_table = root.is_file() or (layout in ("auto", "table") and (root / TABLE).is_file())
    if not is_table and root in target.parents:
        raise UserError(f"{output_dir} lies in {source}, whose pictures are all read; give a folder outside of it.")
    return micrographs
