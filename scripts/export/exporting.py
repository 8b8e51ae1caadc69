"""Export a bundle's network for another runtime: ``python -m scripts.export NAME --format onnx``."""

import json
import math
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism
from torch import Tensor, nn
from tqdm import tqdm

from networks.errors import UserError
from networks.layers.packed import unpack_layers
from networks.workflow import check_cases, load_weights
from networks.workflow.files import file_hash, put_in_place, write_json
from scripts.export.runtimes import INPUT, OUTPUT, Format, check_format, has_free_size, load_model
from scripts.opened_bundle import LOCATIONS, InferenceConfig, as_trained

TOLERANCE = 1e-4
PACKAGES = ("torch", "monai", "timm", "onnx", "onnxruntime", "openvino", "nncf", "tensorrt")
# changes the model that a folder holds, and says how, for the manifest
Conversion = Callable[[Path, InferenceConfig, nn.Module], dict[str, Any]]


class Difference:
    """How far a runtime's logits are from PyTorch's, over any number of batches.

    Attributes:
        largest: difference, relative to the largest absolute logit of the batch.
        same: share of pixels that get the same class.
        tolerance: the largest difference that :meth:`add` accepts.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.largest = tolerance, 0.0
        self._same, self._pixels = 0, 0

    @property
    def same(self) -> float:
        return self._same / max(self._pixels, 1)

    def add(self, expected: Tensor, found: Tensor, what: str) -> None:
        """Compare logits (B, classes, H, W); raises UserError if they differ by more than the tolerance."""
        if found.shape != expected.shape:
            raise UserError(
                f"On {what} the exported model gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}; "
                "nothing was written."
            )
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not difference <= self.tolerance:  # not "greater", so that NaN is refused
            raise UserError(
                f"On {what} the exported model differs from PyTorch by {difference:.2g} of the largest logit; the "
                f"tolerance is {self.tolerance:g}. Nothing was written; choose another --format, or a larger "
                "--tolerance if that is good enough for you."
            )
        self.largest = max(self.largest, difference)
        self._same += int((found.argmax(1) == expected.argmax(1)).sum())
        self._pixels += expected[:, 0].numel()

    def summary(self) -> dict[str, float]:
        return {"max_difference": self.largest, "same_class": self.same}


def export(
    name: str,
    format: str,
    output_dir: str | None = None,
    preset: str | None = None,
    labels: str | None = None,
    untrained: bool = False,
    tolerance: float = TOLERANCE,
    cases: int = 2,
    **options: Any,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no such bundle, checkpoint or data set, a mistake in the options, a format that this machine cannot
            write, or a model that differs.
    """
    if not untrained:
        preset, options = as_trained(name, preset, options)
    write_model(name, format, options, output_dir, preset, labels, untrained, tolerance, cases)


def write_model(
    name: str,
    format: str,
    options: dict[str, Any],
    output_dir: str | None = None,
    preset: str | None = None,
    labels: str | None = None,
    untrained: bool = False,
    tolerance: float = TOLERANCE,
    cases: int = 2,
    convert: Conversion | None = None,
) -> None:
    """:func:`export` by preset and options as they are, whatever the training's record says.

    ``convert`` is done to the model that is written before it is compared.
    """
    runtime = check_format(str(format))
    config = InferenceConfig(name, preset, {**options, "device": "cpu"})
    names = config.labels(labels)
    device = torch.device("cuda" if format == "tensorrt" else "cpu")
    set_determinism(0)  # of the weights, if they are random
    network = config["network_def"].eval()
    checkpoint = None if untrained else _load(network, config["ckpt_path"])
    unpack_layers(network)
    images = _images(config, int(cases))
    random_images = _random_images(config, network, format)
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        folder = Path(temporary)
        print(f"Writing {config.name} as {format} ...")
        _write(runtime, network, random_images[0], folder, config)
        converted = convert(folder, config, network) if convert else {}
        model = load_model(str(format), folder / runtime.files[0], device)
        on_random, on_images = Difference(float(tolerance)), Difference(float(tolerance))
        with torch.no_grad():
            for x in random_images:
                on_random.add(network(x), model(x), f"random images {tuple(x.shape)}")
            for case in tqdm(images, desc="Comparing", unit="image"):
                _compare_on_image(config, case, network, model, on_images)
        size = list(config["img_size"])
        manifest = {
            "format": format,
            "bundle": config.name,
            "bundle_version": config.metadata["version"],
            "preset": preset,
            "options": {
                "out_channels": config["out_channels"],  # which the preset may have read from beside the weights
                **{key: value for key, value in options.items() if key not in LOCATIONS},
            },
            "files": {file: file_hash(folder / file) for file in runtime.files},
            "input": {
                "name": INPUT,
                "dtype": "float32",
                "shape": ["batch", config["in_channels"], *size],
                "free": ["batch", "height", "width"] if has_free_size(format, network) else ["batch"],
                "channels": _channels(config),
            },
            "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", len(names), *size], "labels": names},
            "preprocessing": config.resolved("preprocessing")["transforms"],
            "inferer": config.resolved("inferer"),
            "checkpoint": checkpoint,
            **converted,
            "comparison": {
                "with": "PyTorch in float32 on the processor; differences relative to the largest logit of a batch",
                "tolerance": float(tolerance) if math.isfinite(tolerance) else None,
                "random": on_random.summary(),
                "images": {"count": len(images), **on_images.summary()},
            },
            "versions": _versions(),
        }
        target = Path(str(output_dir)) if output_dir is not None else Path(config["ckpt_dir"])
        # The manifest comes last and holds the checksums of the others, so an interruption in between is noticed.
        for file in runtime.files:
            put_in_place(folder / file, target / file)
        write_json(manifest_path(target / runtime.files[0]), manifest)
    megabytes = sum((target / file).stat().st_size for file in runtime.files) / 1e6
    print(
        f"Wrote {target / runtime.files[0]} ({megabytes:.1f} MB) and its manifest: differs from PyTorch by at most "
        f"{on_random.largest:.1e} on random images and {on_images.largest:.1e} on {len(images)} test images, of "
        f"whose pixels {on_images.same:.4%} get the same class."
    )
    if checkpoint is None:
        print("The weights are random: this model is for trying a runtime only.")


def manifest_path(model: str | Path) -> Path:
    """Where the manifest of an exported model is."""
    return Path(f"{model}.json")


def read_manifest(model: str | Path) -> dict[str, Any]:
    """The manifest of an exported model whose files are those that it was written with.

    Raises:
        UserError: the model or its manifest is missing or damaged, or a file is not the one that it describes.
    """
    model = Path(model)
    path = manifest_path(model)
    for file in (model, path):
        if not file.is_file():
            raise UserError(f"{file} does not exist; write it with 'python -m scripts.export'.")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        files = {model.parent / file: digest for file, digest in manifest["files"].items()}
        manifest["format"], manifest["bundle"], manifest["input"]["shape"], manifest["output"]["labels"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a manifest of an exported model; export the model again.") from error
    for file, digest in files.items():
        if not file.is_file() or file_hash(file) != digest:
            raise UserError(f"{file} is not the file that {path.name} describes; export the model again.")
    return manifest


def _load(network: nn.Module, path: str) -> dict[str, str]:
    if not Path(path).is_file():
        raise UserError(
            f"The checkpoint {path} does not exist; train first, give --ckpt_path another file, or export random "
            "weights with --untrained true to try a runtime."
        )
    load_weights(network, path)
    return {"file": Path(path).name, "sha256": file_hash(path)}


def _write(runtime: Format, network: nn.Module, example: Tensor, folder: Path, config: InferenceConfig) -> None:
    try:
        runtime.write(network, example, folder, config["sw_batch_size"])
    except Exception as error:
        raise UserError(
            f"{config.name} cannot be written as {runtime.files[0]} ({type(error).__name__}; NETWORKS_TRACEBACK=1 "
            "tells more). Nothing was written; choose another --format."
        ) from error


def _images(config: InferenceConfig, count: int) -> list[dict[str, str]]:
    if count < 1:
        raise UserError(f"cases is {count}; a model is compared on at least one test image.")
    images = config["datalist"][:count]
    check_cases(images, config["in_channels"], None, config["reader"], config["spatial_dims"])
    return images


def _random_images(config: InferenceConfig, network: nn.Module, format: str) -> list[Tensor]:
    """Batches whose first is the example to export with: two images of ``img_size``; one of another size if allowed."""
    generator = torch.Generator().manual_seed(0)
    channels, (height, width) = config["in_channels"], config["img_size"]
    shapes = [(batch, channels, height, width) for batch in (2, 1, 3)]
    if has_free_size(format, network):
        shapes.append((1, channels, height + 9, width + 21))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _compare_on_image(
    config: InferenceConfig, case: dict[str, str], network: nn.Module, model: nn.Module, difference: Difference
) -> None:
    """Compare on the very slices or windows that the bundle's inferer makes of an image."""

    def both(x: Tensor) -> Tensor:
        logits = network(x)
        difference.add(logits, model(x), case["image"])
        return logits

    config["inferer"](config["preprocessing"](case)["image"][None], both)


def _channels(config: InferenceConfig) -> dict[str, str]:
    """Names of the input's channels; the metadata's hold only for the number of channels that it describes."""
    names = config.metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    count = int(config["in_channels"])
    return names if len(names) == count else {str(i): f"channel {i}" for i in range(count)}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
