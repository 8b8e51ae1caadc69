"""How many classes a network has, where a preset leaves that to the data."""

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
    record = next((file for file in (path.with_suffix(".json"), path.with_name("model.json")) if file.is_file()), None)
    if record is None:
        raise UserError(f"{path} has no model.json beside it that says how many classes it has; give --out_channels.")
    try:
        return int(parse_json(record.read_text(encoding="utf-8"), record)["ids"]["out_channels"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} does not say how many classes {path} has; give --out_channels.") from error
