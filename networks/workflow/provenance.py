"""Where weights come from and how good they are: small JSON files that the runs themselves write beside their results.

``models/model.json`` says what ``models/model.pt`` was trained on and with which options, ``eval/evaluation.json`` how
the weights scored. Both name the weights by SHA-256, so that neither is ever taken for those of other weights.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from networks.workflow.data import Pair

logger = logging.getLogger(__name__)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def describe_cases(dataset_dir: str, **lists: Sequence[Pair]) -> dict[str, Any]:
    """Name, licence, class names and numbers of cases of what a run read, without any path of this computer.

    ``dataset.json`` is believed only if every case lies in its folder: annotation servers replace the lists of a
    config and leave its ``dataset_dir`` as it was.

    Args:
        dataset_dir: folder of the data contract.
        **lists: the run's cases by name of the list.
    """
    # a list may repeat its cases for several crops of each
    distinct = {name: {Path(case["image"]).resolve() for case in cases} for name, cases in lists.items()}
    images, numbers = set().union(*distinct.values()), {name: len(cases) for name, cases in distinct.items()}
    root = Path(dataset_dir).resolve()
    index = root / "dataset.json"
    if not index.is_file() or not all(root in image.parents for image in images):
        common = Path(os.path.commonpath([image.parent for image in images])) if images else root
        return {"name": common.name, **numbers}
    content = json.loads(index.read_text(encoding="utf-8"))
    kept = {key: content[key] for key in ("description", "licence", "labels") if content.get(key)}
    return {"name": content.get("name") or root.name, **kept, **numbers}


def write_training_record(
    checkpoint: str | Path, engine: Engine, ids: Mapping[str, Any], data_set: Mapping[str, Any]
) -> None:
    """Say beside a checkpoint (``model.pt`` -> ``model.json``) how it came about.

    Args:
        checkpoint: the file that was just written.
        engine: the validation's evaluator, whose best epoch the file holds.
        ids: the config's ids that shape the network and its input.
        data_set: see :func:`describe_cases`.
    """
    record = {
        "checkpoint": file_hash(checkpoint),
        "data_set": dict(data_set),
        "ids": dict(ids),
        "epoch": engine.state.epoch,
        engine.state.key_metric_name: _number(engine.state.metrics[engine.state.key_metric_name]),
        "versions": {"monai": monai.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    write_json(Path(checkpoint).with_suffix(".json"), record)


class EvaluationRecord:
    """After an evaluation write what was scored: data set, split, number of cases, weights, and the mean scores.

    Attach it after whatever else adds metrics to the evaluator.

    Args:
        path: JSON file to write.
        checkpoint: file of the evaluated weights.
        dataset_dir: folder of the data contract.
        data: the evaluated cases.
        **ids: further entries, such as the split.
    """

    def __init__(self, path: str, checkpoint: str, dataset_dir: str, data: Sequence[Pair], **ids: Any) -> None:
        self.path, self.checkpoint, self.dataset_dir, self.data, self.ids = path, checkpoint, dataset_dir, data, ids
        self._scored: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose loader gives images with their file names."""
        engine.add_event_handler(Events.STARTED, lambda _: self._scored.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self)

    def _count(self, engine: Engine) -> None:
        self._scored += [str(item["image"].meta["filename_or_obj"]) for item in engine.state.batch]

    def __call__(self, engine: Engine) -> None:
        """Write the file; every process calls it, the first writes."""
        scored = set(string_list_all_gather(self._scored) if idist.get_world_size() > 1 else self._scored)
        if idist.get_rank() > 0:
            return
        record = {
            "checkpoint": file_hash(self.checkpoint),
            "data_set": describe_cases(self.dataset_dir, scored=self.data)["name"],
            **self.ids,
            "cases": len(scored),
            "scores": {name: _number(value) for name, value in sorted(engine.state.metrics.items())},
        }
        write_json(self.path, record)
        logger.info("Wrote the evaluation of %s to %s.", self.checkpoint, self.path)


def _number(value: float) -> float | str | None:
    """A score as JSON has it: null for none, "inf" for a distance to an empty set."""
    value = float(value)
    return None if math.isnan(value) else "inf" if math.isinf(value) else round(value, 4)
