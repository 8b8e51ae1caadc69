"""Sheets to look at: small pictures in rows with a line of text below each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from networks.workflow.files import atomic
from networks.workflow.pictures import read_picture

THUMB, COLUMNS, MARGIN, LINE = 160, 8, 6, 14
SIZE = 64  # pictures on a sheet
KEPT, REMOVED = (0, 170, 80), (220, 30, 30)


class Tile:
    """A small picture with texts.

    Args:
        image: 8-bit pixels (height, width, 1 or 3), or the file to read.
        caption: lines of text below it.
        boxes: (left, top, right, bottom) in pixels and their colours, to draw over it.
        side: the longer side on the sheet.
    """

    def __init__(
        self,
        image: np.ndarray | Path,
        caption: str = "",
        boxes: Sequence[tuple[tuple[float, float, float, float], tuple[int, int, int]]] = (),
        side: int = THUMB,
    ) -> None:
        pixels = read_picture(image) if isinstance(image, Path) else image
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
        self.scale = side / max(picture.size)
        size = (max(round(picture.width * self.scale), 1), max(round(picture.height * self.scale), 1))
        self.picture = picture.resize(size, Image.Resampling.LANCZOS)
        draw = ImageDraw.Draw(self.picture)
        for box, colour in boxes:
            left, top, right, bottom = (round(value * self.scale) for value in box)
            corners = (left, top, min(max(right, left + 2), size[0]) - 1, min(max(bottom, top + 2), size[1]) - 1)
            draw.rectangle(corners, outline=colour, width=2)
        self.lines = caption.splitlines()


def write_sheet(path: Path, tiles: Sequence[Tile], title: str = "", columns: int = COLUMNS) -> None:
    """Write a sheet, row by row in the order of ``tiles``; nothing for no tiles."""
    if not tiles:
        return
    font = ImageFont.load_default(11)
    width = max(max(tile.picture.width for tile in tiles), THUMB) + MARGIN
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(t.picture.height + LINE * len(t.lines) for t in row) + MARGIN for row in rows]
    head = LINE * 2 if title else 0
    canvas = Image.new("RGB", (width * min(columns, len(tiles)) + MARGIN, sum(heights) + head + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, fill="black", font=font)
    top = head + MARGIN
    for row, height in zip(rows, heights, strict=True):
        for i, tile in enumerate(row):
            left = MARGIN + i * width
            canvas.paste(tile.picture, (left, top))
            for n, line in enumerate(tile.lines):
                while line and draw.textlength(line, font) > width - MARGIN:
                    line = line[:-2].rstrip("…") + "…"
                draw.text((left, top + tile.picture.height + LINE * n), line, fill="black", font=font)
        top += height
    with atomic(path) as temporary:
        canvas.save(temporary)


def sample(count: int, most: int = SIZE) -> list[int]:
    """Numbers of at most ``most`` of ``count`` things, evenly over all."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def nanometres(size: float | None) -> str:
    """A pixel size as people write it."""
    if size is None:
        return "pixel size unknown"
    value, unit = (size, "nm") if size < 1000 else (size / 1000, "µm")
    return f"{value:.3g} {unit} per pixel"
