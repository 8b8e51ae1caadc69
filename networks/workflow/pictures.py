"""Pictures (PNG, TIFF, JPEG, BMP) as networks take them: one function for converters, training and inference.

Grey, palette, one bit, alpha, CMYK, 8 or 16 bit all become 8-bit grey or RGB, upright as a viewer shows them.
"""

import contextlib
import logging
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import itk
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.data.image_reader import _copy_compatible_dict, _stack_images
from monai.utils import MetaKeys, ensure_tuple
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from networks.errors import UserError

logger = logging.getLogger(__name__)
CHANNELS = (1, 3)
_PIXEL_TYPES = {"unsigned_char": "UC", "unsigned_short": "US"}  # names in itk, whose first use loads it for seconds
# What is not grey or RGB in the file is left to Pillow.
_CONVERTED = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
# So is what ITK reads wrongly: grey BMP, which becomes RGB, PNG of which not all bits are significant, which it shifts,
# and TIFF with alpha beside grey, not stored upright, or in tiles or planes, of which ITK keeps the high bytes and
# multiplies colours by alpha.
_PLAIN = {"L": "L", "LA": "LA", "I;16": "I;16", "I;16B": "I;16", "RGB": "RGB", "RGBA": "RGBA"}
# tags of EXIF and TIFF
_TAGS = (0x0112, 258, 262, 277, 284, 322, 339)
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _TILE_WIDTH, _SAMPLE_FORMAT = _TAGS
_BIG_TIFF = 43  # version in the header
_UNLIMITED = threading.RLock()  # Pillow's limit is one for all threads
# Left-right and up-down flips and an exchange of the axes, in this order, that turn what is stored upright.
_UPRIGHT = {
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}


def read_picture(path: str | Path, channels: int | None = None, window: Sequence[float] | None = None) -> np.ndarray:
    """A picture as a network sees it, without alpha.

    Args:
        path: PNG, TIFF, JPEG or BMP.
        channels: 3 (grey is repeated) or 1 (colours are averaged by luminance); by default as the file has them.
        window: values of 16-bit pictures that become 0 and 255; by default 0 and 65535, v / 257 rounded as in OpenCV.

    Returns:
        (height, width, 1 or 3) uint8.

    Raises:
        UserError: as :func:`read_pixels`.
    """
    return as_picture(read_pixels(path), channels, window)


def as_picture(pixels: np.ndarray, channels: int | None = None, window: Sequence[float] | None = None) -> np.ndarray:
    """What :func:`read_picture` makes of the pixels of a file (height, width, channels)."""
    pixels = to_8_bit(_without_alpha(pixels), window)
    if channels is None or pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1]


def highest_of_16_bit(pixels: np.ndarray) -> int:
    """The highest value of a file's pixels (height, width, channels), alpha aside; 0 if they have 8 bit."""
    return 0 if pixels.dtype == np.uint8 else int(_without_alpha(pixels).max())


def is_dark(highest: int) -> bool:
    """Whether pictures with that :func:`highest_of_16_bit` lose most of their values in 8 bit without a window."""
    return 0 < highest < 2**15


def read_index_map(path: str | Path) -> np.ndarray:
    """A label: as :func:`read_pixels`, but the numbers and not the colours of a palette, and 0 and 1 of one bit.

    Returns:
        (height, width, channels) uint8 or uint16; a label has one channel.

    Raises:
        UserError: as :func:`read_pixels`.
    """
    return read_pixels(path, numbers=True)


def read_pixels(path: str | Path, numbers: bool = False) -> np.ndarray:
    """Pixel values as they are in the file, upright, colours as RGB(A).

    ITK reads every compression of TIFF. Its own choice of pixel type drops alpha and fails on 16-bit colour, and
    Pillow keeps only the high byte of 16-bit colour; a vector image has neither fault. What is no grey or RGB in the
    file, and what ITK reads wrongly, is left to Pillow.

    Args:
        path: PNG, TIFF, JPEG or BMP.
        numbers: the numbers of a palette instead of its colours, and grey as it is stored where the file says that 0 is
            white; it is inverted otherwise, as a viewer shows it.

    Returns:
        (height, width, channels), uint8 or uint16.

    Raises:
        UserError: not an image that can be read, damaged, of several pages, animated, neither 8 nor 16 bit, or 16-bit
            colours in tiles, in planes or not upright.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        about = _about(path)
        if about.as_mode:
            with opened_picture(path) as image:
                # Pillow's conversion of 16 bit with the high byte first cuts values off
                kept = image.mode == "I;16B" or (numbers and image.mode in ("1", "P"))
                pixels = np.asarray(image if kept else image.convert(about.as_mode))
            pixels = pixels.astype(np.uint16 if pixels.dtype.itemsize == 2 else np.uint8)
            pixels = pixels.reshape(*pixels.shape[:2], -1)
        else:
            pixels = _by_itk(path)
        # Pillow inverts 8 bit by itself
        if about.white_is_zero and (about.as_mode == "L") == numbers:
            pixels = np.iinfo(pixels.dtype).max - pixels
        # of TIFF, Pillow turns the pixels upright by itself
        return pixels if about.format == "TIFF" else _upright(pixels, about.orientation)
    except UserError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, SyntaxError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[-1].strip()[:200].rstrip(".")  # ITK puts the place in its source first
        raise UserError(f"{path} cannot be read ({reason}); it may be damaged.") from error


def to_8_bit(pixels: np.ndarray, window: Sequence[float] | None = None) -> np.ndarray:
    """uint8 values; of 16 bit the window's ends become 0 and 255, or v / 257 rounded, so that 65535 becomes 255."""
    if pixels.dtype == np.uint8:
        return pixels
    if window is None:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    low, high = window
    return np.round((pixels.astype(np.float32) - low).clip(0, high - low) * (255 / (high - low))).astype(np.uint8)


class PictureReader(ImageReader):
    """:func:`read_picture` for MONAI's ``LoadImage``; as MONAI's other readers it puts x first.

    Without a window it warns of the first picture of 16 bit that comes out dark.

    Args:
        channels: 1 or 3, those of the network; None leaves them as they are.
        window: as for :func:`read_picture`.
        is_label: read class numbers, by :func:`read_index_map`.

    Raises:
        UserError: another number of channels, or a window that is not two increasing numbers.
    """

    def __init__(
        self, channels: int | None = None, window: Sequence[float] | None = None, is_label: bool = False
    ) -> None:
        super().__init__()
        if channels not in (None, *CHANNELS):
            raise UserError(
                f"in_channels is {channels}, but pictures are read with 1 or 3 channels; give --in_channels 1 or 3, or "
                "--reader the name of a MONAI reader."
            )
        if window is not None and not (len(window) == 2 and window[0] < window[1]):
            raise UserError(f"window is {window}; expected two values such as 0,4095, the lower one first.")
        self.channels, self.window, self.is_label = channels, window, is_label
        self._warned = False

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Every file is tried: its content and not its name says what it is."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[str]:
        """The paths. ``LoadImage`` would try other readers if this one failed here, which take what is refused."""
        return [str(path) for path in ensure_tuple(data)]

    def get_data(self, img: Sequence[str]) -> tuple[np.ndarray, dict]:
        """Array (width, height, channels), or (width, height) of one channel, and MONAI's meta data.

        Raises:
            UserError: as :func:`read_picture`.
        """
        arrays = []
        meta: dict[str, Any] = {}
        for path in img:
            pixels = read_index_map(path) if self.is_label else self._picture(path)
            array = pixels.swapaxes(0, 1)
            array = array[..., 0] if array.shape[2] == 1 else array
            header = {
                MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[:2]),
                MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if array.ndim == 2 else -1,
            }
            _copy_compatible_dict(header, meta)
            arrays.append(array)
        return _stack_images(arrays, meta), meta

    def _picture(self, path: str) -> np.ndarray:
        pixels = read_pixels(path)
        highest = highest_of_16_bit(pixels)
        if self.window is None and not self._warned and is_dark(highest):
            self._warned = True
            logger.warning(
                "%s has 16 bit and no value above %d, so that no more than %d grey values are left of it; give "
                "--window, such as 0,%d, the same for training and prediction.",
                path,
                highest,
                highest // 257 + 1,
                highest,
            )
        return as_picture(pixels, self.channels, self.window)


@contextlib.contextmanager
def opened_picture(path: str | Path) -> Iterator[Image.Image]:
    """Pillow's image of a file, however many pixels it has: who cannot trust a file looks at its size first."""
    with _UNLIMITED:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(path) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def shown_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture of any kind as it is shown, upright, from its header.

    Raises:
        UserError: no format that is known, or a damaged header.
    """
    try:
        with opened_picture(path) as image:
            width, height = image.size
            # versions of Pillow differ in whether they turn the size of a TIFF before they read its pixels
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                width, height = image.tag_v2[256], image.tag_v2[257]
            return (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)
    except UnidentifiedImageError:
        try:
            io = image_io(Path(path))
        except RuntimeError as error:
            raise UserError(f"{path} cannot be read; it may be damaged.") from error
        return io.GetDimensions(0), io.GetDimensions(1)


class _About(NamedTuple):
    format: str = ""  # Pillow's; empty if it does not know
    orientation: int = 1
    as_mode: str = ""  # mode to read it in by Pillow; empty for ITK
    white_is_zero: bool = False


def _about(path: Path) -> _About:
    """How to read a file, from its header. Pillow knows fewer kinds than ITK, so that it does not know is no error."""
    tags = _tiff_tags(path)
    bits, samples = max(tags.get(_BITS, (1,))), tags.get(_SAMPLES)  # TIFF's own default
    png_bits = _shifted_png_bits(path)
    turned = tags.get(_ORIENTATION, (1,)) != (1,)
    by_pillow = _TILE_WIDTH in tags or tags.get(_PLANES, (1,)) != (1,) or turned or samples == (2,)
    white_is_zero = tags.get(_PHOTOMETRIC) == (0,) and samples in (None, (1,)) and bits in (8, 16)
    try:
        with opened_picture(path) as image:
            # more frames of a JPEG are thumbnails or depth; pages of a TIFF are counted by ITK, which knows thumbnails
            frames = getattr(image, "n_frames", 1)
            if image.format == "PNG" and frames > 1:
                raise UserError(f"{path} is an animation of {frames} pictures; expected one picture.")
            mode = "PA" if image.mode == "P" and "transparency" in image.info else image.mode
            as_mode = _CONVERTED.get(mode, "")
            if image.format == "BMP" or by_pillow or png_bits:
                as_mode = as_mode or _PLAIN.get(image.mode, "")
            about = _About(image.format or "", image.getexif().get(_ORIENTATION, 1), as_mode, white_is_zero)
    except UnidentifiedImageError:
        about = _About(white_is_zero=white_is_zero)
    if png_bits > 8 and about.as_mode != "I;16":
        raise UserError(
            f"{path} has {png_bits}-bit colours or alpha and says that fewer bits are significant (sBIT), so that it "
            "cannot be read in full; save it anew without that, or as grey."
        )
    if not tags or not (by_pillow or about.as_mode):
        return about
    signed = any(value not in (1, 4) for value in tags.get(_SAMPLE_FORMAT, (1,)))  # 4 is undefined
    if signed or not about.as_mode or (bits > 8 and about.as_mode != "I;16"):
        raise UserError(
            f"{path} has {bits}-bit pixels that cannot be read in full as they are stored (in tiles, in planes, not "
            "upright, signed, or neither grey nor RGB); save it anew, upright and without tiles, as grey or RGB of 8 "
            "or 16 bit."
        )
    _require_one_page(path)
    return about


def _tiff_tags(path: Path) -> dict[int, tuple[int, ...]]:
    """``_TAGS`` of a TIFF's first page, also where Pillow does not know its kind of pixels; none of other files."""
    found: dict[int, tuple[int, ...]] = {}
    with path.open("rb") as file, contextlib.suppress(struct.error, OverflowError):  # ITK says what is damaged
        header = file.read(16)
        if header[:4] not in TiffImagePlugin.PREFIXES:
            return found
        tags = TiffImagePlugin.ImageFileDirectory_v2(header if header[2] == _BIG_TIFF else header[:8])
        file.seek(tags.next)
        tags.load(file)
        for tag in _TAGS:
            values = tags.get(tag, ())
            values = values if isinstance(values, tuple) else (values,)
            if values and all(isinstance(value, int) for value in values):
                found[tag] = values
    return found


def _shifted_png_bits(path: Path) -> int:
    """Bits of a PNG's values where its chunk ``sBIT``, which precedes the pixels, says that fewer count; else 0."""
    with path.open("rb") as file:
        header = file.read(33)
        if len(header) < 33 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
            return 0
        bits = header[24]
        while len(start := file.read(8)) == 8 and start[4:] not in (b"IDAT", b"PLTE"):
            length = int.from_bytes(start[:4], "big")
            if start[4:] == b"sBIT":
                return bits if any(count < bits for count in file.read(length)) else 0
            file.seek(length + 4, 1)
    return 0


def image_io(path: Path) -> "itk.ImageIOBase":
    """ITK's reader of a file, which has read its header.

    Raises:
        UserError: no format that ITK knows.
        RuntimeError: the header is damaged.
    """
    io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise UserError(f"{path} is not an image in a known format, or it is damaged.")
    io.SetFileName(str(path))
    shown = io.GetGlobalWarningDisplay()
    io.SetGlobalWarningDisplay(False)  # of a loss in tiles, which are left to Pillow
    try:
        io.ReadImageInformation()
    finally:
        io.SetGlobalWarningDisplay(shown)
    return io


def _require_one_page(path: Path) -> "itk.ImageIOBase":
    io = image_io(path)
    if io.GetNumberOfDimensions() > 2 and io.GetDimensions(2) > 1:
        raise UserError(f"{path} has {io.GetDimensions(2)} pages; expected one picture.")
    return io


def _by_itk(path: Path) -> np.ndarray:
    io = _require_one_page(path)
    component = io.GetComponentTypeAsString(io.GetComponentType())
    if component not in _PIXEL_TYPES:
        raise UserError(f"{path} holds pixels of type {component}; expected 8 or 16 bit without sign.")
    pixel_type = getattr(itk, _PIXEL_TYPES[component])
    reader = itk.ImageFileReader[itk.VectorImage[pixel_type, 2]].New(FileName=str(path), ImageIO=io)
    reader.Update()
    return itk.array_from_image(reader.GetOutput())


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    left_right, up_down, exchange = _UPRIGHT.get(orientation, (False, False, False))
    pixels = pixels[:, ::-1] if left_right else pixels
    pixels = pixels[::-1] if up_down else pixels
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if exchange else pixels)
