"""All configs of a bundle that classifies pictures, and its metadata."""

from typing import Any

from scripts.catalog.bundles import VERSIONS
from scripts.catalog.classification import ClassificationBundle
from scripts.render import classification, masked_images
from scripts.render.bundle import NO_WEIGHTS, SCHEMA
from scripts.render.data import Config


def classification_configs(bundle: ClassificationBundle) -> dict[str, Config]:
    """Name below ``configs`` to content."""
    train = classification.train(bundle)
    content = {
        "metadata": metadata(bundle),
        "train": train,
        "evaluate": classification.evaluate(bundle),
        "inference": classification.inference(bundle),
        "multi_gpu_train": classification.multi_gpu_train(bundle),
        "simmim": (masked := masked_images.simmim(bundle)),
    }
    for name, recipe in bundle.presets.items():
        content[f"presets/{name}"] = classification.preset_overlay(recipe, train, name)
    for name, recipe in bundle.masked_presets.items():
        content[f"presets/{name}"] = classification.preset_overlay(recipe, masked, name)
    return content


def metadata(bundle: ClassificationBundle) -> dict[str, Any]:
    """``metadata.json`` as the model zoo's schema wants it."""
    size = bundle.default.img_size
    return {
        "schema": SCHEMA,
        "version": bundle.version,
        "changelog": bundle.changelog,
        "monai_version": VERSIONS["monai"],
        "pytorch_version": VERSIONS["pytorch"],
        "numpy_version": VERSIONS["numpy"],
        "required_packages_version": VERSIONS["packages"] | {"torchvision": VERSIONS["torchvision"]},
        "supported_apps": {},
        "name": bundle.name,
        "task": "Classification of pictures",
        "description": bundle.description,
        "authors": "The authors of this repository; architecture by " + bundle.paper.authors,
        "copyright": "Copyright (c) the authors of this repository; Apache License 2.0",
        "data_source": "Without a data set: a phantom that this bundle writes",
        "data_type": "png",
        "image_classes": "one picture",
        "label_classes": "the number of a class",
        "pred_classes": "one logit per class",
        "eval_metrics": {},
        "intended_use": f"Research; not a medical device. {NO_WEIGHTS}",
        "references": [f"{bundle.paper.authors}. {bundle.paper.title}. {bundle.paper.venue}. {bundle.paper.url}"],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "RGB",
                    "modality": "any",
                    "num_channels": 3,
                    "spatial_shape": [size, size],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": "R", "1": "G", "2": "B"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classification",
                    "num_channels": len(bundle.classes),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(bundle.classes)},
                }
            },
        },
    }
