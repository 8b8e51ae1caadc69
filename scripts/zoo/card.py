"""Model cards: the documentation of a packed bundle, headed by what the Hugging Face Hub reads of it."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from networks.workflow.protocols import told_counts, told_options
from scripts.zoo.weights import licences

TASK = "image-segmentation"


def model_card(name: str, metadata: Mapping[str, Any], document: str) -> str:
    """``README.md`` for the hub: front matter from a packed bundle's metadata, then its own documentation.

    The licence of weights is taken to be that of the data they have learned from, or those, where the record names any,
    since some licences ask for that; else it is the code's.

    Args:
        name: of the bundle.
        metadata: its ``metadata.json``.
        document: its ``docs/README.md``.
    """
    training = metadata.get("trained_weights")
    names = list(dict.fromkeys(licence for _, licence in licences(training))) if training else []
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=evaluation["data_set"].lower(),
            dataset_name=evaluation["data_set"],
            dataset_split=evaluation["split"],
            metric_type=metric.split(",")[0],
            metric_name=(
                f"{metric}{told_counts(evaluation, metric)} "
                f"({evaluation['protocol']} protocol{told_options(evaluation)}, mean over cases and classes)"
            ),
            metric_value=value,
        )
        for evaluation in metadata.get("evaluations", [])
        for metric, value in evaluation["scores"].items()
    ]
    licence = {"license": "apache-2.0"}
    if names:
        licence = {"license": "other", "license_name": " and ".join(names), "license_link": "docs/data_license.txt"}
    front = ModelCardData(
        model_name=name,
        library_name="monai",
        pipeline_tag=TASK,
        tags=["monai", TASK],
        metrics=sorted({result.metric_type for result in results}) or None,
        eval_results=results or None,
        **licence,
    )
    return f"---\n{front.to_yaml()}\n---\n\n{document}"
