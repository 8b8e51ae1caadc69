"""How many classes a network has and what they are called, where that is left to the data."""

from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow.data import json_path, parse_labels, read_dataset_json
from networks.workflow.files import parse_json


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
