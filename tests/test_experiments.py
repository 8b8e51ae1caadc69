"""Suites that are run in subprocesses, killed and resumed, shown and collected."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from networks.errors import UserError
from networks.workflow.files import file_hash, write_json
from networks.workflow.records import read_records
from scripts.experiments import runs
from scripts.experiments.__main__ import collect, run, show
from scripts.experiments.collected import collected, result_files
from scripts.experiments.runs import CHANGED, DONE, FAILED, RUNNING, STOPPED, WAITING, RunFolder
from scripts.experiments.suite import Suite, load_suite
from scripts.report.__main__ import report
from scripts.zoo.release import release
from tests import classifying
from tests.commands import Command
from tests.suites import EPOCHS, write_suite
from tests.workflows import ROOT
from tests.workflows import run as run_bundle


def test_a_run_keeps_to_the_files_it_was_started_with(
    tmp_path: Path, texture_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data, configs = tmp_path / "data", tmp_path / "bundles" / "swin_classification" / "configs"
    data.mkdir()
    shutil.copytree(ROOT / "bundles" / "swin_classification" / "configs", configs)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (data / "labels.csv").write_text("image,class\n")
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    path = write_classifier_suite(tmp_path, data, pretraining={"own": {"Swin": str(weights)}})
    folder = RunFolder(load_suite(path).runs[0], tmp_path / "runs")
    files = {"train.json": configs / "train.json", "presets/from_scratch.json": configs / "presets/from_scratch.json"}
    files |= {"labels.csv": data / "labels.csv", "weights.pt": weights}
    assert folder.digests() == {name: file_hash(file) for name, file in files.items()}

    def half_done(children: runs.Children, command: list[str], **options) -> int | None:
        return 0 if "training" in command else None

    monkeypatch.setattr(runs.Children, "run", half_done)
    assert folder.execute() == STOPPED
    begun = folder.record()
    finished = begun | {"done": dict.fromkeys(folder.steps)}
    for name, file in files.items():
        before = file.read_bytes()
        file.write_bytes(before + b"\n")
        write_json(folder.path / "run.json", begun)
        assert folder.state() == folder.execute() == CHANGED and folder.changes() == [name]
        write_json(folder.path / "run.json", {key: value for key, value in begun.items() if key != "digests"})
        assert folder.state() == STOPPED  # of an earlier version
        write_json(folder.path / "run.json", finished)
        assert folder.state() == DONE and not folder.changes()
        show(str(path), str(tmp_path / "runs"))
        assert f"by another {name} than is here" in capsys.readouterr().out
        file.write_bytes(before)
    write_json(folder.path / "run.json", begun)
    assert folder.state() == STOPPED
    weights.write_bytes(b"others")
    show(str(path), str(tmp_path / "runs"))
    assert "1 changed" in capsys.readouterr().out
    monkeypatch.setattr(Suite, "check_data", lambda *_: None)
    with pytest.raises(UserError, match=r"was started with another weights\.pt than is there now; restore that file"):
        run(str(path), str(tmp_path / "runs"))
    weights.unlink()  # what is not here is not compared
    assert folder.state() == STOPPED


def wait_for(condition: Callable[[], bool], process: Command | None = None, seconds: float = 120) -> None:
    """Until the condition holds; fails if the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.out + process.err
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_suite_goes_on(
    tmp_path: Path, micrograph_dir: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs_dir = write_suite(tmp_path, micrograph_dir), tmp_path / "runs"
    folder = RunFolder(load_suite(path).runs[0], runs_dir)
    assert folder.state() == WAITING
    process = Command(["-m", "scripts.experiments", "run", str(path), "--runs_dir", str(runs_dir)])
    wait_for(lambda: folder.epochs()[0] >= 1, process)
    process.kill()
    process.wait()
    child = child_of(folder.path)
    os.kill(child, signal.SIGSTOP)
    assert folder.state() == RUNNING  # the training outlives the suite: nobody else may start it
    show(str(path), str(runs_dir))
    assert "running" in capsys.readouterr().out
    assert folder.execute() == RUNNING
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: folder.state() != RUNNING)
    assert folder.state() == STOPPED
    trained = folder.epochs()[0]
    assert 1 <= trained < EPOCHS

    start = runs.Children.run

    def training_in_its_own_process(children: runs.Children, command: list[str], **options) -> int | None:
        return (start if "training" in command else in_this_process)(children, command, **options)

    monkeypatch.setattr(runs.Children, "run", training_in_its_own_process)
    run(str(path), str(runs_dir))
    assert folder.state() == DONE
    assert [row["epoch"] for row in folder.curve()] == [str(i + 1) for i in range(EPOCHS)]
    assert list((folder.path / "predictions").rglob("*_seg.png"))
    before = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.name != "lock"}
    run(str(path), str(runs_dir))
    assert before == {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.name != "lock"}
    show(str(path), str(runs_dir))
    assert "1 done" in capsys.readouterr().out

    collect(str(path), str(runs_dir), str(tmp_path / "results"))
    records = read_records(tmp_path / "results" / "trial.jsonl")
    assert {record["model"] for record in records} == {"CS-UNet"}
    assert {record["class"] for record in records} == {"secondary precipitate", "tertiary precipitate"}
    (line,) = (tmp_path / "results" / "trial_runs.jsonl").read_text().splitlines()
    assert len(json.loads(line)["curve"]) == EPOCHS
    assert json.loads(line)["digests"]["dataset.json"] == file_hash(micrograph_dir / "dataset.json")
    assert str(tmp_path) not in line

    # another machine does the second seed and gets the results of the first with the repository
    both, elsewhere = write_suite(tmp_path, micrograph_dir, seeds=[0, 1]), tmp_path / "elsewhere"
    shutil.copytree(folder.path, elsewhere / "trial" / folder.path.name.replace("seed0", "seed1"))
    other = RunFolder(load_suite(both).runs[1], elsewhere)
    write_json(other.path / "run.json", other.record() | {"spec": other.run.spec()})
    collect(str(both), str(elsewhere), str(tmp_path / "results"))
    merged = read_records(tmp_path / "results" / "trial.jsonl")
    assert merged[: len(records)] == records
    assert {record["seed"] for record in merged[len(records) :]} == {1}
    write_suite(tmp_path, micrograph_dir, seeds=[0, 1], recipes={"short": {"epochs": EPOCHS + 1}})
    with pytest.raises(UserError, match=r"No run of .* is done"):
        collect(str(both), str(elsewhere), str(tmp_path / "results"))
    assert read_records(tmp_path / "results" / "trial.jsonl") == merged

    changed = write_suite(tmp_path, micrograph_dir, recipes={"short": {"epochs": EPOCHS + 1}})
    assert RunFolder(load_suite(changed).runs[0], runs_dir).state() == CHANGED
    with pytest.raises(ValueError, match="was started with other settings"):
        run(str(changed), str(runs_dir))


@pytest.mark.parametrize("kept", [0, 1])
def test_results_of_other_machines_are_not_lost_for_want_of_a_file(kept: int, tmp_path: Path) -> None:
    files = result_files(tmp_path, "trial")
    assert collected(*files) == {}
    files[kept].write_text("")
    with pytest.raises(UserError, match=rf"{files[kept].name} is there without .*{files[1 - kept].name}"):
        collected(*files)


def write_classifier_suite(folder: Path, dataset_dir: Path, **changes) -> Path:
    """A suite of one classifier of a second."""
    preset = {"dataset_dir": str(dataset_dir), "preset": "from_scratch"}
    networks = {"Swin": {"bundle": "swin_classification", "options": classifying.options(folder, dataset_dir)}}
    recipes = {"short": {}}
    return write_suite(
        folder, dataset_dir, data_sets={"Textures": preset}, networks=networks, recipes=recipes, **changes
    )


def in_this_process(children: runs.Children, command: list[str], **options) -> int:
    """In place of ``Children.run``, which starts a process and loads MONAI in it."""
    what, *pairs = command[command.index("run") + 1 :]
    given = {
        key.removeprefix("--"): DefaultParseValue(value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)
    }
    files = given.pop("config_file")
    run_bundle(files, "inference" if "inference.json" in str(files) else "train", what, **given)
    return 0


def test_suite_of_classifiers(tmp_path: Path, texture_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.Children, "run", in_this_process)
    path, runs_dir = write_classifier_suite(tmp_path, texture_dir), tmp_path / "runs"
    run(str(path), str(runs_dir))
    folder = RunFolder(load_suite(path).runs[0], runs_dir)
    assert folder.state() == DONE and folder.epochs() == (2, 2)
    collect(str(path), str(runs_dir), str(tmp_path / "results"))
    records = read_records(tmp_path / "results" / "trial.jsonl")
    assert {record["metric"] for record in records} == {"top1"} and len(records) == 8
    assert {(record["model"], record["data_set"]) for record in records} == {("Swin", "Textures")}
    written = tmp_path / "report.md"
    page = str(tmp_path / "report.html")
    report(str(tmp_path / "results" / "trial.jsonl"), runs_dir=str(runs_dir), output=page, markdown=str(written))
    text = written.read_text()
    best = max(float(row["val_top1"]) for row in folder.curve())
    assert "Textures: top-1, %" in text and "best validation top-1, %" in text and f"| 2 | {100 * best:.2f} |" in text


def test_mistakes_in_a_suite_of_classifiers(tmp_path: Path, texture_dir: Path) -> None:
    with pytest.raises(UserError, match="give the protocol strict alone"):
        load_suite(write_classifier_suite(tmp_path, texture_dir, protocols=["strict", "paper"]))
    with pytest.raises(UserError, match="this tool is for bundles that segment"):
        release(str(write_classifier_suite(tmp_path, texture_dir)), str(tmp_path / "runs"))
    with pytest.raises(UserError, match="missing, the data set Textures of the suite trial, does not exist"):
        run(str(write_classifier_suite(tmp_path, texture_dir.parent / "missing")), str(tmp_path / "runs"))


def child_of(folder: Path) -> int:
    """Number of the process that trains into the folder."""
    (number,) = processes_of(folder)
    return number


def processes_of(folder: Path) -> list[int]:
    """Numbers of the processes whose command lines name the folder."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(folder).encode() in _read(entry / "cmdline")
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_stopped_suite_ends_the_runs_on_all_devices_and_starts_no_other(tmp_path: Path, micrograph_dir: Path) -> None:
    path, runs_dir = write_suite(tmp_path, micrograph_dir, seeds=[0, 1, 2, 3]), tmp_path / "runs"
    folders = [RunFolder(r, runs_dir) for r in load_suite(path).runs]
    process = Command(["-m", "scripts.experiments", "run", str(path), "--runs_dir", str(runs_dir), "--gpus=0,1"])
    wait_for(lambda: all(folder.state() == RUNNING for folder in folders[:2]), process)
    os.kill(process.pid, signal.SIGTERM)
    code, said = process.wait(60), process.out
    assert code == 143, said + process.err
    assert process.err.splitlines()[-1].startswith("Stopped. What is done is kept")
    assert said.count("starts.") == 2
    assert not processes_of(runs_dir)
    assert [folder.state() for folder in folders] == [STOPPED, STOPPED, WAITING, WAITING]
    assert all(folder.record()["error"] == "" for folder in folders[:2])


def test_looking_never_keeps_a_run_from_starting(tmp_path: Path, micrograph_dir: Path, monkeypatch) -> None:
    folder = RunFolder(load_suite(write_suite(tmp_path, micrograph_dir)).runs[0], tmp_path / "runs")
    folder.path.mkdir(parents=True)
    looking = threading.Event()
    take = runs._take

    def slowly(descriptor: int) -> bool:
        taken = take(descriptor)
        if not looking.is_set():
            looking.set()
            time.sleep(0.3)
        return taken

    monkeypatch.setattr(runs, "_take", slowly)
    with ThreadPoolExecutor(1) as pool:
        look = pool.submit(folder._is_locked)
        assert looking.wait(10)
        with folder._locked() as lock:
            assert lock is not None
        assert not look.result()


@pytest.mark.slow
def test_failed_run_says_why_and_the_others_go_on(tmp_path: Path, micrograph_dir: Path) -> None:
    networks = {"A": {"bundle": "unet", "options": {"epochz": 3}}}
    path = write_suite(tmp_path, micrograph_dir, networks=networks)
    with pytest.raises(ValueError, match=r"1 of 1 runs failed.*--epochz is not an id"):
        run(str(path), str(tmp_path / "runs"))
    assert RunFolder(load_suite(path).runs[0], tmp_path / "runs").state() == FAILED
