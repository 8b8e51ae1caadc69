"""Reading 2D images without losing bits or channels."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
from PIL import Image

from scripts.datasets.writer import CaseError, reading

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
_PIXEL_TYPES = {"unsigned_char": itk.UC, "unsigned_short": itk.US}


def read_pixels(path: Path) -> np.ndarray:
    """Pixel values as they are in the file: (height, width, channels), uint8 or uint16, RGB(A) order.

    ITK reads every compression of TIFF. Its own choice of pixel type drops alpha and fails on 16-bit colour, and
    Pillow keeps only the high byte of 16-bit colour; a vector image has neither fault.

    Raises:
        CaseError: not an image that ITK can read, damaged, of several pages, or neither 8 nor 16 bit.
    """
    io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise CaseError(f"{path.name} is not an image in a known format, or it is damaged.")
    io.SetFileName(str(path))
    with reading(path):
        io.ReadImageInformation()
    if io.GetNumberOfDimensions() > 2 and io.GetDimensions(2) > 1:
        raise CaseError(f"{path.name} has {io.GetDimensions(2)} pages; expected one picture.")
    component = io.GetComponentTypeAsString(io.GetComponentType())
    if component not in _PIXEL_TYPES:
        raise CaseError(f"{path.name} holds pixels of type {component}; expected 8 or 16 bit without sign.")
    reader = itk.ImageFileReader[itk.VectorImage[_PIXEL_TYPES[component], 2]].New(FileName=str(path), ImageIO=io)
    with reading(path):
        reader.Update()
    return itk.array_from_image(reader.GetOutput())


def read_index_or_colours(path: Path) -> np.ndarray:
    """A mask: as :func:`read_pixels`, but the numbers and not the colours of a palette, and 0 and 1 of one bit.

    Raises:
        CaseError: as :func:`read_pixels`.
    """
    with reading(path), Image.open(path) as image:
        if image.mode in ("1", "P"):
            return np.asarray(image).astype(np.uint8)[..., None]
    return read_pixels(path)


def to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """uint8 values; 16 bit becomes round(v / 257), as in OpenCV, so that 65535 becomes 255."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
