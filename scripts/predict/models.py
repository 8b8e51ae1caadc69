"""Which model segments: a bundle's with a checkpoint, weights that come with the bundles, or an exported one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from networks.errors import UserError
from networks.workflow.files import file_hash
from scripts.export.exporting import manifest_path, read_manifest
from scripts.export.runtimes import FORMATS, load_model
from scripts.opened_bundle import InferenceConfig, as_trained, shipped_weights

TORCH, AUTO = "torch", "auto"


@dataclass(frozen=True)
class Model:
    """A bundle's inference and the weights for it.

    Attributes:
        config: the inference, with the options that the weights need.
        weights: file of a checkpoint, or of an exported model.
        manifest: of the exported model; None for PyTorch itself.
        fastest: whether it may be computed as :mod:`scripts.predict.fastest` does.
    """

    config: InferenceConfig
    weights: Path
    manifest: dict[str, Any] | None
    fastest: bool = False

    @property
    def runtime(self) -> str:
        """As people choose it."""
        return AUTO if self.fastest else self.manifest["format"] if self.manifest else TORCH

    def check_weights(self) -> None:
        """Raise UserError where the weights are not there."""
        if not self.weights.is_file():
            raise UserError(
                f"The checkpoint {self.weights} does not exist; train first or give --ckpt_path another file."
            )

    def labels(self, file: str | Path | None) -> dict[int, str]:
        """Names of the classes by number: those of the file, if there is one, else those that the model was made with.

        Raises:
            UserError: as :meth:`scripts.opened_bundle.InferenceConfig.labels`.
        """
        if file is None and self.manifest is not None:
            return {int(number): name for number, name in self.manifest["output"]["labels"].items()}
        return self.config.labels(file)

    def network(self) -> nn.Module | None:
        """What to call instead of the bundle's network; None for that with the weights as its checkpoint."""
        return load_model(self.manifest["format"], self.weights, self.config["device"]) if self.manifest else None


def choose_model(
    bundle: str | None,
    trained: str | None,
    runtime: str | None,
    model: str | None,
    preset: str | None,
    options: Mapping[str, Any],
) -> Model:
    """The model that the options of ``scripts.predict`` name, as described there.

    Raises:
        UserError: no such bundle or model, or options that do not go together or with it.
    """
    options = dict(options)
    if trained is not None:
        if bundle is not None or model is not None or "ckpt_path" in options:
            raise UserError("--trained names bundle and weights: give no --bundle, --model or --ckpt_path beside it.")
        (weights,) = shipped_weights(trained)
        bundle, options = str(weights.parent.parent), {**options, "ckpt_path": str(weights)}
    path, manifest = _exported(bundle, runtime, model)
    if manifest is not None:
        bundle, preset = bundle or manifest["bundle"], preset or manifest["preset"]
        # what a training says beside its weights is said of this model only where it lies beside it
        options = {"ckpt_path": str(path), **manifest["options"], **options}
    if bundle is None:
        raise UserError("Give --bundle NAME, --trained NAME, or --model FILE with a model that scripts.export wrote.")
    if manifest is None:
        preset, options = as_trained(bundle, preset, options)
    config = InferenceConfig(bundle, preset, options)
    if manifest is not None:
        _check_model(config, path, manifest)
    return Model(config, path or Path(config["ckpt_path"]), manifest, runtime == AUTO)


def _exported(bundle: str | None, runtime: str | None, model: str | None) -> tuple[Path | None, dict | None]:
    """An exported model and its manifest, or neither for PyTorch itself."""
    if runtime not in (None, TORCH, AUTO, *FORMATS):
        raise UserError(f"The runtime {runtime} is unknown; choose one of {TORCH}, {AUTO}, {', '.join(FORMATS)}.")
    if model is None and runtime in (None, TORCH, AUTO):
        return None, None
    if model is None and bundle is None:
        raise UserError(f"Give --bundle NAME or --model FILE for the runtime {runtime}.")
    config = InferenceConfig(bundle) if model is None else None
    path = Path(config["ckpt_dir"], FORMATS[runtime].files[0]) if config is not None else Path(str(model))
    if config is not None and not path.is_file():
        raise UserError(
            f"{path} does not exist; write it with 'python -m scripts.export {bundle} --format {runtime}', or give "
            "--model FILE."
        )
    if model is not None and path.is_file() and not manifest_path(path).is_file():
        raise UserError(
            f"{path} has no manifest {manifest_path(path).name} beside it; give a model that scripts.export wrote, or "
            "for a checkpoint --ckpt_path."
        )
    manifest = read_manifest(path)
    if runtime not in (None, manifest["format"]):
        raise UserError(f"{path} is a model of the format {manifest['format']}, not {runtime}; leave --runtime out.")
    if config is not None:
        _check_checkpoint(Path(config["ckpt_path"]), path, manifest)
    return path, manifest


def _check_checkpoint(checkpoint: Path, path: Path, manifest: dict[str, Any]) -> None:
    """Raise UserError where a bundle was trained again since its model was exported."""
    exported = manifest.get("checkpoint") or {}  # nothing of random weights
    if checkpoint.is_file() and exported.get("sha256") != file_hash(checkpoint):
        raise UserError(
            f"{path} was exported with other weights than {checkpoint} (their SHA-256 differ); export it again, or use "
            "it as it is by --model FILE."
        )


def _check_model(config: InferenceConfig, path: Path, manifest: dict[str, Any]) -> None:
    """Raise UserError where the config would hand the model something else than it was made for."""
    if config.name != manifest["bundle"]:
        raise UserError(f"{path} is a model of the bundle {manifest['bundle']}, not of {config.name}.")
    _, channels, *size = manifest["input"]["shape"]
    expected = {"in_channels": channels, "out_channels": manifest["output"]["shape"][1]}
    if "height" not in manifest["input"]["free"]:
        expected["img_size"] = size
    for name, value in expected.items():
        found = list(config[name]) if name == "img_size" else config[name]
        if found != value:
            raise UserError(f"{path} was exported with {name} {value}, not {found}; leave --{name} out or export anew.")
