"""Weights and activations of 8 bits for OpenVINO and ONNX Runtime, whose ranges images of the training give."""

import importlib.util
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow import case_list, check_cases, load_datalist
from scripts.compress.bundles import open_source
from scripts.compress.quantize import ATTENTION, weighted_layers
from scripts.export import exporting
from scripts.export.runtimes import INPUT
from scripts.opened_bundle import InferenceConfig

FORMATS = ("openvino", "onnx")
MOST_CASES = 40  # that the calibration's images come from
PRODUCTS = {"openvino": ("MatMul", "Convolution", "GroupConvolution"), "onnx": ("MatMul", "Gemm", "Conv")}


def int8(
    output_dir: str,
    format: str = "openvino",
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    dataset_dir: str | None = None,
    samples: int = 300,
    keep: str | None = None,
    cases: int = 2,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: as :func:`scripts.compress.bundles.open_source` and :func:`scripts.export.exporting.write_model`; no
            data set, or no NNCF.
    """
    if format not in FORMATS:
        raise UserError(f"The format {format} has no calibrated 8 bits here; choose one of {', '.join(FORMATS)}.")
    if importlib.util.find_spec("nncf") is None:
        raise UserError("8 bits need nncf: python -m pip install 'segmentation-bundles[compress,deploy]'.")
    if dataset_dir is None:
        raise UserError("Give --dataset_dir, the data set of the training: its images calibrate the activations.")
    if samples < 1:
        raise UserError(f"samples is {samples}; the activations are calibrated on at least one image.")
    source = open_source(bundle, trained, ckpt_path)

    def convert(folder: Path, config: InferenceConfig, network: nn.Module) -> dict[str, Any]:
        images = calibration_images(config, dataset_dir, samples)
        return {"int8": CONVERT[format](folder, images, is_transformer(network), keep)}

    options = {**source.options, "dataset_dir": dataset_dir}
    exporting.write_model(
        source.bundle,
        format,
        options,
        output_dir,
        source.preset,
        tolerance=math.inf,
        cases=cases,
        convert=convert,
    )


def is_transformer(network: nn.Module) -> bool:
    """Whether a network has attention, for which NNCF has a mode of its own; gates of convolutions are none."""
    found = [name for name in weighted_layers(network) if re.search(ATTENTION, name)]
    return any(isinstance(network.get_submodule(name), nn.Linear) for name in found)


def calibration_images(config: InferenceConfig, dataset_dir: str, samples: int) -> list[np.ndarray]:
    """What the network is given of training images in the bundle's inference, (1, C, H, W) each.

    Args:
        config: the bundle's inference.
        dataset_dir: the training's data set.
        samples: how many slices or windows, from cases over the whole list, at random and the same in every run.
    """
    cases = [{"image": case["image"]} for case in case_list(load_datalist(dataset_dir), "training")]
    cases = cases[:: math.ceil(len(cases) / MOST_CASES)]
    check_cases(cases, config["in_channels"], None, config["reader"], config["spatial_dims"])
    chosen, choice = [], random.Random(0)
    for number, case in enumerate(tqdm(cases, desc="Reading training images", unit="case")):
        seen: list[Tensor] = []

        def record(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.extend(x.as_subclass(Tensor).float().split(1))
            return x.new_zeros(len(x), 1, *x.shape[2:])

        config["inferer"](config["preprocessing"](case)["image"][None], record)
        count = math.ceil((samples - len(chosen)) / (len(cases) - number))
        chosen += choice.sample(seen, min(count, len(seen)))
    return [x.contiguous().numpy() for x in chosen]


def _openvino(folder: Path, images: list[np.ndarray], transformer: bool, keep: str | None) -> dict[str, Any]:
    import openvino

    core = openvino.Core()
    model = _quantised(core.read_model(folder / "model.xml"), images, transformer, keep)
    openvino.save_model(model, folder / "int8.xml", compress_to_fp16=False)
    for suffix in (".xml", ".bin"):  # the files that were read are mapped into memory until now
        (folder / f"int8{suffix}").replace(folder / f"model{suffix}")
    products = [op for op in model.get_ops() if op.get_type_name() in PRODUCTS["openvino"]]
    left = [op.get_friendly_name() for op in products if not _has_fake_quantize(op)]
    return _summary(images, transformer, len(products), left, keep)


def _has_fake_quantize(op: Any) -> bool:
    """Whether both factors of a product come from a quantisation, of which shapes may have been changed since."""

    def origin(node: Any) -> str:
        while node.get_type_name() in ("Reshape", "Transpose", "Convert", "Squeeze", "Unsqueeze", "Split", "Gather"):
            node = node.input_value(0).get_node()
        return node.get_type_name()

    inputs = [origin(op.input_value(i).get_node()) for i in range(2)]
    return inputs[0] == "FakeQuantize" and inputs[1] in ("FakeQuantize", "Multiply", "Subtract")


def _onnx(folder: Path, images: list[np.ndarray], transformer: bool, keep: str | None) -> dict[str, Any]:
    import onnx

    path = folder / "model.onnx"
    model = _quantised(onnx.load(path), images, transformer, keep)
    onnx.save(model, path)
    makers = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type in PRODUCTS["onnx"]]
    left = [
        node.name for node in products if any(_origin(makers, name) != "DequantizeLinear" for name in node.input[:2])
    ]
    return _summary(images, transformer, len(products), left, keep)


def _origin(makers: dict[str, Any], name: str) -> str:
    while name in makers and makers[name].op_type in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Gather"):
        name = makers[name].input[0]
    return makers[name].op_type if name in makers else ""


def _quantised(model: Any, images: list[np.ndarray], transformer: bool, keep: str | None) -> Any:
    # else it sends statistics of its use to Google Analytics; it looks at this once, when it is imported
    os.environ["NNCF_CI"] = "1"
    import nncf

    with torch.no_grad():
        return nncf.quantize(
            model,
            nncf.Dataset(images, lambda x: {INPUT: x}),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(patterns=[keep], validate=True) if keep else None,
        )


def _summary(images: list, transformer: bool, products: int, left: list[str], keep: str | None) -> dict[str, Any]:
    """For the manifest, which names what is still computed in floating point."""
    if len(left) == products:
        raise UserError("NNCF has left every product of the network as it was; leave --keep out, or export in float32.")
    print(f"{products - len(left)} of {products} products of the network are computed in 8 bits.")
    return {
        "samples": len(images),
        "mode": "transformer" if transformer else "convolutional",
        "products": products,
        "products_in_float": left,
        "keep": keep,
    }


CONVERT = {"openvino": _openvino, "onnx": _onnx}
