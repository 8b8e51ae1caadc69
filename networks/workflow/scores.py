"""Scores of one case, under the two protocols that every table of results names.

``strict`` is MONAI's Dice, IoU, HD95 and normalised surface Dice (NSD), distances in the spacing of the file. A class
that truth and prediction both lack is missing (NaN); one that only one of them has is the worst possible: 0, and
infinite for a distance.

``paper`` is what the code behind the published numbers computes, quirks included:

- of volumes (the TransUNet line on Synapse and ACDC) ``dc`` and ``hd95`` of medpy over the whole volume, in voxels
  without spacing. A class that is predicted but not there scores Dice 1 and HD95 0, one that is not predicted 0 and 0:
  a missed organ has the HD95 of a perfect one.
- of pictures (the microstructures) the IoU of segmentation_models_pytorch 0.2.1 on the class probabilities at a
  threshold of 0.5, not their argmax, so that a pixel can be of no class: ``iou_pooled`` sums intersection and union
  over all channels, matrix included; ``iou`` is that of one class as the only channel (coatings: the oxide without
  its cracks) and ``iou_foreground`` that of all classes but the first together (coatings: the oxide with its cracks).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from monai.networks import one_hot
from scipy import ndimage

from networks.errors import UserError
from networks.workflow.protocols import TOLERANCE, check_protocol

EPS = 1e-7  # of segmentation_models_pytorch


class Score(NamedTuple):
    """One number.

    Attributes:
        metric: its name.
        unit: of a distance: "mm", "pixel" or "voxel"; empty for ratios.
        class_number: the class, or None for a score over all of them.
        value: NaN where the class is in neither truth nor prediction (``strict``).
    """

    metric: str
    unit: str
    class_number: int | None
    value: float


def score_case(
    prediction: torch.Tensor,
    truth: torch.Tensor,
    num_classes: int,
    protocol: str,
    spacing: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Score]:
    """Score a prediction of a volume or picture.

    Args:
        prediction: class numbers (1, X, Y[, Z]); for ``paper`` on pictures also probabilities (num_classes, X, Y).
        truth: class numbers (1, X, Y[, Z]).
        num_classes: classes with background.
        protocol: "strict" or "paper".
        spacing: size of a voxel in mm along each axis, for ``strict``; None for distances in pixels or voxels.
        tolerance: distance within which ``nsd`` takes two surfaces for the same, in mm or pixels.

    Raises:
        UserError: unknown protocol, or the shapes do not go together.
    """
    check_protocol(protocol)
    picture = truth.ndim == 3
    channels = (1, num_classes) if picture and protocol == "paper" else (1,)
    if truth.shape[0] != 1 or prediction.shape[0] not in channels or prediction.shape[1:] != truth.shape[1:]:
        raise UserError(
            f"A prediction of shape {tuple(prediction.shape)} cannot be scored against a truth of shape "
            f"{tuple(truth.shape)}; expected class numbers in one channel on the same grid."
        )
    if protocol == "paper" and picture:
        return list(_picture_scores(prediction, truth, num_classes))
    found, true = (np.asarray(torch.as_tensor(x).cpu())[0] for x in (prediction, truth))
    if protocol == "paper":
        return list(_volume_scores(found, true, num_classes))
    return list(_strict_scores(found, true, num_classes, spacing, tolerance))


def _strict_scores(
    prediction: np.ndarray, truth: np.ndarray, num_classes: int, spacing: Sequence[float] | None, tolerance: float
) -> Iterator[Score]:
    unit = "mm" if spacing is not None else "pixel" if truth.ndim == 2 else "voxel"
    spacing = None if spacing is None else [float(s) for s in spacing]
    names = {"dice": "", "iou": "", "hd95": unit, f"nsd@{tolerance:g}": ""}
    for c in range(1, num_classes):
        found, true = _cropped(prediction == c, truth == c)
        if found.any() and true.any():
            a, b = (torch.from_numpy(mask)[None, None].float() for mask in (found, true))
            values = [
                compute_dice(a, b).item(),
                compute_iou(a, b).item(),
                compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing).item(),
                compute_surface_dice(a, b, [tolerance], include_background=True, spacing=spacing).item(),
            ]
        else:
            values = [0.0, 0.0, np.inf, 0.0] if found.any() or true.any() else [np.nan] * 4
        for (name, name_unit), value in zip(names.items(), values, strict=True):
            yield Score(name, name_unit, c, value)


def _volume_scores(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> Iterator[Score]:
    for c in range(1, num_classes):
        found, true = _cropped(prediction == c, truth == c)
        if found.any() and true.any():
            dice, hd95 = _medpy_dice(found, true), _medpy_hd95(found, true)
        else:
            dice, hd95 = float(found.any()), 0.0
        yield Score("dice", "", c, dice)
        yield Score("hd95", "voxel", c, hd95)


def _picture_scores(prediction: torch.Tensor, truth: torch.Tensor, num_classes: int) -> Iterator[Score]:
    # float32 sums as in the library, so that the last digit is its own
    true = one_hot(torch.as_tensor(truth)[None], num_classes)[0].float()
    p = torch.as_tensor(prediction)
    p = p.float() if p.shape[0] == num_classes else one_hot(p[None], num_classes)[0].float()
    yield Score("iou_pooled", "", None, _smp_iou(p, true))
    yield Score("iou_foreground", "", None, _smp_iou(p[1:].sum(0), true[1:].sum(0)))
    for c in range(1, num_classes):
        yield Score("iou", "", c, _smp_iou(p[c], true[c]))


def _cropped(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks within the box around them, which has the same surfaces and distances and far fewer voxels."""
    boxes = ndimage.find_objects((found | true).astype(np.uint8))
    return (found[boxes[0]], true[boxes[0]]) if boxes else (found, true)


def _medpy_dice(found: np.ndarray, true: np.ndarray) -> float:
    return float(2.0 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true)))


def _medpy_hd95(found: np.ndarray, true: np.ndarray) -> float:
    """95th percentile of the distances from either surface to the other, taken together."""
    cross = ndimage.generate_binary_structure(found.ndim, 1)
    a, b = (mask ^ ndimage.binary_erosion(mask, cross) for mask in (found, true))
    distances = (ndimage.distance_transform_edt(~b)[a], ndimage.distance_transform_edt(~a)[b])
    return float(np.percentile(np.hstack(distances), 95))


def _smp_iou(probability: torch.Tensor, true: torch.Tensor) -> float:
    found = (probability > 0.5).float()
    intersection = torch.sum(true * found)
    union = torch.sum(true) + torch.sum(found) - intersection + EPS
    return ((intersection + EPS) / union).item()
