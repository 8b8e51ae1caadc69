"""How large a picture's pixels are, from what microscopes and programs write into files or beside them."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from networks.errors import UserError
from networks.workflow.pictures import opened_picture

METRES = {
    "pm": 1e-12,
    "Å": 1e-10,
    "nm": 1e-9,
    "µm": 1e-6,
    "mm": 1e-3,
    "cm": 1e-2,
    "m": 1.0,
    "inch": 0.0254,
}
_SPELLINGS = {"um": "µm", "μm": "µm", "micron": "µm", "microns": "µm", "micrometer": "µm", "angstrom": "Å", "a": "Å"}
_SPELLINGS |= {"nanometer": "nm", "in": "inch", "\\u00b5m": "µm"}
NOT_TOLD = "it tells no pixel size"
# Where programs know no pixel size, they write a resolution of screens and printers: whole pixels per inch, up to what
# PNG's pixels per metre make of them, or per centimetre, as ImageMagick does in JPEG, where it cuts the decimals off.
PRINTERS_DPI, WHOLE, WHOLE_PER_CM = 2400, 0.02, 1e-3
_ORIENTATION, _DESCRIPTION, _RESOLUTION_UNIT = 0x0112, 270, 296
_ZEISS, _FEI = 34118, (34682, 34680)
_QUANTITY = r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*([^\W\d_]+)"


@dataclass(frozen=True)
class PixelSize:
    """The size of a picture's pixels.

    Attributes:
        height, width: in metres.
        source: where it is from, for people.
    """

    height: float
    width: float
    source: str


def parse_pixel_size(text: str) -> PixelSize:
    """What a person says: ``4.2nm``, or width and height, ``4.2nm,5nm``.

    Raises:
        UserError: not one or two positive lengths with units.
    """
    parts = [_length(part) for part in str(text).split(",")]
    if len(parts) not in (1, 2) or None in parts:
        raise UserError(
            f"--pixel_size is {text!r}; expected a length such as 4.2nm, or width and height, such as 4.2nm,5nm "
            f"(units: {', '.join(METRES)}; um is µm)."
        )
    width, height = parts[0], parts[-1]
    assert width is not None and height is not None
    return PixelSize(height, width, "--pixel_size")


def read_pixel_size(path: str | Path) -> tuple[PixelSize | None, str]:
    """The pixel size that a picture's file tells.

    Looked at in this order: FEI's and Zeiss's metadata in TIFF, OME and ImageJ in TIFF's description, JEOL's text file
    beside the picture, and the resolution of TIFF, PNG and JPEG. A resolution of screens or printers, such as 72 or 300
    dpi, is what programs write without knowing one, and counts as none, and so does that of a picture of another
    width, which was resized since.

    Args:
        path: PNG, TIFF, JPEG or BMP.

    Returns:
        The size, of the picture as it is shown (upright); None where the file does not tell, and then why.
    """
    path = Path(path)
    try:
        with opened_picture(path) as image:
            found, why = _of_image(image, path)
            orientation = image.getexif().get(_ORIENTATION, 1)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, KeyError):
        return None, "its header cannot be read"  # ITK reads more kinds of pictures than Pillow
    if found is not None and orientation >= 5:  # stored lying
        found = PixelSize(found.width, found.height, found.source)
    return found, why


def side_file(path: Path) -> Path | None:
    """The text file beside a picture in which JEOL's microscopes tell its pixel size; None if there is none."""
    found = (path.with_suffix(suffix) for suffix in (".txt", ".TXT", ".Txt"))  # looking through a large folder is slow
    return next((beside for beside in found if beside.is_file()), None)


def _of_image(image: Image.Image, path: Path) -> tuple[PixelSize | None, str]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        about = _text(tags.get(_DESCRIPTION, ""))
        for found, columns in (
            _fei(_text(next((tags[tag] for tag in _FEI if tag in tags), ""))),
            _zeiss(_text(tags.get(_ZEISS, ""))),
            _ome(about),
            (_imagej(about, tags), None),
        ):
            if found is not None and columns not in (None, image.width):
                return None, f"{found.source} speaks of {columns} columns, but the picture has {image.width}"
            if found is not None:
                return found, ""
    beside = side_file(path)
    found = _jeol(beside.read_text("latin-1"), image.width) if beside is not None else None
    return (found, "") if found is not None else _resolution(image)


def _length(text: str) -> float | None:
    """Metres; None where it is none."""
    match = re.fullmatch(_QUANTITY, text.strip())
    scale = metres(match[2]) if match else None
    if match is None or scale is None:
        return None
    try:
        value = float(match[1]) * scale
    except ValueError:
        return None
    return value if value > 0 else None


def metres(unit: str) -> float | None:
    """How long a unit of length is, by one of the names that programs give it; None where it is none."""
    unit = unit.strip()
    return METRES.get(unit) or METRES.get(_SPELLINGS.get(unit.lower(), unit.lower()))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        value = value[0] if value else ""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    try:  # Pillow takes every byte for a character
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


Told = tuple[PixelSize | None, int | None]  # and the width of the picture that it is about, if that is told


def _columns(text: str, name: str) -> int | None:
    match = re.search(rf"^{name}\s*=\s*(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


def _fei(text: str) -> Told:
    """FEI and Thermo Fisher: ``PixelWidth=4.2e-009``, in metres."""
    found = [re.search(rf"^Pixel{name}\s*=\s*(\S+)", text, re.MULTILINE) for name in ("Height", "Width")]
    sizes = [_length(f"{match[1]} m") for match in found if match]
    if len(sizes) != 2 or sizes[0] is None or sizes[1] is None:
        return None, None
    return PixelSize(sizes[0], sizes[1], "FEI's metadata"), _columns(text, "ResolutionX")


def _zeiss(text: str) -> Told:
    """Zeiss: ``Image Pixel Size = 4.2 nm`` is that of the file, ``Pixel Size`` that of the scan."""
    for name in ("Image Pixel Size", "Pixel Size"):
        match = re.search(rf"^{name}\s*=\s*{_QUANTITY}", text, re.MULTILINE)
        size = _length(f"{match[1]} {match[2]}") if match else None
        if size is not None:
            return PixelSize(size, size, "Zeiss's metadata"), _columns(text, "Store resolution")
    return None, None


def _ome(text: str) -> Told:
    if "<OME" not in text:
        return None, None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None, None
    pixels = next((element for element in root.iter() if element.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None, None
    sizes = [
        _length(f"{pixels.get(f'PhysicalSize{axis}', '')} {pixels.get(f'PhysicalSize{axis}Unit', 'µm')}")
        for axis in "YX"
    ]
    if sizes[0] is None or sizes[1] is None:
        return None, None
    columns = pixels.get("SizeX", "")
    return PixelSize(sizes[0], sizes[1], "OME's metadata"), int(columns) if columns.isdigit() else None


def _imagej(text: str, tags: TiffImagePlugin.ImageFileDirectory_v2) -> PixelSize | None:
    """ImageJ: the tags count pixels per ``unit`` of the description."""
    match = re.search(r"^unit=(.+)$", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    scale = metres(match[1]) if match else None
    per_unit = [float(tags.get(tag, 0)) for tag in (283, 282)]
    if scale is None or not all(value > 0 for value in per_unit):
        return None
    # these units are of the file's resolution, which ImageJ takes for a scale whatever it is
    if scale in (METRES["inch"], METRES["cm"]) and _of_printers(value * METRES["inch"] / scale for value in per_unit):
        return None
    return PixelSize(scale / per_unit[0], scale / per_unit[1], "ImageJ's metadata")


def _jeol(text: str, width: int) -> PixelSize | None:
    """JEOL: the length of the scale bar and its pixels, in a picture of the full width."""
    fields = {key: value.strip() for key, value in re.findall(r"^\$+(\w+)\s+(.*)$", text, re.MULTILINE)}
    bar, marker = fields.get("SM_MICRON_BAR", ""), _length(fields.get("SM_MICRON_MARKER", ""))
    full = fields.get("CM_FULL_SIZE", str(width)).split()
    if marker is None or not bar.isdigit() or int(bar) == 0 or full[:1] != [str(width)]:
        return None
    return PixelSize(marker / int(bar), marker / int(bar), "JEOL's text file")


def _resolution(image: Image.Image) -> tuple[PixelSize | None, str]:
    """Pixels per inch as Pillow tells them."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        has_unit = image.tag_v2.get(_RESOLUTION_UNIT, 2) in (2, 3) and 282 in image.tag_v2
    else:
        has_unit = "dpi" in image.info
    dpi = tuple(float(value) for value in image.info.get("dpi", (0, 0))) if has_unit else (0.0, 0.0)
    if not all(0 < value < float("inf") for value in dpi):
        return None, NOT_TOLD
    if _of_printers(dpi):
        return None, f"its {dpi[0]:.0f} dpi are the resolution of a screen or printer and no pixel size"
    return PixelSize(0.0254 / dpi[1], 0.0254 / dpi[0], f"the resolution in the {image.format} file"), ""


def _of_printers(dpi: Iterable[float]) -> bool:
    return any(
        value < PRINTERS_DPI + WHOLE
        and (abs(value - round(value)) < WHOLE or abs(value / 2.54 - round(value / 2.54)) < WHOLE_PER_CM)
        for value in dpi
    )
