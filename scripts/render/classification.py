"""Building the configs of a bundle that classifies pictures."""

from typing import Any

from scripts.catalog.augmentation import compose
from scripts.catalog.classification import ClassificationBundle, PictureRecipe
from scripts.render.data import WORKFLOW, Config
from scripts.render.recipe import warm_cosine
from scripts.render.shared import (
    AMP,
    DEFAULT_WORKERS,
    PIN,
    check,
    common,
    load_weights,
    more_options,
    options,
    picture_reader,
)
from scripts.render.training import (
    ACCUMULATION,
    distributed,
    epoch_log,
    supervised_evaluator,
    supervised_trainer,
    train_handlers,
)
from scripts.render.whole_pictures import (
    IMPORTS,
    IS_PHANTOM,
    PER_BATCH,
    PHANTOM,
    TRAINED,
    adamw,
    dataloader,
    dataset,
    flips,
    initialize,
    load_picture,
    normalise,
    recipe_ids,
    training_ids,
    untracked,
    validation_handlers,
)

# batch normalisation of the last features, which may be one value per channel, has no statistics of a single picture;
# several processes share theirs
NO_SINGLE: Config = {"drop_last": f"$idist.get_world_size() == 1 and len(@train::dataset::data) % {PER_BATCH[1:]} == 1"}
NAMES = f"workflow.picture_classes(@dataset_dir, {IS_PHANTOM})"


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
            "dataloader": dataloader("train", shuffle=True) | NO_SINGLE,
            "inferer": {"_target_": f"{WORKFLOW}.AutocastInferer", "amp": "@amp"},
            "postprocessing": probabilities(),
            "key_metric": {"train_top1": _accuracy()},
            "handlers": train_handlers(epoch_log(per_class=False), accumulated=True),
            "trainer": supervised_trainer() | ACCUMULATION,
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
            "evaluator": supervised_evaluator() | {"additional_metrics": "@validate::additional_metrics"},
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


def probabilities() -> Config:
    """Logits to probabilities."""
    return compose(
        {"_target_": "CastToTyped", "keys": "pred", "dtype": "$torch.float32"},
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    )


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
            "window": "@window",
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
        "check_data": True,
        **_trained(bundle, len(bundle.classes)),
        "reader": picture_reader(),
        "batch_size": 16,
        "amp": True,
        "num_workers": DEFAULT_WORKERS,
        # without a record numbers, as a name of another data set's class would be wrong without a word
        "class_names": "$workflow.trained_names(@ckpt_path, @num_classes) or "
        "[f'class {i}' for i in range(@num_classes)]",
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
        "run": [
            check("@datalist", classes="None", dimensions="2"),
            "$workflow.classify(@evaluator, @output_dir)",
        ],
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
