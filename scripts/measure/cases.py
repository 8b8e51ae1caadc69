"""The label maps to measure: which file is which, what is in it, and how large its pixels are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import Orientation

from networks.errors import UserError
from networks.workflow.checks import count_classes, loader, read_image
from networks.workflow.data import (
    IMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    VOLUME_SUFFIXES,
    Pair,
    case_list,
    case_name,
    load_datalist,
    stem,
)
from networks.workflow.files import files_below
from networks.workflow.geometry import MILLIMETRES, brought_onto, spacing_of
from networks.workflow.pictures import shown_size
from networks.workflow.pixel_size import PixelSize, read_pixel_size
from scripts.datasets.colours import Colour, read_class_numbers
from scripts.metrics.predictions import POSTFIX, find_predictions

LOSSY = (".jpg", ".jpeg")
SLANT = 1e-4  # share of a voxel's volume that axes out of the right angle may cost: headers are rounded
MAX_CLASSES = 64  # more distinct values are numbers of objects


@dataclass(frozen=True)
class Item:
    """One label map.

    Attributes:
        case: its name in the results.
        label: its file.
        truth: the file of the true label map, if there is one.
        image: the file of the image, if it is known; its pixel size counts.
    """

    case: str
    label: Path
    truth: Path | None = None
    image: Path | None = None


def find_items(
    predictions: Path, dataset_dir: str | None, split: str, truth: Path | None, images: Path | None, results: Path
) -> list[Item]:
    """Label maps and what belongs to them, by the names of the files.

    Args:
        predictions: a label map, or a folder; where names end in ``_seg``, only those are label maps.
        dataset_dir: data set with the images and, if its list has labels, the truth.
        split: its list.
        truth: folder with true label maps, or the one of a single file.
        images: folder with the images, or the one of a single file.
        results: folder of measurements, whose pictures are no label maps.

    Raises:
        UserError: nothing is there, or files that do not go together.
    """
    if dataset_dir is not None and (truth is not None or images is not None):
        raise UserError("--dataset_dir names truth and images: give no --truth or --images beside it.")
    if dataset_dir is not None:
        pairs = case_list(load_datalist(dataset_dir), split)
        labelled = [pair for pair in pairs if "label" in pair]
        if labelled and len(labelled) < len(pairs):
            raise UserError(f'Only {len(labelled)} of {len(pairs)} cases of the list "{split}" have a label.')
        files = find_predictions(str(predictions), pairs, dataset_dir)
        return [item_of(pair, file, dataset_dir) for pair, file in zip(pairs, files, strict=True)]
    if predictions.is_file():
        beside = [_given(path, predictions, option) for path, option in ((truth, "truth"), (images, "images"))]
        return [Item(predictions.name, predictions, *beside)]
    if not predictions.is_dir():
        raise UserError(f"{predictions} does not exist; give a label map, or a folder of label maps.")
    files = [p for p in files_below(predictions, results) if p.name.lower().endswith(IMAGE_SUFFIXES)]
    ours = [p for p in files if stem(p.name).endswith(POSTFIX)]
    found = ours or files
    if not found:
        raise UserError(f"{predictions} holds no label map; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    first: dict[str, Path] = {}
    for file in found:
        other = first.setdefault(stem(str(file)), file)
        if other != file:
            raise UserError(f"{other} and {file} are two label maps of one image, which would count twice; remove one.")
    beside = [
        _matching(found, predictions, folder, option) for folder, option in ((truth, "truth"), (images, "images"))
    ]
    return [
        Item(file.relative_to(predictions).as_posix(), file, *others)
        for file, *others in zip(found, *beside, strict=True)
    ]


def item_of(pair: Pair, label: Path, dataset_dir: str) -> Item:
    """The label map of a case of a data set."""
    truth = Path(pair["label"]) if "label" in pair else None
    return Item(case_name(pair["image"], dataset_dir), label, truth, Path(pair["image"]))


def _given(path: Path | None, label: Path, option: str) -> Path | None:
    """The file that belongs to a single label map."""
    return path if path is None or path.is_file() else _matching([label], label.parent, path, option)[0]


def _matching(labels: Sequence[Path], root: Path, folder: Path | None, option: str) -> list[Path | None]:
    if folder is None:
        return [None] * len(labels)
    if not folder.is_dir():
        raise UserError(f"--{option} {folder} is no folder; give one that holds a file for every label map.")
    # as the images that they are of
    pairs = [{"image": str(label.with_name(stem(label.name).removesuffix(POSTFIX) + ".png"))} for label in labels]
    return list(find_predictions(str(folder), pairs, str(root), f"give --{option} the folder that goes with these"))


def is_volume_file(path: Path) -> bool:
    """Whether a label map is a volume; NIfTI may hold a picture too."""
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        try:
            return len(nib.load(path).shape) > 2
        except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
            raise UserError(f"{path} cannot be read ({error}); it may be damaged.") from error
    return name.endswith(VOLUME_SUFFIXES)


def read_picture_label(path: Path, colours: Mapping[Colour, int] | None = None) -> np.ndarray:
    """Class numbers (height, width) of a picture's label map.

    Raises:
        UserError: not readable, JPEG, coloured without ``colours``, partly transparent, or values that are no whole
            numbers.
    """
    if path.name.lower().endswith(LOSSY):
        raise UserError(f"{path} is a JPEG, which does not keep class numbers; save the label map as PNG or TIFF.")
    if path.name.lower().endswith(VOLUME_SUFFIXES):
        values = read_image(loader(), str(path))[0]
        count_classes(str(path), values, None)
        return np.asarray(values).T.astype(np.int64)  # x comes first in NIfTI
    return read_class_numbers(path, colours)


def read_volume_labels(path: Path, truth: Path | None) -> tuple[np.ndarray, np.ndarray | None, tuple[float, ...]]:
    """A volume's label map, the true one on its grid, and the voxels' size.

    Returns:
        Class numbers (x, y, z) of both, the axes being as near as can be to right, front and top, and millimetres.

    Raises:
        UserError: not readable, not one channel of class numbers, or on another grid than the truth.
    """
    found = _volume(path)
    if truth is None:
        return _upright(found), None, _voxel(found)
    true = _volume(truth)
    found = brought_onto(found, true, (str(path), str(truth)))
    return _upright(found), _upright(true), _voxel(true)


def _volume(path: Path) -> MetaTensor:
    volume = read_image(loader(), str(path))
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise UserError(f"{path} has shape {tuple(volume.shape)}, channels first; expected one channel of a volume.")
    count_classes(str(path), volume, None)
    return volume


def _upright(volume: MetaTensor) -> np.ndarray:
    return np.asarray(Orientation("RAS", labels=None)(volume)[0].as_tensor()).astype(np.int64)


def _voxel(volume: MetaTensor) -> tuple[float, ...]:
    """Millimetres along x and y after turning, and from slice to slice, square to them."""
    upright = Orientation("RAS", labels=None)(volume)
    x, y, z = spacing_of(upright)
    axes = np.asarray(upright.affine, dtype=float)[:3, :3]
    # of a tilted gantry's slices, each of which is shifted against the one before
    slant = abs(np.linalg.det(axes / np.linalg.norm(axes, axis=0)))
    return (x, y, z) if np.isclose(slant, 1, atol=SLANT) else (x, y, z * slant)


def pixel_size_of(item: Item, given: PixelSize | None) -> tuple[PixelSize | None, str]:
    """The size of a picture's pixels: what was given, else what the image's file tells, else the label map's.

    Returns:
        The size, or None and why.

    Raises:
        UserError: the image that tells it has another width or height than the label map.
    """
    if given is not None:
        return given, ""
    why = "it tells no pixel size"
    for path in filter(None, (item.image, item.label)):
        found, reason = _nifti_size(path) if path.name.lower().endswith(VOLUME_SUFFIXES) else read_pixel_size(path)
        if found is not None:
            _require_one_grid(path, item.label)
            return found, ""
        why = reason if "dpi" in reason else why
    return None, why


def _require_one_grid(image: Path, label: Path) -> None:
    (width, height), (label_width, label_height) = shown_size(image), shown_size(label)
    if (width, height) != (label_width, label_height):
        raise UserError(
            f"{image} has {width} x {height} pixels, but {label} has {label_width} x {label_height}, so that "
            "the image's pixel size is not the label map's; give --pixel_size, or an image of the same size."
        )


def _nifti_size(path: Path) -> tuple[PixelSize | None, str]:
    """Of a picture in NIfTI; without a unit its header tells none."""
    header = nib.load(path).header if path.name.lower().endswith(NIFTI_SUFFIXES) else None
    unit = header.get_xyzt_units()[0] if header is not None else "unknown"
    if header is None or unit == "unknown":
        return None, "it tells no pixel size"
    width, height = (float(size) * MILLIMETRES[unit] / 1000 for size in header.get_zooms()[:2])
    return PixelSize(height, width, "the NIfTI header"), ""


def name_classes(values: set[int]) -> dict[int, str]:
    """Names of classes of which only the numbers are known.

    Raises:
        UserError: there are so many that they are no classes.
    """
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"The label maps hold {len(values)} different values, which look like numbers of objects or grey values; "
            "expected class numbers: give --labels the names of the classes if they are."
        )
    return {0: "background", **{number: f"class {number}" for number in sorted(values) if number}}
