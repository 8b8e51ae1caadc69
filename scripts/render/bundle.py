"""All configs of a bundle, and its metadata."""

from typing import Any

from scripts.catalog.bundles import VERSIONS, Bundle
from scripts.render import evaluation, inference, training
from scripts.render.data import Config
from scripts.render.shared import CHANNELS

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(message)s
"""
MODALITIES = {"ct": "CT", "mr": "MR", "volume": "any", "micrograph": "SEM", "picture": "any"}
IMAGES = {
    "ct": "one CT slice",
    "mr": "one MR slice",
    "volume": "one slice of a volume",
    "micrograph": "one micrograph",
    "picture": "one picture",
}
FORMATS = {"ct": "hounsfield", "mr": "magnitude", "volume": "any", "micrograph": "RGB", "picture": "RGB"}
NO_WEIGHTS = "This bundle carries no trained weights."


def bundle_configs(bundle: Bundle, weights: str = NO_WEIGHTS) -> dict[str, Config]:
    """Name below ``configs`` to content; ``weights`` is the sentence about them."""
    content = {
        "metadata": metadata(bundle, weights),
        "train": training.train(bundle),
        "evaluate": evaluation.evaluate(bundle),
        "inference": inference.inference(bundle),
        "inference_trt": inference.inference_trt(bundle),
        "multi_gpu_train": training.multi_gpu_train(bundle),
    }
    for name, preset in bundle.presets.items():
        content[f"presets/{name}"] = training.preset_overlay(bundle, name)
        content[f"presets/{name}_inference"] = inference.preset_inference(bundle, name)
        content[f"presets/{name}_paper"] = evaluation.preset_paper(preset)
    return content


def metadata(bundle: Bundle, weights: str = NO_WEIGHTS) -> dict[str, Any]:
    """``metadata.json`` as the model zoo's schema and MONAI Label want it; ``weights`` is the sentence about them."""
    preset = bundle.default
    size, channels = preset.recipe.img_size, CHANNELS[preset.kind]
    classes = ["background", *preset.classes]
    return {
        "schema": SCHEMA,
        "version": bundle.version,
        "changelog": bundle.changelog,
        "monai_version": VERSIONS["monai"],
        "pytorch_version": VERSIONS["pytorch"],
        "numpy_version": VERSIONS["numpy"],
        "required_packages_version": VERSIONS["packages"],
        "supported_apps": VERSIONS["apps"] | (VERSIONS["apps for volumes"] if preset.volumes else {}),
        "name": bundle.name,
        "task": f"{bundle.title} segmentation",
        "description": bundle.description,
        "authors": "The authors of this repository; architecture by " + bundle.paper.authors,
        "copyright": "Copyright (c) the authors of this repository; Apache License 2.0",
        "data_source": "Without a data set: a phantom that this bundle writes",
        "data_type": "nibabel" if preset.volumes else "png",
        "image_classes": IMAGES[preset.kind],
        "label_classes": "class numbers in one channel",
        "pred_classes": "one channel of logits per class",
        "eval_metrics": {},
        "intended_use": f"Research; not a medical device. {weights}",
        **({"not_scriptable": bundle.not_scriptable} if bundle.not_scriptable else {}),
        "references": [f"{bundle.paper.authors}. {bundle.paper.title}. {bundle.paper.venue}. {bundle.paper.url}"],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": FORMATS[preset.kind],
                    "modality": MODALITIES[preset.kind],
                    "num_channels": channels,
                    "spatial_shape": [size, size],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": "image"} if channels == 1 else {"0": "R", "1": "G", "2": "B"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(classes),
                    "spatial_shape": [size, size],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(classes)},
                }
            },
        },
    }
