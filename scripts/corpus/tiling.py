"""Square tiles of pictures that together show all of each, with an overlap that follows from the picture's size."""

from pathlib import Path

import numpy as np
from PIL import Image

from networks.errors import UserError
from networks.workflow.files import atomic
from scripts.corpus.index import Micrograph
from scripts.corpus.readers import corpus_beside
from scripts.corpus.sheets import KEPT, Tile, sample, write_sheet
from scripts.corpus.steps import Done, derived, names_of, read_cleaned, step

SMALL = ("keep", "pad", "leave_out")


def tile(
    source: str, output_dir: str, size: int = 512, min_overlap: int = 0, small: str = "keep", layout: str = "auto"
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no pictures, an option out of range, or a folder of other settings.
        SystemExit: pictures could not be used.
    """
    if size < 16 or not 0 <= min_overlap < size:
        raise UserError(f"--size {size} and --min_overlap {min_overlap} make no tiles; expected 0 to below the size.")
    if small not in SMALL:
        raise UserError(f"--small is {small!r}; choose one of {', '.join(SMALL)}.")
    micrographs = corpus_beside(source, output_dir, layout)
    names = names_of(micrographs)
    with step(output_dir, "tile", {"size": size, "min_overlap": min_overlap, "small": small}) as work:

        def one(micrograph: Micrograph) -> Done:
            return _tiles(micrograph, work.folder / names[micrograph.image], size, min_overlap, small)

        found = work.run(micrographs, one, "Tiling")
        tiles = []
        for i in sample(len(found)):
            micrograph, (results, about) = found[i]
            boxes = [((x, y, x + w, y + h), KEPT) for x, y, w, h in about["boxes"]]
            tiles.append(Tile(micrograph.image, f"{micrograph.image.name}\n{len(results)} tiles", boxes))
        write_sheet(work.folder / "sheet.png", tiles, f"tiles of {size}")
        count = sum(len(results) for _, (results, _) in found)
        left_out = sum(not results for _, (results, _) in found)
        print(f"{count} tiles of {len(found) - left_out} pictures; {left_out} smaller ones left out.")
        work.finish([result for _, (results, _) in found for result in results])


def starts(length: int, size: int, min_overlap: int = 0) -> list[int]:
    """Where the tiles along one side begin: as few as cover it, evenly, the last one ending with the side.

    Args:
        length: of the side.
        size: of a tile.
        min_overlap: of neighbours.
    """
    if length <= size:
        return [0]
    count = -(-(length - min_overlap) // (size - min_overlap))
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _tiles(micrograph: Micrograph, stem: Path, size: int, min_overlap: int, small: str) -> Done:
    pixels = read_cleaned(micrograph.image)
    height, width = pixels.shape[:2]
    if min(height, width) < size and small == "leave_out":
        return [], {"boxes": []}
    results, boxes = [], []
    for top in starts(height, size, min_overlap):
        for left in starts(width, size, min_overlap):
            part = pixels[top : top + size, left : left + size]
            boxes.append((left, top, part.shape[1], part.shape[0]))
            if small == "pad":
                low, right = size - part.shape[0], size - part.shape[1]
                part = np.pad(part, ((0, low), (0, right), (0, 0)), mode="symmetric")
            target = stem.with_name(f"{stem.name}_x{left}_y{top}.png")
            with atomic(target) as temporary:
                Image.fromarray(part[..., 0] if part.shape[2] == 1 else np.ascontiguousarray(part)).save(temporary)
            results.append(derived(micrograph, target, box=micrograph.part(*boxes[-1])))
    return results, {"boxes": boxes}
