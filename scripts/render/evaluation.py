"""Building the configs that score a trained network."""

from networks.workflow.protocols import TOLERANCE
from scripts.catalog.bundles import Bundle
from scripts.catalog.recipes import Preset
from scripts.render import data
from scripts.render.data import WORKFLOW, Config
from scripts.render.shared import check, flipped, load_weights, more_options, other_input
from scripts.render.training import train


def evaluate(bundle: Bundle) -> Config:
    """``evaluate.json``, merged after ``train.json``: scores of the test split by the strict protocol."""
    content: Config = {
        "imports": [
            "$import os",
            "$from ignite import distributed as idist",
            "$import networks.workflow as workflow",
        ],
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        "split": "test",
        "model": bundle.name,
        "tolerance": TOLERANCE,
        "tta": False,
        "validate::dataset": {
            "_target_": "Dataset",
            "data": "$workflow.labelled_list(@datalist, @split)",
            "transform": "@validate::preprocessing",
        },
        "validate::postprocessing": data.compose(*data.label_map("@validate::preprocessing")),
        "validate::key_metric": None,
        "validate::scores": {
            "_target_": f"{WORKFLOW}.ScoreWriter",
            "save_dir": "@output_dir",
            "protocol": "strict",
            "class_names": "@class_names",
            "dataset_dir": "@dataset_dir",
            "model": "@model",
            "split": "@split",
            "seed": "@seed",
            "tolerance": "@tolerance",
            "tta": "@tta",
            "other_input": other_input(bundle.default),
        },
        "validate::evaluator::network": "@network",
        "validate::evaluator::inferer": flipped("@validate::inferer"),
        "validate::handlers": [load_weights(), {"_target_": f"{WORKFLOW}.EvaluationProgress"}, "@validate::scores"],
        "initialize": [
            "$workflow.report_errors()",
            "$@options",
            "$monai.utils.set_determinism(@seed)",
            check("@validate::dataset::data"),
        ],
        "run": ["$workflow.evaluate(@validate::evaluator, @output_dir, @validate::postprocessing)"],
        "training": "%run",
    }
    return {**content, **more_options(content, train(bundle))}


def preset_paper(preset: Preset) -> Config:
    """``presets/<data set>_paper.json``, merged after ``evaluate.json``: infers and scores as the data set's papers."""
    overlay: Config = {"validate::scores::protocol": "paper", "validate::evaluator::amp": False}
    if not preset.volumes:
        overlay["validate::postprocessing"] = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
        return overlay
    return overlay | {
        "validate::preprocessing": data.compose(data.load_case(), *data.oriented_image(preset)),
        "validate::inferer": {
            "_target_": f"{WORKFLOW}.ZoomedSliceInferer",
            "roi_size": "@img_size",
            "sw_batch_size": "@sw_batch_size",
        },
        "validate::postprocessing": data.invert("@validate::preprocessing"),
    }
