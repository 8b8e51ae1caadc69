"""Copies of pictures without banners, scale bars and texts, and the side of a pixel where it is written."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from networks.errors import UserError
from networks.workflow.files import atomic
from networks.workflow.pictures import as_picture, highest_of_16_bit, is_dark, read_picture, read_pixels
from networks.workflow.pixel_size import read_pixel_size
from scripts.corpus.index import Micrograph
from scripts.corpus.overlays import INK, Box, Overlays, find_overlays
from scripts.corpus.readers import corpus_beside
from scripts.corpus.scale import has_ocr, read_scale
from scripts.corpus.sheets import KEPT, REMOVED, SIZE, Tile, nanometres, sample, write_sheet
from scripts.corpus.steps import Done, derived, names_of, step

WAYS = ("crop", "inpaint", "keep")
NM_PER_INCH, PER_METRE = 2.54e7, 2**31 - 1  # the latter is PNG's limit
MOST = 0.4  # of the picture's area that may be cut off for what is drawn into it


def clean(
    source: str,
    output_dir: str,
    layout: str = "auto",
    drawn: str = "crop",
    ocr: str = "auto",
    window: Sequence[float] | None = None,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no pictures, an option out of range, or a folder of other settings.
        SystemExit: pictures could not be used.
    """
    if drawn not in WAYS:
        raise UserError(f"--drawn is {drawn!r}; choose one of {', '.join(WAYS)}.")
    if window is not None and not (isinstance(window, list | tuple) and len(window) == 2 and window[0] < window[1]):
        raise UserError(f"--window is {window}; expected two values such as 0,4095, the lower one first.")
    reads = has_ocr(ocr)
    micrographs = corpus_beside(source, output_dir, layout)
    names = names_of(micrographs)
    settings = {"drawn": drawn, "ocr": reads, "window": list(window) if window else None}
    with step(output_dir, "clean", settings) as work:

        def one(micrograph: Micrograph) -> Done:
            return _clean(micrograph, work.folder / f"{names[micrograph.image]}.png", drawn, reads, window)

        found = work.run(micrographs, one, "Cleaning")
        _write_sheets(work.folder, [(micrograph, about) for micrograph, (_, about) in found], window)
        _tell([about for _, (_, about) in found], reads)
        work.finish([result for _, (results, _) in found for result in results])


def _clean(micrograph: Micrograph, target: Path, drawn: str, ocr: bool, window: Sequence[float] | None) -> Done:
    raw = read_pixels(micrograph.image)
    pixels, highest = as_picture(raw, None, window), highest_of_16_bit(raw)
    overlays = find_overlays(pixels)
    scale = read_scale(micrograph.image, pixels, overlays, ocr)
    kept = without_banners(pixels, overlays)
    inside = [box for box in overlays.drawn if drawn != "keep"]
    if drawn == "crop":
        for box in inside:
            kept = cut_off(kept, box)
        if kept.width * kept.height < (1 - MOST) * _area(without_banners(pixels, overlays)):
            raise UserError(
                f"{micrograph.image.name} has drawings or texts in its middle, so that too little would be left; "
                "cut it by hand, or give --drawn inpaint or keep."
            )
    elif inside:
        pixels = painted_over(pixels, inside)
    result = np.ascontiguousarray(pixels[kept.top : kept.bottom, kept.left : kept.right])
    size, origin = micrograph.pixel_size, micrograph.pixel_size_from or "index"
    if size is None:
        size, origin = scale.size, scale.origin
    with atomic(target) as temporary:
        save_png(result[..., 0] if result.shape[2] == 1 else result, temporary, size)
    about = {
        "kept": [kept.left, kept.top, kept.right, kept.bottom],
        "removed": [[b.left, b.top, b.right, b.bottom] for b in (*overlays.banners, *inside)],
        "banners": len(overlays.banners),
        "drawn": len(inside),
        "remark": scale.remark,
        "scale": origin if size is not None else "",
        "size": size,
        "carried": size is None or read_pixel_size(target)[0] is not None,
        "unread": size is None and not ocr and bool(overlays.banners or overlays.bars),
        "dark": window is None and is_dark(highest),
        "highest": highest,
    }
    box = micrograph.part(kept.left, kept.top, kept.width, kept.height)
    cleaned = derived(micrograph, target, box=box, pixel_size=size, pixel_size_from=origin if size is not None else "")
    return [cleaned], about


def save_png(pixels: np.ndarray, path: Path, size: float | None) -> None:
    """Write a picture that carries the side of its pixels, in nm, for whatever measures it; PNG can say 0.47 nm.

    Of some sizes, such as 12.7 and 25.4 µm, that is a printer's resolution, which is not read as a size.
    """
    resolution = {} if size is None or 1e9 / size > PER_METRE else {"dpi": (NM_PER_INCH / size,) * 2}
    Image.fromarray(pixels).save(path, **resolution)


def without_banners(pixels: np.ndarray, overlays: Overlays) -> Box:
    """What is left of a picture (height, width, channels) when its banners are cut off."""
    top, bottom = 0, pixels.shape[0]
    for banner in overlays.banners:
        top, bottom = (banner.bottom, bottom) if banner.top == 0 else (top, banner.top)
    return Box(0, top, pixels.shape[1], bottom)


def cut_off(kept: Box, drawn: Box) -> Box:
    """The largest part of ``kept`` on one side of a drawing."""
    across = min(kept.right, drawn.right) - max(kept.left, drawn.left)
    if across <= 0 or min(kept.bottom, drawn.bottom) <= max(kept.top, drawn.top):
        return kept
    sides = (
        Box(kept.left, kept.top, kept.right, min(drawn.top, kept.bottom)),
        Box(kept.left, max(drawn.bottom, kept.top), kept.right, kept.bottom),
        Box(kept.left, kept.top, min(drawn.left, kept.right), kept.bottom),
        Box(max(drawn.right, kept.left), kept.top, kept.right, kept.bottom),
    )
    return max(sides, key=_area)


def painted_over(pixels: np.ndarray, drawn: Sequence[Box]) -> np.ndarray:
    """The picture with drawings replaced by what their surroundings suggest.

    Only ink is replaced where the letters stand on the micrograph, and the whole field where they have one below them.
    """
    from skimage.restoration import inpaint_biharmonic

    mask = np.zeros(pixels.shape[:2], bool)
    for box in drawn:
        part = pixels[box.top : box.bottom, box.left : box.right].astype(int)
        away = np.abs(part - np.median(part, axis=(0, 1))).max(axis=2)
        ink, plain = away > INK, (away <= 2).mean() > 0.5
        grown = np.ones_like(ink) if plain else ndimage.binary_dilation(ink, iterations=2)
        mask[box.top : box.bottom, box.left : box.right] |= grown
    filled = inpaint_biharmonic(pixels, mask, split_into_regions=True, channel_axis=2)
    return np.where(mask[..., None], np.rint(255 * filled).clip(0, 255).astype(np.uint8), pixels)


def _area(box: Box) -> int:
    return max(box.width, 0) * max(box.height, 0)


def _write_sheets(folder: Path, found: Sequence[tuple[Micrograph, dict]], window: Sequence[float] | None) -> None:
    """Sheets of the originals with frames: pictures that lost something, on as many sheets as it takes, then others."""
    changed = [item for item in found if item[1]["removed"]]
    whole = [item for item in found if not item[1]["removed"]]
    pages = [changed[i : i + SIZE] for i in range(0, len(changed), SIZE)]
    for old in folder.glob("sheet_*.png"):
        old.unlink()
    named = [(f"sheet_removed_{n}", page) for n, page in enumerate(pages, start=1)]
    named += [("sheet_unchanged", [whole[i] for i in sample(len(whole))])] if whole else []
    for name, page in named:
        tiles = []
        for micrograph, about in page:
            boxes = [(tuple(about["kept"]), KEPT), *((tuple(box), REMOVED) for box in about["removed"])]
            caption = f"{micrograph.image.name}\n{nanometres(about['size'])}"
            pixels = read_picture(micrograph.image, None, window)
            tiles.append(Tile(pixels, caption, boxes if about["removed"] else ()))
        write_sheet(folder / f"{name}.png", tiles, "green: kept, red: removed")


def _tell(found: Sequence[dict], ocr: bool) -> None:
    banners, drawn = (sum(about[key] > 0 for about in found) for key in ("banners", "drawn"))
    print(f"Of {len(found)} pictures {banners} had a banner and {drawn} a scale bar or text in the micrograph.")
    for origin, count in Counter(about["scale"] for about in found).most_common():
        print(f"  pixel size from {origin}: {count}" if origin else f"  pixel size unknown: {count}")
    lost = [about["size"] for about in found if not about["carried"]]
    if lost:
        print(
            f"  {len(lost)} pixel sizes, such as {lost[0]:.4g} nm, do not go into a PNG file, or are a printer's "
            "there; labels.csv has them, and --pixel_size tells them to what measures the pictures."
        )
    for remark, count in Counter(about["remark"] for about in found if about["remark"]).most_common(3):
        print(f"  {remark} ({count})")
    if any(about["unread"] for about in found):
        print(
            "Install tesseract and pytesseract to have scales read from the pictures (the folder has to be made anew)."
        )
    dark = [about["highest"] for about in found if about["dark"]]
    if dark:
        print(
            f"{len(dark)} pictures of 16 bit have no value above {max(dark)}, so they came out dark; give another "
            f"folder and --window 0,{max(dark)}."
        )
