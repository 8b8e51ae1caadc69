"""Results as JSON Lines: one record per case, class, metric and protocol."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from networks.errors import UserError
from networks.workflow.files import atomic

if TYPE_CHECKING:  # scores are read without MONAI, which takes seconds to import
    from networks.workflow.scores import Score

SCHEMA = 1
# every record has these; further keys are allowed and kept
KEYS = {
    "schema": "version of this layout: 1",
    "model": "name of what is scored; a bundle's own by default",
    "dataset": "`name` of `dataset.json`, or the data set's folder",
    "split": "list of `dataset.json`",
    "case": "path of the image in the data set",
    "protocol": '"strict" or "paper"',
    "prediction": 'what was scored: "labels" or "probabilities"',
    "metric": 'such as "dice"',
    "unit": '"mm", "pixel" or "voxel" of a distance, else empty',
    "class": "name of the class; null for a score over all classes",
    "value": 'a number; null where neither truth nor prediction has the class; "inf" for a distance to an empty set',
    "seed": "`seed` of the run, or null",
    "checkpoint": "SHA-256 of the weights' file, or null",
}
Record = dict[str, Any]


def make_records(scores: "Iterable[Score]", class_names: Sequence[str], **ids: Any) -> list[Record]:
    """Records of one case.

    Args:
        scores: of the case.
        class_names: names of the classes, background first.
        **ids: the values of the keys that are the same for all of them.
    """
    return [
        {
            **ids,
            "schema": SCHEMA,
            "metric": score.metric,
            "unit": score.unit,
            "class": None if score.class_number is None else class_names[score.class_number],
            "value": json_number(score.value),
        }
        for score in scores
    ]


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write one record per line, the documented keys first, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            ordered = {key: record[key] for key in KEYS} | record
            file.write(json.dumps(ordered, ensure_ascii=False, allow_nan=False) + "\n")


def read_records(path: str | Path) -> list[Record]:
    """Read what :func:`write_records` wrote.

    Raises:
        UserError: no such file, empty, or a line is not a record; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a file of results that an evaluation wrote.")
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            problem = ""
            try:
                record = json.loads(line)
            except ValueError as error:
                problem = str(error)
            else:
                problem = _problem(record)
            if problem:
                raise UserError(f"Line {number} of {path} is not a record of results: {problem}.")
            records.append(record)
    if not records:
        raise UserError(f"{path} is empty; expected one record of results per line.")
    return records


def json_number(value: float) -> float | str | None:
    """A score as JSON has it: null for none, "inf" for a distance to an empty set."""
    return None if math.isnan(value) else "inf" if math.isinf(value) else value


def number(record: Record) -> float:
    """The record's value, NaN where it is missing."""
    return math.nan if record["value"] is None else float(record["value"])


def _problem(record: object) -> str:
    if not isinstance(record, dict):
        return "expected an object"
    missing = [key for key in KEYS if key not in record]
    if missing:
        return f"it has no {', '.join(missing)}"
    if record["schema"] != SCHEMA:
        return f"its schema is {record['schema']}, this version reads {SCHEMA}"
    value = record["value"]
    if value is None or value == "inf" or (isinstance(value, int | float) and not isinstance(value, bool)):
        return ""
    return f'its value is {value!r}; expected a number, null or "inf"'
