"""What the configs of bundles for whole pictures share: how pictures are read, batched and trained on."""

from scripts.catalog.classification import ClassificationBundle, PictureRecipe
from scripts.catalog.recipes import ADAMW
from scripts.render.data import IMAGENET_MEAN, IMAGENET_STD, WORKFLOW, Config
from scripts.render.shared import DEFAULT_WORKERS, PIN, START, common, picture_reader, recorded
from scripts.render.training import validation_scores

PHANTOM = "data/texture_phantom"
IS_PHANTOM = f"@dataset_dir == '{PHANTOM}'"
IMPORTS = [
    "$import os",
    "$from ignite import distributed as idist",
    "$import networks.workflow as workflow",
    "$import networks.pretrained as weights",
]
PER_BATCH = "$workflow.per_batch(@batch_size, @accumulation_steps)"
# what an evaluation and inference take from the record of the training
TRAINED = ("in_channels", "window", "img_size", "short_side")
GREY_MEAN, GREY_STD = 0.449, 0.226  # of ImageNet in grey


def recipe_ids(recipe: PictureRecipe) -> Config:
    """The top-level ids of a recipe."""
    return {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "accumulation_steps": 1,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "patience": 0,
        "second_learning_rate": 0.0,
        "val_interval": 1,
        "img_size": [recipe.img_size, recipe.img_size],
        "short_side": recipe.short_side,
        **recipe.options,
        **recipe.extra,
    }


def training_ids(bundle: ClassificationBundle, folder: str = "") -> Config:
    """The top-level ids that every training on pictures has; ``folder`` keeps the files of one from the others'."""
    places = common(bundle.name, PHANTOM)
    places |= {key: f"{places[key][:-1]}{folder}'" for key in ("ckpt_dir", "output_dir")} if folder else {}
    return {
        "imports": IMPORTS,
        **places,
        "log_dir": f"$@bundle_root + '/logs{folder}'",
        "allow_overlap": False,
        "preset": None,
        "in_channels": 3,
        "window": None,
        "reader": picture_reader(),
        "pretrained": None,
        "resume": False,
        "overwrite": False,
        "val_at_start": False,
        "seed": 0,
        "amp": True,
        "num_workers": DEFAULT_WORKERS,
        "cache_rate": 1.0,
    }


def load_picture() -> list[Config]:
    """Reading a picture and bringing its shorter side to a length, in 8 bit, so that many fit into memory."""
    return [
        {"_target_": "LoadImaged", "keys": ["image"], "image_only": True, "reader": "@reader", "dtype": "$np.uint8"},
        {"_target_": "EnsureChannelFirstd", "keys": ["image"]},
        {"_target_": "TorchVisiond", "keys": ["image"], "name": "Resize", "size": "@short_side", "antialias": True},
        {"_target_": "CastToTyped", "keys": ["image"], "dtype": "$torch.uint8"},
    ]


def normalise() -> Config:
    """By the mean and deviation of ImageNet."""
    return {
        "_target_": "NormalizeIntensityd",
        "keys": "image",
        "subtrahend": f"$255 * np.array({per_channel(IMAGENET_MEAN, GREY_MEAN)})",
        "divisor": f"$255 * np.array({per_channel(IMAGENET_STD, GREY_STD)})",
        "channel_wise": True,
    }


def untracked(*transforms: Config) -> Config:
    """Transforms without MONAI's record of them."""
    return {"_target_": f"{WORKFLOW}.Untracked", "transforms": list(transforms)}


def flips() -> list[Config]:
    """Along both axes: a micrograph has no upper side."""
    return [{"_target_": "RandFlipd", "keys": "image", "prob": 0.5, "spatial_axis": axis} for axis in (0, 1)]


def adamw() -> Config:
    """AdamW, without decay of biases, norms and position biases."""
    return ADAMW | {
        "params": "$workflow.decay_groups(@network, @weight_decay)",
        "lr": "@learning_rate",
        "weight_decay": 0.0,
    }


def dataset(part: str, split: str) -> Config:
    """Pictures that are read once and kept in memory."""
    return {
        "_target_": f"{WORKFLOW}.CaseDataset",
        "data": f"$workflow.picture_list(@datalist, '{split}')",
        "transform": f"@{part}::preprocessing",
        "cache_rate": "@cache_rate",
    }


def dataloader(part: str, shuffle: bool = False) -> Config:
    """Batches of a part's pictures."""
    return {
        "_target_": "DataLoader",
        "dataset": f"@{part}::dataset",
        "batch_size": PER_BATCH,
        "shuffle": shuffle,
        "num_workers": "@num_workers",
        "pin_memory": PIN,
        **({} if shuffle else {"persistent_workers": "$@num_workers > 0"}),
    }


def validation_handlers(kept: list[str], class_names: str = "@class_names") -> list[Config]:
    """What becomes of a validation: the scores, the best weights with their record, which keeps these ids."""
    return [
        validation_scores(),
        {
            "_target_": f"{WORKFLOW}.BestCheckpoint",
            "path": "$@ckpt_dir + '/model.pt'",
            "network": "@network",
            "data_set": f"$workflow.describe_pictures(@dataset_dir, {class_names}, "
            "training=@train::dataset::data, validation=@validate::dataset::data)",
            "ids": recorded(["preset", *kept]),
            "start": START,
        },
    ]


def initialize() -> list[str]:
    """What precedes a training."""
    return [
        "$workflow.report_errors()",
        "$@options",
        "$monai.utils.set_determinism(@seed)",
        "$workflow.check_intervals(@epochs, @val_interval, @patience)",
        "$workflow.check_crops(@img_size, @short_side)",
        "$weights.load_all(@network_def, @pretrained) if @pretrained else None",
    ]


def per_channel(colours: list[float], grey: float) -> str:
    """A value of ImageNet for every channel of the pictures, as a part of an expression."""
    return f"{colours} if @in_channels == 3 else [{grey}] * @in_channels"
