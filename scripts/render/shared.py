"""What the configs of a bundle share: ids with their defaults, the network, the check of the data."""

from collections.abc import Iterable

from networks.workflow.ids import IDS
from scripts.catalog.bundles import Bundle
from scripts.catalog.recipes import Preset, Recipe
from scripts.render.data import WORKFLOW, Config

PHANTOM = {"ct": "ct", "micrograph": "precipitate"}
DATASET_DIR = {"ct": "data/ct_phantom", "mr": "data/mr", "micrograph": "data/precipitate_phantom"}
AMP = "$workflow.truth(@amp) and 'cuda' in str(@device)"
PIN = "$'cuda' in str(@device)"
DEFAULT_WORKERS = "$workflow.default_workers(@device)"
CHANNELS = {"ct": 1, "mr": 1, "micrograph": 3}


def network(bundle: Bundle) -> Config:
    """The network with its options taken from the ids of the same names."""
    return {
        "_target_": f"networks.{bundle.network}",
        "in_channels": "@in_channels",
        "out_channels": "@out_channels",
        "img_size": "@img_size",
        **{option: f"@{option}" for option in bundle.options},
    }


def common(bundle: Bundle) -> Config:
    # A config cannot learn where it is, so it looks for itself from the two usual working folders.
    here = f"bundles/{bundle.name}"
    return {
        "bundle_root": f"$'{here}' if os.path.isfile('{here}/configs/metadata.json') else '.'",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": DATASET_DIR[bundle.default.kind],
    }


def data_ids(preset: Preset) -> Config:
    ids: Config = {"in_channels": CHANNELS[preset.kind], "out_channels": len(preset.classes) + 1}
    if preset.kind == "ct":
        return {**ids, "spatial_dims": 3, "reader": None, "intensity_range": [-125, 275]}
    if preset.kind == "mr":
        return {**ids, "spatial_dims": 3, "reader": None, "intensity_percentiles": [0, 100]}
    reader = {
        "_target_": f"{WORKFLOW}.PictureReader",
        "channels": "@in_channels",
        "window": "$@window or workflow.stored_window(@dataset_dir)",
    }
    return {**ids, "spatial_dims": 2, "window": None, "reader": reader}


def trained_ids(preset: Preset) -> list[str]:
    """The ids of the data that the record of a training keeps: how files are read is no property of the weights."""
    return [key for key in data_ids(preset) if key != "reader"]


def recipe_ids(recipe: Recipe) -> Config:
    return {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "patience": 0,
        "second_learning_rate": 0.0,
        "val_interval": 1,
        "sw_batch_size": 8,
        "img_size": [recipe.img_size, recipe.img_size],
        **recipe.options,
        **recipe.extra,
    }


def preset_ids(bundle: Bundle, preset: Preset) -> Config:
    default = data_ids(bundle.default)
    data = {key: value for key, value in data_ids(preset).items() if default.get(key, ...) != value}
    recipe = recipe_ids(preset.recipe)
    return {**data, **{key: value for key, value in recipe.items() if key != "sw_batch_size"}}


def phantom(preset: Preset) -> str:
    kind = preset.kind
    if kind not in PHANTOM:
        return "phantom=None"
    return f"phantom='{PHANTOM[kind]}' if @dataset_dir == '{DATASET_DIR[kind]}' else None"


def check(cases: str, classes: str = "@out_channels") -> str:
    """The check of images and labels before a run."""
    arguments = f"{cases}, @in_channels, {classes}, @reader, @spatial_dims"
    return f"$workflow.check_cases({arguments}) if workflow.truth(@check_data) else None"


def load_weights() -> Config:
    """The first handler of an evaluator, at the place where MONAI's own bundles have theirs."""
    return {
        "_target_": f"{WORKFLOW}.StrictCheckpointLoader",
        "load_path": "@ckpt_path",
        "load_dict": {"model": "@network"},
    }


def options(ids: Iterable[str]) -> Config:
    """The check of a run's options, all at once, before anything is built."""
    return {"_target_": "networks.workflow.check_options", **{key: f"@{key}" for key in ids if key in IDS}}


def more_options(overlay: Config, base: Config) -> Config:
    """Entries of an overlay that check the ids which only it has."""
    return {f"options::{key}": f"@{key}" for key in overlay if key in IDS and key not in base}
