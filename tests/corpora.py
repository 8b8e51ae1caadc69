"""Small corpora of textures, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage


def texture(seed: int, fine: float = 2.0, size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """Noise (height, width) uint8, the finer the smaller ``fine``, in pixels, is."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), fine)
    return (128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def write_corpus(folder: Path) -> Path:
    """A folder ``micrographs`` of two classes, ten pictures each, that differ in how fine they are."""
    root = folder / "micrographs"
    for kind, fine in (("fine", 1.0), ("coarse", 5.0)):
        (root / kind).mkdir(parents=True)
        for n in range(10):
            Image.fromarray(texture(n + 100 * int(fine), fine)).save(root / kind / f"{n}.png")
    return root
