"""Label maps as other programs want them: whole files, with colours, the pixels' size and the names of the classes.

PNG gets a table of colours, through which a viewer shows the class numbers that the file holds. TIFF stays without one,
since many programs read colours instead of numbers then. NIfTI has no such table; its header says that it is a label
map, and 3D Slicer reads the colours of :data:`COLOUR_TABLE` beside it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import ImageWriter
from monai.transforms import SaveImage
from monai.utils import ImageMetaKey
from PIL import Image

from networks.workflow.data import NIFTI_SUFFIXES
from networks.workflow.files import atomic, write_json
from networks.workflow.pixel_size import METRES, PixelSize, read_pixel_size

LABEL_NAMES, COLOUR_TABLE = "labels.json", "labels.ctbl"
# Okabe and Ito's colours, which the colour-blind tell apart, in an order for dark pictures; more classes repeat them
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (153, 153, 153),
)
_PER_METRE = 2**31 - 1  # what PNG can say at most
_TIFF_UNITS = ("nm", "µm", "mm", "m")


def colour(number: int) -> tuple[int, int, int]:
    """RGB of a class, 0 to 255; the background is black."""
    return COLOURS[(number - 1) % len(COLOURS)] if number else (0, 0, 0)


def save_picture(label: np.ndarray, path: str | Path, size: PixelSize | None = None) -> None:
    """Write a picture's label map as PNG with a table of colours, or as TIFF.

    Args:
        label: class numbers (height, width), uint8.
        path: ending in .png, .tif or .tiff. The TIFF is one of which ImageJ knows the pixel size and the highest class.
        size: of the pixels. PNG has no words for less than 0.47 nm, and is left without.
    """
    picture = Image.fromarray(label)
    if str(path).lower().endswith(".png"):
        resolution: dict[str, Any] = {} if size is None else {"dpi": (0.0254 / size.width, 0.0254 / size.height)}
        if size is not None and max(1 / size.width, 1 / size.height) > _PER_METRE:
            resolution = {}
        picture.putpalette([value for number in range(256) for value in colour(number)])
        picture.save(path, **resolution)
        return
    shown = f"min=0\nmax={max(int(label.max()), 1)}\n"
    tags: dict[int, Any] = {270: f"ImageJ=1.54\n{shown}"}
    if size is not None:
        unit = next(name for name in _TIFF_UNITS if size.width < 1000 * METRES[name] or name == _TIFF_UNITS[-1])
        tags = {270: f"ImageJ=1.54\nunit={'um' if unit == 'µm' else unit}\n{shown}", 296: 1}
        tags |= {282: METRES[unit] / size.width, 283: METRES[unit] / size.height}
    picture.save(path, tiffinfo=tags, compression="tiff_adobe_deflate")


def mark_as_labels(image: nib.Nifti1Image, size: PixelSize | None = None) -> nib.Nifti1Image:
    """Say in a NIfTI's header that its values are numbers of classes.

    Args:
        image: changed and returned.
        size: of the pixels, if it is a picture, in whose header they then stand in micrometres.
    """
    image.header.set_intent("label")
    if size is not None:
        image.set_sform(np.diag([size.width * 1e6, size.height * 1e6, 1, 1]), code=1)
        image.set_qform(image.get_sform(), code=1)
        image.header.set_xyzt_units("micron")
    return image


def write_label_names(folder: str | Path, names: Mapping[int, str]) -> None:
    """Write the names of the classes beside label maps: as JSON, and as a table of colours for 3D Slicer.

    Args:
        folder: of the label maps.
        names: of the classes by number, background included.

    Raises:
        UserError: as :func:`networks.workflow.files.atomic`.
    """
    ordered = dict(sorted(names.items()))
    colours = {str(number): list(colour(number)) for number in ordered}
    labels = {str(number): name for number, name in ordered.items()}
    write_json(Path(folder) / LABEL_NAMES, {"labels": labels, "colours": colours})
    lines = ["# Color table file labels", f"# {len(ordered)} values"]
    for number, name in ordered.items():
        red, green, blue = colour(number)
        # names are words there
        lines.append(f"{number} {'_'.join(name.split())} {red} {green} {blue} {255 if number else 0}")
    with atomic(Path(folder) / COLOUR_TABLE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def complete_writers(postprocessing: Any) -> None:
    """Let every ``SaveImage`` among transforms write whole files, and class numbers with what viewers need.

    Configs name MONAI's own writers, so that programs that read nothing but their transforms, such as MONAI Deploy, do
    without this package; a run calls this before it starts.

    Args:
        postprocessing: a transform, or a composition of any depth, that the run's evaluator was made with.
    """
    for save in _savers(postprocessing):
        # classes, though MONAI's types think that a name may be left among them
        save.writers = tuple(_complete(writer) for writer in save.writers)  # type: ignore[arg-type]


class _Complete:
    """Write to a temporary name in the same folder, add what viewers need, then rename."""

    _source = ""

    def set_metadata(self, meta_dict: Mapping | None, **options: Any) -> None:
        """Keep the image's name for its pixel size."""
        self._source = str((meta_dict or {}).get(ImageMetaKey.FILENAME_OR_OBJ, ""))
        super().set_metadata(meta_dict, **options)  # type: ignore[misc]

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write the image; ``filename`` appears only when it is whole."""
        with atomic(filename) as temporary:
            super().write(temporary, verbose=verbose, **kwargs)  # type: ignore[misc]
            made = self.data_obj  # type: ignore[attr-defined]  # what the writer has made of the array
            if isinstance(made, Image.Image) and made.mode == "L" and temporary.suffix == ".png":
                save_picture(np.asarray(made), temporary, read_pixel_size(self._source)[0])
            elif isinstance(made, nib.Nifti1Image) and self._source.lower().endswith(NIFTI_SUFFIXES):
                _keep_unit(temporary, nib.load(self._source))

    @classmethod
    def create_backend_obj(cls, data_array: Any, **kwargs: Any) -> Any:
        """What the writer saves."""
        made = super().create_backend_obj(data_array, **kwargs)  # type: ignore[misc]
        is_label = isinstance(made, nib.Nifti1Image) and made.get_data_dtype().kind in "ui"
        return mark_as_labels(made) if is_label else made


def _keep_unit(path: Path, source: Any) -> None:
    """Millimetres are what a NIfTI without a unit has; MONAI keeps no other."""
    unit = source.header.get_xyzt_units()[0]
    if unit not in ("unknown", "mm"):
        written: Any = nib.load(path)
        image = nib.Nifti1Image(np.asanyarray(written.dataobj), written.affine, written.header)
        image.header.set_xyzt_units(unit)
        nib.save(image, path)


def _savers(transform: Any) -> Iterator[SaveImage]:
    # SaveImaged keeps a SaveImage in .saver, Compose its parts in .transforms
    found = getattr(transform, "saver", transform)
    if isinstance(found, SaveImage):
        yield found
    for part in getattr(transform, "transforms", ()):
        yield from _savers(part)


def _complete(writer: type[ImageWriter]) -> type[ImageWriter]:
    return writer if issubclass(writer, _Complete) else type(f"Complete{writer.__name__}", (_Complete, writer), {})
