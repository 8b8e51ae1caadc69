"""The random transforms of the recipes, for ``image`` and ``label``, as parts of a config."""

from typing import Any

Config = dict[str, Any]
PAIR = ["image", "label"]


def mild_augmentation() -> list[Config]:
    """Small turns and scalings and contrast: anatomy keeps its sides."""
    return [
        {
            "_target_": "RandAffined",
            "keys": PAIR,
            "prob": 0.7,
            "rotate_range": 0.26,
            "scale_range": [0.15, 0.15],  # a single number would be of the first axis alone
            "translate_range": [8, 8],
            "mode": ["bilinear", "nearest"],
            "padding_mode": "border",
        },
        {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.1, "prob": 0.5},
        {"_target_": "RandShiftIntensityd", "keys": "image", "offsets": 0.05, "prob": 0.5},
    ]


def paper_augmentation() -> list[Config]:
    """The TransUNet line's: half of the time a quarter turn and a flip, of the rest half a turn of up to 20 degrees."""
    quarter_turns = [
        {"_target_": "RandRotate90d", "keys": PAIR, "prob": 0.75, "max_k": 3},
        {"_target_": "RandAxisFlipd", "keys": PAIR, "prob": 1.0},
    ]
    small_turn = {
        "_target_": "RandRotated",
        "keys": PAIR,
        "range_x": "$np.deg2rad(20)",
        "prob": 0.5,
        "mode": "nearest",
        "padding_mode": "zeros",
    }
    return [{"_target_": "OneOf", "transforms": [compose(*quarter_turns), small_turn], "weights": [0.5, 0.5]}]


def flips_and_rotations() -> list[Config]:
    """Flips along both axes and turns of up to 20 degrees."""
    return [
        {"_target_": "RandFlipd", "keys": PAIR, "prob": 0.5, "spatial_axis": 0},
        {"_target_": "RandFlipd", "keys": PAIR, "prob": 0.5, "spatial_axis": 1},
        {
            "_target_": "RandRotated",
            "keys": PAIR,
            "range_x": "$np.deg2rad(20)",
            "prob": 0.5,
            "mode": ["bilinear", "nearest"],
            "padding_mode": "zeros",
        },
    ]


def horizontal_flips() -> list[Config]:
    """Left to right only: a coating lies on top of its substrate."""
    return [{"_target_": "RandFlipd", "keys": PAIR, "prob": 0.5, "spatial_axis": 0}]


def micrograph_augmentation() -> list[Config]:
    """Flips, quarter turns, noise, contrast and brightness: a micrograph has no upper side.

    Brightness varies by a fifth of the grey values' range, which is 0.9 of the deviation that they are divided by:
    images of one and the same material differ by as much.
    """
    return [
        {"_target_": "RandRotate90d", "keys": PAIR, "prob": 0.75, "max_k": 3},
        {"_target_": "RandFlipd", "keys": PAIR, "prob": 0.5, "spatial_axis": 0},
        {"_target_": "RandGaussianNoised", "keys": "image", "prob": 0.3, "std": 0.1},
        {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.2, "prob": 0.5},
        {"_target_": "RandShiftIntensityd", "keys": "image", "offsets": 0.9, "prob": 0.5},
    ]


def robust_augmentation() -> list[Config]:
    """This project's own: every part has an id that leaves it out.

    Strengths are for images of mean 0 and deviation 1, after nnU-Net's. Crops that are larger than the network's size
    are cut to it by the first transform, so that what is turned in has content. Half of them are cut only, since
    interpolation costs as much as all the rest.
    """
    turn = {
        "_target_": "RandAffined",
        "keys": PAIR,
        "spatial_size": "@img_size",
        "prob": 1.0,
        "rotate_range": 0.35,
        "scale_range": [0.15, 0.15],  # a single number would be of the first axis alone
        "translate_range": [8, 8],
        "mode": ["bilinear", "nearest"],
        "padding_mode": "border",
        "cache_grid": True,
    }
    cut = {"_target_": "CenterSpatialCropd", "keys": PAIR, "roi_size": "@img_size"}
    spatial = {
        "_target_": "OneOf",
        "_disabled_": "$not workflow.truth(@spatial_augmentation)",
        "transforms": [turn, cut],
        "weights": [0.5, 0.5],
    }
    # a flip and the four quarter turns are all there are
    flips = [
        {"_target_": "RandRotate90d", "_disabled_": "$@flips != 'all'", "keys": PAIR, "prob": 0.75, "max_k": 3},
        {"_target_": "RandFlipd", "_disabled_": "$@flips == 'none'", "keys": PAIR, "prob": 0.5, "spatial_axis": 0},
    ]
    # by default every second pixel is taken, which shifts the image against its label
    sampling = {"downsample_mode": "area", "upsample_mode": "bilinear"}
    intensity = [
        {"_target_": "RandGaussianSmoothd", "prob": 0.2, "sigma_x": [0.5, 1.0], "sigma_y": [0.5, 1.0]},
        {"_target_": "RandSimulateLowResolutiond", "prob": 0.2, "zoom_range": [0.5, 1.0], **sampling},
        {"_target_": "RandGaussianNoised", "prob": 0.2, "std": 0.3},
        {"_target_": "RandScaleIntensityd", "prob": 0.3, "factors": 0.25},
        {"_target_": "RandShiftIntensityd", "prob": 0.3, "offsets": 0.5},
        {"_target_": "RandAdjustContrastd", "prob": 0.3, "gamma": [0.7, 1.5], "retain_stats": True},
    ]
    off = "$not workflow.truth(@intensity_augmentation)"
    return [
        spatial,
        *flips,
        *({"_target_": part.pop("_target_"), "_disabled_": off, "keys": "image", **part} for part in intensity),
    ]


def compose(*transforms: Config) -> Config:
    """Transforms one after the other."""
    return {"_target_": "Compose", "transforms": list(transforms)}
