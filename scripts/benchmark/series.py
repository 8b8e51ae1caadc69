"""A series of measurements, which goes on where it was stopped."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from networks.errors import UserError
from scripts.benchmark.cases import CASES, Case
from scripts.benchmark.measure import DTYPES, PASSES, Settings, in_fresh_process, machine, measure
from scripts.benchmark.records import Record, default_path, read_records, store


def benchmark(
    names: str | Sequence[str] | None = None,
    device: str = Settings.device,
    dtype: str = Settings.dtype,
    channels_last: bool = Settings.channels_last,
    compile: bool = Settings.compile,
    batch_size: int = Settings.batch_size,
    img_size: int = Settings.img_size,
    threads: int | None = None,
    repeats: int = Settings.repeats,
    output: str | None = None,
    fresh: bool = False,
) -> None:
    """Do what the command ``networks`` of this tool describes, with the same arguments."""
    cases = select(names)
    threads = torch.get_num_threads() if threads is None else threads
    settings = Settings(device, dtype, channels_last, compile, batch_size, img_size, threads, repeats)
    check(settings)
    path = default_path(settings) if output is None else Path(str(output))
    facts = {"settings": asdict(settings), "machine": machine(device)}
    failed = []
    for number, case in enumerate(cases, 1):
        progress = f"{number}/{len(cases)} {case.name}"
        if not fresh and any(is_of(record, case, facts) for record in read_records(path)):
            print(f"{progress}: already in {path}")
            continue
        print(f"{progress} ...", flush=True)
        record = {"case": case.name, **facts, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        record |= in_fresh_process(measure, case, settings)
        store(path, record)
        if "error" in record:
            failed.append(case.name)
        print(f"  {summary(record)}", flush=True)
    records = [record for record in read_records(path) if any(is_of(record, case, facts) for case in cases)]
    if records:
        from scripts.benchmark.tables import speed_table  # the tables stand above the measurements

        print(f"\n{speed_table(records)}")
    print(f"\nThe records are in {path}.")
    if failed:
        sys.exit(f"Error: {', '.join(failed)} could not be measured; the records tell why.")


def select(names: str | Sequence[str] | None) -> list[Case]:
    """Cases by name.

    Raises:
        UserError: there is no such case.
    """
    if names is None:
        return list(CASES)
    wanted = names.split(",") if isinstance(names, str) else [str(name) for name in names]
    known = {case.name: case for case in CASES}
    for name in wanted:
        if name not in known:
            raise UserError(f"The network {name!r} is unknown; choose from {', '.join(known)}.")
    return [known[name] for name in wanted]


def check(settings: Settings) -> None:
    """Refuse settings that no network can be measured with.

    Raises:
        UserError: names the setting.
    """
    if settings.device not in ("cpu", "cuda"):
        raise UserError(f"--device {settings.device} is unknown; choose cpu or cuda.")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU that PyTorch can use, and there is none; choose cpu.")
    if settings.dtype not in DTYPES:
        raise UserError(f"--dtype {settings.dtype} is unknown; choose {' or '.join(DTYPES)}.")
    for name in ("batch_size", "img_size", "threads", "repeats"):
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"--{name} {value} is not possible; give a whole number of at least 1.")


def is_of(record: Record, case: Case, facts: dict[str, Any]) -> bool:
    """Whether a record is a measurement, not an error, of a case with these settings on this machine."""
    return record["case"] == case.name and "error" not in record and all(record[key] == facts[key] for key in facts)


def summary(record: Record) -> str:
    """One line about a record."""
    if "error" in record:
        return record["error"]
    parts = [
        f"{name} {record[name]['seconds']['median']:.3f} s, {record[name]['ratio']['median']:.2f} of resnet50's"
        for name in PASSES
    ]
    return "; ".join(parts)
