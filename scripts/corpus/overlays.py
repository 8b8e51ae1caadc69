"""Finding what a microscope's software has drawn into a picture: information banners, scale bars, texts.

What is drawn has properties that a micrograph does not have: a banner has rows of one and the same value from side to
side; letters and bars are of one extreme value with hard edges, letters stand on a line, and bars are straight. All
must come together, since a picture that loses a part of itself is worse than one that keeps a bar: saturated particles,
black backgrounds and flat phases are no overlays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FLAT = (3, 12)  # grey values by which a flat ground may vary: as it was drawn, and in JPEG
BLURRED, JPEG_BLOCK = 24, 8  # grey values and rows by which JPEG blurs the edge between a banner and the micrograph
EXACT = 0.995  # share of a ground's pixels that have its very value where no JPEG has been
MAX_FRAME = 6  # rows of a frame's line
INK = 60  # grey values between letters and their ground
MIN_ROWS, MAX_SHARE = 10, 0.35  # of a banner
MAX_TAIL = 0.012  # share of the height that may follow a banner: some programs leave a line of the micrograph there
MIN_GLYPHS = 5  # of a text without a scale bar beside it
MIN_LABEL = 2  # glyphs of a bar's label


@dataclass(frozen=True)
class Box:
    """Pixels from (left, top) up to, not including, (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def union(self, other: "Box") -> "Box":
        """The smallest box around both."""
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def gap(self, other: "Box") -> tuple[int, int]:
        """Columns and rows between the two; 0 where they overlap."""
        across = max(other.left - self.right, self.left - other.right, 0)
        return across, max(other.top - self.bottom, self.top - other.bottom, 0)

    def moved(self, down: int) -> "Box":
        """The box further down."""
        return Box(self.left, self.top + down, self.right, self.bottom + down)


@dataclass(frozen=True)
class Bar:
    """A scale bar.

    Attributes:
        box: all of it.
        length: what its label is about, in pixels: from the middle of one end's tick to that of the other, or all of a
            bar without ticks.
    """

    box: Box
    length: float


@dataclass(frozen=True)
class Overlays:
    """What was found in a picture.

    Attributes:
        banners: at the top or bottom, over the whole width.
        bars: scale bars, also those in a banner.
        drawn: scale bars with their labels, and texts, that lie in the micrograph itself.
    """

    banners: tuple[Box, ...] = ()
    bars: tuple[Bar, ...] = ()
    drawn: tuple[Box, ...] = ()


def find_overlays(pixels: np.ndarray) -> Overlays:
    """What was drawn into a picture (height, width, 1 or 3), 8 bit."""
    colours = pixels.astype(np.int16)
    grey = np.rint(colours.mean(axis=2)).astype(np.int16)
    banners, bars = [], []
    height, width = grey.shape
    bottom, tail = _banner(grey)
    top, head = (0, 0) if bottom else _banner(grey[::-1])
    if bottom or top:
        box = Box(0, height - bottom, width, height) if bottom else Box(0, 0, width, top)
        banners.append(box)
        inside = grey[box.top + head : box.bottom - tail]
        ink = np.abs(inside - _ground(inside)) > INK
        bars += [Bar(bar.box.moved(box.top + head), bar.length) for bar in _bars(ink, width)]
    start, end = top, len(grey) - bottom
    drawn = []
    for ink, field in _inks(colours[start:end], grey[start:end]):
        boxes, found = _drawn(ink, field, grey[start:end])
        drawn += [box.moved(start) for box in boxes]
        bars += [Bar(bar.box.moved(start), bar.length) for bar in found]
    return Overlays(tuple(banners), tuple(bars), tuple(_merged(drawn)))


def _banner(grey: np.ndarray) -> tuple[int, int]:
    """Height of a banner at the bottom with what follows it, and of what follows it; 0 if there is none."""
    lower = grey[-max(round(MAX_SHARE * len(grey)), 1) :]
    spread = np.percentile(lower, (5, 50, 95), axis=1)
    for flat in FLAT:
        for ground in _grounds(lower, spread[1], flat):
            rows = _band(lower, spread, ground, flat, max(4, round(MAX_TAIL * len(grey))))
            if rows is not None and not _goes_on(grey, len(grey) - len(lower) + rows[0], ground, flat):
                return len(lower) - rows[0], len(lower) - rows[1]
    return 0, 0


def _band(lower: np.ndarray, spread: np.ndarray, ground: int, flat: int, tail: int) -> tuple[int, int] | None:
    """First row of a banner of this ground and the row after its last; at most ``tail`` rows follow.

    Args:
        lower: the rows (height, width) that may hold it.
        spread: their percentiles 5, 50 and 95, (3, height).
        ground: value of the banner where nothing is written.
        flat: grey values by which it may vary.
        tail: see above.
    """
    near = np.abs(lower - ground) <= flat
    share, line = near.mean(axis=1), _is_line(spread, ground, 2 * flat)
    whole, part = (share >= 0.9) | line, (share >= 0.4) | line
    end = len(lower)
    while end > 0 and not whole[end - 1]:
        end -= 1
    start = end
    while start > 0 and part[start - 1]:
        start -= 1
    # the banner opens with a flat row; rows above may be as flat as its text rows by chance
    while start < end and not whole[start]:
        start += 1
    if len(lower) - end > tail or start == 0 or end - start < MIN_ROWS or share[start:end].mean() < 0.6:
        return None
    if near[max(start - 3, 0) : start].mean() > 0.9 or not _holds_text(lower[start:end], ground):
        return None
    band = lower[start:end]
    if (band == ground).sum() < EXACT * near[start:end].sum():  # JPEG, which blurs both sides of an edge
        blurred = (np.abs(lower - ground) <= BLURRED).mean(axis=1) >= 0.8
        blurred |= _is_line(spread, ground, 2 * BLURRED)
        first = start
        while first > max(start - JPEG_BLOCK, 1) and blurred[first - 1]:
            first -= 1
        if first > start - JPEG_BLOCK:  # else that is how the micrograph looks
            start = first
    return start, end


def _goes_on(grey: np.ndarray, start: int, ground: int, flat: int) -> bool:
    """Whether what looks like a banner from row ``start`` on is how the micrograph looks: a regular array of holes or
    pillars has flat rows between its dots, which stand on lines as letters do, above that row too."""
    above = grey[max(2 * start - len(grey), 0) : start]  # as many rows
    return bool(((np.abs(above - ground) <= flat).mean(axis=1) >= 0.9).any())


def _is_line(spread: np.ndarray, ground: int, most: int) -> np.ndarray:
    """Rows of a frame: of one value that is not the ground's, a few at a time."""
    low, middle, high = spread
    found = (high - low <= most) & (np.abs(middle - ground) > INK)
    for (run,) in ndimage.find_objects(ndimage.label(found)[0]):
        found[run] = run.stop - run.start <= MAX_FRAME
    return found


def _grounds(rows: np.ndarray, values: np.ndarray, flat: int) -> list[int]:
    """Values that may be the ground of a banner: medians of rows that consist of them."""
    whole = (np.abs(rows - values[:, None]) <= flat).mean(axis=1) >= 0.9
    found, counts = np.unique(values[whole].astype(int), return_counts=True)
    return found[np.argsort(-counts)][:4].tolist()


def _ground(band: np.ndarray) -> int:
    return int(np.bincount(np.clip(band, 0, 255).ravel(), minlength=256).argmax())


def _holds_text(band: np.ndarray, ground: int) -> bool:
    ink = np.abs(band - ground) > INK
    return any(len(line) >= MIN_GLYPHS - 1 for line in _lines(_glyphs(ink, max(len(band), 12))))


def _inks(colours: np.ndarray, grey: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where a picture is as white, as black, or as coloured as only drawings are, and the values that say so."""
    found = [(grey >= 230, grey), (grey <= 25, grey)]
    if colours.shape[2] == 3:
        chroma = np.ptp(colours, axis=2)
        if np.mean(chroma <= 12) > 0.9:  # of a micrograph in grey
            found.append((chroma >= 100, chroma))
    return [(ink, field) for ink, field in found if 0 < ink.mean() < 0.25]


def _drawn(ink: np.ndarray, field: np.ndarray, grey: np.ndarray) -> tuple[list[Box], list[Bar]]:
    height, width = ink.shape
    glyphs = [box for box in _glyphs(ink, round(0.15 * height)) if _has_hard_edges(box, ink, field)]
    lines = _lines(glyphs)
    boxes, bars = [], []
    for bar in _bars(ink, width):
        if not _has_hard_edges(bar.box, ink, field):
            continue
        near = [line for line in lines if len(line) >= MIN_LABEL and _belongs(line, bar.box)]
        if near:
            bars.append(bar)
            label = min((_around(line) for line in near), key=lambda box: sum(box.gap(bar.box)))
            boxes.append(_with_ground(bar.box.union(label), grey))
    texts = [_around(line) for line in lines if len(line) >= MIN_GLYPHS]
    return boxes + [_with_ground(box, grey) for box in texts], bars


def _glyphs(ink: np.ndarray, most: int) -> list[Box]:
    """Connected parts of the size and proportions of letters and digits."""
    labels, _ = ndimage.label(ink, np.ones((3, 3), int))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        box = Box(columns.start, rows.start, columns.stop, rows.stop)
        if not 6 <= box.height <= most or not 0.08 <= box.width / box.height <= 1.6:
            continue
        share = (labels[rows, columns] == number).mean()
        if share <= (1.0 if box.width < 0.4 * box.height else 0.85) and share >= 0.15:
            found.append(box)
    return found


def _lines(glyphs: Sequence[Box]) -> list[list[Box]]:
    """Glyphs that stand on one line beside each other, of about the same height."""
    lines: list[list[Box]] = []
    for glyph in sorted(glyphs, key=lambda box: box.left):
        fits = [line for line in lines if _follows(line[-1], glyph)]
        if fits:
            min(fits, key=lambda line: glyph.left - line[-1].right).append(glyph)
        else:
            lines.append([glyph])
    return lines


def _follows(last: Box, glyph: Box) -> bool:
    high, low = max(last.height, glyph.height), min(last.height, glyph.height)
    on_line = abs(last.bottom - glyph.bottom) <= max(1, 0.12 * high) or abs(last.top - glyph.top) <= max(1, 0.12 * high)
    overlap = min(last.bottom, glyph.bottom) - max(last.top, glyph.top)
    return on_line and overlap >= 0.6 * low and high <= 1.7 * low and -1 <= glyph.left - last.right <= 1.2 * high


def _around(boxes: Sequence[Box]) -> Box:
    found = boxes[0]
    for box in boxes[1:]:
        found = found.union(box)
    return found


def _belongs(line: Sequence[Box], bar: Box) -> bool:
    text = _around(line)
    across, down = text.gap(bar)
    return across <= 2 * text.height and down <= 2.5 * text.height and text.height <= bar.width


def _bars(ink: np.ndarray, width: int) -> list[Bar]:
    """Straight horizontal bars, with or without ticks at their ends and in between."""
    labels, _ = ndimage.label(ink, np.ones((3, 3), int))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        box = Box(columns.start, rows.start, columns.stop, rows.stop)
        if not max(16, 0.02 * width) <= box.width <= 0.9 * width or box.height > 1.2 * box.width:
            continue
        part = labels[rows, columns] == number
        full = part.mean(axis=1) >= 0.97
        count = int(full.sum())
        (where,) = np.nonzero(full)
        if not count or where[-1] - where[0] + 1 != count or box.width < 4 * count:
            continue
        rest = part[~full]
        if not len(rest):
            found.append(Bar(box, float(box.width)))
            continue
        # what is no bar may be ticks: columns that are full or empty, the outer two among them
        ticks = rest.mean(axis=0) > 0.4
        if rest.mean() > 0.35 or not (ticks[:2].any() and ticks[-2:].any()):
            continue
        runs = ndimage.find_objects(ndimage.label(ticks)[0])
        tick = min(runs[0][0].stop - runs[0][0].start, runs[-1][0].stop - runs[-1][0].start)
        if tick <= 0.2 * box.width:
            found.append(Bar(box, float(box.width - tick)))
    return found


def _has_hard_edges(box: Box, ink: np.ndarray, field: np.ndarray) -> bool:
    """Whether there is little between ink and ground, as a drawing has it; saturated particles have slopes."""
    rows = slice(max(box.top - 4, 0), box.bottom + 4)
    columns = slice(max(box.left - 4, 0), box.right + 4)
    part, values = ink[rows, columns], field[rows, columns]
    near = ndimage.binary_dilation(part, iterations=3) & ~ndimage.binary_dilation(part, iterations=1)
    if not near.any() or not part.any():
        return False
    level = float(values[part].mean())
    return float((np.abs(values[near] - level) > INK).mean()) >= 0.85


def _with_ground(box: Box, grey: np.ndarray) -> Box:
    """The box, grown to the edges of the plain field that a program may have drawn below the letters."""
    height, width = grey.shape
    left, top, right, bottom = max(box.left - 2, 0), max(box.top - 2, 0), box.right + 2, box.bottom + 2
    right, bottom = min(right, width), min(bottom, height)
    ring = np.concatenate([grey[top, left:right], grey[bottom - 1, left:right], grey[top:bottom, left]])
    ground = int(np.median(ring))
    if (np.abs(ring - ground) <= FLAT[0]).mean() < 0.95:
        return Box(left, top, right, bottom)

    def plain(values: np.ndarray) -> bool:
        return bool((np.abs(values - ground) <= FLAT[0]).mean() >= 0.95)

    while top > 0 and plain(grey[top - 1, left:right]):
        top -= 1
    while bottom < height and plain(grey[bottom, left:right]):
        bottom += 1
    while left > 0 and plain(grey[top:bottom, left - 1]):
        left -= 1
    while right < width and plain(grey[top:bottom, right]):
        right += 1
    return Box(left, top, right, bottom)


def _merged(boxes: Sequence[Box]) -> list[Box]:
    """Boxes that overlap or nearly touch as one."""
    found: list[Box] = []
    for box in boxes:
        while True:
            other = next((o for o in found if max(box.gap(o)) <= max(box.height, o.height) // 2), None)
            if other is None:
                break
            found.remove(other)
            box = box.union(other)
        found.append(box)
    return found
