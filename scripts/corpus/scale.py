"""The side of a pixel: from what the microscope wrote into the file, or from the scale that is drawn in the picture.

Every source is checked where there is something to check it by, and a picture whose scale contradicts itself has none:
a wrong size is worse than a missing one.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from networks.errors import UserError
from networks.workflow.ids import truth
from networks.workflow.pixel_size import METRES, NOT_TOLD, read_pixel_size
from scripts.corpus.overlays import INK, Bar, Box, Overlays

SQUARE = 0.01  # by which the two sides of a pixel may differ
AGREE = 0.08  # by which a bar, of which a pixel or two are uncertain, may differ from the field's width
# What OCR makes of µm; n and m are left to themselves, since a nanometre for a micrometre is a thousandfold mistake. A
# bar in pm may be one of picometres, an image's width may not.
UNSURE = "pm"
UNIT = r"(?P<unit>[nm]m|[uµμpyjkg]m|[jp]um|microns?)"
# A comma before three digits is one of thousands or of decimals, which only a 0 before it tells apart.
NUMBER = r"(?P<number>0,\d+|\d+(?:\.\d+|,(?!\d{3}(?!\d))\d+)?)"
LENGTH = re.compile(rf"{NUMBER}\s*{UNIT}\b", re.IGNORECASE)
FIELD = re.compile(rf"\b(?:width|hfw|hfov|fov|view\s*field)\s*[=:]?\s*{LENGTH.pattern}", re.IGNORECASE)
SURE = 60.0  # per cent that Tesseract has to be sure of a word
ROUND = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 7.5, 8, 9)  # first digits of the lengths that bars are labelled with


class Scale(NamedTuple):
    """Side of a pixel in nm, or None, where it was read, and what is to be said about it."""

    size: float | None = None
    origin: str = ""
    remark: str = ""


def has_ocr(wanted: bool | str) -> bool:
    """Whether to read texts in pictures: true, false, or "auto" for where pytesseract and Tesseract are installed.

    Raises:
        UserError: it is wanted and not there, or the choice is none.
    """
    if wanted != "auto" and not truth(wanted):
        return False
    try:
        import pytesseract

        pytesseract.get_tesseract_version()
    except Exception as error:  # not installed, or a program that does not run
        if wanted == "auto":
            return False
        raise UserError(
            f"--ocr needs pytesseract and the program tesseract ({type(error).__name__}); install both "
            "(pip install 'segmentation-bundles[corpus]', apt install tesseract-ocr), or give --ocr false."
        ) from error
    return True


def read_scale(path: Path, pixels: np.ndarray, overlays: Overlays, ocr: bool) -> Scale:
    """The scale of a picture.

    Args:
        path: its file, whose metadata come first.
        pixels: (height, width, channels), 8 bit, with banners.
        overlays: what was found in it.
        ocr: whether to read texts.
    """
    found, why = read_pixel_size(path)
    if found is not None and abs(found.width / found.height - 1) > SQUARE:
        return Scale(remark=f"The pixels are not square ({1e9 * found.width:.4g} x {1e9 * found.height:.4g} nm).")
    if found is not None:
        return Scale(1e9 * found.width, found.source)
    read = from_texts(pixels, overlays) if ocr and (overlays.banners or overlays.bars) else Scale()
    return read if read != Scale() or why == NOT_TOLD else Scale(remark=f"{why[0].upper()}{why[1:]}.")


class _Word(NamedTuple):
    text: str
    box: Box


def from_texts(pixels: np.ndarray, overlays: Overlays) -> Scale:
    """The scale by Tesseract: the width of the field where a banner names it, and a bar's label over its length.

    Digits are misread as other digits. So every text is read twice, from pages that were made in two ways, and counts
    only where both say the same.
    """
    by_bar, by_field, picometres, unsure = [], [], False, False
    for area in (*overlays.banners, *overlays.drawn):
        bars = [bar for bar in overlays.bars if max(bar.box.gap(area)) == 0]
        if area in overlays.drawn and not bars:
            continue
        readings = [_words(page, area) for page in _pages(pixels, area, bars if area in overlays.drawn else ())]
        fields = [{_nanometres(m) for m in FIELD.finditer(" ".join(w.text for w in words))} for words in readings]
        by_field += [length / pixels.shape[1] for length in fields[0] & fields[1]]
        unsure |= fields[0] != fields[1]
        for bar in bars:
            labels = [_label(words, bar) for words in readings]
            lengths = [_nanometres(label) if label else None for label in labels]
            by_bar += [lengths[0] / bar.length] if lengths[0] and lengths[0] == lengths[1] else []
            picometres |= any(label and label["unit"].lower() == UNSURE for label in labels)
            unsure |= lengths[0] != lengths[1]
    if picometres and not by_field:
        return Scale(remark="A scale bar may be of picometres or micrometres.")
    others = [*by_field, *by_bar]
    if others and max(others) / min(others) - 1 > AGREE:
        sizes = ", ".join(f"{value:.4g}" for value in others)
        return Scale(remark=f"What is written in the picture contradicts itself ({sizes} nm per pixel).")
    if others:
        return Scale(others[0], "width of the field (OCR)" if by_field else "scale bar (OCR)")
    return Scale(remark="The scale could not be read with certainty." if unsure else "")


def _pages(pixels: np.ndarray, area: Box, bars: Sequence[Bar]) -> list[Image.Image]:
    """An area as black letters on white, once with soft and once with hard edges.

    Args:
        pixels: of the picture.
        area: of a banner, or of a scale bar with its label.
        bars: those of the area, which have the letters' colour, where they stand on the micrograph itself.
    """
    part = pixels[area.top : area.bottom, area.left : area.right].astype(np.int16)
    if bars:
        box = bars[0].box
        rows = pixels[box.top : box.bottom, box.left : box.right].astype(np.int16)
        colour = np.median(rows[rows.std(axis=(1, 2)).argmin()], axis=0)
    else:
        grey = part.mean(axis=2)
        away = np.abs(grey - np.bincount(np.rint(grey).astype(int).ravel(), minlength=256).argmax())
        colour = np.median(part[away >= max(np.percentile(away[away > INK], 50), INK)], axis=0)
    distance = np.abs(part - colour).max(axis=2)
    soft = Image.fromarray((255 * (distance / 128).clip(0, 1)).astype(np.uint8))
    hard = Image.fromarray(np.where(distance > INK, 255, 0).astype(np.uint8))
    return [soft, hard]


def _words(page: Image.Image, area: Box) -> list[_Word]:
    import pytesseract

    factor, border = (4 if page.width < 300 else 3 if page.width < 1600 else 2), 20
    page = page.resize((page.width * factor, page.height * factor), Image.Resampling.BICUBIC)
    sheet = Image.new("L", (page.width + 2 * border, page.height + 2 * border), 255)
    sheet.paste(page, (border, border))
    mode = 11 if area.width > 6 * area.height else 6  # sparse text, or one block
    found = pytesseract.image_to_data(sheet, config=f"--psm {mode}", output_type=pytesseract.Output.DICT)
    words = []
    keys = ("text", "conf", "left", "top", "width", "height")
    for text, sure, left, top, width, height in zip(*(found[key] for key in keys), strict=True):
        if float(sure) < SURE or not text.strip():
            continue
        x, y = area.left + (left - border) // factor, area.top + (top - border) // factor
        words.append(_Word(text.strip(), Box(x, y, x + width // factor, y + height // factor)))
    return words


def _label(words: list[_Word], bar: Bar) -> re.Match[str] | None:
    """The length that is written nearest to a bar, where it is one that bars have, as LENGTH has found it."""
    found = []
    for text, box in _singles_and_pairs(words):
        match = LENGTH.fullmatch(text)
        if match is None:
            continue
        across, down = box.gap(bar.box)
        if across <= 2 * box.height and down <= 3 * box.height and _is_round(_nanometres(match)):
            found.append((across + down, match))
    return min(found, key=lambda item: item[0])[1] if found else None


def _singles_and_pairs(words: list[_Word]) -> Iterator[tuple[str, Box]]:
    yield from words
    for one, two in itertools.pairwise(words):
        if max(one.box.gap(two.box)) <= 2 * one.box.height:
            yield f"{one.text} {two.text}", one.box.union(two.box)


def _nanometres(match: re.Match[str]) -> float:
    unit = match["unit"].lower()
    return float(match["number"].replace(",", ".")) * METRES[unit if unit in ("nm", "mm") else "µm"] * 1e9


def _is_round(length: float) -> bool:
    digits = float(f"{length:.6e}".split("e")[0])
    return any(abs(digits - value) < 1e-3 for value in ROUND)
