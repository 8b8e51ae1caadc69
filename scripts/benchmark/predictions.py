"""Whole predictions from the shell, with where their time goes."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.checks import loader, reader_of
from networks.workflow.files import parse_json
from scripts.benchmark.measure import machine
from scripts.benchmark.records import Record, store_lines
from scripts.predict.cases import SUFFIXES
from scripts.predict.predicting import RECORD, TIMES

PHASES = ("start_up", "reading", "network", "writing")


def benchmark_predictions(
    input: str,
    runtimes: str | Sequence[str],
    repeats: int,
    threads: int | None,
    output: str,
    name: str | None,
    options: Mapping[str, Any],
) -> None:
    """Do what the command ``predictions`` of this tool describes, with the same arguments.

    Raises:
        UserError: a prediction failed.
    """
    wanted = runtimes.split(",") if isinstance(runtimes, str) else list(runtimes)
    threads = torch.get_num_threads() if threads is None else int(threads)
    options = {"device": "cpu", **options}
    facts = {
        "name": name or Path(str(input)).name,
        "threads": threads,
        "repeats": int(repeats),
        "machine": machine(str(options["device"])),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    rounds: dict[str, list[Record]] = {runtime: [] for runtime in wanted}
    with tempfile.TemporaryDirectory(prefix="predictions-") as folder:
        outputs = {runtime: Path(folder) / runtime for runtime in wanted}
        for number in tqdm(range(int(repeats)), desc="Rounds"):
            for runtime in wanted:
                target = outputs[runtime] / str(number)
                rounds[runtime].append(_prediction(str(input), target, {**options, "runtime": runtime}, threads))
        labels = {runtime: _labels(path / "0") for runtime, path in outputs.items()}
        made = parse_json((outputs[wanted[0]] / "0" / RECORD).read_text("utf-8"), outputs[wanted[0]] / "0" / RECORD)
    first = labels[wanted[0]]
    records = [
        {
            **facts,
            "bundle": made["bundle"],
            "weights": made["weights"],
            "runtime": runtime,
            "shapes": [list(array.shape) for array in first],
            **{key: statistics.median(one[key] for one in found) for key in found[0]},
            "same_labels": sum(int((a == b).sum()) for a, b in zip(first, labels[runtime], strict=True))
            / sum(array.size for array in first),
        }
        for runtime, found in rounds.items()
    ]
    path = Path(output)
    earlier = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    store_lines(path, earlier, records, _identity)
    for record in records:
        parts = ", ".join(f"{phase.replace('_', '-')} {record[phase]:.1f} s" for phase in PHASES)
        print(
            f"{record['runtime']}: {record['wall']:.1f} s ({parts}), {record['peak_memory'] / 1e9:.2f} GB, "
            f"{100 * record['same_labels']:.3f} % of the labels of {wanted[0]}"
        )
    print(f"The records are in {output}.")


def _prediction(input: str, target: Path, options: Mapping[str, Any], threads: int) -> Record:
    """Seconds and bytes of one prediction."""
    command = [sys.executable, "-m", "scripts.predict", input, str(target), "--times", "true"]
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, _on_cores(threads):
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            lines = [line for line in said.read().splitlines() if line.strip()]
            raise UserError(f"'{' '.join(command)}' failed: {lines[-1] if lines else process.returncode}")
    times = parse_json((target / TIMES).read_text("utf-8"), target / TIMES).values()
    phases = {phase: sum(one[phase] for one in times) for phase in PHASES[1:]}
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "start_up": wall - sum(phases.values()),
        **phases,
        "peak_memory": 1024 * usage.ru_maxrss,
    }


@contextlib.contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """What is started has so many cores, so that no case is written beside the next one's network.

    The phases would not add up otherwise.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _labels(folder: Path) -> list[np.ndarray]:
    files = sorted(path for suffix in SUFFIXES.values() for path in folder.rglob(f"*_seg{suffix}"))
    return [np.asarray(loader(reader_of(str(file), is_label=True))(file)) for file in files]


def _identity(record: Record) -> tuple[str, str, int, str]:
    return record["name"], record["runtime"], record["threads"], json.dumps(record["machine"])
