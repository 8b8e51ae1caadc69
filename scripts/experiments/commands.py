"""Running a suite, showing how far it is, and collecting its results."""

import datetime
import queue
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from networks.errors import UserError
from networks.workflow.records import write_records
from scripts.experiments.collected import collected, is_of, result_files, result_of, write_runs
from scripts.experiments.runs import (
    CHANGED,
    DONE,
    FAILED,
    RUNNING,
    SETTINGS,
    STOPPED,
    TRAIN,
    WAITING,
    Children,
    RunFolder,
)
from scripts.experiments.suite import load_suite

RUNS_DIR = "runs"
RESULTS_DIR = "results"


def run(suite: str, runs_dir: str = RUNS_DIR, gpus: Sequence[int] | int | None = None, only: str = "") -> None:
    """Do what the command ``run`` of this tool describes, with the same arguments."""
    read = load_suite(suite)
    chosen = [r for r in read.runs if only in r.name]
    if not chosen:
        raise UserError(f"No run of {suite} has {only!r} in its name; names are such as {read.runs[0].name}.")
    read.check_data(chosen)
    folders = [RunFolder(r, runs_dir) for r in chosen]
    changed = [folder for folder in folders if folder.state() == CHANGED]
    if changed:
        what, path = changed[0].changes()[0], changed[0].path
        raise UserError(
            f"{path} was started with other settings than {suite} has now; move that folder away, or give the recipe, "
            "network or data set in the suite another label."
            if what == SETTINGS
            else f"{path} was started with another {what} than is there now; restore that file, or move the folder "
            "away to do the run anew."
        )
    read.check_sources(folder.run for folder in folders if TRAIN not in folder.record().get("done", {}))
    devices: list[int | None] = [None] if gpus is None else [gpus] if isinstance(gpus, int) else list(gpus)
    todo: queue.SimpleQueue[RunFolder] = queue.SimpleQueue()
    for folder in folders:
        if folder.state() != DONE:
            todo.put(folder)
    print(f"{read.name}: {len(folders)} runs, {len(folders) - todo.qsize()} of them done.", flush=True)
    failed: list[RunFolder] = []
    children = Children()
    # this thread only waits, so that no signal meets it between starting a subprocess and knowing of it
    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for worker in [pool.submit(_work, todo, device, failed, children) for device in devices]:
                # a signal that comes just before a wait is seen only after it, so no wait is long
                while not worker.done():
                    wait([worker], timeout=1)
                worker.result()
        except BaseException:
            children.end()
            raise
    if failed:
        raise UserError(
            f"{len(failed)} of {len(folders)} runs failed, such as {failed[0].path.name} "
            f"({failed[0].record()['error']}); see log.txt in their folders, then run the suite again."
        )


def show(suite: str, runs_dir: str = RUNS_DIR) -> None:
    """Do what the command ``show`` of this tool describes, with the same arguments."""
    read = load_suite(suite)
    folders = [RunFolder(r, runs_dir) for r in read.runs]
    states = [folder.state() for folder in folders]
    print(f"{read.name}: {read.description}")
    for folder, state in zip(folders, states, strict=True):
        epochs, most = folder.epochs()
        record = folder.record()
        text = f"{state:8} {folder.run.name}"
        if state in (RUNNING, STOPPED, FAILED):
            text += f"  {record['step']}, epoch {epochs} of at most {most}"
        if state == DONE:
            others = folder.other_files(record)
            text += f"  {epochs} epochs" + (f", by another {' and '.join(others)} than is here" if others else "")
        if state == FAILED:
            text += f"  {record['error']}"
        print(text)
    counts = {state: states.count(state) for state in (DONE, RUNNING, FAILED, STOPPED, CHANGED, WAITING)}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count), end="; ")
    left = [f for f, state in zip(folders, states, strict=True) if state not in (DONE, CHANGED)]
    seconds = [_seconds_left(f, folders) for f in left]
    if None in seconds:
        print("how long the rest will take is known once one run of it is done.")
    else:
        print(f"about {datetime.timedelta(seconds=round(sum(seconds)))} left, one after the other.")


def collect(suite: str, runs_dir: str = RUNS_DIR, results_dir: str = RESULTS_DIR) -> None:
    """Do what the command ``collect`` of this tool describes, with the same arguments."""
    read = load_suite(suite)
    scores_file, runs_file = result_files(results_dir, read.name)
    before = collected(scores_file, runs_file)
    lines, scores, done = [], [], 0
    for folder in (RunFolder(r, runs_dir) for r in read.runs):
        old = before.pop(folder.run.name, None)
        if folder.state() == DONE:
            done += 1
            line, records = result_of(folder)
        elif old and is_of(old[0], folder.run):
            line, records = old
        else:
            continue
        lines.append(line)
        scores += records
    if not done:
        raise UserError(f"No run of {suite} is done in {runs_dir}; see 'experiments show {suite}'.")
    write_records(scores_file, scores)
    write_runs(runs_file, lines)
    kept = f", kept {len(lines) - done} collected before" if len(lines) > done else ""
    print(f"Wrote {len(scores)} scores to {scores_file}: {done} of {len(read.runs)} runs are done here{kept}.")


def _work(todo: "queue.SimpleQueue[RunFolder]", gpu: int | None, failed: list[RunFolder], children: Children) -> None:
    environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
    while True:
        try:
            folder = todo.get_nowait()
        except queue.Empty:
            return
        print(f"{time.strftime('%H:%M:%S')} {folder.run.name} starts.", flush=True)
        state = folder.execute(environment, children)
        if state == FAILED:
            failed.append(folder)
        if state == STOPPED:
            return
        said = "is run by another process" if state == RUNNING else f"is {state}" if state == DONE else state
        print(f"{time.strftime('%H:%M:%S')} {folder.run.name} {said}.", flush=True)


def _seconds_left(folder: RunFolder, folders: list[RunFolder]) -> float | None:
    """As long as the runs took that are most like it, less what is done of it."""
    done = [f for f in folders if f.seconds() is not None]
    run = folder.run
    alike = [
        [f for f in done if f.run.network == run.network and f.run.data_set == run.data_set],
        [f for f in done if f.run.network == run.network],
        done,
    ]
    chosen = next((group for group in alike if group), None)
    if chosen is None:
        return None
    whole = statistics.mean(f.seconds() for f in chosen)
    epochs, most = folder.epochs()
    begun = TRAIN not in folder.record().get("done", {})
    return whole * (1 - min(epochs / most, 1)) if begun else 0.0
