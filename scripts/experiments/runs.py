"""One run of a suite in its folder: what is done of it, and doing the rest in subprocesses.

``run.json`` in the folder says what was asked for, the checksums of the files that this names, and which steps are
done. A lock, which the subprocess inherits, is held while a step runs: whatever is killed, nobody else starts the same
step as long as its process lives.
"""

import contextlib
import csv
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from networks.workflow.data import json_path
from networks.workflow.files import file_hash, write_json
from networks.workflow.labelled_pictures import TABLE
from scripts.experiments.suite import Run

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 20.0  # seconds that a run has for an orderly end
TRAIN, PREDICT = "train", "predict"
SETTINGS = "settings"
DONE, RUNNING, FAILED, STOPPED, WAITING, CHANGED = "done", "running", "failed", "stopped", "waiting", "changed"


class Children:
    """The subprocesses of a suite's runs, started by several threads and ended by one: none starts after that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen] = set()
        self._ended = False

    def run(self, command: list[str], **options: Any) -> int | None:
        """The exit code of a command, or None if the subprocesses were ended before it or with it.

        Args:
            command: with its arguments.
            **options: of ``subprocess.Popen``.
        """
        with self._lock:
            if self._ended:
                return None
            process = subprocess.Popen(command, **options)
            self._live.add(process)
        code = process.wait()
        with self._lock:
            self._live.discard(process)
            return None if self._ended else code

    def end(self) -> None:
        """End all of them and wait until they are gone; what does not end by itself is killed, as at a crash."""
        with self._lock:
            self._ended = True
            live = list(self._live)
            for process in live:
                process.terminate()
        deadline = time.monotonic() + PATIENCE
        for process in live:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class RunFolder:
    """The folder of one run.

    Args:
        run: what is asked for.
        runs_dir: folder of all suites' runs.
    """

    def __init__(self, run: Run, runs_dir: str | Path) -> None:
        self.run = run
        self.path = Path(runs_dir) / run.suite / run.name

    @property
    def steps(self) -> list[str]:
        """Names of the steps, in order."""
        scores = [f"{split} {protocol}" for split in self.run.splits for protocol in self.run.protocols]
        # the evaluation of a classifier has written the answer to every picture
        return [TRAIN, *scores] if self.run.classifies else [TRAIN, *scores, PREDICT]

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says, empty before the first step."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    def state(self) -> str:
        """One of the six states; "stopped" is a run that was killed and can be resumed."""
        record = self.record()
        if not record:
            return WAITING
        if self.changes(record):
            return CHANGED
        if self._is_finished(record):
            return DONE
        if self._is_locked():
            return RUNNING
        return FAILED if record["error"] else STOPPED

    def digests(self) -> dict[str, str]:
        """SHA-256 of the files whose names, but not contents, are in what was asked for; those that are here.

        They are the training's configs and the data set's overlays for evaluations, its list or table of cases, and
        the files that it starts from.
        """
        run = self.run
        overlays = [f"presets/{run.preset}", *(f"presets/{run.preset}_{p}" for p in run.protocols if p != "strict")]
        files = {f"{name}.json": self._config_path(name) for name in ("train", *overlays)}
        root = Path(run.dataset_dir)
        cases = json_path(run.dataset_dir) if not run.classifies else root if root.is_file() else root / TABLE
        files[cases.name] = cases
        names = [Path(source).name for source in run.sources]
        for number, (name, source) in enumerate(zip(names, run.sources, strict=True), start=1):
            files[name if names.count(name) == 1 else f"{name} ({number})"] = Path(source)
        return {name: _digest(path, path.stat().st_mtime_ns) for name, path in files.items() if path.is_file()}

    def changes(self, record: dict[str, Any] | None = None) -> list[str]:
        """What is other than at the start, so that the run cannot go on: "settings" of the suite, or names of files.

        Files do not matter to a run that is finished: it is what its digests say.
        """
        record = self.record() if record is None else record
        if record and record["spec"] != self.run.spec():
            return [SETTINGS]
        return [] if self._is_finished(record) else self.other_files(record)

    def other_files(self, record: dict[str, Any] | None = None) -> list[str]:
        """Names of files that are others now than when the run was started.

        A run of an earlier version has no digests, and a file that is not here is not compared.
        """
        before = (self.record() if record is None else record).get("digests")
        return [name for name, digest in self.digests().items() if before.get(name, digest) != digest] if before else []

    def _is_finished(self, record: dict[str, Any]) -> bool:
        return all(step in record.get("done", {}) for step in self.steps)

    def epochs(self) -> tuple[int, int]:
        """Epochs that are trained, and the most that will be (patience may end a training before)."""
        total = self.run.options.get("epochs") or self._preset()["epochs"]
        curve = self.curve()
        return int(curve[-1]["epoch"]) if curve else 0, int(total)

    def curve(self) -> list[dict[str, str]]:
        """Rows of the training's ``metrics.csv``."""
        path = self.path / "eval" / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def seconds(self) -> float | None:
        """Time that the run took; None where that is not known, because it was killed and resumed or is not done."""
        done = self.record().get("done", {})
        times = [done.get(step) for step in self.steps]
        return None if None in times else sum(times)

    def score_files(self) -> list[Path]:
        """Records that the evaluations wrote."""
        return [self._scores(split) / f"results_{p}.jsonl" for split in self.run.splits for p in self.run.protocols]

    def execute(self, environment: dict[str, str] | None = None, children: Children | None = None) -> str:
        """Do the steps that are not done, each in a subprocess.

        Args:
            environment: variables for the subprocesses, beside this one's.
            children: those of the suite, among which its subprocesses will be.

        Returns:
            The state afterwards. A step that fails leaves its last words in ``run.json`` and ends the run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked() as lock:
            if lock is None:
                return RUNNING
            from scripts.benchmark.measure import machine  # here, as what is done is shown without timm

            device = "cuda" if torch.cuda.is_available() else "cpu"
            record = self.record() or {
                "spec": self.run.spec(),
                "digests": self.digests(),
                "machine": machine(device),
                "done": {},
                "error": "",
            }
            if self.changes(record):
                return CHANGED
            for step in self.steps:
                if step in record["done"]:
                    continue
                record |= {"error": "", "step": step, "resumed": step == record.get("step"), "started": time.time()}
                write_json(self.path / "run.json", record)
                error = self._subprocess(step, lock, environment or {}, children or Children())
                if error is None:
                    return STOPPED
                if error:
                    write_json(self.path / "run.json", record | {"error": f"{step}: {error}"})
                    return FAILED
                record["done"][step] = None if record["resumed"] else round(time.time() - record["started"], 1)
                write_json(self.path / "run.json", record)
        return self.state()

    def _subprocess(self, step: str, lock: int, environment: dict[str, str], children: Children) -> str | None:
        """What went wrong, empty if nothing did; None if the step was ended with the suite."""
        command = [sys.executable, "-m", "monai.bundle", "run", *self._arguments(step)]
        log = self.path / "log.txt"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n== {step}\n")
            file.flush()
            code = children.run(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
            )
        return None if code is None else "" if code == 0 else f"exit code {code}: {_last_words(log)}"

    def _arguments(self, step: str) -> list[str]:
        run = self.run
        configs = f"bundles/{run.bundle}/configs"
        preset = f"{configs}/presets/{run.preset}"
        options: dict[str, Any] = {
            **{key: value for key, value in run.options.items() if self._takes(step, key)},
            "dataset_dir": str(Path(run.dataset_dir).resolve()),
            "ckpt_dir": str(self.path.resolve() / "models"),
            "output_dir": str(self.path.resolve() / "eval"),
        }
        if step == PREDICT:
            files = [f"{configs}/inference.json", f"{preset}_inference.json"]
            options["output_dir"] = str(self.path.resolve() / "predictions")
        elif step == TRAIN:
            files = [f"{configs}/train.json", f"{preset}.json"]
            options |= {"seed": run.seed, "log_dir": str(self.path.resolve() / "logs")}
            if run.sources:  # the step does not run in the folder that files are relative to
                found = [str(Path(s).resolve()) if Path(s).is_file() else s for s in run.sources]
                options["pretrained"] = found[0] if isinstance(options["pretrained"], str) else found
            options["resume"] = (self.path / "models" / "last.pt").is_file()
        else:
            split, protocol = step.rsplit(" ", 1)
            files = [f"{configs}/train.json", f"{preset}.json", f"{configs}/evaluate.json"]
            if protocol != "strict":
                files.append(f"{preset}_{protocol}.json")
            options |= {"seed": run.seed, "split": split, "output_dir": str(self._scores(split).resolve())}
            options.pop("pretrained", None)
        name = "training" if step == TRAIN else "run"
        values = [part for key, value in options.items() for part in (f"--{key}", _text(value))]
        return [name, "--config_file", str(files), *values]

    def _takes(self, step: str, key: str) -> bool:
        """Whether an option goes to a step: an evaluation takes all, a training not those of evaluations alone."""
        key = key.split("::")[0]
        if step == PREDICT:
            return key in self._config("inference") or key in self._config(f"presets/{self.run.preset}_inference")
        return step != TRAIN or key not in self._config("evaluate") or key in self._config("train") | self._preset()

    def _preset(self) -> dict[str, Any]:
        return self._config(f"presets/{self.run.preset}")

    def _config(self, name: str) -> dict[str, Any]:
        return json.loads(self._config_path(name).read_text(encoding="utf-8"))

    def _config_path(self, name: str) -> Path:
        return ROOT / "bundles" / self.run.bundle / "configs" / f"{name}.json"

    def _scores(self, split: str) -> Path:
        return self.path / "scores" / split

    def _is_locked(self) -> bool:
        # to look is to take the lock for a moment, which no start may meet
        with self._alone(), self._opened_lock() as descriptor:
            return not _take(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int | None]:
        """The lock's file descriptor, or None where another process holds it."""
        with self._opened_lock() as descriptor:
            with self._alone():
                taken = _take(descriptor)
            yield descriptor if taken else None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process looks at the lock or takes it: a lock of the folder itself, held for a moment only."""
        import fcntl  # here, as Windows has none, where what reads the runs of other machines needs none

        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _opened_lock(self) -> Iterator[int]:
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@functools.cache
def _digest(path: Path, _changed: int) -> str:
    """Of a file as it was changed last: a state is asked for often, and weights are large."""
    return file_hash(path)


def _take(descriptor: int) -> bool:
    import fcntl  # see above

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _text(value: Any) -> str:
    """A value as Fire reads it back: ``None`` in MONAI's words, strings as they are, all else a Python literal."""
    if value is None:
        return "$None"
    return value if isinstance(value, str) else repr(value)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")]
    return next((line for line in reversed(lines) if line), "nothing was printed")
