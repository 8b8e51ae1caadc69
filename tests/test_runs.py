"""Runs as a whole: extended, spoiled, repeated, at the same time, on a full disk."""

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import SaveImage
from torch import nn
from torch.optim import SGD, lr_scheduler

from networks.errors import UserError
from networks.state_dicts import read_weights
from networks.workflow import EventLog, KeepEarlier, LastCheckpoint, Plateau, StopOnNan
from networks.workflow import runs as runs_module
from networks.workflow.checkpoints import save_atomically
from networks.workflow.errors import user_error
from networks.workflow.evaluation import write_csv
from networks.workflow.files import atomic, locked, put_in_place, write_json
from networks.workflow.saving import complete_writers
from networks.workflow.training import default_workers
from scripts.catalog.bundles import BY_NAME
from tests.tables import rows_of
from tests.workflows import config_paths, run, same_state, training_overrides

UNET = BY_NAME["attention_unet"]
TRAIN = config_paths(UNET, "train")
STEPS = 3  # per epoch

SCHEDULES: dict[str, Callable[[SGD, int], lr_scheduler.LRScheduler]] = {
    "polynomial": lambda o, n: lr_scheduler.PolynomialLR(o, n, 0.9),
    "constant": lambda o, n: lr_scheduler.ConstantLR(o, 1.0),
    "cosine": lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
    "restarts": lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, max(n // 2, 1)),
    "one cycle": lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n + 1),
    "steps": lambda o, n: lr_scheduler.MultiStepLR(o, [n // 3, n // 2]),
    "lambda": lambda o, n: lr_scheduler.LambdaLR(o, lambda step: 1 - step / n),
    "warm-up": lambda o, n: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.PolynomialLR(o, n - 2)], [2]
    ),
    "warm-up and cosine": lambda o, n: WarmupCosineSchedule(o, round(0.2 * n), n, warmup_multiplier=0.01),
    "chained": lambda o, n: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.PolynomialLR(o, n)]
    ),
}


def rates(
    path: Path,
    schedule: Callable[[SGD, int], lr_scheduler.LRScheduler],
    epochs: int,
    resume: bool = False,
    learning_rate: float = 0.1,
    steps: int = STEPS,
    patience: int = 0,
) -> list[float]:
    """Train a network of one number; the learning rate of every step."""
    network = nn.Linear(1, 1)
    optimizer = SGD([{"params": [part]} for part in network.parameters()], learning_rate, momentum=0.9)
    scheduler = schedule(optimizer, epochs * steps)
    evaluator = SimpleNamespace(state=SimpleNamespace(best_metric=0.0, best_metric_epoch=0))
    found = []

    def step(engine: Engine, batch: int) -> None:
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        found.append(rate)
        network(torch.ones(1)).backward()
        optimizer.step()
        scheduler.step(1.0) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()

    trainer = Engine(step)
    trainer.state.epoch_length, trainer.state.max_epochs = steps, epochs
    Plateau(optimizer, scheduler, evaluator, patience, second_learning_rate=0.01).attach(trainer)
    parts = {"optimizer": optimizer, "schedule": scheduler}
    LastCheckpoint(str(path), network, evaluator, resume, parts, patience).attach(trainer)
    trainer.run(range(steps), max_epochs=epochs)
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_extended_training_has_the_rates_of_one_of_that_length(name: str, tmp_path: Path) -> None:
    path, schedule = tmp_path / "last.pt", SCHEDULES[name]
    whole = rates(tmp_path / "whole.pt", schedule, 6)
    rates(path, schedule, 2)
    assert rates(path, schedule, 6, resume=True) == whole[2 * STEPS :]
    assert all(rate > 0 for rate in whole)
    assert rates(path, schedule, 6, resume=True) == []  # at the end
    for key in ("optimizer", "schedule"):
        one, other = (read_weights(p)[key] for p in (path, tmp_path / "whole.pt"))
        assert one.get("param_groups") == other.get("param_groups") and one.get("last_epoch") == other.get("last_epoch")


def test_another_rate_counts_from_the_resumed_epoch_and_is_said(tmp_path: Path, caplog) -> None:
    path, schedule = tmp_path / "last.pt", SCHEDULES["polynomial"]
    rates(path, schedule, 2)
    with caplog.at_level(logging.INFO):
        found = rates(path, schedule, 4, resume=True, learning_rate=0.02)
    assert found == rates(tmp_path / "whole.pt", schedule, 4, learning_rate=0.02)[2 * STEPS :]
    assert "after epoch 2 of now 4 the learning rate is 0.0107, where it was 0" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):  # a batch of another size: other steps per epoch
        found = rates(path, schedule, 6, resume=True, learning_rate=0.02, steps=5)
    assert found == pytest.approx(rates(tmp_path / "whole.pt", schedule, 6, learning_rate=0.02, steps=5)[4 * 5 :])


def test_rates_that_the_validation_lowered_stay_lowered(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    assert rates(path, SCHEDULES["constant"], 2, patience=1)[-1] == 0.01
    assert rates(path, SCHEDULES["constant"], 4, resume=True, learning_rate=0.2, patience=1) == []  # it was stopped
    assert set(rates(path, SCHEDULES["constant"], 4, resume=True, learning_rate=0.2)) == {0.02}

    lowered = rates(tmp_path / "decaying.pt", SCHEDULES["polynomial"], 2, patience=1)
    whole = rates(tmp_path / "unlowered.pt", SCHEDULES["polynomial"], 4)
    share = 0.01 / rates(tmp_path / "short.pt", SCHEDULES["polynomial"], 2)[STEPS]
    assert lowered[STEPS] == 0.01
    found = rates(tmp_path / "decaying.pt", SCHEDULES["polynomial"], 4, resume=True)
    assert found == pytest.approx([share * rate for rate in whole[2 * STEPS :]])

    def by_metric(optimizer: SGD, steps: int) -> lr_scheduler.ReduceLROnPlateau:
        return lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)

    whole = rates(tmp_path / "whole.pt", by_metric, 4)
    rates(tmp_path / "metric.pt", by_metric, 2)
    assert rates(tmp_path / "metric.pt", by_metric, 4, resume=True) == whole[2 * STEPS :]
    assert whole[-1] < whole[0]


def test_extending_a_checkpoint_without_settings(tmp_path: Path) -> None:
    """As written before they were kept."""
    path, schedule = tmp_path / "last.pt", SCHEDULES["polynomial"]
    rates(path, schedule, 2)
    content = read_weights(path)
    del content["settings"]
    save_atomically(content, path)
    assert rates(path, schedule, 4, resume=True) == rates(tmp_path / "w.pt", schedule, 4)[2 * STEPS :]


def test_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    save_atomically(nn.Linear(1, 1).state_dict(), tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt has no state of 'network'"):
        rates(tmp_path / "last.pt", SCHEDULES["constant"], 2, resume=True)


@pytest.mark.parametrize("is_buffer", [False, True])
def test_nan_of_the_last_step_reaches_no_checkpoint(is_buffer: bool, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))

    def step(engine: Engine, batch: int) -> list[dict]:
        if engine.state.iteration == 4:  # behind a loss that is good
            tensor = network[1].running_var if is_buffer else network[0].weight.data
            tensor.fill_(float("nan"))
        return [{"loss": torch.tensor(1.0)}]

    trainer, validated = Engine(step), []
    trainer.network = network
    StopOnNan().attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validated.append(engine.state.epoch))
    evaluator = SimpleNamespace(state=SimpleNamespace(best_metric=0.0, best_metric_epoch=0))
    LastCheckpoint(str(tmp_path / "last.pt"), network, evaluator).attach(trainer)
    with pytest.raises(UserError, match=r"of the network .* became NaN in epoch 2, iteration 4"):
        trainer.run(range(2), max_epochs=3)
    assert validated == [1] and read_weights(tmp_path / "last.pt")["progress"]["epoch"] == 1


def kept(folder: Path) -> dict[str, bytes]:
    """A training's files, without locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_second_training_keeps_the_first(ct_dir: Path, tmp_path: Path, caplog) -> None:
    options = training_overrides(UNET, tmp_path, ct_dir, epochs=1)
    run(TRAIN, **options)
    for name in ("model.onnx", "model.onnx.json"):
        (tmp_path / "models" / name).write_text("exported from the best weights")
    first = kept(tmp_path)
    assert {"models/model.pt", "models/model.json", "models/last.pt", "eval/metrics.csv"} < first.keys()
    with pytest.raises(Exception) as caught:
        run(TRAIN, **options, out_channels=3)
    assert "out_channels" in str(user_error(caught.value))
    assert kept(tmp_path) == first  # a run that is refused moves nothing, and leaves nothing
    with caplog.at_level(logging.INFO):
        run(TRAIN, **options, seed=1)
    (earlier,) = (tmp_path / "models" / "earlier").iterdir()
    assert f"Moved the earlier training's files to {earlier}" in caplog.text
    assert sorted(kept(earlier).values()) == sorted(first.values())
    second = kept(tmp_path)
    assert second["models/model.pt"] != first["models/model.pt"]
    assert {k for k in first if "events" not in k and "onnx" not in k} < second.keys()
    assert not any("onnx" in k for k in second if "earlier" not in k)
    run(TRAIN, **options, overwrite="true")
    assert [p.name for p in earlier.parent.iterdir()] == [earlier.name]
    assert kept(tmp_path)["models/model.pt"] == first["models/model.pt"]
    assert "best mean Dice on the validation split" in caplog.text
    assert "resuming from iteration" not in caplog.text
    # without last.pt nothing is resumed, so that the best weights, of a download say, are another training's
    (tmp_path / "models" / "last.pt").unlink()
    best = kept(tmp_path)["models/model.pt"]
    run(TRAIN, **options, resume="true", seed=1)
    assert len(list(earlier.parent.iterdir())) == 2 and best in {
        kept(folder).get("model.pt") for folder in earlier.parent.iterdir()
    }


def test_rounds_of_one_trainer_are_one_training(tmp_path: Path) -> None:
    """MONAI's MonaiAlgo runs a trainer several times."""
    trainer = Engine(lambda engine, batch: None)
    KeepEarlier(str(tmp_path), str(tmp_path), str(tmp_path)).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: (tmp_path / "last.pt").write_text("x"))
    trainer.run([0], max_epochs=1)
    trainer.state.max_epochs = 2
    trainer.run([0])
    assert trainer.state.epoch == 2 and [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_start_stays_the_best_if_no_epoch_is_better(ct_dir: Path, tmp_path: Path, caplog) -> None:
    run(TRAIN, **training_overrides(UNET, tmp_path / "first", ct_dir, epochs=2))
    start = tmp_path / "first" / "models" / "model.pt"
    best = json.loads(start.with_suffix(".json").read_text())["val_mean_dice"]
    options = {"pretrained": str(start), "learning_rate": 1.0, "val_at_start": "true", "resume": "true"}
    caplog.set_level(logging.INFO)
    run(TRAIN, **training_overrides(UNET, tmp_path / "second", ct_dir, epochs=2, **options))
    models, log = tmp_path / "second" / "models", tmp_path / "second" / "eval" / "metrics.csv"
    assert same_state(read_weights(models / "model.pt"), read_weights(start))
    record = json.loads((models / "model.json").read_text())
    assert record["epoch"] == 0 and record["val_mean_dice"] == pytest.approx(best) and best > 0
    rows = rows_of(log)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"] and not rows[0]["loss"]
    scores = [float(row["val_mean_dice"]) for row in rows]
    assert scores[0] == pytest.approx(best, abs=1e-4) and max(scores[1:]) < scores[0]
    assert f"the validation split: {best:.4f} before the first epoch." in caplog.text
    caplog.clear()
    run(TRAIN, **training_overrides(UNET, tmp_path / "second", ct_dir, epochs=3, **options))
    assert rows_of(log)[:3] == rows and len(rows_of(log)) == 4
    assert "Before the first epoch" not in caplog.text and not (models / "earlier").exists()


def test_one_training_at_a_time(ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(UNET, tmp_path, ct_dir, epochs=1)
    with (
        locked(tmp_path / "models", "training"),
        pytest.raises(Exception) as caught,
    ):
        run(TRAIN, **options)
    chain, errors = caught.value, []
    while chain is not None:
        errors.append(chain)
        chain = chain.__cause__ or chain.__context__
    (refused,) = [error for error in errors if isinstance(error, UserError)]
    assert str(refused).startswith(f"Another training is writing to {tmp_path / 'models'}; wait for its end, or")
    assert kept(tmp_path) == {}


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock = f"lock = filelock.FileLock({str(tmp_path / '.work.lock')!r})"
    code = f"import filelock, time; {lock}; lock.acquire(); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    with pytest.raises(UserError, match="Another work is writing to"), locked(tmp_path, "work"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    for _ in range(2):
        with locked(tmp_path, "work"), locked(tmp_path, "other"):
            pass


@pytest.fixture(params=["size limit", "full disk"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder, and what makes it impossible to write more than a little to it."""
    folder = tmp_path / "full"
    folder.mkdir()
    if request.param == "size limit":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, before[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this needs the right to mount a file system")
    yield folder, lambda: (folder / "filler").write_bytes(bytes(2**20 - 2**16))
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write_picture(path: Path) -> None:
    save = SaveImage(output_ext=".nii.gz")
    complete_writers(save)
    writer = save.writers[0]()
    writer.set_data_array(np.random.default_rng(0).integers(0, 255, (1, 64, 64, 64)), channel_dim=0)
    writer.set_metadata({"affine": np.eye(4)})
    writer.write(path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "last.pt": lambda path: save_atomically({"a": torch.rand(2**18)}, path),
    "metrics.csv": lambda path: write_csv(path, [{"a": i} for i in range(2**18)]),
    "results.json": lambda path: write_json(path, {"a": list(range(2**18))}),
    "copy.bin": lambda path: put_in_place(path.parent.parent / "source", path),
    "label.nii.gz": write_picture,
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_a_sentence_and_keeps_the_earlier_file(name: str, full, tmp_path: Path) -> None:
    folder, fill = full
    (folder / name).write_text("earlier")
    (tmp_path / "source").write_bytes(bytes(2**21))
    fill()
    with pytest.raises(UserError, match=rf"{name} cannot be written \((File too large|No space left on device)\)"):
        WRITERS[name](folder / name)
    assert (folder / name).read_text() == "earlier"
    assert {path.name for path in folder.iterdir()} <= {name, "filler"}


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_disk_for_tensorboard(full) -> None:
    folder, fill = full
    events = EventLog(str(folder))
    events.add_scalar("a", 1.0, 0)
    events.flush()
    fill()
    with pytest.raises(UserError, match=f"{folder} cannot be written"):
        for step in range(2**13):
            events.add_scalar("a" * 200, 1.0, step)
            events.flush()


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "file"):
        pass
    with pytest.raises(FileNotFoundError, match="no such source"), atomic(tmp_path / "a"):
        raise FileNotFoundError(2, "no such source", str(tmp_path / "source"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_next_commands(monkeypatch) -> None:
    program, config = "/x/monai/bundle/__main__.py", "bundles/swin_unet/configs"
    files = f"['{config}/train.json','{config}/multi_gpu_train.json','{config}/presets/nasa_super.json']"
    options = ["--resume", "true", "--dataset_dir", "my data", "--out_channels", "3"]
    monkeypatch.setattr(sys, "argv", [program, "run", "training", "--config_file", files, *options])
    train = "python -m monai.bundle run --config_file "
    evaluated = f"['{config}/train.json','{config}/presets/nasa_super.json','{config}/evaluate.json']"
    assert runs_module._evaluation() == f"""{train}"{evaluated}" --dataset_dir 'my data' --out_channels 3"""
    assert runs_module._prediction() == (
        f"""{train}"['{config}/inference.json','{config}/presets/nasa_super_inference.json']" """
        "--out_channels 3 --dataset_dir DIR"
    )
    monkeypatch.setattr(sys, "argv", ["pytest", "--config_file", files])
    assert runs_module._evaluation() == runs_module._prediction() == ""


def test_workers_follow_the_machine(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert default_workers("cpu") == 0 and default_workers(torch.device("cuda", 1)) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers("cuda") == 4


def test_nibabel_is_whole(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").shape == (64, 64, 64)
