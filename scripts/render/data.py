"""The data side of the configs: transforms, data sets, inferers, writers, for volumes and for pictures."""

from collections.abc import Sequence

from scripts.catalog.augmentation import PAIR, Config, compose
from scripts.catalog.recipes import Preset

WORKFLOW = "networks.workflow"
# half as large again as what the network sees, so that a turned crop has content in its corners
TURNED = "$[3 * side // 4 * 2 for side in @img_size] if workflow.truth(@spatial_augmentation) else @img_size"
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def load_image() -> list[Config]:
    """Reading an image as it is, channel first, by MONAI's own transforms: archives for inference know no others."""
    return [
        {"_target_": "LoadImaged", "keys": ["image"], "image_only": True, "reader": "@reader"},
        {"_target_": "EnsureChannelFirstd", "keys": ["image"]},
    ]


def load_case() -> Config:
    """Reading and checking image and label, the label on the image's grid."""
    return {
        "_target_": f"{WORKFLOW}.LoadCased",
        "keys": PAIR,
        "reader": "@reader",
        "in_channels": "@in_channels",
        "out_channels": "@out_channels",
        "spatial_dims": "@spatial_dims",
        "check": "@check_data",
    }


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
    augmentation = preset.recipe.augmentation()
    if preset.recipe.robust:
        return _robust_preprocessing(preset, augmentation)
    if preset.volumes:
        # a turn makes numbers of the label floating-point ones, and a batch needs all of one type
        return compose(load_case(), *_volume(preset), *augmentation, _cast())
    return compose(load_case(), *_intensity(preset), _padded(), _crop(), *augmentation)


def train_dataset(preset: Preset) -> Config:
    """Axial slices of volumes, or pictures several times per epoch for several crops of each."""
    drawn = {
        "slices_per_epoch": "@slices_per_epoch",
        "foreground_share": "$0.5 if workflow.truth(@balanced_sampling) else None",
    }
    if preset.volumes:
        return {
            "_target_": f"{WORKFLOW}.SliceDataset",
            "data": "$workflow.case_list(@datalist, 'training')",
            "transform": "@train::preprocessing",
            "cache_rate": "@cache_rate",
            **(drawn if preset.recipe.robust else {}),
        }
    return {
        "_target_": f"{WORKFLOW}.CaseDataset",
        "data": "$workflow.case_list(@datalist, 'training')",
        "transform": "@train::preprocessing",
        "cache_rate": "@cache_rate",
        "repeats": "@crops_per_image",
    }


def inferer(preset: Preset) -> Config:
    """Slice by slice through a volume, or overlapping windows over a large picture."""
    shared = {"roi_size": "@img_size", "sw_batch_size": "@sw_batch_size", "overlap": 0.5, "mode": "gaussian"}
    if preset.volumes:
        return {"_target_": "SliceInferer", **shared, "spatial_dim": 2}
    return {"_target_": "SlidingWindowInferer", **shared}


def label_map(transform: str, and_image: bool = False) -> list[Config]:
    """Logits to class numbers on the grid of the file; the image as well, where the two are drawn together.

    The logits are interpolated, not the class numbers: those would shift a border by up to half of a resized pixel.
    """
    to_file = invert(transform, ["pred", "image"] if and_image else ["pred"], nearest=False)
    return [to_file, {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]


def invert(transform: str, keys: Sequence[str] = ("pred",), nearest: bool = True) -> Config:
    """Back to the grid of the file; class numbers by the nearest, all else interpolated."""
    return {
        "_target_": "Invertd",
        "keys": list(keys),
        "transform": transform,
        "orig_keys": ["image"] * len(keys),
        "nearest_interp": [nearest] * len(keys),
        "to_tensor": True,
    }


def save(preset: Preset) -> Config:
    """Label maps under the names of their images, by MONAI's writers: exported models carry these transforms alone."""
    volume = preset.volumes
    return {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_ext": ".nii.gz" if volume else ".png",
        "writer": "NibabelWriter" if volume else "PILWriter",
        "output_dtype": "$np.uint8",
        "resample": False,
        "separate_folder": False,
        "data_root_dir": "$@dataset_dir if os.path.isdir(@dataset_dir) else ''",
        "print_log": False,
    }


def _orient(keys: list[str]) -> list[Config]:
    return [{"_target_": "Orientationd", "keys": keys, "axcodes": "RAS", "labels": None}]


def _orient_and_resize(keys: list[str], modes: list[str]) -> list[Config]:
    return [
        *_orient(keys),
        {"_target_": "Resized", "keys": keys, "spatial_size": "$list(@img_size) + [-1]", "mode": modes},
    ]


def _volume(preset: Preset) -> list[Config]:
    """A volume and its label as slices are cut from them."""
    return [
        # PyTorch's "nearest" shifts labels by up to half a pixel against their images
        *_orient_and_resize(PAIR, ["trilinear", "nearest-exact"]),
        *_intensity(preset),
        _cast(),
    ]


def _cast() -> Config:
    return {"_target_": "CastToTyped", "keys": PAIR, "dtype": ["$torch.float32", "$torch.uint8"]}


def _padded(size: str = "@img_size") -> Config:
    return {"_target_": "SpatialPadd", "keys": PAIR, "spatial_size": size, "mode": "symmetric"}


def _crop(size: str = "@img_size") -> Config:
    return {"_target_": "RandSpatialCropd", "keys": PAIR, "roi_size": size, "random_size": False}


def _robust_preprocessing(preset: Preset, augmentation: list[Config]) -> Config:
    """``train_preprocessing`` whose every random part an id leaves out.

    The centre of a crop is a pixel of a class that is drawn evenly from those of the picture.
    """
    untracked, off = f"{WORKFLOW}.Untracked", "$not workflow.truth(@balanced_sampling)"
    augmentation = [*augmentation, _cast()]  # only what was turned is a label of floating-point numbers
    if preset.volumes:
        return compose(load_case(), *_volume(preset), {"_target_": untracked, "transforms": augmentation})
    found = {
        "_target_": "ClassesToIndicesd",
        "_disabled_": off,
        "keys": "label",
        "num_classes": "@out_channels",
        # found once per picture and kept; so many centres are as good as all
        "max_samples_per_class": 10000,
    }
    balanced = {
        "_target_": "RandCropByLabelClassesd",
        "_disabled_": off,
        "keys": PAIR,
        "label_key": "label",
        "indices_key": "label_cls_indices",
        "spatial_size": TURNED,
        "num_classes": "@out_channels",
        "warn": False,
    }
    crops = [
        balanced,
        {**_crop(TURNED), "_disabled_": "$workflow.truth(@balanced_sampling)"},
        {"_target_": "SelectItemsd", "keys": PAIR},
    ]
    random = {"_target_": untracked, "transforms": [*crops, *augmentation]}
    return compose(load_case(), *_intensity(preset), _padded(TURNED), found, random)


def _by_itself() -> list[Config]:
    """An image normalised by itself or, with a range of values, like all others; MONAI's transforms, for archives."""
    fixed = "$@intensity_range is not None"
    return [
        {
            "_target_": "ClipIntensityPercentilesd",
            "_disabled_": fixed,
            "keys": "image",
            "lower": "$@intensity_percentiles[0]",
            "upper": "$@intensity_percentiles[1]",
        },
        {"_target_": "NormalizeIntensityd", "_disabled_": fixed, "keys": "image"},
        {
            "_target_": "ScaleIntensityRanged",
            "_disabled_": "$@intensity_range is None",
            "keys": "image",
            "a_min": "$(@intensity_range or [0, 1])[0]",
            "a_max": "$(@intensity_range or [0, 1])[1]",
            # about as wide as an image of deviation 1, for which the augmentation is made
            "b_min": -2.0,
            "b_max": 2.0,
            "clip": True,
        },
    ]


def _intensity(preset: Preset) -> list[Config]:
    if preset.recipe.robust:
        return _by_itself()
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
