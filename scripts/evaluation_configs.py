"""Building the configs that score a trained network."""

from scripts.catalog import Bundle
from scripts.configs import check, mean_dice
from scripts.data_configs import WORKFLOW, Config


def evaluate(bundle: Bundle) -> Config:
    """``evaluate.json``, merged after ``train.json``: scores of the test split, per case and class."""
    return {
        "imports": [
            "$import os",
            "$from ignite import distributed as idist",
            "$import networks.workflow as workflow",
        ],
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        "split": "test",
        "validate::dataset::data": "$workflow.case_list(@datalist, @split)",
        "validate::dataset::cache_rate": 0,
        "validate::key_metric": {"dice": mean_dice()},
        "validate::evaluator::additional_metrics": {
            "iou": {
                "_target_": "MeanIoUHandler",
                "include_background": False,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            },
            "hd95": {
                "_target_": f"{WORKFLOW}.SpacedHausdorffDistance",
                "percentile": 95,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            },
        },
        "validate::handlers": [
            {"_target_": f"{WORKFLOW}.EvaluationProgress"},
            {
                "_target_": f"{WORKFLOW}.CaseReport",
                "save_dir": "@output_dir",
                "class_names": "@class_names",
                "metrics": ["dice", "iou", "hd95"],
            },
        ],
        "initialize": [
            "$workflow.report_errors()",
            "$monai.utils.set_determinism(@seed)",
            check("@validate::dataset::data"),
        ],
        "run": ["$workflow.load_weights(@network, @ckpt_path)", "$@validate::evaluator.run()"],
        "training": "%run",
    }
