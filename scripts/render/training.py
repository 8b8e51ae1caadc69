"""Building the configs that train a network."""

from scripts.catalog.bundles import Bundle
from scripts.catalog.recipes import Preset
from scripts.render import data
from scripts.render.data import WORKFLOW, Config
from scripts.render.recipe import loss, lr_scheduler, optimizer
from scripts.render.shared import (
    AMP,
    DATASET_DIR,
    DEFAULT_WORKERS,
    PIN,
    START,
    common,
    data_ids,
    more_options,
    network,
    options,
    phantom,
    preset_ids,
    recipe_ids,
    recorded,
    trained_ids,
)

NOT_FIRST = "$idist.get_rank() > 0"
ACCUMULATION: Config = {"accumulation_steps": "@accumulation_steps"}  # of gradients, in a trainer


def train(bundle: Bundle) -> Config:
    """``train.json``: trains on the phantom unless told otherwise."""
    preset, recipe = bundle.default, bundle.default.recipe
    content: Config = {
        "imports": [
            "$import os",
            "$from ignite import distributed as idist",
            "$import networks.workflow as workflow",
            "$import networks.pretrained as weights",
        ],
        **common(bundle.name, DATASET_DIR[bundle.default.kind]),
        "log_dir": "$@bundle_root + '/logs'",
        "check_data": True,
        "allow_overlap": False,
        "preset": None,
        **data_ids(preset),
        "pretrained": None,
        "resume": False,
        "overwrite": False,
        "val_at_start": False,
        "seed": 0,
        "amp": True,
        "num_workers": DEFAULT_WORKERS,
        "cache_rate": 1.0,
        **recipe_ids(recipe),
        "datalist": f"$workflow.load_datalist(@dataset_dir, {phantom(preset)})",
        "class_names": "$workflow.class_names(@dataset_dir, @out_channels)",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network(bundle),
        "network": "$@network_def.to(@device)",
        "loss": loss(recipe),
        "optimizer": optimizer(recipe),
        "lr_scheduler": lr_scheduler(recipe),
        **(average() if recipe.robust else {}),
        "events": {"_target_": f"{WORKFLOW}.EventLog", "log_dir": "@log_dir"},
        "train": {
            "preprocessing": data.train_preprocessing(preset),
            "dataset": data.train_dataset(preset),
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@train::dataset",
                "batch_size": "@batch_size",
                "shuffle": True,
                "num_workers": "@num_workers",
                "pin_memory": PIN,
            },
            "inferer": {"_target_": f"{WORKFLOW}.AutocastInferer", "amp": "@amp"},
            "postprocessing": data.compose({"_target_": "AsDiscreted", "keys": "pred", "argmax": True}),
            "key_metric": {"train_mean_dice": _mean_dice()},
            "handlers": train_handlers(epoch_log(), recipe.robust),
            "trainer": supervised_trainer(),
        },
        "validate": {
            "preprocessing": data.compose(data.load_case(), *data.image_only(preset)),
            "dataset": {
                "_target_": f"{WORKFLOW}.CaseDataset",
                "data": "$workflow.case_list(@datalist, 'validation')",
                "transform": "@validate::preprocessing",
                "cache_rate": "@cache_rate",
            },
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@validate::dataset",
                "batch_size": 1,
                "shuffle": False,
                "num_workers": "@num_workers",
                "pin_memory": PIN,
                # nothing in it is random; the training's workers are started, and so seeded, anew in every epoch
                "persistent_workers": "$@num_workers > 0",
            },
            "inferer": data.inferer(preset),
            "postprocessing": data.compose(*data.label_map("@validate::preprocessing", and_image=True)),
            "key_metric": {"val_mean_dice": _mean_dice()},
            "handlers": validation_handlers(bundle, preset),
            "evaluator": supervised_evaluator(kept(recipe.robust)),
        },
        "initialize": [
            "$workflow.report_errors()",
            "$@options",
            "$monai.utils.set_determinism(@seed)",
            "$workflow.check_intervals(@epochs, @val_interval, @patience)",
            "$weights.load_all(@network_def, @pretrained) if @pretrained else None",
        ],
        # not in initialize, which MONAI runs as well to load the weights only
        "run": [
            "$workflow.check_lists(@dataset_dir, @allow_overlap, training=@train::dataset::data, "
            "validation=@validate::dataset::data)",
            "$workflow.train(@train::trainer, @validate::evaluator, @ckpt_dir, @output_dir)",
        ],
        "training": "%run",
    }
    return {**content, "options": options(content)}


def supervised_trainer() -> Config:
    """MONAI's trainer, which takes everything from the ids of ``train``."""
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
    }


def supervised_evaluator(network: str = "@network") -> Config:
    """MONAI's evaluator of a network, which takes the rest from the ids of ``validate``."""
    return {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@validate::dataloader",
        "network": network,
        "inferer": "@validate::inferer",
        "postprocessing": "@validate::postprocessing",
        "key_val_metric": "@validate::key_metric",
        "val_handlers": "@validate::handlers",
        "amp": AMP,
    }


def epoch_log(per_class: bool = True) -> Config:
    """The log of epochs, with the scores of every class or without."""
    return {
        "_target_": f"{WORKFLOW}.EpochLog",
        "path": "$@output_dir + '/metrics.csv'",
        "optimizer": "@optimizer",
        "evaluator": "@validate::evaluator",
        **({"class_names": "@class_names"} if per_class else {}),
    }


def validation_scores() -> Config:
    """The scores of a validation in TensorBoard."""
    return {
        "_target_": "TensorBoardStatsHandler",
        "_disabled_": NOT_FIRST,
        "summary_writer": "@events",
        "iteration_log": False,
    }


def train_handlers(log: Config, robust: bool = False, clipped: bool = False, accumulated: bool = False) -> list[Config]:
    """What follows a training: the steps, the validation, what is written, in this order.

    Args:
        log: of the epochs.
        robust: whether weights are averaged, and gradients clipped.
        clipped: whether gradients are clipped.
        accumulated: whether gradients may be accumulated.
    """
    mean = {"_target_": f"{WORKFLOW}.AccumulatedMean", "optimizer": "@optimizer"}
    clip = {"_target_": f"{WORKFLOW}.ClipGradients", "optimizer": "@optimizer", "max_norm": "@max_grad_norm"}
    return [
        {
            "_target_": f"{WORKFLOW}.EpochSeed",
            "seed": "@seed",
            "dataloader": "@train::dataloader",
        },
        {"_target_": f"{WORKFLOW}.StopOnNan"},
        *([mean] if accumulated else []),
        *([clip] if robust or clipped else []),
        *([{"_target_": "$@average.handler"}] if robust else []),
        {"_target_": f"{WORKFLOW}.TrainingProgress", "optimizer": "@optimizer"},
        {
            "_target_": "LrScheduleHandler",
            "lr_scheduler": "@lr_scheduler",
            "print_lr": False,
            "epoch_level": False,
        },
        {
            "_target_": "ValidationHandler",
            "validator": "@validate::evaluator",
            "epoch_level": True,
            "interval": "@val_interval",
        },
        {
            "_target_": f"{WORKFLOW}.Plateau",
            "optimizer": "@optimizer",
            "lr_scheduler": "@lr_scheduler",
            "evaluator": "@validate::evaluator",
            "patience": "@patience",
            "second_learning_rate": "@second_learning_rate",
        },
        log,
        {
            "_target_": "TensorBoardStatsHandler",
            "_disabled_": NOT_FIRST,
            "summary_writer": "@events",
            "tag_name": "train_loss",
            "output_transform": "$monai.handlers.from_engine('loss', first=True)",
        },
        {
            "_target_": f"{WORKFLOW}.LastCheckpoint",
            "path": "$@ckpt_dir + '/last.pt'",
            "network": "@network",
            "evaluator": "@validate::evaluator",
            "resume": "@resume",
            "others": {
                "optimizer": "@optimizer",
                "lr_scheduler": "@lr_scheduler",
                **({"average": "@average"} if robust else {}),
            },
            "patience": "@patience",
        },
        {
            "_target_": f"{WORKFLOW}.FinalCheckpoint",
            "path": "$@ckpt_dir + '/model_final.pt'",
            "network": kept(robust),
        },
        {
            "_target_": f"{WORKFLOW}.KeepEarlier",
            "ckpt_dir": "@ckpt_dir",
            "output_dir": "@output_dir",
            "log_dir": "@log_dir",
            "overwrite": "@overwrite",
        },
        {
            "_target_": f"{WORKFLOW}.StartValidation",
            "evaluator": "@validate::evaluator",
            "wanted": "@val_at_start",
        },
    ]


def validation_handlers(bundle: Bundle, preset: Preset) -> list[Config]:
    """What becomes of a validation: the scores, a picture, the best weights with their record."""
    return [
        validation_scores(),
        {"_target_": f"{WORKFLOW}.OverlayWriter", "events": "@events", "num_classes": "@out_channels"},
        {
            "_target_": f"{WORKFLOW}.BestCheckpoint",
            "path": "$@ckpt_dir + '/model.pt'",
            "network": kept(preset.recipe.robust),
            "data_set": "$workflow.describe_cases(@dataset_dir, training=@train::dataset::data, "
            "validation=@validate::dataset::data)",
            "ids": recorded(["preset", *trained_ids(preset), "img_size", *bundle.options]),
            "start": START,
        },
    ]


def average() -> Config:
    """The average of the weights, which is validated and kept."""
    return {"average": {"_target_": f"{WORKFLOW}.WeightAverage", "network": "@network", "momentum": "@ema_momentum"}}


def kept(robust: bool) -> str:
    """The network that is validated and kept."""
    return "$@average.network" if robust else "@network"


def multi_gpu_train(bundle: Bundle) -> Config:
    """``multi_gpu_train.json``, merged after ``train.json`` under ``torchrun``."""
    return distributed(train(bundle)["initialize"], bundle.batch_norm)


def distributed(initialize: list[str], batch_norm: bool) -> Config:
    """An overlay that trains in a process per GPU, or with gloo on CPUs.

    Args:
        initialize: what precedes the training in one process.
        batch_norm: whether the network may have batch normalisation.
    """
    module = "workflow.shared_statistics(@network_def)" if batch_norm else "@network_def"
    return {
        "device": "$torch.device('cuda', int(os.environ['LOCAL_RANK'])) if torch.cuda.is_available() "
        "else torch.device('cpu')",
        "network": {
            "_target_": "torch.nn.parallel.DistributedDataParallel",
            "module": f"${module}.to(@device)",
            "device_ids": "$[@device] if torch.cuda.is_available() else None",
        },
        "train::sampler": {
            "_target_": "DistributedSampler",
            "dataset": "@train::dataset",
            "even_divisible": True,
            "shuffle": True,
            "seed": "@seed",
        },
        "train::dataloader::sampler": "@train::sampler",
        "train::dataloader::shuffle": False,
        "validate::sampler": {
            "_target_": "DistributedSampler",
            "dataset": "@validate::dataset",
            "even_divisible": False,
            "shuffle": False,
        },
        "validate::dataloader::sampler": "@validate::sampler",
        "initialize": [
            "$workflow.report_errors()",
            "$torch.distributed.is_initialized() or torch.distributed.init_process_group("
            "'nccl' if torch.cuda.is_available() else 'gloo')",
            "$torch.cuda.set_device(@device) if torch.cuda.is_available() else None",
            *initialize[1:],
        ],
        "finalize": ["$torch.distributed.is_initialized() and torch.distributed.destroy_process_group()"],
    }


def preset_overlay(bundle: Bundle, name: str) -> Config:
    """``presets/<data set>.json``, merged after ``train.json`` (and before ``evaluate.json``)."""
    preset = bundle.presets[name]
    recipe = preset.recipe
    overlay = {"preset": name, **preset_ids(bundle, preset)}
    overlay |= more_options(overlay, train(bundle))
    overlay |= {"loss": loss(recipe), "optimizer": optimizer(recipe), "lr_scheduler": lr_scheduler(recipe)}
    overlay["train::preprocessing"] = data.train_preprocessing(preset)
    if recipe.robust:
        overlay |= {
            **average(),
            "train::handlers": train_handlers(epoch_log(), recipe.robust),
            "validate::evaluator::network": kept(True),
        }
    if preset.kind != bundle.default.kind:
        overlay |= {
            "train::dataset": data.train_dataset(preset),
            "validate::preprocessing": data.compose(data.load_case(), *data.image_only(preset)),
            "validate::inferer": data.inferer(preset),
        }
    if recipe.robust or preset.kind != bundle.default.kind:
        overlay["validate::handlers"] = validation_handlers(bundle, preset)
    return overlay


def _mean_dice() -> Config:
    return {
        "_target_": "MeanDice",
        "include_background": False,
        "num_classes": "@out_channels",  # of label maps, which take less memory than a map of every class
        "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
    }
