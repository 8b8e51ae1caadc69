"""Building the configs of a bundle that classifies pictures."""

from typing import Any

from scripts.catalog.augmentation import compose
from scripts.catalog.classification import ClassificationBundle, PictureRecipe
from scripts.render.data import IMAGENET_MEAN, IMAGENET_STD, WORKFLOW, Config
from scripts.render.recipe import warm_cosine
from scripts.render.shared import (
    AMP,
    DEFAULT_WORKERS,
    PIN,
    common,
    load_weights,
    more_options,
    options,
    picture_reader,
)
from scripts.render.training import NOT_FIRST, distributed, train_handlers

PHANTOM = "data/texture_phantom"
IS_PHANTOM = f"@dataset_dir == '{PHANTOM}'"
IMPORTS = [
    "$import os",
    "$from ignite import distributed as idist",
    "$import networks.workflow as workflow",
    "$import networks.pretrained as weights",
]
PER_BATCH = "$workflow.per_batch(@batch_size, @accumulation_steps)"
NAMES = f"workflow.picture_classes(@dataset_dir, {IS_PHANTOM})"
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


def centre() -> Config:
    """What the network sees of a picture where nothing is random."""
    crop = {"_target_": "CenterSpatialCropd", "keys": "image", "roi_size": "@img_size"}
    return untracked(crop, normalise())


def train(bundle: ClassificationBundle) -> Config:
    """``train.json``: trains on the phantom unless told otherwise."""
    content: Config = {
        **training_ids(bundle),
        **recipe_ids(bundle.default),
        "class_names": f"${NAMES}",
        "num_classes": "$len(@class_names)",
        "datalist": f"$workflow.load_pictures(@dataset_dir, @class_names, {IS_PHANTOM})",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network(bundle),
        "network": "$@network_def.to(@device)",
        "loss": {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": "@label_smoothing"},
        "optimizer": adamw(),
        "lr_scheduler": warm_cosine(),
        "events": {"_target_": f"{WORKFLOW}.EventLog", "log_dir": "@log_dir"},
        "train": {
            "preprocessing": compose(*load_picture(), untracked(*augmentation())),
            "dataset": dataset("train", "training"),
            "dataloader": dataloader("train", shuffle=True),
            "inferer": {"_target_": f"{WORKFLOW}.AutocastInferer", "amp": "@amp"},
            "postprocessing": probabilities(),
            "key_metric": {"train_top1": _accuracy()},
            "handlers": train_handlers(epoch_log()),
            "trainer": trainer(),
        },
        "validate": {
            "preprocessing": compose(*load_picture(), centre()),
            "dataset": dataset("validate", "validation"),
            "dataloader": dataloader("validate"),
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": probabilities(),
            "key_metric": {"val_top1": _accuracy()},
            "additional_metrics": {
                "val_top5": {
                    "_target_": "ignite.metrics.TopKCategoricalAccuracy",
                    "k": "$min(5, @num_classes)",
                    "output_transform": "$workflow.answers_and_labels",
                }
            },
            "handlers": validation_handlers([*TRAINED, "num_classes", *bundle.options]),
            "evaluator": evaluator() | {"additional_metrics": "@validate::additional_metrics"},
        },
        "initialize": initialize(),
        "run": [
            "$workflow.check_pictures(@dataset_dir, @class_names, @allow_overlap, training=@train::dataset::data, "
            "validation=@validate::dataset::data, test=@datalist['test'])",
            "$workflow.train(@train::trainer, @validate::evaluator, @ckpt_dir, @output_dir)",
        ],
        "training": "%run",
    }
    return {**content, "options": options(content)}


def network(bundle: ClassificationBundle) -> Config:
    """The classifier with its options taken from the ids of the same names."""
    return {
        "_target_": "networks.classifier.Classifier",
        "in_channels": "@in_channels",
        "out_channels": "@num_classes",
        "img_size": "@img_size",
        **{option: f"@{option}" for option in bundle.options},
    }


def augmentation() -> list[Config]:
    """Crops, flips, brightness, contrast, saturation and hue, noise."""
    return [
        {"_target_": "RandSpatialCropd", "keys": "image", "roi_size": "@img_size", "random_size": False},
        *flips(),
        {
            "_target_": "RandTorchVisiond",
            "keys": "image",
            "name": "ColorJitter",
            "brightness": 0.3,
            "contrast": 0.3,
            "saturation": 0.3,
            "hue": 0.05,
        },
        normalise(),
        {"_target_": "RandGaussianNoised", "keys": "image", "prob": 0.3, "std": 0.1},
    ]


def adamw() -> Config:
    """AdamW, without decay of biases, norms and position biases."""
    return {
        "_target_": "torch.optim.AdamW",
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


def probabilities() -> Config:
    """Logits to probabilities."""
    return compose(
        {"_target_": "CastToTyped", "keys": "pred", "dtype": "$torch.float32"},
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    )


def epoch_log() -> Config:
    """The log of epochs, without scores per class."""
    return {
        "_target_": f"{WORKFLOW}.EpochLog",
        "path": "$@output_dir + '/metrics.csv'",
        "optimizer": "@optimizer",
        "evaluator": "@validate::evaluator",
    }


def trainer() -> Config:
    """MONAI's, which adds up the gradients of several batches."""
    return {
        "_target_": "SupervisedTrainer",
        "max_epochs": "@epochs",
        "device": "@device",
        "train_data_loader": "@train::dataloader",
        "network": "@network",
        "loss_function": "@loss",
        "optimizer": "@optimizer",
        "inferer": "@train::inferer",
        "postprocessing": "@train::postprocessing",
        "key_train_metric": "@train::key_metric",
        "train_handlers": "@train::handlers",
        "amp": AMP,
        "accumulation_steps": "@accumulation_steps",
    }


def evaluator() -> Config:
    """MONAI's."""
    return {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@validate::dataloader",
        "network": "@network",
        "inferer": "@validate::inferer",
        "postprocessing": "@validate::postprocessing",
        "key_val_metric": "@validate::key_metric",
        "val_handlers": "@validate::handlers",
        "amp": AMP,
    }


def validation_handlers(kept: list[str], class_names: str = "@class_names") -> list[Config]:
    """What becomes of a validation: the scores, the best weights with their record, which keeps these ids."""
    return [
        {
            "_target_": "TensorBoardStatsHandler",
            "_disabled_": NOT_FIRST,
            "summary_writer": "@events",
            "iteration_log": False,
        },
        {
            "_target_": f"{WORKFLOW}.BestCheckpoint",
            "path": "$@ckpt_dir + '/model.pt'",
            "network": "@network",
            "data_set": f"$workflow.describe_pictures(@dataset_dir, {class_names}, "
            "training=@train::dataset::data, validation=@validate::dataset::data)",
            "ids": {key: f"@{key}" for key in ("preset", *kept)},
        },
    ]


def initialize() -> list[str]:
    """What precedes a training."""
    return [
        "$workflow.report_errors()",
        "$@options",
        "$monai.utils.set_determinism(@seed)",
        "$workflow.check_intervals(@epochs, @val_interval)",
        "$workflow.check_crops(@img_size, @short_side)",
        "$weights.load_all(@network_def, @pretrained) if @pretrained else None",
    ]


def _trained(bundle: ClassificationBundle, classes: str | int) -> Config:
    """The ids that a training kept beside its weights, with their defaults where there are no weights yet."""
    ids = {"in_channels": 3, "window": None, **recipe_ids(bundle.default), "num_classes": classes}
    return {
        key: f"$workflow.trained_id(@ckpt_path, '{key}', {_literal(ids[key])})"
        for key in (*TRAINED, "num_classes", *bundle.options)
    }


def evaluate(bundle: ClassificationBundle) -> Config:
    """``evaluate.json``, merged after ``train.json``: scores of the test split."""
    content: Config = {
        "imports": IMPORTS,
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        "split": "test",
        "model": bundle.name,
        **_trained(bundle, "len(@class_names)"),
        "class_names": f"$workflow.trained_names(@ckpt_path) or {NAMES}",
        "validate::dataset": {
            "_target_": "Dataset",
            "data": "$workflow.picture_list(@datalist, @split)",
            "transform": "@validate::preprocessing",
        },
        "validate::key_metric": None,
        "validate::additional_metrics": None,
        "validate::scores": {
            "_target_": f"{WORKFLOW}.ClassScores",
            "save_dir": "@output_dir",
            "class_names": "@class_names",
            "dataset_dir": "@dataset_dir",
            "model": "@model",
            "split": "@split",
            "seed": "@seed",
        },
        "validate::handlers": [load_weights(), _progress(), "@validate::scores"],
        "initialize": ["$workflow.report_errors()", "$@options", "$monai.utils.set_determinism(@seed)"],
        "run": ["$workflow.evaluate(@validate::evaluator, @output_dir)"],
        "training": "%run",
    }
    return {**content, **more_options(content, train(bundle))}


def inference(bundle: ClassificationBundle) -> Config:
    """``inference.json``: a table of classes and their probabilities for a folder's pictures."""
    content: Config = {
        "imports": ["$import os", "$import networks.workflow as workflow"],
        **common(bundle.name, PHANTOM),
        "output_dir": "$@bundle_root + '/eval/predictions'",
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        **_trained(bundle, len(bundle.classes)),
        "reader": picture_reader(),
        "batch_size": 16,
        "amp": True,
        "num_workers": DEFAULT_WORKERS,
        "class_names": f"$workflow.trained_names(@ckpt_path) or {list(bundle.classes)}",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network(bundle),
        "network": "$@network_def.to(@device)",
        "datalist": f"$workflow.pictures_to_classify(@dataset_dir, {IS_PHANTOM})",
        "preprocessing": compose(*load_picture(), centre()),
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": "@batch_size",
            "shuffle": False,
            "num_workers": "@num_workers",
            "pin_memory": PIN,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": probabilities(),
        "handlers": [
            load_weights(),
            _progress(),
            {
                "_target_": f"{WORKFLOW}.ClassTable",
                "path": "$@output_dir + '/classes.csv'",
                "class_names": "@class_names",
            },
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": AMP,
        },
        "initialize": ["$workflow.report_errors()", "$@options", "$monai.utils.set_determinism(0)"],
        "run": ["$workflow.classify(@evaluator, @output_dir)"],
    }
    return {**content, "options": options(content)}


def multi_gpu_train(bundle: ClassificationBundle) -> Config:
    """``multi_gpu_train.json``, merged after ``train.json`` or ``simmim.json`` under ``torchrun``."""
    return distributed(initialize(), batch_norm=True)


def preset_overlay(recipe: PictureRecipe, base: Config, name: str) -> Config:
    """``presets/<name>.json``: the ids of a recipe that differ from those of the config that it is merged after."""
    return {"preset": name, **{key: value for key, value in recipe_ids(recipe).items() if base.get(key) != value}}


def _accuracy() -> Config:
    return {"_target_": "ignite.metrics.Accuracy", "output_transform": "$workflow.answers_and_labels"}


def _progress() -> Config:
    return {"_target_": f"{WORKFLOW}.EvaluationProgress", "what": "batches"}


def _literal(value: Any) -> str:
    return value if isinstance(value, str) and value.startswith("len(") else repr(value)


def per_channel(colours: list[float], grey: float) -> str:
    """A value of ImageNet for every channel of the pictures, as a part of an expression."""
    return f"{colours} if @in_channels == 3 else [{grey}] * @in_channels"
