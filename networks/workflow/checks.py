"""Checking images and labels before the first batch, so that a mistake is named by file and not by a stack trace."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from ignite import distributed as idist
from monai.transforms import LoadImage
from tqdm import tqdm

from networks.workflow.data import Pair, load_datalist

MAX_LISTED = 10
Visit = Callable[[Pair, torch.Tensor, torch.Tensor | None], None]


def check_dataset(
    dataset_dir: str, in_channels: int | None = None, out_channels: int | None = None, visit: Visit | None = None
) -> dict[str, int]:
    """Check every list of a data set in the contract.

    Returns:
        Number of cases per list.

    Raises:
        FileNotFoundError, ValueError: as :func:`networks.workflow.data.load_datalist` and :func:`check_cases`; all
            cases with a mistake are named.
    """
    datalist = load_datalist(dataset_dir)
    unique = list({pair["image"]: pair for items in datalist.values() for pair in items}.values())
    mistakes = []
    for pair in tqdm(unique, desc="Checking data", unit="case", leave=False):
        try:
            check_cases([pair], in_channels, out_channels, visit=visit)
        except ValueError as error:
            mistakes.append(str(error))
    if len(mistakes) > 1:
        listed = "".join(f"\n- {mistake}" for mistake in mistakes)
        raise ValueError(f"{len(mistakes)} of {len(unique)} cases cannot be trained on:{listed}")
    if mistakes:
        raise ValueError(mistakes[0])
    return {name: len(items) for name, items in datalist.items()}


def check_cases(
    cases: Sequence[Pair],
    in_channels: int | None = None,
    out_channels: int | None = None,
    reader: str | None = None,
    spatial_dims: int | None = None,
    visit: Visit | None = None,
) -> None:
    """Read every image and label once and raise on the first that cannot be trained on.

    Under several processes each checks its share. A file in several lists is read once.

    Args:
        cases: items with ``image`` and, where there is one, ``label``: paths.
        in_channels: channels that the network takes; not checked if None.
        out_channels: classes of the network; labels must be whole numbers in 0..out_channels-1. Not checked if None.
        reader: MONAI image reader, as in the config's ``LoadImaged``.
        spatial_dims: 3 for volumes, 2 for pictures; not checked if None.
        visit: called with every case that passed and what was read: image (channels, ...) and label (1, ...) or None.

    Raises:
        ValueError: names the file, what was found and what was expected.
    """
    unique = list({pair["image"]: pair for pair in cases}.values())
    share = unique[idist.get_rank() :: idist.get_world_size()]
    loader = LoadImage(reader=reader, image_only=True, ensure_channel_first=True, dtype=None)
    is_quiet = idist.get_rank() > 0 or len(share) < 2
    for pair in tqdm(share, desc="Checking data", unit="case", leave=False, disable=is_quiet):
        image = _read(loader, pair["image"])
        _check_image(pair["image"], image, in_channels, spatial_dims)
        if "label" in pair:
            label = _read(loader, pair["label"])
            _check_shapes(pair, image, label)
            _check_values(pair["label"], label, out_channels)
        if visit is not None:
            visit(pair, image, label if "label" in pair else None)


def check_intervals(epochs: int, val_interval: int) -> None:
    """Raise ValueError for a training that would never validate and so never keep a best checkpoint."""
    if not 1 <= val_interval <= epochs:
        raise ValueError(
            f"val_interval is {val_interval}, which never comes within {epochs} epochs; "
            f"give --val_interval a number from 1 to {epochs}."
        )


def _read(loader: LoadImage, path: str) -> torch.Tensor:
    try:
        return loader(path)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({_reason(error)}); it may be truncated or in a format that its name does not say."
        ) from error


def _reason(error: BaseException) -> str:
    """The first cause's message in one line: readers wrap it in pages of advice."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _check_image(path: str, image: torch.Tensor, in_channels: int | None, spatial_dims: int | None) -> None:
    if spatial_dims is not None and image.ndim - 1 != spatial_dims:
        kinds = {2: "pictures", 3: "volumes"}
        raise ValueError(
            f"{path} has {image.ndim - 1} spatial dimensions, but this config is for {kinds[spatial_dims]}; "
            f"add the preset for {kinds[5 - spatial_dims]} or convert the images."
        )
    if in_channels is not None and image.shape[0] != in_channels:
        raise ValueError(
            f"{path} has {image.shape[0]} channels, but the network takes {in_channels}; "
            f"set --in_channels {image.shape[0]} or convert the images."
        )
    if image.dtype.is_floating_point and not bool(torch.isfinite(image.as_tensor()).all()):
        bad = int((~torch.isfinite(image.as_tensor())).sum())
        raise ValueError(f"{path} holds {bad} values that are NaN or infinite; replace them before training.")


def _check_shapes(pair: Pair, image: torch.Tensor, label: torch.Tensor) -> None:
    if label.shape[0] != 1:
        raise ValueError(
            f"{pair['label']} has {label.shape[0]} channels; expected one channel of class numbers (an index map)."
        )
    if image.shape[1:] != label.shape[1:]:
        raise ValueError(
            f"{pair['label']} has shape {tuple(label.shape[1:])}, but its image {pair['image']} has "
            f"{tuple(image.shape[1:])}; they must be equal."
        )


def _check_values(path: str, label: torch.Tensor, out_channels: int | None) -> None:
    values = np.unique(label.numpy())
    wrong = values[~np.isfinite(values) | (values != np.round(values)) | (values < 0)]
    expected = "whole numbers from 0"
    if out_channels is not None:
        wrong = np.union1d(wrong, values[values >= out_channels])
        expected = f"whole numbers in 0..{out_channels - 1}"
    if wrong.size:
        listed = ", ".join(f"{v:g}" for v in wrong[:MAX_LISTED]) + (", ..." if wrong.size > MAX_LISTED else "")
        raise ValueError(
            f"{path} holds the label values {listed}; expected {expected}: set --out_channels to the number of "
            "classes with background, or renumber the labels."
        )
