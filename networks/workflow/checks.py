"""Checking images and labels before the first batch, so that a mistake is named by file and not by a stack trace."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nibabel as nib
import torch
from ignite import distributed as idist
from monai.data import ImageReader, MetaTensor
from monai.transforms import LoadImage
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.data import NIFTI_SUFFIXES, VOLUME_SUFFIXES, Pair, case_list, load_datalist, stored_window
from networks.workflow.geometry import brought_onto, check_affine
from networks.workflow.overlap import check_lists
from networks.workflow.pictures import PictureReader

logger = logging.getLogger(__name__)
MAX_LISTED = 10
REMEDY = "set --out_channels to the number of classes with background, or renumber the labels"
Reader = str | ImageReader | None
Visit = Callable[[Pair, MetaTensor, MetaTensor | None], None]


class CaseReader:
    """Reads a case: the one way from files to an image and its label on one grid.

    Args:
        reader: MONAI image reader, or its name; None chooses by the suffix. A ``PictureReader`` reads labels as such.
        in_channels: channels that the network takes; not checked if None.
        out_channels: classes of the network; labels must be whole numbers in 0..out_channels-1. Not checked if None.
        spatial_dims: 3 for volumes, 2 for pictures; not checked if None.
        check: whether channels, dimensions and values are checked; that image and label go together always is.
    """

    def __init__(
        self,
        reader: Reader = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        spatial_dims: int | None = None,
        check: bool = True,
    ) -> None:
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.check = check
        self._image = loader(reader)
        self._label = loader(PictureReader(is_label=True)) if isinstance(reader, PictureReader) else self._image

    def __call__(self, pair: Pair) -> tuple[MetaTensor, MetaTensor | None, torch.Tensor | None]:
        """Image (channels, ...), label (1, ...) on the image's grid, and its voxels per class (classes,).

        The last two are None for a case without a label; the voxels also where unchecked values are no class numbers.

        Raises:
            UserError: names the file, what was found and what was expected.
        """
        image = read_image(self._image, pair["image"])
        if self.check:
            _check_image(pair["image"], image, self.in_channels, self.spatial_dims)
        if "label" not in pair:
            return image, None, None
        label = read_image(self._label, pair["label"])
        if label.shape[0] != 1:
            raise UserError(
                f"{pair['label']} has {label.shape[0]} channels; expected one channel of class numbers (an index map)."
            )
        label = brought_onto(label, image, (pair["label"], pair["image"]))
        voxels = count_classes(pair["label"], label, self.out_channels, check=self.check)
        return image, label, voxels


def loader(reader: Reader = None) -> LoadImage:
    """MONAI's ``LoadImage`` that keeps the file's type and puts the channel first."""
    return LoadImage(reader=reader, image_only=True, ensure_channel_first=True, dtype=None)


def reader_of(path: str, channels: int | None = None, is_label: bool = False) -> Reader:
    """How a file is read where no config says so: pictures by ``PictureReader``, volumes by their suffix."""
    return None if path.lower().endswith(VOLUME_SUFFIXES) else PictureReader(channels, is_label=is_label)


def check_dataset(
    dataset_dir: str,
    in_channels: int | None = None,
    out_channels: int | None = None,
    visit: Visit | None = None,
    allow_overlap: bool = False,
    datalist: Mapping[str, Sequence[Pair]] | None = None,
    say: Callable[[str], Any] = logger.warning,
) -> dict[str, int]:
    """Check every list of a data set in the contract.

    Args:
        dataset_dir: folder with ``dataset.json``.
        in_channels, out_channels: as in :func:`check_cases`. Pictures are read with that many channels.
        visit: as in :func:`check_cases`.
        allow_overlap: as in :func:`networks.workflow.overlap.check_lists`.
        datalist: what ``load_datalist`` has read of it already.
        say: as in :func:`networks.workflow.overlap.check_lists`.

    Returns:
        Number of cases per list.

    Raises:
        UserError: as :func:`networks.workflow.data.load_datalist`, :func:`networks.workflow.overlap.check_lists` and
            :func:`check_cases`; all cases with a mistake are named.
    """
    datalist = datalist or load_datalist(dataset_dir)
    if datalist["training"] and not datalist["validation"]:
        case_list(datalist, "validation")  # training would refuse it with the same sentence
    check_lists(dataset_dir, allow_overlap, say=say, **datalist)
    unique = list({(pair["image"], pair.get("label")): pair for items in datalist.values() for pair in items}.values())
    window = stored_window(dataset_dir)
    readers = {
        is_picture: CaseReader(PictureReader(in_channels, window) if is_picture else None, in_channels, out_channels)
        for is_picture in {reader_of(pair["image"]) is not None for pair in unique}
    }
    _read_all(unique, lambda pair: readers[reader_of(pair["image"]) is not None], visit)
    return {name: len(items) for name, items in datalist.items()}


def check_cases(
    cases: Sequence[Pair],
    in_channels: int | None = None,
    out_channels: int | None = None,
    reader: Reader = None,
    spatial_dims: int | None = None,
) -> None:
    """Read every image and label once, so that all that cannot be used are named together.

    Under several processes each checks its share. A file in several lists is read once.

    Args:
        cases: items with ``image`` and, where there is one, ``label``: paths.
        in_channels, out_channels, reader, spatial_dims: as in :class:`CaseReader`.

    Raises:
        UserError: names every file, what was found and what was expected.
    """
    unique = list({(pair["image"], pair.get("label")): pair for pair in cases}.values())
    share = unique[idist.get_rank() :: idist.get_world_size()]
    read = CaseReader(reader, in_channels, out_channels, spatial_dims)
    _read_all(share, lambda pair: read, quiet=idist.get_rank() > 0 or len(share) < 2 or None)


def check_intervals(epochs: int, val_interval: int, patience: int = 0) -> None:
    """Refuse a training that would never validate and so keep no best checkpoint, and tell epochs without validation.

    Raises:
        UserError: the interval is longer than the training, or than the patience that ends it.
    """
    if 0 < patience < val_interval:
        raise UserError(
            f"patience is {patience}, which is over before the first validation after {val_interval} epochs; give "
            f"--patience at least {val_interval}, or 0."
        )
    if not 1 <= val_interval <= epochs:
        raise UserError(
            f"val_interval is {val_interval}, which never comes within {epochs} epochs; "
            f"give --val_interval a number from 1 to {epochs}."
        )
    if epochs % val_interval:
        logger.warning(
            "The last %d of %d epochs are not validated, as val_interval is %d, so that model.pt is of an earlier one; "
            "model_final.pt is of the last.",
            epochs % val_interval,
            epochs,
            val_interval,
        )


def check_crops(img_size: Sequence[int], short_side: int) -> None:
    """Raise UserError where crops of ``img_size`` are larger than pictures whose shorter side is ``short_side``."""
    if short_side < max(img_size):
        raise UserError(
            f"short_side is {short_side}, less than img_size {list(img_size)} that is cropped from it; give "
            f"--short_side at least {max(img_size)}."
        )


def read_image(loader: LoadImage, path: str) -> MetaTensor:
    """Read a file; raises UserError that names it and the reader's first reason, or an affine that is not usable."""
    try:
        if path.lower().endswith(NIFTI_SUFFIXES):
            # MONAI replaces an affine that does not go with the voxels' sizes, without a word
            check_affine(nib.load(path).affine, path)  # type: ignore[attr-defined]  # a NIfTI image has one
        image = loader(path)
        if image.ndim == 4:
            check_affine(image.affine, path)
        return image
    except UserError:
        raise
    except Exception as error:
        told = _told(error)
        if told is not None:
            raise UserError(str(told)) from error
        raise UserError(
            f"{path} cannot be read ({_reason(error)}); it may be truncated or in a format that its name does not say."
        ) from error


def count_classes(
    path: str, label: torch.Tensor, out_channels: int | None, remedy: str = REMEDY, check: bool = True
) -> torch.Tensor | None:
    """Voxels of every class of a label map.

    Args:
        path: its file, for messages.
        label: class numbers, of any type.
        out_channels: number of classes; by default as many as there are in the label.
        remedy: end of the sentence.
        check: whether other values raise; else None is returned.

    Returns:
        (classes,) int64; as many classes as ``out_channels``.

    Raises:
        UserError: a value is no class number below ``out_channels``.
    """
    values = torch.as_tensor(label).flatten()
    if values.is_floating_point() or values.dtype == torch.bool:
        whole = torch.isfinite(values) & (values == values.round()) & (values.abs() < 2**31)
        numbers = values.long() if bool(whole.all()) else None
    else:
        numbers = values
    limit = 2**16 if out_channels is None else out_channels
    if numbers is not None and numbers.numel() and int(numbers.min()) >= 0 and int(numbers.max()) < limit:
        return torch.bincount(numbers, minlength=out_channels or 0)
    if not check:
        return None
    found = torch.unique(values)
    exact = found.double()  # a small integer type would not hold the limit
    wrong = exact[~(torch.isfinite(exact) & (exact == exact.round()) & (exact >= 0) & (exact < limit))].tolist()
    expected = "whole numbers from 0" if out_channels is None else f"whole numbers in 0..{out_channels - 1}"
    listed = ", ".join(f"{v:g}" for v in wrong[:MAX_LISTED]) + (", ..." if len(wrong) > MAX_LISTED else "")
    raise UserError(f"{path} holds the label values {listed}; expected {expected}: {remedy}.")


def _read_all(
    cases: Sequence[Pair], reader: Callable[[Pair], CaseReader], visit: Visit | None = None, quiet: bool | None = None
) -> None:
    mistakes = []
    for pair in tqdm(cases, desc="Checking data", unit="case", leave=False, disable=quiet):
        try:
            image, label, _ = reader(pair)(pair)
        except UserError as error:
            mistakes.append(str(error))
        else:
            if visit is not None:
                visit(pair, image, label)
    if len(mistakes) > 1:
        listed = "".join(f"\n- {mistake}" for mistake in mistakes)
        raise UserError(f"{len(mistakes)} of {len(cases)} cases cannot be used:{listed}")
    if mistakes:
        raise UserError(mistakes[0])


def _told(error: BaseException | None) -> UserError | None:
    """The sentence that one of our own readers gave; MONAI wraps it."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _reason(error: BaseException) -> str:
    """The first cause's message in one line: readers wrap it in pages of advice."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _check_image(path: str, image: MetaTensor, in_channels: int | None, spatial_dims: int | None) -> None:
    if spatial_dims is not None and image.ndim - 1 != spatial_dims:
        kinds = {2: "pictures", 3: "volumes"}
        advice = {
            2: "take a preset for pictures, such as robust_pictures, or weights that were trained on pictures",
            3: "take no preset for pictures, or weights that were trained on volumes",
        }
        raise UserError(
            f"{path} has {image.ndim - 1} spatial dimensions, but this config is for {kinds[spatial_dims]}; "
            f"{advice.get(image.ndim - 1, 'convert the images')}."
        )
    if in_channels is not None and image.shape[0] != in_channels:
        raise UserError(
            f"{path} has {image.shape[0]} channels, but the network takes {in_channels}; "
            f"set --in_channels {image.shape[0]} or convert the images."
        )
    if image.is_complex():
        raise UserError(f"{path} holds complex numbers; convert it to their magnitude, or whatever is meant.")
    if image.dtype.is_floating_point and not bool(torch.isfinite(image.as_tensor()).all()):
        bad = int((~torch.isfinite(image.as_tensor())).sum())
        raise UserError(f"{path} holds {bad} values that are NaN or infinite; replace them before training.")
