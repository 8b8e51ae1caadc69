"""Axial slices of volumes for 2D networks: a data set to train on, and inference as the papers do it."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from ignite import distributed as idist
from monai.inferers import Inferer
from monai.transforms import Compose, Randomizable
from monai.utils import convert_to_dst_type
from scipy.ndimage import zoom
from torch.utils.data import Dataset
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.data import Pair
from networks.workflow.loading import KEYS, voxels_of


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
        slices_per_epoch: draw so many slices at random, with replacement, instead of each once; data sets of any size
            then have epochs of the same length.
        foreground_share: least chance that a slice that is drawn has foreground; by default that of the data set.

    Each item is ``{"image": (C, X, Y) float tensor, "label": (1, X, Y) tensor}``.

    Raises:
        UserError: no data, or ``cache_rate`` outside 0..1.
    """

    def __init__(
        self,
        data: Sequence[Pair],
        transform: Compose,
        cache_rate: float = 1.0,
        cache_dir: str | None = None,
        slices_per_epoch: int | None = None,
        foreground_share: float | None = None,
    ) -> None:
        if not data:
            raise UserError("The list of volumes is empty; expected at least one pair of image and label.")
        if not 0 <= cache_rate <= 1:
            raise UserError(f"cache_rate is {cache_rate}; expected a number from 0 to 1.")
        self.data = list(data)
        self.transform = transform
        first_random = transform.get_index_of_first(lambda t: isinstance(t, Randomizable))
        self._first_random = len(transform) if first_random is None else first_random
        self._folder = tempfile.TemporaryDirectory(prefix="slices-", dir=cache_dir)
        in_memory = round(cache_rate * len(self.data))
        self._volumes: list[dict[str, np.ndarray]] = []
        quiet = idist.get_rank() > 0 or None  # None: on a terminal only
        progress = tqdm(self.data, desc="Preparing volumes", unit="volume", leave=False, disable=quiet)
        for i, pair in enumerate(progress):
            volume = self._prepare(pair)
            self._volumes.append(volume if i < in_memory else self._to_disk(volume, i))
        self._ends = np.cumsum([len(volume["image"]) for volume in self._volumes])
        self._slices_per_epoch = slices_per_epoch
        self._draws = None if foreground_share is None else self._by_foreground(foreground_share)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "SliceDataset":
        """Seed the random transforms and the draws."""
        self.transform.set_random_state(seed, state)
        super().set_random_state(seed, state)
        return self

    @property
    def voxels(self) -> torch.Tensor:
        """Voxels per class of all labels, as they are in the files."""
        return voxels_of(self.transform, self.data)

    def __len__(self) -> int:
        return self._slices_per_epoch or int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._slices_per_epoch:
            index = self._drawn()
        volume = int(np.searchsorted(self._ends, index, side="right"))
        z = index - (int(self._ends[volume - 1]) if volume else 0)
        item = {key: torch.from_numpy(np.array(array[z])) for key, array in self._volumes[volume].items()}
        return self.transform(item, start=self._first_random)

    def _drawn(self) -> int:
        """The number of a random slice."""
        if self._draws is None:
            return int(self.R.randint(self._ends[-1]))
        share, with_foreground, without = self._draws
        return int(self.R.choice(with_foreground if self.R.random() < share else without))

    def _by_foreground(self, share: float) -> tuple[float, np.ndarray, np.ndarray] | None:
        """The share and the numbers of the slices with foreground, and of those without; None if any slice will do."""
        has_foreground = np.concatenate([volume["label"].any(axis=(1, 2, 3)) for volume in self._volumes])
        if not has_foreground.any() or has_foreground.mean() >= share:
            return None
        return share, np.flatnonzero(has_foreground), np.flatnonzero(~has_foreground)

    def _prepare(self, pair: Pair) -> dict[str, np.ndarray]:
        volume = self.transform({key: pair[key] for key in KEYS}, end=self._first_random, threading=True)
        # slices first and contiguous, so that one slice is one read
        return {key: np.ascontiguousarray(np.moveaxis(np.asarray(volume[key]), -1, 0)) for key in KEYS}

    def _to_disk(self, volume: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        paths = {key: Path(self._folder.name) / f"{index:05d}_{key}.npy" for key in volume}
        for key, path in paths.items():
            np.save(path, volume[key])
        return {key: np.load(path, mmap_mode="r") for key, path in paths.items()}


class ZoomedSliceInferer(Inferer):
    """Label maps of volumes as the code behind the published Synapse and ACDC numbers makes them.

    Every axial slice is brought to the network's size by cubic splines (``scipy.ndimage.zoom``, order 3), and the
    class numbers, not the logits, back to the slice's own (order 0).

    Args:
        roi_size: height and width that the network sees.
        sw_batch_size: slices at once.
    """

    def __init__(self, roi_size: Sequence[int], sw_batch_size: int = 1) -> None:
        super().__init__()
        self.roi_size, self.sw_batch_size = tuple(roi_size), sw_batch_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        """Class numbers (B, 1, X, Y, Z) of ``inputs`` (B, channels, X, Y, Z), int16."""
        slices = np.moveaxis(inputs.detach().cpu().numpy(), -1, 1).reshape(-1, inputs.shape[1], *inputs.shape[2:4])
        labels = np.empty((len(slices), *slices.shape[2:]), np.int16)
        for start in range(0, len(slices), self.sw_batch_size):
            part = slices[start : start + self.sw_batch_size]
            small = np.stack([np.stack([_zoom(channel, self.roi_size, 3) for channel in one]) for one in part])
            logits = network(torch.from_numpy(small).to(inputs.device), *args, **kwargs)
            found = logits.argmax(dim=1).cpu().numpy().astype(np.int16)
            labels[start : start + len(part)] = [_zoom(one, labels.shape[1:], 0) for one in found]
        volumes = np.moveaxis(labels.reshape(inputs.shape[0], 1, inputs.shape[4], *labels.shape[1:]), 2, -1)
        return convert_to_dst_type(np.ascontiguousarray(volumes), inputs, dtype=torch.int16)[0]


def _zoom(array: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    if array.shape == tuple(shape):
        return array
    return zoom(array, [new / old for new, old in zip(shape, array.shape, strict=True)], order=order)
