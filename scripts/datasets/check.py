"""Checking a data set in the contract, and pictures to look at: a contact sheet and a histogram of the classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from monai.data import MetaTensor
from monai.transforms import Orientation
from PIL import Image, ImageDraw, ImageFont

from networks.workflow.checks import check_dataset
from networks.workflow.data import Pair, class_names, load_datalist, read_dataset_json
from networks.workflow.evaluation import COLOURS, label_overlay
from networks.workflow.files import atomic
from networks.workflow.ids import truth

TILE, GAP, LINE, COLUMNS = 220, 6, 16, 6  # pixels
SHEET, HISTOGRAM = "contact_sheet.png", "class_histogram.png"


def check(
    dataset_dir: str,
    in_channels: int | None = None,
    out_channels: int | None = None,
    cases: int = COLUMNS,
    output_dir: str | None = None,
    allow_overlap: bool = False,
) -> None:
    """Read every image and label of a data set, name those that cannot be trained on, and draw the others.

    Arguments as of the command ``check``, where they are described.
    """
    root = Path(str(dataset_dir))
    datalist = load_datalist(str(root), say=print)
    content = read_dataset_json(str(root))
    out_channels = len(class_names(str(root), out_channels)) or None
    survey = Survey(datalist, cases, content.get("intensity", {}).get("intensity_range"))
    counts = check_dataset(str(root), in_channels, out_channels, survey.add, truth(allow_overlap), datalist, print)
    names = class_names(str(root), out_channels or survey.classes)
    target = Path(str(output_dir)) if output_dir else root
    target.mkdir(parents=True, exist_ok=True)
    _save(target / SHEET, survey.contact_sheet(names).save)
    _save(target / HISTOGRAM, survey.histogram(names).savefig)
    print(survey.table(names))
    print(f"Wrote {target / SHEET} and {target / HISTOGRAM}.")
    print(f"{root} is fine: {', '.join(f'{n} {name}' for name, n in counts.items())}.")


class Survey:
    """Counts and small pictures of the cases of a data set, gathered one case at a time.

    Args:
        datalist: items by list.
        cases: pictures per list.
        window: values that are drawn black and white; of each picture its own by default.

    Attributes:
        classes: largest class number found, plus one.
    """

    def __init__(
        self, datalist: dict[str, list[Pair]], cases: int = COLUMNS, window: Sequence[float] | None = None
    ) -> None:
        self.lists = {name: [pair["image"] for pair in items] for name, items in datalist.items() if items}
        self.window = window
        self.classes = 1
        self._chosen = {path for paths in self.lists.values() for path in _spread(paths, cases)}
        self._slices: dict[str, tuple[torch.Tensor, torch.Tensor | None, float]] = {}
        self._voxels: dict[str, np.ndarray] = {}
        self._shapes: set[tuple[int, ...]] = set()
        self._range = (np.inf, -np.inf)

    def add(self, pair: Pair, image: torch.Tensor, label: torch.Tensor | None) -> None:
        """Take in a case: image (channels, ...) and label (1, ...)."""
        path = pair["image"]
        self._shapes.add(tuple(image.shape))
        self._range = min(self._range[0], float(image.min())), max(self._range[1], float(image.max()))
        if label is not None:
            # numpy's bincount would turn the whole volume into int64
            numbers, counts = np.unique(np.asarray(label), return_counts=True)
            voxels = np.zeros(int(numbers[-1]) + 1, np.int64)
            voxels[numbers.astype(int)] = counts
            self._voxels[path] = voxels
            self.classes = max(self.classes, len(voxels))
        if path in self._chosen:
            self._slices[path] = _slice(image, label, self.window)

    def table(self, names: Sequence[str]) -> str:
        """Voxels per class and cases per class of every list, and what the images are like."""
        rows = [["class", *(f"{name}: voxels, share, cases" for name in self.lists)]]
        for number, name in enumerate(names):
            row = [f"{number} {name}"]
            for paths in self.lists.values():
                voxels, present, labelled = self._counts(paths, len(names))
                share = voxels[number] / max(voxels.sum(), 1)
                cell = f"{voxels[number]} {share:8.3%} {present[number]:4d}/{labelled}"
                row.append(cell if labelled else "no labels")
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for first, *others in rows:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
        shapes = sorted(self._shapes)
        shown = ", ".join("x".join(map(str, shape)) for shape in shapes[:5]) + (", ..." if len(shapes) > 5 else "")
        low, high = self._range
        lines.append(f"Images (channels x size): {shown}; values {low:g} to {high:g}.")
        return "\n".join(lines)

    def contact_sheet(self, names: Sequence[str]) -> Image.Image:
        """Rows of pictures per list under a legend."""
        font = ImageFont.load_default(12)
        colours = _colours(len(names))
        columns = min(COLUMNS, max(3, *(sum(p in self._slices for p in paths) for paths in self.lists.values())))
        width = columns * (TILE + GAP)
        parts: list[Image.Image] = [_legend(names, colours, font, width)]
        for name, paths in self.lists.items():
            tiles = [self._tile(path, len(names), font) for path in paths if path in self._slices]
            title = Image.new("RGB", (width, LINE + 2 * GAP), "white")
            ImageDraw.Draw(title).text((GAP, GAP), f"{name}: {len(tiles)} of {len(paths)}", "black", font)
            parts.append(title)
            parts += [_beside(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
        sheet = Image.new("RGB", (width, sum(p.height for p in parts)), "white")
        top = 0
        for part in parts:
            sheet.paste(part, (0, top))
            top += part.height
        return sheet

    def histogram(self, names: Sequence[str]) -> Figure:
        """Share of the voxels, and share of the cases that have the class, per class and list."""
        figure = Figure(figsize=(10, 1.5 + 0.3 * len(names) * max(len(self.lists), 1) ** 0.5), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        places, height = np.arange(len(names)), 0.8 / max(len(self.lists), 1)
        for i, (name, paths) in enumerate(self.lists.items()):
            voxels, present, labelled = self._counts(paths, len(names))
            if labelled:
                at = places + (i - (len(self.lists) - 1) / 2) * height
                left.barh(at, voxels / voxels.sum(), height, label=name)
                right.barh(at, present / labelled, height, label=f"{name} ({labelled})")
        left.set(xscale="log", xlabel="share of all voxels", yticks=places, yticklabels=names)
        right.set(xlim=(0, 1), xlabel="share of the cases that have the class")
        left.invert_yaxis()
        if right.patches:
            figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=len(self.lists))
        return figure

    def _counts(self, paths: Sequence[str], classes: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Voxels per class, cases with the class, and labelled cases."""
        padded = [np.pad(v, (0, classes - len(v))) for v in (self._voxels[p] for p in paths if p in self._voxels)]
        rows = np.array(padded).reshape(-1, classes)
        return rows.sum(axis=0), (rows > 0).sum(axis=0), len(rows)

    def _tile(self, path: str, classes: int, font: ImageFont.FreeTypeFont) -> Image.Image:
        image, label, aspect = self._slices[path]
        shown = label_overlay(image, torch.zeros_like(image[:1]) if label is None else label, max(classes, 2))
        picture = Image.fromarray((shown.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        width, height = picture.width, picture.height * aspect
        scale = TILE / max(width, height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        tile = Image.new("RGB", (TILE, TILE + LINE), "white")
        tile.paste(picture.resize(size, Image.Resampling.BILINEAR), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
        name = Path(path).name.removesuffix(".gz").rsplit(".", 1)[0] + ("" if label is not None else " (no label)")
        while font.getlength(name) > TILE:
            name = name[:-2] + "…"
        ImageDraw.Draw(tile).text((0, TILE), name, "black", font)
        return tile


def _spread(paths: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of them, from the first to the last."""
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)]


def _slice(
    image: torch.Tensor, label: torch.Tensor | None, window: Sequence[float] | None
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """What is drawn of a case: image (1 or 3, X, Y) in 0..1, label (1, X, Y), and height over width of a pixel."""
    aspect = 1.0
    if image.ndim == 4:
        image = image[:1]
        turn = Orientation(axcodes="LAS", labels=None)
        image = turn(image)
        label = None if label is None else turn(label)
        sums = None if label is None else (label > 0).sum(dim=(0, 1, 2))
        z = image.shape[-1] // 2 if sums is None or not sums.any() else int(sums.argmax())
        if isinstance(image, MetaTensor):
            aspect = float(image.pixdim[1] / image.pixdim[0])
        # as radiologists look: front up, the patient's right on the left
        image, label = image[..., z].flip(2), None if label is None else label[..., z].flip(2)
    image = image[:3] if image.shape[0] >= 3 else image[:1]
    image = torch.as_tensor(np.asarray(image).astype(np.float32))
    low, high = (float(image.min()), float(image.max())) if window is None else window
    image = ((image - low) / (high - low or 1)).clamp(0, 1)
    return image, None if label is None else torch.as_tensor(np.asarray(label).astype(np.uint8)), aspect


def _colours(classes: int) -> list[tuple[int, ...]]:
    """RGB of every class, as :func:`label_overlay` draws them."""
    shades = matplotlib.colormaps[COLOURS](np.linspace(0, 1, max(classes, 2)))
    return [tuple((shade[:3] * 255).astype(int).tolist()) for shade in shades]


def _legend(
    names: Sequence[str], colours: Sequence[tuple[int, ...]], font: ImageFont.FreeTypeFont, width: int
) -> Image.Image:
    places, left, top = [], GAP, GAP
    for name in names[1:]:
        needed = LINE + GAP + round(font.getlength(name)) + 2 * GAP
        if left + needed > width:
            left, top = GAP, top + LINE + GAP
        places.append((left, top))
        left += needed
    legend = Image.new("RGB", (width, top + LINE + GAP), "white")
    draw = ImageDraw.Draw(legend)
    for name, colour, (x, y) in zip(names[1:], colours[1:], places, strict=False):
        draw.rectangle((x, y, x + LINE - 2, y + LINE - 2), fill=colour)
        draw.text((x + LINE + GAP, y), name, "black", font)
    return legend


def _beside(tiles: Sequence[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (len(tiles) * (TILE + GAP), TILE + LINE + GAP), "white")
    for i, tile in enumerate(tiles):
        row.paste(tile, (i * (TILE + GAP), 0))
    return row


def _save(path: Path, write: Callable[[str], None]) -> None:
    with atomic(path) as temporary:
        write(os.fspath(temporary))
