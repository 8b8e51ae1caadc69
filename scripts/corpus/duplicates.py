"""Pictures that show the same: the same file under two names, saved again, resized, brightened, or taken twice."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.cluster.hierarchy import DisjointSet
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.carving import joined
from networks.workflow.evaluation import write_csv
from networks.workflow.files import file_hash
from networks.workflow.ids import truth
from scripts.corpus.index import DUPLICATES, Micrograph
from scripts.corpus.readers import corpus_beside
from scripts.corpus.sheets import SIZE, Tile, write_sheet
from scripts.corpus.steps import Done, read_cleaned, step
from scripts.corpus.units import left_out

SIDE, BLUR = 128, 6.0  # pixels of the small pictures that are compared, and how much of a shading is taken out of them
FLAT = 0.5  # grey values of detail below which a picture is one plain field
BLOCK = 1024
PAIRS = "duplicates.csv"


@dataclass(frozen=True)
class Pair:
    """Two pictures that show the same.

    Attributes:
        one, other: their places in the index.
        distance: bits by which their perceptual hashes differ.
        correlation: of their details.
        turn: what the other has to be turned by, such as "90°" or "flip"; empty for nothing.
    """

    one: int
    other: int
    distance: int
    correlation: float
    turn: str = ""


def duplicates(
    source: str,
    output_dir: str,
    distance: int = 10,
    correlation: float = 0.9,
    turned: bool = False,
    drop: bool = False,
    layout: str = "auto",
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no pictures, an option out of range, or a folder of other settings.
        SystemExit: pictures could not be used.
    """
    if not 0 <= distance <= 32 or not 0 < correlation <= 1:
        raise UserError(
            f"--distance {distance} and --correlation {correlation} are out of range; expected 0 to 32 bits, and above "
            "0 up to 1."
        )
    turned, drop = truth(turned), truth(drop)
    micrographs = corpus_beside(source, output_dir, layout)
    settings = {"distance": distance, "correlation": correlation, "turned": turned, "drop": drop}
    with step(output_dir, "duplicates", settings) as work:
        found = work.run(micrographs, lambda micrograph: _hashes(micrograph, turned), "Hashing")
        kept = [micrograph for micrograph, _ in found]
        pairs = find_pairs(kept, [about for _, (_, about) in found], distance, correlation)
        groups = groups_of(pairs)
        number = numbers_of(groups, [micrograph.more.get(DUPLICATES, "") for micrograph in kept])
        rows = [_row(kept[pair.one], kept[pair.other], pair, number[pair.one]) for pair in pairs]
        for old in work.folder.glob("sheet_*.png"):
            old.unlink()
        if rows:
            write_csv(work.folder / PAIRS, rows)
        else:
            (work.folder / PAIRS).unlink(missing_ok=True)
        _write_sheets(work.folder, kept, groups, number)
        _tell(rows, groups, len(kept))
        result = [replace(m, more={**m.more, DUPLICATES: str(number.get(i, ""))}) for i, m in enumerate(kept)]
        if drop:
            later = {i for group in groups for i in group[1:]}
            result = left_out(result, later)
            print(f"{len(later)} are left out of the index: of each group, the first stays.")
        work.finish(result)


def find_pairs(
    micrographs: Sequence[Micrograph], hashes: Sequence[dict], distance: int, correlation: float
) -> list[Pair]:
    """Every two pictures whose hashes are close and whose details agree.

    Tiles and copies of one source are no duplicates of each other.

    Args:
        micrographs: the pictures.
        hashes: of each, what :func:`_hashes` says.
        distance: bits up to which hashes are close.
        correlation: from which details agree.
    """
    small: dict[int, np.ndarray] = {}

    def details(i: int) -> np.ndarray:
        if i not in small:
            small[i] = small_details(read_cleaned(micrographs[i].image))
        return small[i]

    best: dict[tuple[int, int], Pair] = {}
    plain = np.array([int(item["hashes"][""], 16) for item in hashes], np.uint64)
    turns = list(hashes[0]["hashes"]) if hashes else []
    candidates = []
    for turn in turns:
        other = np.array([int(item["hashes"][turn], 16) for item in hashes], np.uint64)
        candidates += [(i, j, bits, turn) for i, j, bits in _close(plain, other, distance)]
    for i, j, bits, turn in tqdm(candidates, desc="Comparing", unit="pair"):
        one, two = micrographs[i], micrographs[j]
        if one.source == two.source or not _same_shape(hashes[i], hashes[j], turn):
            continue
        same = hashes[i]["sha256"] == hashes[j]["sha256"]
        agree = 1.0 if same else agreement(details(i), turned_by(details(j), turn))
        if agree >= correlation and ((i, j) not in best or agree > best[i, j].correlation):
            best[i, j] = Pair(i, j, bits, agree, "" if same else turn)
    return [best[key] for key in sorted(best)]


def groups_of(pairs: Sequence[Pair]) -> list[list[int]]:
    """Pictures that belong together through any pairs, each group in the order of the index."""
    found = DisjointSet(i for pair in pairs for i in (pair.one, pair.other))
    for pair in pairs:
        found.merge(pair.one, pair.other)
    return sorted(sorted(group) for group in found.subsets())


def numbers_of(groups: Sequence[Sequence[int]], earlier: Sequence[str]) -> dict[int, int]:
    """The number of the group of every picture that has one, from 1.

    Groups that another search has found, such as one that turned the pictures, stay together too.

    Args:
        groups: of places in the index.
        earlier: of every picture the group that the index has for it; empty for none.
    """
    names = [[f"picture {i}", *([f"earlier {value}"] if value else [])] for i, value in enumerate(earlier)]
    for n, group in enumerate(groups):
        for i in group:
            names[i].append(f"now {n}")
    units = joined(names)
    own = [i for group in groups for i in group]
    numbers: dict[str, int] = {}
    for i in [*own, *(i for i, value in enumerate(earlier) if value)]:
        numbers.setdefault(units[i], len(numbers) + 1)
    return {i: numbers[unit] for i, unit in enumerate(units) if unit in numbers}


def small_details(pixels: np.ndarray) -> np.ndarray:
    """A picture (height, width, channels) in grey, made small, without its shading, (SIDE, SIDE)."""
    grey = Image.fromarray(np.rint(pixels.mean(axis=2)).astype(np.uint8))
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    return small - ndimage.gaussian_filter(small, BLUR)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the details; of plain fields, which have none, 1 for two and 0 for one."""
    plain = [float(details.std()) < FLAT for details in (one, other)]
    if any(plain):
        return float(all(plain))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def turned_by(array: np.ndarray, turn: str) -> np.ndarray:
    """A square array, turned and flipped as the name says."""
    flipped = array[:, ::-1] if "flip" in turn else array
    return np.rot90(flipped, next((k for k in (1, 2, 3) if f"{90 * k}°" in turn), 0))


def _hashes(micrograph: Micrograph, turned: bool) -> Done:
    pixels = read_cleaned(micrograph.image)
    grey = np.rint(pixels.mean(axis=2)).astype(np.uint8)
    turns = [""]
    if turned:
        turns = [
            " ".join(filter(None, names)) for names in itertools.product(("", "flip"), ("", "90°", "180°", "270°"))
        ]
    found = {turn: str(imagehash.phash(Image.fromarray(turned_by(grey, turn)))) for turn in turns}
    height, width = grey.shape
    return [], {"hashes": found, "sha256": file_hash(micrograph.image), "aspect": width / height}


def _close(one: np.ndarray, other: np.ndarray, distance: int) -> Iterator[tuple[int, int, int]]:
    """Places in two rows of hashes, the first before the second, that differ by few bits, and how many."""
    for start in range(0, len(one), BLOCK):
        different = one[start : start + BLOCK, None] ^ other[None]
        bits = np.zeros(different.shape, np.uint8)
        for byte in range(8):
            bits += _BITS[(different >> np.uint64(8 * byte)).astype(np.uint8)]
        for i, j in zip(*np.nonzero(bits <= distance), strict=True):
            if start + i < j:
                yield int(start + i), int(j), int(bits[i, j])


_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def _same_shape(one: dict, other: dict, turn: str) -> bool:
    aspect = 1 / other["aspect"] if "90°" in turn or "270°" in turn else other["aspect"]
    return abs(one["aspect"] / aspect - 1) <= 0.03


def _row(one: Micrograph, other: Micrograph, pair: Pair, group: int) -> dict[str, object]:
    return {
        "group": group,
        "image": str(one.image),
        "other": str(other.image),
        "distance": pair.distance,
        "correlation": f"{pair.correlation:.4f}",
        "turn": pair.turn,
        "class": one.kind,
        "other_class": other.kind,
        "split": one.split,
        "other_split": other.split,
    }


def _write_sheets(
    folder: Path, micrographs: Sequence[Micrograph], groups: Sequence[Sequence[int]], number: Mapping[int, int]
) -> None:
    tiles = [
        Tile(micrographs[i].image, f"group {number[i]}: {micrographs[i].image.name}\n{micrographs[i].kind}")
        for group in groups
        for i in group
    ]
    for page, start in enumerate(range(0, len(tiles), SIZE), start=1):
        write_sheet(folder / f"sheet_{page}.png", tiles[start : start + SIZE], "pictures that show the same")


def _tell(rows: Sequence[dict], groups: Sequence[Sequence[int]], count: int) -> None:
    print(f"{sum(map(len, groups))} of {count} pictures show what another one shows, in {len(groups)} groups.")
    for key in ("class", "split"):
        crossing = [row for row in rows if row[key] != row[f"other_{key}"]]
        if crossing:
            first = crossing[0]
            what = "are of two classes" if key == "class" else "are in two splits"
            print(f"  {len(crossing)} pairs {what}, such as {first['image']} and {first['other']}.")
