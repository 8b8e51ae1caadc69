"""What the record of a training says of its weights: how many classes, what they are called, what the network saw."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow.data import json_path, parse_labels, read_dataset_json
from networks.workflow.files import file_hash, parse_json

logger = logging.getLogger(__name__)


def count_classes(dataset_dir: str) -> int:
    """The classes with background that ``dataset.json`` names.

    Raises:
        UserError: there is no ``dataset.json``, it is malformed, or names none.
    """
    names = parse_labels(read_dataset_json(dataset_dir).get("labels"), json_path(dataset_dir))
    if len(names) < 2:
        raise UserError(
            f'{json_path(dataset_dir)} names no classes in "labels"; give --out_channels the number of classes with '
            "background."
        )
    return len(names)


def trained_classes(checkpoint: str | Path) -> int:
    """The classes with background of the training that wrote a checkpoint, from the record beside it.

    Args:
        checkpoint: ``model.pt``, or another file of the same training in its folder.

    Raises:
        UserError: there is no record, or it does not say.
    """
    record = _record(checkpoint)
    if record is None:
        raise UserError(
            f"{checkpoint} has no model.json beside it that says how many classes it has; give --out_channels."
        )
    try:
        return int(parse_json(record.read_text(encoding="utf-8"), record)["ids"]["out_channels"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} does not say how many classes {checkpoint} has; give --out_channels.") from error


def trained_id(checkpoint: str | Path, name: str, otherwise: Any) -> Any:
    """The value that an id had in the training that wrote a checkpoint, from the record beside it.

    Args:
        checkpoint: as for :func:`trained_classes`.
        name: of the id.
        otherwise: the value where there is no record, or nothing of this id in it.

    Raises:
        UserError: the record is not readable.
    """
    return _part(checkpoint, "ids").get(name, otherwise)


def trained_names(checkpoint: str | Path, out_channels: int | None = None) -> list[str] | None:
    """Names of the classes by number in the record of the training that wrote a checkpoint.

    Args:
        checkpoint: as for :func:`trained_classes`.
        out_channels: how many there must be.

    Returns:
        None where there is no record, or it does not name so many.

    Raises:
        UserError: the record is not readable.
    """
    labels = _part(checkpoint, "data_set").get("labels") or {}
    names = [str(labels[number]) for number in map(str, range(len(labels))) if number in labels]
    return names if names and len(names) == len(labels) and out_channels in (None, len(names)) else None


def warn_of_other_input(
    checkpoint: str | Path, ids: Mapping[str, Any], bundle_root: str | Path = "."
) -> dict[str, Any]:
    """Warn where the training that wrote a checkpoint had its images prepared in another way than they are now.

    Nothing is said where there is no record, or where it is of other weights.

    Args:
        checkpoint: as for :func:`trained_classes`.
        ids: of the config, by name, which shape the network's input; ``preset`` is one of them.
        bundle_root: folder of the bundle, or of what it writes: then the bundle may be where the checkpoint lies. A
            bundle without the training's preset was packed and has it in its configs.

    Returns:
        Those of ``ids`` that the training had otherwise, as JSON has them; none where nothing is said.

    Raises:
        UserError: the record is not readable.
    """
    trained = _part(checkpoint, "ids")
    roots = (Path(bundle_root), Path(checkpoint).absolute().parent.parent)
    configs = next((root / "configs" for root in roots if (root / "configs" / "metadata.json").is_file()), None)
    if configs and trained.get("preset") and not (configs / "presets" / f"{trained['preset']}.json").is_file():
        del trained["preset"]
    other = [key for key in ids if key in trained and _plain(trained[key]) != _plain(ids[key])]
    if not other or _of_other_weights(Path(checkpoint)):
        return {}
    had, has = (", ".join(f"{key} {json.dumps(_plain(of[key]))}" for key in other) for of in (trained, ids))
    logger.warning(
        "%s was trained with %s, and this run has %s: the network sees images that were prepared in another way than "
        "it knows. Give the training's preset and options, unless this is meant.",
        checkpoint,
        had,
        has,
    )
    return {key: _plain(ids[key]) for key in other}


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON: sequences are lists."""
    return json.loads(json.dumps(value, default=list))


def _of_other_weights(checkpoint: Path) -> bool:
    record = _record(checkpoint)
    if record is None or not checkpoint.is_file():
        return True
    known = parse_json(record.read_text(encoding="utf-8"), record).get("checkpoint")
    return record.stem == checkpoint.stem and known not in (None, file_hash(checkpoint))


def _part(checkpoint: str | Path, key: str) -> dict[str, Any]:
    record = _record(checkpoint)
    if record is None:
        return {}
    try:
        return dict(parse_json(record.read_text(encoding="utf-8"), record).get(key) or {})
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{record} is not the record of a training; restore it, or train again.") from error


def _record(checkpoint: str | Path) -> Path | None:
    path = Path(checkpoint)
    return next((file for file in (path.with_suffix(".json"), path.with_name("model.json")) if file.is_file()), None)
