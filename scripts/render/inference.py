"""Building the configs that segment images with a trained network."""

from scripts.catalog.bundles import Bundle
from scripts.render import data
from scripts.render.data import WORKFLOW, Config
from scripts.render.shared import (
    AMP,
    DATASET_DIR,
    DEFAULT_WORKERS,
    PIN,
    TRAINED,
    check,
    common,
    data_ids,
    flipped,
    load_weights,
    more_options,
    network,
    options,
    other_input,
    phantom,
    preset_ids,
)


def inference(bundle: Bundle) -> Config:
    """``inference.json``: label maps of a folder's images, on the grid of each."""
    preset = bundle.default
    content: Config = {
        "imports": [
            "$import os",
            "$import networks.workflow as workflow",
        ],
        **common(bundle.name, DATASET_DIR[bundle.default.kind]),
        "output_dir": "$@bundle_root + '/eval/predictions'",
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        "preset": None,
        "check_data": True,
        **data_ids(preset, TRAINED),
        "amp": True,
        "tta": False,
        "num_workers": DEFAULT_WORKERS,
        "sw_batch_size": 8,
        "img_size": [preset.recipe.img_size] * 2,
        **preset.recipe.options,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network(bundle),
        "network": "$@network_def.to(@device)",
        "datalist": f"$workflow.list_images(@dataset_dir, {phantom(preset)}, output_dir=@output_dir)",
        "preprocessing": data.compose(*data.load_image(), *data.image_only(preset)),
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": "@num_workers",
            "pin_memory": PIN,
        },
        "inferer": data.inferer(preset),
        "postprocessing": data.compose(*data.label_map("@preprocessing"), data.save(preset)),
        "handlers": [load_weights(), {"_target_": f"{WORKFLOW}.EvaluationProgress"}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": flipped("@inferer"),
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": AMP,
        },
        "initialize": ["$workflow.report_errors()", "$@options", "$monai.utils.set_determinism(0)"],
        "run": [
            check("@datalist", classes="None"),
            other_input(preset),
            "$workflow.infer(@evaluator, @postprocessing, @output_dir, "
            "workflow.trained_names(@ckpt_path, @out_channels))",
        ],
    }
    return {**content, "options": options(content)}


def inference_trt(bundle: Bundle) -> Config:
    """``inference_trt.json``, merged after ``inference.json``: the network as a TensorRT engine, built at first use.

    The engine is kept beside the checkpoint and built anew when that is newer. MONAI exports it through ONNX with
    dynamic axes, which only the older of PyTorch's two exporters takes. The engine computes in float16 by itself, so
    autocast stays out of it.
    """
    return {
        "+imports": ["$from monai.networks import trt_compile"],
        "amp": False,
        "trt_args": {
            "precision": "fp16",
            "dynamic_batchsize": "$[1, @sw_batch_size, @sw_batch_size]",
            "export_args": {"dynamo": False},
        },
        # which MONAI takes memory and streams of, whatever the network's is
        "+initialize": ["$torch.cuda.set_device(torch.device(@device)) if torch.device(@device).index else None"],
        "network": "$trt_compile(@network_def.to(@device), @ckpt_path, args=@trt_args)",
    }


def preset_inference(bundle: Bundle, name: str) -> Config:
    """``presets/<data set>_inference.json``, merged after ``inference.json``."""
    preset = bundle.presets[name]
    ids = preset_ids(bundle, preset, TRAINED)
    known = inference(bundle).keys() | data_ids(preset).keys()
    overlay = {"preset": name, **{key: value for key, value in ids.items() if key in known}}
    overlay |= more_options(overlay, inference(bundle))
    if preset.kind != bundle.default.kind:
        overlay |= {
            "preprocessing": data.compose(*data.load_image(), *data.image_only(preset)),
            "inferer": data.inferer(preset),
            "postprocessing": data.compose(*data.label_map("@preprocessing"), data.save(preset)),
        }
    return overlay
