"""Files of measurements: JSON Lines with one record per network, settings and machine.

And what the authors' networks cost, to compare with.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow.files import atomic
from scripts.benchmark.cases import CASES
from scripts.benchmark.measure import Settings

RESULTS = Path(__file__).resolve().parent.parent.parent / "results"
Record = dict[str, Any]


def default_path(settings: Settings) -> Path:
    """The results file for these settings, below the current folder: the device, then whatever is not as usual."""
    parts = ["benchmark", settings.device]
    for option in fields(Settings):
        value = getattr(settings, option.name)
        if option.name not in ("device", "threads", "repeats") and value != option.default:
            parts.append(
                option.name if value is True else f"{option.name}{value}" if option.type is int else str(value)
            )
    return Path("results") / f"{'_'.join(parts)}.jsonl"


def read_records(path: Path) -> list[Record]:
    """The records of a file; none if it does not exist.

    Raises:
        UserError: a line is no record.
    """
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            _identity(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"Line {number} of {path} is no measurement of this tool; remove the line or give another --output."
            ) from error
        records.append(record)
    return records


def store(path: Path, record: Record) -> None:
    """Add a record in place of an older one of the same network, settings and machine; the file is always whole."""
    store_lines(path, read_records(path), [record], _identity)


def store_lines(
    path: Path, earlier: Sequence[Record], new: Sequence[Record], identity: Callable[[Record], Any]
) -> None:
    """Write earlier records, and new ones in place of those of the same identity; the file is always whole."""
    replaced = [identity(record) for record in new]
    lines = [json.dumps(record) for record in [*(r for r in earlier if identity(r) not in replaced), *new]]
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def latest(records: list[Record]) -> dict[str, Record]:
    """By name of the case, in the order of `CASES`, the last record that is no error."""
    found = {record["case"]: record for record in records if "error" not in record}
    return {case.name: found[case.name] for case in CASES if case.name in found}


def authors_cost() -> dict[str, Any]:
    """Parameters and multiply-accumulates of the authors' networks."""
    return _stored("authors_cost.json")


def authors_ratio() -> dict[str, Any]:
    """How many times longer the authors' implementations take than these: the protocol, and numbers by case."""
    return _stored("authors_ratio.json")


def _stored(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _identity(record: Record) -> tuple[Any, ...]:
    """What makes a record the successor of another: all but the repeats."""
    settings = {key: value for key, value in record["settings"].items() if key != "repeats"}
    return record["case"], settings, record["machine"]
