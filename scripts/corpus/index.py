"""The index of a corpus: a CSV file with a line per picture, ``image,class,split`` and where the picture comes from.

Every step of a corpus reads an index and writes one, and what trains on pictures in classes reads the last. Columns
that a step does not know are handed on.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from networks.errors import UserError
from networks.workflow.evaluation import write_csv
from networks.workflow.labelled_pictures import SPLIT_NAMES, TABLE

# columns with a place of their own in Micrograph, in the order of the file
IMAGE, CLASS, SPLIT, SOURCE, GROUP, PIXEL_SIZE, PIXEL_SIZE_FROM = (
    "image",
    "class",
    "split",
    "source",
    "group",
    "pixel_size_nm",
    "pixel_size_from",
)
BOX = ("left", "top", "width", "height")
DUPLICATES = "duplicates"  # of those in Micrograph.more: the number of the group of pictures that show the same
OWN = (IMAGE, CLASS, SPLIT, SOURCE, GROUP, PIXEL_SIZE, PIXEL_SIZE_FROM, *BOX)


@dataclass(frozen=True)
class Micrograph:
    """A picture of a corpus.

    Attributes:
        image: its file.
        kind: its class; empty if unknown.
        split: one of SPLITS; empty before there are any.
        source: name of the picture that it was cut from, the same through all steps.
        group: what must stay in one split beside the pictures of one source, such as a specimen; empty for none.
        pixel_size: side of a pixel in nanometres; None if unknown.
        pixel_size_from: where that was read.
        box: what of the source it shows, as (left, top, width, height) in the source's pixels; None for all of it.
        more: columns of other steps and of the user.
    """

    image: Path
    kind: str = ""
    split: str = ""
    source: str = ""
    group: str = ""
    pixel_size: float | None = None
    pixel_size_from: str = ""
    box: tuple[int, int, int, int] | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    def row(self, folder: Path) -> dict[str, str]:
        """Its line in an index that lies in ``folder``."""
        box = dict(zip(BOX, map(str, self.box), strict=True)) if self.box else {}
        return {
            IMAGE: Path(os.path.relpath(self.image.absolute(), folder.absolute())).as_posix(),
            CLASS: self.kind,
            SPLIT: self.split,
            SOURCE: self.source,
            GROUP: self.group,
            PIXEL_SIZE: "" if self.pixel_size is None else f"{self.pixel_size:.6g}",
            PIXEL_SIZE_FROM: self.pixel_size_from,
            **box,
            **self.more,
        }

    def part(self, left: int, top: int, width: int, height: int) -> tuple[int, int, int, int]:
        """A box within this picture, in the source's pixels."""
        return (left + (self.box or (0, 0))[0], top + (self.box or (0, 0))[1], width, height)


def from_row(row: Mapping[str, str | None], folder: Path, where: str) -> Micrograph:
    """The picture of a line.

    Args:
        row: the line's values by column.
        folder: what paths are relative to.
        where: the line's place, for messages.

    Raises:
        UserError: no picture is named, or a split, a size or a box is none.
    """
    values = {key: (value or "").strip() for key, value in row.items() if key}
    if not values.get(IMAGE):
        raise UserError(f"{where} names no image; fill it in or take the line out.")
    split = values.get(SPLIT, "")
    if split and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where} has the split {split!r}; expected training, validation or test.")
    try:
        size = float(values[PIXEL_SIZE]) if values.get(PIXEL_SIZE) else None
        numbers = [int(values[key]) for key in BOX if values.get(key)]
    except ValueError as error:
        raise UserError(f"{where} has a pixel size or a box that is no number ({error}); correct it.") from error
    if (size is not None and not 0 < size < float("inf")) or len(numbers) not in (0, 4):
        raise UserError(f"{where} has a pixel size that is not above 0, or a part of a box; correct it.")
    return Micrograph(
        folder / values[IMAGE],
        values.get(CLASS, ""),
        SPLIT_NAMES.get(split.lower(), ""),
        values.get(SOURCE) or values[IMAGE],
        values.get(GROUP, ""),
        size,
        values.get(PIXEL_SIZE_FROM, ""),
        tuple(numbers) if numbers else None,  # type: ignore[arg-type]
        {key: value for key, value in values.items() if key not in OWN},
    )


def read_index(path: Path) -> list[Micrograph]:
    """The pictures of a CSV file, with its lines' numbers in every message.

    Raises:
        UserError: no CSV file in UTF-8 with a column ``image``; a picture is missing or listed twice; a line as in
            :func:`from_row`; or some lines have a split and others none.
    """
    found, seen = [], {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if IMAGE not in (reader.fieldnames or ()):
                raise UserError(f"{path} has no column 'image' in its first line; expected image,class,split.")
            for row in reader:
                where = f"Line {reader.line_num} of {path}"
                micrograph = from_row(row, path.parent, where)
                if not micrograph.image.is_file():
                    raise UserError(f"{where} lists {micrograph.image}, but there is no such file; take it out.")
                if micrograph.image in seen:
                    raise UserError(f"{where} lists {micrograph.image} again, as line {seen[micrograph.image]} does.")
                seen[micrograph.image] = reader.line_num
                found.append(micrograph)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); export it as one.") from error
    if not found:
        raise UserError(f"{path} lists no pictures.")
    without = next((m for m in found if not m.split), None)
    if without and any(m.split for m in found):
        raise UserError(f"{path} has no split for {without.image}, but for others; fill the column, or remove it.")
    return found


def write_index(folder: Path, micrographs: Sequence[Micrograph]) -> Path:
    """Write a folder's index; columns that nobody fills are left out."""
    rows = [micrograph.row(folder) for micrograph in micrographs]
    filled = {key for row in rows for key, value in row.items() if value} | {IMAGE}
    order = [key for key in (*OWN, *dict.fromkeys(key for row in rows for key in row)) if key in filled]
    write_csv(folder / TABLE, [{key: row.get(key, "") for key in dict.fromkeys(order)} for row in rows])
    return folder / TABLE


def classes_of(micrographs: Iterable[Micrograph]) -> list[str]:
    """The classes in alphabetical order, without the empty one."""
    return sorted({micrograph.kind for micrograph in micrographs} - {""})
