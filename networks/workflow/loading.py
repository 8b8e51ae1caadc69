"""What reads the data of a training: each file once, checked while it is prepared, before the first batch."""

from collections.abc import Sequence
from typing import Any

import torch
from ignite import distributed as idist
from monai.data import CacheDataset, get_track_meta, set_track_meta
from monai.transforms import Compose, MapTransform
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.checks import CaseReader, Reader
from networks.workflow.data import Pair
from networks.workflow.ids import truth

KEYS = ("image", "label")


class LoadCased(MapTransform):
    """Image and label of a case, channel first, the label always on the image's grid.

    Args:
        keys: "image" and "label".
        reader, in_channels, out_channels, spatial_dims: as in :class:`networks.workflow.checks.CaseReader`.
        check: whether channels, dimensions and values are checked.

    Attributes:
        voxels: per label file that was read, the voxels of every class.
    """

    def __init__(
        self,
        keys: Sequence[str] = KEYS,
        reader: Reader = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        spatial_dims: int | None = None,
        check: bool | str = True,
    ) -> None:
        super().__init__(keys)
        self.voxels: dict[str, torch.Tensor] = {}
        self._read = CaseReader(reader, in_channels, out_channels, spatial_dims, truth(check))

    def __call__(self, data: Pair) -> dict[str, Any]:
        """Replace the paths by ``MetaTensor``s: the image in float32, the label in its own type.

        Raises:
            UserError: as :class:`networks.workflow.checks.CaseReader`.
        """
        image, label, voxels = self._read(data)
        if voxels is not None:
            self.voxels[data["label"]] = voxels
        return {**data, "image": image.float(), **({} if label is None else {"label": label})}


class Untracked(Compose):
    """Transforms one after the other, without MONAI's record of what was done to an image.

    Nothing in a training is inverted, and keeping the record costs as much as random transforms of a crop do.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Compose``, with plain tensors for ``MetaTensor``s."""
        before = get_track_meta()
        set_track_meta(False)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            set_track_meta(before)


class CaseDataset(CacheDataset):
    """MONAI's ``CacheDataset`` that has read every case, also those that it does not keep, before it is used.

    Args:
        data: items with ``image`` and ``label``.
        transform: begins with :class:`LoadCased`.
        cache_rate: share of the prepared cases to keep in memory.
        repeats: how often every case comes in an epoch, for several random crops of each.
    """

    def __init__(self, data: Sequence[Pair], transform: Compose, cache_rate: float = 1.0, repeats: int = 1) -> None:
        self.repeats = repeats
        super().__init__(data, transform, cache_rate=cache_rate, progress=False)

    def set_data(self, data: Sequence[Pair]) -> None:
        """Prepare the cases that are kept, and read the others once."""
        super().set_data(data)
        rest = range(self.cache_num, len(self.data))
        quiet = idist.get_rank() > 0 or len(rest) < 2
        for i in tqdm(rest, desc="Checking data", unit="case", leave=False, disable=quiet or None):
            self.transform(dict(self.data[i]), end=1)

    def __len__(self) -> int:
        return len(self.data) * self.repeats

    def _transform(self, index: int) -> Any:
        return super()._transform(index % len(self.data))

    @property
    def voxels(self) -> torch.Tensor:
        """Voxels per class of all labels."""
        return voxels_of(self.transform, self.data)


def voxels_of(transform: Compose, cases: Sequence[Pair]) -> torch.Tensor:
    """Voxels per class (classes,) that the :class:`LoadCased` of a transform found in the labels of these cases.

    Raises:
        UserError: they are not known, since a label holds other values and nothing was to be checked.
    """
    known = next(t for t in transform.transforms if isinstance(t, LoadCased)).voxels
    paths = sorted({case["label"] for case in cases})
    lacking = [path for path in paths if path not in known]
    if lacking:
        raise UserError(
            f"{lacking[0]} holds values that are no class numbers, so the classes cannot be weighed; give "
            "--check_data true to see them."
        )
    return torch.stack([known[path] for path in paths]).sum(dim=0)


def balanced_weights(dataset: Any, power: float = 1.0) -> torch.Tensor:
    """Weights (classes,) that give every class the same share of a cross-entropy: 1 / frequency, mean 1.

    Args:
        dataset: one whose ``voxels`` are those per class of its labels; a class that no label has gets weight 0.
        power: of the inverse frequencies; 0.5 keeps a very rare class from outweighing all others together.
    """
    counts = dataset.voxels.double()
    weights = torch.where(counts > 0, (counts.sum() / counts.clamp(min=1)) ** power, 0)
    return (weights / weights.mean()).float()
