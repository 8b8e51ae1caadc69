"""A phantom of textures in classes: something to classify before any data set is at hand."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from networks.errors import UserError
from networks.phantom import NOT_EVIDENCE, new_folder

Grid = tuple[np.ndarray, np.ndarray]


def _lamellae(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 9)
    return np.sin((np.cos(angle) * grid[0] + np.sin(angle) * grid[1]) * 2 * np.pi / period)


def _particles(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    points = rng.uniform(0, len(grid[0]), (30, 2))
    distances, _ = cKDTree(points).query(np.stack(grid, axis=-1))
    return np.where(distances < rng.uniform(2.5, 4), 1.0, -0.5)


def _grains(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    points = rng.uniform(0, len(grid[0]), (25, 2))
    distances, nearest = cKDTree(points).query(np.stack(grid, axis=-1), k=2)
    levels = rng.uniform(-0.6, 1, len(points))
    return np.where(distances[..., 1] - distances[..., 0] < 1, -1.0, levels[nearest[..., 0]])


def _needles(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    texture = np.full(grid[0].shape, -0.5)
    for _ in range(25):
        angle, (row, col) = rng.uniform(0, np.pi), rng.uniform(0, len(texture), 2)
        along = np.cos(angle) * (grid[0] - row) + np.sin(angle) * (grid[1] - col)
        across = np.cos(angle) * (grid[1] - col) - np.sin(angle) * (grid[0] - row)
        texture[(np.abs(along) < 10) & (np.abs(across) < 1)] = 1
    return texture


TEXTURES: dict[str, Callable[[np.random.Generator, Grid], np.ndarray]] = {
    "grains": _grains,
    "lamellae": _lamellae,
    "needles": _needles,
    "particles": _particles,
}


def write_texture_phantom(
    dataset_dir: str | os.PathLike, numbers: Sequence[int] = (60, 15, 15), side: int = 64, seed: int = 0
) -> Path:
    """Write grey pictures of four textures as ``<split>/<class>/<number>.png``, the same pixels for the same seed.

    Args:
        dataset_dir: folder to create.
        numbers: pictures per class for training, validation and test.
        side: height and width in pixels.
        seed: start of the random numbers.

    Raises:
        UserError: ``dataset_dir`` exists and is not empty.
    """
    grid = np.meshgrid(np.arange(side, dtype=float), np.arange(side, dtype=float), indexing="ij")
    with new_folder(dataset_dir) as folder:
        for i, (split, number) in enumerate(zip(("training", "validation", "test"), numbers, strict=True)):
            for j, (name, texture) in enumerate(TEXTURES.items()):
                (folder / split / name).mkdir(parents=True)
                for k in range(number):
                    rng = np.random.default_rng([seed, i, j, k])
                    grey = 110 + rng.uniform(30, 60) * gaussian_filter(texture(rng, (grid[0], grid[1])), 0.7)
                    grey += rng.normal(0, rng.uniform(8, 16), grey.shape)
                    picture = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
                    picture.save(folder / split / name / f"{k:03d}.png")
        (folder / "README.txt").write_text(NOT_EVIDENCE + "\n", encoding="utf-8")
    return Path(dataset_dir)


def ensure_texture_phantom(dataset_dir: str | os.PathLike) -> None:
    """Write the phantom unless the folder holds something; of processes that do so at once the first one counts."""
    # one that holds anything is whole: it is renamed when all is written
    if _is_filled(dataset_dir):
        return
    try:
        write_texture_phantom(dataset_dir)
    except UserError:
        if not _is_filled(dataset_dir):
            raise
    else:
        print(f"Wrote a phantom data set to {dataset_dir}: for trying the software, scores on it mean nothing.")


def _is_filled(dataset_dir: str | os.PathLike) -> bool:
    return Path(dataset_dir).is_dir() and any(Path(dataset_dir).iterdir())
