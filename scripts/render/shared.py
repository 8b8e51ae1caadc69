"""What the configs of a bundle share: ids with their defaults, the network, the check of the data."""

from collections.abc import Sequence
from typing import Any

from networks.workflow.ids import IDS
from scripts.catalog.bundles import Bundle
from scripts.catalog.recipes import Preset, Recipe
from scripts.render.data import WORKFLOW, Config

PHANTOM = {"ct": "ct", "micrograph": "precipitate"}
DATASET_DIR = {
    "ct": "data/ct_phantom",
    "mr": "data/mr",
    "volume": "data/volumes",
    "micrograph": "data/precipitate_phantom",
    "picture": "data/pictures",
}
AMP = "$workflow.truth(@amp) and 'cuda' in str(@device)"
PIN = "$'cuda' in str(@device)"
DEFAULT_WORKERS = "$workflow.default_workers(@device)"
CHANNELS = {"ct": 1, "mr": 1, "volume": 1, "micrograph": 3, "picture": 3}
# of the data set that is trained on, and of the training whose weights are used, where a preset has no classes
COUNTED = "$workflow.count_classes(@dataset_dir)"
START = "$workflow.describe_start(@pretrained, @seed)"
TRAINED = "$workflow.trained_classes(@ckpt_path)"
WINDOW = "$@window or workflow.stored_window(@dataset_dir)"


def network(bundle: Bundle) -> Config:
    """The network with its options taken from the ids of the same names."""
    return {
        "_target_": f"networks.{bundle.network}",
        "in_channels": "@in_channels",
        "out_channels": "@out_channels",
        "img_size": "@img_size",
        **{option: f"@{option}" for option in bundle.options},
    }


def common(name: str, dataset_dir: str) -> Config:
    """Where the bundle of this name, its data set and its files are."""
    # A config cannot learn where it is, so it looks for itself from the two usual working folders.
    here = f"bundles/{name}"
    return {
        "bundle_root": f"$'{here}' if os.path.isfile('{here}/configs/metadata.json') else '.'",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": dataset_dir,
    }


def data_ids(preset: Preset, classes: str = COUNTED) -> Config:
    """The ids of the data; ``classes`` is their number where the preset has none."""
    ids: Config = {
        "in_channels": CHANNELS[preset.kind],
        "out_channels": len(preset.classes) + 1 if preset.classes else classes,
    }
    by_itself = {"intensity_range": None, "intensity_percentiles": [0.5, 99.5]}
    if preset.volumes:
        intensity = {"ct": {"intensity_range": [-125, 275]}, "mr": {"intensity_percentiles": [0, 100]}}
        return {**ids, "spatial_dims": 3, "reader": None, **intensity.get(preset.kind, by_itself)}
    more = by_itself if preset.recipe.robust else {}
    return {**ids, "spatial_dims": 2, "window": None, "reader": picture_reader(classes == TRAINED), **more}


def picture_reader(trained: bool = False) -> Config:
    """What reads pictures as 8 bit with the network's channels; ``trained`` knows the window of a training."""
    more = " or workflow.trained_id(@ckpt_path, 'window', None)" if trained else ""
    return {"_target_": f"{WORKFLOW}.PictureReader", "channels": "@in_channels", "window": WINDOW + more}


def recorded(ids: Sequence[str]) -> Config:
    """The ids that the record of a training keeps: of the window the one that the data set has, if none was given."""
    return {key: WINDOW if key == "window" else f"@{key}" for key in ids}


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


def preset_ids(bundle: Bundle, preset: Preset, classes: str = COUNTED) -> Config:
    default = data_ids(bundle.default, classes)
    data = {key: value for key, value in data_ids(preset, classes).items() if default.get(key, ...) != value}
    recipe = recipe_ids(preset.recipe)
    return {**data, **{key: value for key, value in recipe.items() if key != "sw_batch_size"}}


def phantom(preset: Preset) -> str:
    kind = preset.kind
    if kind not in PHANTOM:
        return "phantom=None"
    return f"phantom='{PHANTOM[kind]}' if @dataset_dir == '{DATASET_DIR[kind]}' else None"


def check(cases: str, classes: str = "@out_channels", dimensions: str = "@spatial_dims") -> str:
    """The check of images and labels before a run."""
    arguments = f"{cases}, @in_channels, {classes}, @reader, {dimensions}"
    return f"$workflow.check_cases({arguments}) if workflow.truth(@check_data) else None"


def other_input(preset: Preset) -> str:
    """The warning of images that are prepared in another way than the training's, and what is other of them."""
    # weights of other channels or classes are refused, and the window is each data set's own
    shaping = [key for key in trained_ids(preset) if key.startswith("intensity")]
    ids = ", ".join(f"'{key}': @{key}" for key in ["preset", *shaping, "img_size"])
    return f"$workflow.warn_of_other_input(@ckpt_path, {{{ids}}}, @bundle_root)"


def load_weights() -> Config:
    """The first handler of an evaluator, at the place where MONAI's own bundles have theirs."""
    return {
        "_target_": f"{WORKFLOW}.StrictCheckpointLoader",
        "load_path": "@ckpt_path",
        "load_dict": {"model": "@network"},
    }


def flipped(inferer: str) -> str:
    """An inferer, in the wrapper for flips if those are asked for."""
    return f"$workflow.flipped({inferer}, @tta)"


def options(ids: Config) -> Config:
    """The check of a run's options, all at once, before anything is built."""
    checked = {key: _checked(key, value) for key, value in ids.items() if key in IDS}
    return {"_target_": "networks.workflow.check_options", **checked}


def more_options(overlay: Config, base: Config) -> Config:
    """Entries of an overlay that check the ids which only it has, or for which it alone takes null."""
    checked = {key: _checked(key, value) for key, value in overlay.items() if key in IDS}
    return {f"options::{key}": text for key, text in checked.items() if key not in base or text != f"@{key}"}


def _checked(key: str, value: Any) -> str:
    """What is checked of an id: only what is given, where a recipe knows what to do without."""
    return "$@intensity_range or [0, 1]" if key == "intensity_range" and value is None else f"@{key}"
