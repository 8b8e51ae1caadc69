"""How many classes a network has and what they are called, where that is left to the data."""

from pathlib import Path

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
    path = Path(checkpoint)
    record = _record(path)
    if record is None:
        raise UserError(f"{path} has no model.json beside it that says how many classes it has; give --out_channels.")
    try:
        return int(parse_json(record.read_text(encoding="utf-8"), record)["ids"]["out_channels"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} does not say how many classes {path} has; give --out_channels.") from error


def trained_names(checkpoint: str | Path, out_channels: int) -> list[str] | None:
    """Names of the classes, background first, in the record of the training that wrote a checkpoint.

    Args:
        checkpoint: as for :func:`trained_classes`.
        out_channels: number of classes.

    Returns:
        None where there is no record, or it does not name so many.

    Raises:
        UserError: the record is malformed.
    """
    record = _record(Path(checkpoint))
    if record is None:
        return None
    try:
        content = parse_json(record.read_text(encoding="utf-8"), record)
    except ValueError as error:
        raise UserError(f"{record} is not valid JSON ({error}); remove it or train again.") from error
    data_set = content.get("data_set") if isinstance(content, dict) else None
    names = parse_labels(data_set.get("labels"), record) if isinstance(data_set, dict) else []
    return names if len(names) == out_channels else None


def _record(checkpoint: Path) -> Path | None:
    """The record of a training beside its checkpoint."""
    files = (checkpoint.with_suffix(".json"), checkpoint.with_name("model.json"))
    return next((file for file in files if file.is_file()), None)
