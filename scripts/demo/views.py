"""Pictures of a segmented image: slices with the classes' colours or a class's probability over them."""

from collections.abc import Mapping
from html import escape

import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from monai.data import MetaTensor
from PIL import Image

from networks.workflow.evaluation import label_overlay
from networks.workflow.saving import colour
from scripts.measure.maps import Measured
from scripts.predict.segmenter import colour_map, upright

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
CLASSES = "classes"
HEAT = "inferno"
SMALLEST, LARGEST = 512, 1600  # pixels of a picture's longer side


class View:
    """An image, its label map and the probabilities, to be looked at slice by slice; a picture is a single slice.

    Attributes:
        names: of the classes by number.
        is_volume: whether there are several planes.
        shape: (X, Y, Z).
        spacing: of the voxels in millimetres.

    Args:
        displayed: image and label map of :meth:`scripts.predict.segmenter.Segmenter.displayed`.
        probabilities: of the segmenter, or None.
        names: of the classes by number.
    """

    def __init__(
        self,
        displayed: tuple[MetaTensor, MetaTensor],
        probabilities: MetaTensor | None,
        names: Mapping[int, str],
    ) -> None:
        grey, found = displayed
        self.names, self.is_volume = dict(names), grey.ndim == 4
        if probabilities is not None and self.is_volume:
            probabilities = upright(probabilities)
        if probabilities is not None and probabilities.shape[1:] != found.shape[1:]:
            probabilities = None  # of a network that decides on another grid
        self.spacing = tuple(grey.pixdim.tolist()) if self.is_volume else (1.0, 1.0, 1.0)
        self._grey = _with_slices((grey.as_tensor() * 255).round().byte())
        self._found = _with_slices(found.as_tensor().byte())
        self._probabilities = None if probabilities is None else _with_slices(torch.as_tensor(probabilities).byte())
        self.shape = tuple(self._found.shape[1:])

    @property
    def shown(self) -> list[str]:
        """What :meth:`draw` can show."""
        heat = self.names.values() if self._probabilities is not None else ()
        return [CLASSES, *(f"probability: {name}" for name in heat)]

    def fullest(self, plane: str) -> int:
        """The slice with most foreground."""
        axes = tuple(axis for axis in range(3) if axis != PLANES[plane])
        return int((self._found[0] > 0).sum(dim=axes).argmax())

    def draw(self, plane: str, index: int, shown: str, opacity: float) -> np.ndarray:
        """A slice with colours over it.

        Args:
            plane: of ``PLANES``.
            index: of the slice, from 0.
            shown: of :attr:`shown`.
            opacity: of the colours, from 0 to 1.

        Returns:
            RGB (height, width, 3) uint8, its pixels square. Volumes as radiologists have them: the patient's right on
            the left, in sagittal slices the front.
        """
        grey = self._slice(self._grey, plane, index).float() / 255
        if shown == CLASSES or self._probabilities is None:
            found = self._slice(self._found, plane, index)
            picture = label_overlay(grey, found, len(self.names), colour_map(len(self.names)), opacity)
            rgb = np.moveaxis(picture.numpy(), 0, 2)
        else:
            number = self.shown.index(shown) - 1
            share = self._slice(self._probabilities[number : number + 1], plane, index)[0].float() / 255
            heat = matplotlib.colormaps[HEAT](share.numpy().T)[..., :3]
            rgb = (1 - opacity) * np.moveaxis(grey.expand(3, -1, -1).numpy(), 0, 2).transpose(1, 0, 2) + opacity * heat
        return self._square((rgb * 255).round().astype(np.uint8), plane)

    def legend(self, shown: str) -> str:
        """The colours and what they stand for, as HTML."""
        if shown == CLASSES:
            total = self._found.numel()
            counts = torch.bincount(self._found.flatten().long(), minlength=len(self.names)).tolist()
            items = [
                f'<span class="class"><i style="background:{to_hex(np.divide(colour(number), 255))}"></i>'
                f"{escape(name)} <small>{100 * counts[number] / total:.2f} %</small></span>"
                for number, name in self.names.items()
                if number
            ]
            return f'<div class="legend">{"".join(items)}</div>'
        stops = ", ".join(to_hex(matplotlib.colormaps[HEAT](value)) for value in np.linspace(0, 1, 9))
        bar = f'<i class="bar" style="background:linear-gradient(to right, {stops})"></i>'
        return (
            f'<div class="legend"><span class="class">{escape(shown)}</span><span class="class">0 {bar} 1</span></div>'
        )

    def _slice(self, volume: torch.Tensor, plane: str, index: int) -> torch.Tensor:
        part = volume.select(1 + PLANES[plane], index)
        return part.flip(1) if plane == "sagittal" else part  # front on the left

    def _square(self, rgb: np.ndarray, plane: str) -> np.ndarray:
        if self.is_volume:
            rgb = rgb[::-1]  # a picture's y runs down, a volume's axes to the front and the head
        across, up = (size for axis, size in enumerate(self.spacing) if axis != PLANES[plane])
        pixel = min(across, up)
        width, height = rgb.shape[1] * across / pixel, rgb.shape[0] * up / pixel
        longer = max(width, height)
        zoom = min(LARGEST / longer, max(1, SMALLEST // longer))
        size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        if size == (rgb.shape[1], rgb.shape[0]):
            return np.ascontiguousarray(rgb)
        way = Image.Resampling.NEAREST if zoom >= 1 else Image.Resampling.BOX
        return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(size, way))


def draw_slices(measured: Measured) -> Figure:
    """The area of every class along a volume's slices."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    for number, row in enumerate(measured.found.classes, start=1):
        rows = [part for part in measured.found.slices if part["class"] == row["class"]]
        line = np.divide(colour(number), 255)
        axis.plot(
            [part["slice"] for part in rows], [part["slice_area"] for part in rows], color=line, label=row["class"]
        )
    axis.set_xlabel("axial slice")
    axis.set_ylabel("area, mm²")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    return figure


def _with_slices(image: torch.Tensor) -> torch.Tensor:
    return image if image.ndim == 4 else image[..., None]
