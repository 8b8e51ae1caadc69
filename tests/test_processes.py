"""Real processes: training that is killed and resumed, and training in two processes."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch

from networks.state_dicts import read_weights
from networks.workflow.checkpoints import save_atomically
from scripts.catalog.bundles import BY_NAME
from tests.commands import Command
from tests.probe import train_in_two
from tests.tables import rows_of
from tests.workflows import command_line, config_paths, run, same_state, training_overrides

EPOCHS = 6
SWIN_UNET = BY_NAME["swin_unet"]
TRAIN = config_paths(SWIN_UNET, "train")


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_end(ct_dir: Path, tmp_path: Path) -> None:
    """Two SIGKILLs at random moments after the first checkpoint; the end equals a training without them."""
    options = training_overrides(SWIN_UNET, tmp_path / "killed", ct_dir, epochs=EPOCHS)
    last = tmp_path / "killed" / "models" / "last.pt"
    moment = random.Random(0)
    for wanted in (1, 3):
        process = Command(command_line(TRAIN, "training", **options, resume=True))
        while not last.is_file() or read_weights(last)["progress"]["epoch"] < wanted:
            assert process.poll() is None, process.err
            time.sleep(0.02)
        time.sleep(moment.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert read_weights(last)["progress"]["epoch"] >= wanted

    run(TRAIN, "train", "training", **options, resume=True)
    whole = training_overrides(SWIN_UNET, tmp_path / "whole", ct_dir, epochs=EPOCHS)
    run(TRAIN, "train", "training", **whole)

    resumed, straight = read_weights(last), read_weights(tmp_path / "whole" / "models" / "last.pt")
    assert resumed.keys() == {"network", "optimizer", "lr_scheduler", "settings", "progress"}
    assert resumed["progress"] == straight["progress"]
    assert resumed["lr_scheduler"] == straight["lr_scheduler"]
    assert same_state(resumed["network"], straight["network"])
    for key, state in straight["optimizer"]["state"].items():
        assert same_state(resumed["optimizer"]["state"][key], state)
    best = [read_weights(tmp_path / name / "models" / "model.pt") for name in ("killed", "whole")]
    assert same_state(*best)
    logs = [(tmp_path / name / "eval" / "metrics.csv").read_text() for name in ("killed", "whole")]
    assert logs[0] == logs[1]


def test_resuming_a_complete_training_changes_nothing(ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(SWIN_UNET, tmp_path, ct_dir, epochs=1)
    run(TRAIN, **options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".pt", ".csv")}
    run(TRAIN, **options, resume=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".pt", ".csv")}


class _Unpicklable:
    def __reduce__(self) -> tuple:
        raise RuntimeError("killed while writing")


def test_failed_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_atomically({"a": torch.ones(2)}, path)
    with pytest.raises(RuntimeError, match="killed"):
        save_atomically({"a": torch.zeros(100), "b": _Unpicklable()}, path)
    assert torch.equal(read_weights(path)["a"], torch.ones(2))
    save_atomically({"a": torch.zeros(2)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.slow
def test_two_processes_share_one_training(ct_dir: Path, tmp_path: Path) -> None:
    """Different samples, equal weights and metrics, one writer."""
    files = config_paths(SWIN_UNET, "train", "multi_gpu_train")
    options = training_overrides(SWIN_UNET, tmp_path, ct_dir, epochs=2, batch_size=3)
    first, second = train_in_two(files, tmp_path, "@network", **options)
    assert len(first["samples"]) == len(second["samples"]) == 2 * 9  # 3 volumes of 6 slices over 2 epochs, halved
    assert not set(first["samples"]) & set(second["samples"])
    assert len(set(first["samples"])) == 2 * 9
    assert first["weights"] == second["weights"]
    assert first["metrics"] == second["metrics"]
    assert {path.name for path in (tmp_path / "models").glob("[!.]*")} == {
        "model.pt",
        "model.json",
        "model_final.pt",
        "last.pt",
    }
    rows = rows_of(tmp_path / "eval" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["val_mean_dice"]) == pytest.approx(first["metrics"]["val_mean_dice"], abs=1e-4)
