"""The data side of the configs: transforms, data sets, inferers, writers, for volumes and for pictures."""

from typing import Any

from scripts.recipes import Preset

Config = dict[str, Any]
WORKFLOW = "networks.workflow"
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PAIR = ["image", "label"]


def load(preset: Preset, keys: list[str]) -> list[Config]:
    """Reading files as they are, channel first."""
    return [
        {"_target_": "LoadImaged", "keys": keys, "image_only": True, "reader": "@reader"},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
    ]


def image_only(preset: Preset) -> list[Config]:
    """What the network wants of an image; a prediction goes back through its inverse, so labels stay as they are."""
    if preset.volumes:
        return [
            *_orient_and_resize(["image"], ["trilinear"]),
            *_intensity(preset),
        ]
    return _intensity(preset)


def oriented_image(preset: Preset) -> list[Config]:
    """``image_only`` without the resizing, for inference that resizes slice by slice."""
    return [*_orient(["image"]), *_intensity(preset)]


def train_preprocessing(preset: Preset) -> Config:
    """Deterministic transforms of image and label, then the recipe's random ones."""
    augmentation = globals()[preset.recipe.augmentation]()
    if preset.volumes:
        fixed = [*load(preset, PAIR), *_orient_and_resize(PAIR, ["trilinear", "nearest"]), *_intensity(preset)]
        fixed.append({"_target_": "CastToTyped", "keys": PAIR, "dtype": ["$torch.float32", "$torch.uint8"]})
        return compose(*fixed, *augmentation)
    fixed = [*load(preset, PAIR), *_intensity(preset)]
    fixed.append({"_target_": "SpatialPadd", "keys": PAIR, "spatial_size": "@img_size", "mode": "reflect"})
    crop = {"_target_": "RandSpatialCropd", "keys": PAIR, "roi_size": "@img_size", "random_size": False}
    return compose(*fixed, crop, *augmentation)


def train_dataset(preset: Preset) -> Config:
    """Axial slices of volumes, or pictures several times per epoch for several crops of each."""
    if preset.volumes:
        return {
            "_target_": f"{WORKFLOW}.SliceDataset",
            "data": "$workflow.case_list(@datalist, 'training')",
            "transform": "@train::preprocessing",
            "cache_rate": "@cache_rate",
        }
    return {
        "_target_": "CacheDataset",
        "data": "$workflow.case_list(@datalist, 'training') * @crops_per_image",
        "transform": "@train::preprocessing",
        "cache_rate": "@cache_rate",
        "hash_as_key": True,
        "progress": False,
    }


def inferer(preset: Preset) -> Config:
    """Slice by slice through a volume, or overlapping windows over a large picture."""
    shared = {"roi_size": "@img_size", "sw_batch_size": "@sw_batch_size", "overlap": 0.5, "mode": "gaussian"}
    if preset.volumes:
        return {"_target_": "SliceInferer", **shared, "spatial_dim": 2}
    return {"_target_": "SlidingWindowInferer", **shared}


def label_map(transform: str, and_image: bool = False) -> list[Config]:
    """Logits to class numbers on the grid of the file; the image as well, where the two are drawn together."""
    return [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}, invert(transform, and_image)]


def invert(transform: str, and_image: bool = False) -> Config:
    """Class numbers, and the image, back to the grid of the file."""
    keys = ["pred", "image"] if and_image else ["pred"]
    return {
        "_target_": "Invertd",
        "keys": keys,
        "transform": transform,
        "orig_keys": ["image"] * len(keys),
        "nearest_interp": [True, False][: len(keys)],
        "to_tensor": True,
    }


def save(preset: Preset) -> Config:
    """Label maps under the names of their images."""
    volume = preset.volumes
    return {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_ext": ".nii.gz" if volume else ".png",
        "writer": "$workflow.AtomicNibabelWriter" if volume else "$workflow.AtomicPILWriter",
        "output_dtype": "$np.uint8",
        "resample": False,
        "separate_folder": False,
        "data_root_dir": "$@dataset_dir if os.path.isdir(@dataset_dir) else ''",
        "print_log": False,
    }


def mild_augmentation() -> list[Config]:
    """Small turns and scalings and contrast: anatomy keeps its sides."""
    return [
        {
            "_target_": "RandAffined",
            "keys": PAIR,
            "prob": 0.7,
            "rotate_range": 0.26,
            "scale_range": 0.15,
            "translate_range": 8,
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


def _orient(keys: list[str]) -> list[Config]:
    return [{"_target_": "Orientationd", "keys": keys, "axcodes": "RAS", "labels": None}]


def _orient_and_resize(keys: list[str], modes: list[str]) -> list[Config]:
    return [
        *_orient(keys),
        {"_target_": "Resized", "keys": keys, "spatial_size": "$list(@img_size) + [-1]", "mode": modes},
    ]


def _intensity(preset: Preset) -> list[Config]:
    if preset.kind == "mr":
        return [
            {
                "_target_": "ScaleIntensityRangePercentilesd",
                "keys": "image",
                "lower": "$@intensity_percentiles[0]",
                "upper": "$@intensity_percentiles[1]",
                "b_min": 0.0,
                "b_max": 1.0,
                "clip": True,
            }
        ]
    if preset.kind == "ct":
        return [
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": "$@intensity_range[0]",
                "a_max": "$@intensity_range[1]",
                "b_min": 0.0,
                "b_max": 1.0,
                "clip": True,
            }
        ]
    return [
        {
            "_target_": "NormalizeIntensityd",
            "keys": "image",
            "subtrahend": [255 * m for m in IMAGENET_MEAN],
            "divisor": [255 * s for s in IMAGENET_STD],
            "channel_wise": True,
        }
    ]


def compose(*transforms: Config) -> Config:
    return {"_target_": "Compose", "transforms": list(transforms)}
