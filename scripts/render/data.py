"""The data side of the configs: transforms, data sets, inferers, writers, for volumes and for pictures."""

from scripts.catalog.augmentation import PAIR, Config, compose
from scripts.catalog.recipes import Preset

WORKFLOW = "networks.workflow"
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
    if preset.volumes:
        fixed = [load_case(), *_orient_and_resize(PAIR, ["trilinear", "nearest"]), *_intensity(preset)]
        fixed.append({"_target_": "CastToTyped", "keys": PAIR, "dtype": ["$torch.float32", "$torch.uint8"]})
        return compose(*fixed, *augmentation)
    fixed = [load_case(), *_intensity(preset)]
    fixed.append({"_target_": "SpatialPadd", "keys": PAIR, "spatial_size": "@img_size", "mode": "symmetric"})
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
