"""Where weights come from: a small JSON file that the training itself writes beside them.

``models/model.json`` says what ``models/model.pt`` was trained on and with which options. It names the weights by
SHA-256, as the records of an evaluation do; what packs, ships or compresses weights refuses a record of other ones.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from ignite.engine import Engine

from networks.workflow.data import Pair, parse_labels, read_dataset_json
from networks.workflow.files import file_hash, lexical, lies_in, write_json
from networks.workflow.records import json_number
from networks.workflow.state import state_of


def describe_cases(dataset_dir: str, **lists: Sequence[Pair]) -> dict[str, Any]:
    """Name, licence, class names and numbers of cases of what a run read, without any path of this computer.

    ``dataset.json`` is believed only if every case lies in its folder, be it by a link: annotation servers replace the
    lists of a config and leave its ``dataset_dir`` as it was.

    Args:
        dataset_dir: folder of the data contract.
        **lists: the run's cases by name of the list.
    """
    distinct = {name: {lexical(case["image"]) for case in cases} for name, cases in lists.items()}
    images, numbers = set().union(*distinct.values()), {name: len(cases) for name, cases in distinct.items()}
    root = lexical(dataset_dir)
    index = root / "dataset.json"
    if not index.is_file() or not all(lies_in(image, root) for image in images):
        common = Path(os.path.commonpath([image.resolve().parent for image in images])) if images else root
        return {"name": common.name, **numbers}
    content = read_dataset_json(str(root))
    kept = {key: content[key] for key in ("description", "licence", "intensity") if content.get(key)}
    names = parse_labels(content.get("labels"), index)
    kept |= {"labels": {str(number): name for number, name in enumerate(names)}} if names else {}
    return {"name": content.get("name") or root.name, **kept, **numbers}


def describe_start(pretrained: str | Path | Sequence[str | Path] | None, seed: int) -> dict[str, Any]:
    """The seed of a training and the weights that it started from, files by their names and checksums.

    Args:
        pretrained: as of :func:`networks.pretrained.load_all`, or nothing.
        seed: of the run.
    """
    sources = [pretrained] if isinstance(pretrained, str | Path) else pretrained or []
    started = []
    for source in map(Path, sources):
        checksum = {"sha256": file_hash(source)} if source.is_file() else {}
        started.append({"name": source.name if checksum else str(source), **checksum})
    return {"seed": seed, "pretrained": started}


def start_of(record: Mapping[str, Any]) -> str:
    """What a training's record says of the weights that it started from, as the end of a sentence; maybe nothing."""
    if "pretrained" not in record:  # of an earlier version
        return ""
    names = " and ".join(source["name"] for source in record["pretrained"])
    return f", starting from {names or 'random weights'}"


def write_training_record(
    checkpoint: str | Path,
    engine: Engine,
    ids: Mapping[str, Any],
    data_set: Mapping[str, Any],
    start: Mapping[str, Any],
) -> None:
    """Say beside a checkpoint (``model.pt`` -> ``model.json``) how it came about.

    Args:
        checkpoint: the file that was just written.
        engine: the validation's evaluator, whose best epoch the file holds.
        ids: the config's ids that shape the network and its input.
        data_set: see :func:`describe_cases`.
        start: see :func:`describe_start`.
    """
    name = state_of(engine).key_metric_name
    record = {
        "checkpoint": file_hash(checkpoint),
        "data_set": dict(data_set),
        "ids": dict(ids),
        **start,
        "epoch": engine.state.epoch,
        name: json_number(round(float(engine.state.metrics[name]), 4)),
        "versions": {"monai": monai.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    write_json(Path(checkpoint).with_suffix(".json"), record)
