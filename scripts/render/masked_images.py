"""Building the config of a bundle that trains its encoder without labels."""

from scripts.catalog.augmentation import compose
from scripts.catalog.classification import ClassificationBundle
from scripts.render.data import IMAGENET_MEAN, IMAGENET_STD, WORKFLOW, Config
from scripts.render.recipe import warm_cosine
from scripts.render.shared import options
from scripts.render.training import (
    ACCUMULATION,
    NOT_FIRST,
    epoch_log,
    supervised_evaluator,
    supervised_trainer,
    train_handlers,
)
from scripts.render.whole_pictures import (
    GREY_MEAN,
    GREY_STD,
    IS_PHANTOM,
    TRAINED,
    adamw,
    dataloader,
    dataset,
    flips,
    initialize,
    load_picture,
    normalise,
    per_channel,
    recipe_ids,
    training_ids,
    untracked,
    validation_handlers,
)

FOLDER = "/simmim"


def simmim(bundle: ClassificationBundle) -> Config:
    """``simmim.json``: hides patches of pictures and trains the encoder to paint them, on the phantom by default."""
    own = list(bundle.masked.options)
    content: Config = {
        **training_ids(bundle, FOLDER),
        **recipe_ids(bundle.masked),
        "datalist": f"$workflow.unlabelled_pictures(@dataset_dir, {IS_PHANTOM})",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "networks.classifier.MaskedImageModel",
            "in_channels": "@in_channels",
            "img_size": "@img_size",
            **{option: f"@{option}" for option in own},
        },
        "network": "$@network_def.to(@device)",
        "loss": {"_target_": f"{WORKFLOW}.HiddenL1"},
        "optimizer": adamw(),
        "lr_scheduler": warm_cosine(),
        "events": {"_target_": f"{WORKFLOW}.EventLog", "log_dir": "@log_dir"},
        "train": {
            "preprocessing": compose(*load_picture(), untracked(_crop(), *flips(), normalise(), _hide())),
            "dataset": dataset("train", "training"),
            "dataloader": dataloader("train", shuffle=True),
            "inferer": {"_target_": f"{WORKFLOW}.AutocastInferer", "amp": "@amp"},
            "postprocessing": compose(),
            "key_metric": {"train_l1": _error()},
            "handlers": train_handlers(epoch_log(per_class=False), clipped=True, accumulated=True),
            "trainer": supervised_trainer() | ACCUMULATION | {"prepare_batch": "$workflow.masked_batch"},
        },
        "validate": {
            "preprocessing": compose(*load_picture(), untracked(*_whole(), normalise(), _hide(by_name=True))),
            "dataset": dataset("validate", "validation"),
            "dataloader": dataloader("validate"),
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": compose(),
            "key_metric": {"val_l1": _error()},
            "handlers": [_pictures(), *validation_handlers([*TRAINED, "mask_size", "mask_ratio", *own], "[]")],
            "evaluator": supervised_evaluator()
            | {"prepare_batch": "$workflow.masked_batch", "metric_cmp_fn": "$lambda new, best: new < best"},
        },
        "initialize": initialize(),
        "run": ["$workflow.train(@train::trainer, @validate::evaluator, @ckpt_dir, @output_dir)"],
        "training": "%run",
    }
    return {**content, "options": options(content)}


def _crop() -> Config:
    return {
        "_target_": "RandTorchVisiond",
        "keys": "image",
        "name": "RandomResizedCrop",
        "size": "@img_size",
        "scale": "@crop_scale",
        "antialias": True,
    }


def _whole() -> list[Config]:
    """The central square of a picture."""
    return [
        {"_target_": "CenterSpatialCropd", "keys": "image", "roi_size": "$[@short_side] * 2"},
        {"_target_": "TorchVisiond", "keys": "image", "name": "Resize", "size": "@img_size", "antialias": True},
    ]


def _hide(by_name: bool = False) -> Config:
    named = {"by_name": True} if by_name else {}
    return {"_target_": f"{WORKFLOW}.HidePatchesd", "mask_size": "@mask_size", "mask_ratio": "@mask_ratio", **named}


def _error() -> Config:
    return {
        "_target_": "ignite.metrics.Loss",
        "loss_fn": "@loss",
        "output_transform": "$workflow.answers_and_labels",
    }


def _pictures() -> Config:
    return {
        "_target_": f"{WORKFLOW}.PaintedPictures",
        "_disabled_": NOT_FIRST,
        "path": "$@output_dir + '/painted.png'",
        "events": "@events",
        "mean": f"${per_channel(IMAGENET_MEAN, GREY_MEAN)}",
        "deviation": f"${per_channel(IMAGENET_STD, GREY_STD)}",
    }
