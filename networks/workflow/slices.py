"""Axial slices of volumes as a map-style data set for 2D networks."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ignite import distributed as idist
from monai.transforms import Compose, Randomizable
from torch.utils.data import Dataset
from tqdm import tqdm

from networks.workflow.data import Pair

KEYS = ("image", "label")


class SliceDataset(Randomizable, Dataset):
    """Every slice of every volume once per epoch, as the papers of 2D networks on volumes train.

    The deterministic transforms at the head of ``transform`` (up to the first random one) run once per volume; the
    rest runs on one slice, whenever it is asked for. Prepared volumes are kept in memory up to ``cache_rate`` of
    them, the others as memory-mapped files in a temporary folder, so that memory does not grow with the data set and
    a slice never costs reading its volume.

    Args:
        data: items with the paths of ``image`` and ``label``.
        transform: its deterministic part yields volumes (C, X, Y, Z), its random part gets slices (C, X, Y).
        cache_rate: share of the volumes to keep in memory, 0 to 1.
        cache_dir: parent of the temporary folder, the system's by default; gone when the data set is.

    Each item is ``{"image": (C, X, Y) float tensor, "label": (1, X, Y) tensor}``.

    Raises:
        ValueError: no data, or ``cache_rate`` outside 0..1.
    """

    def __init__(
        self,
        data: Sequence[Pair],
        transform: Compose,
        cache_rate: float = 1.0,
        cache_dir: str | None = None,
    ) -> None:
        if not data:
            raise ValueError("The list of volumes is empty; expected at least one pair of image and label.")
        if not 0 <= cache_rate <= 1:
            raise ValueError(f"cache_rate is {cache_rate}; expected a number from 0 to 1.")
        self.data = list(data)
        self.transform = transform
        first_random = transform.get_index_of_first(lambda t: isinstance(t, Randomizable))
        self._first_random = len(transform) if first_random is None else first_random
        self._folder = tempfile.TemporaryDirectory(prefix="slices-", dir=cache_dir)
        in_memory = round(cache_rate * len(self.data))
        self._volumes: list[dict[str, np.ndarray]] = []
        progress = tqdm(self.data, desc="Preparing volumes", unit="volume", leave=False, disable=idist.get_rank() > 0)
        for i, pair in enumerate(progress):
            volume = self._prepare(pair)
            self._volumes.append(volume if i < in_memory else self._to_disk(volume, i))
        lengths = [len(volume["image"]) for volume in self._volumes]
        self._ends = np.cumsum(lengths)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "SliceDataset":
        """Seed the random transforms."""
        self.transform.set_random_state(seed, state)
        return self

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        volume = int(np.searchsorted(self._ends, index, side="right"))
        z = index - (int(self._ends[volume - 1]) if volume else 0)
        item = {key: torch.from_numpy(np.array(array[z])) for key, array in self._volumes[volume].items()}
        return self.transform(item, start=self._first_random)

    def _prepare(self, pair: Pair) -> dict[str, np.ndarray]:
        volume = self.transform({key: pair[key] for key in KEYS}, end=self._first_random, threading=True)
        # slices first and contiguous, so that one slice is one read
        return {key: np.ascontiguousarray(np.moveaxis(np.asarray(volume[key]), -1, 0)) for key in KEYS}

    def _to_disk(self, volume: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        paths = {key: Path(self._folder.name) / f"{index:05d}_{key}.npy" for key in volume}
        for key, path in paths.items():
            np.save(path, volume[key])
        return {key: np.load(path, mmap_mode="r") for key, path in paths.items()}
