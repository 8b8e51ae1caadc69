"""What all networks check of their arguments, and the sentences that say what is wrong."""

from collections.abc import Sequence

from torch import Tensor


def check_counts(**counts: int) -> None:
    """Raise ValueError for a number below 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} is not possible: give a number of at least 1.")


def check_rates(**rates: float) -> None:
    """Raise ValueError for a rate that is not from 0 to below 1."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name}={rate} is not a rate: give a number from 0 to below 1.")


def image_sides(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels; raises ValueError for one below 1."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if min(height, width) < 1:
        raise ValueError(f"img_size={img_size} is not possible: give sides of at least 1 pixel.")
    return height, width


def check_channels(x: Tensor, in_channels: int) -> None:
    """Raise ValueError for an image (B, C, H, W) of another number of channels."""
    if x.shape[1] != in_channels:
        raise ValueError(
            f"The image has {x.shape[1]} channels but the network expects {in_channels}: "
            "build it with in_channels of the image."
        )
