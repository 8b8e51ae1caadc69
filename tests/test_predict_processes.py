"""Prediction by several processes: one that fails a case, and one that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from networks.workflow.saving import COLOUR_TABLE, LABEL_NAMES
from tests.commands import Command
from tests.predicting import call, failures, files_of, labels_of
from tests.workflows import ROOT

NAMES = (LABEL_NAMES, COLOUR_TABLE)


@pytest.fixture
def many(ct_dir: Path, tmp_path: Path) -> Path:
    """Sixteen names of one volume."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(16):
        (folder / f"case{number:02d}.nii.gz").symlink_to(next((ct_dir / "imagesTs").glob("*.nii.gz")))
    return folder


def words_of(source: Path, output: Path, options: dict[str, Any]) -> list[str]:
    """The command's module and arguments."""
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return ["scripts.predict", str(source), str(output), "--bundle", "unet", *words]


@pytest.mark.slow
def test_two_processes_with_a_corrupt_case(many: Path, volumes: dict[str, Any], tmp_path: Path) -> None:
    """The process that fails a case neither ends the other nor leaves out what comes after."""
    (many / "case01.nii.gz").unlink()
    (many / "case01.nii.gz").write_bytes(b"no volume")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    words = [*torchrun, *words_of(many, tmp_path / "out", volumes)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    assert "15 of 16 cases segmented, 0 were there already, 0 without findings, 1 failed" in text
    assert text.count("Failed: case01.nii.gz") == 1
    assert set(failures(tmp_path / "out")) == {"case01.nii.gz"}
    labels = labels_of(tmp_path / "out")
    assert len(labels) == 15 and len(set(labels.values())) == 1
    assert set(files_of(tmp_path / "out")) == {*labels, *NAMES, "failed.csv", "predictions.json"}


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_killed_process(restarts: int, many: Path, volumes: dict[str, Any], tmp_path: Path) -> None:
    """No file is half-written; what was not done is listed and left to the same command, or to torchrun's restart."""
    output = tmp_path / "out"
    launcher = ["-m", "tests.launcher", str(tmp_path), str(restarts)]
    process = Command([*launcher, *words_of(many, output, volumes)])
    while not labels_of(output):
        assert process.poll() is None, process.out + process.err
        time.sleep(0.02)
    os.kill(int((tmp_path / "rank1").read_text()), signal.SIGKILL)
    code, text = process.wait(), process.out + process.err
    assert code == 1 - restarts, text
    done = labels_of(output)
    if restarts:
        assert len(done) == 16 and len(set(done.values())) == 1, text
        assert set(files_of(output)) == {*done, *NAMES, "predictions.json"}
        return
    assert 0 < len(done) < 16, text
    listed = failures(output)
    assert {name.replace(".nii.gz", "_seg.nii.gz") for name in listed} | set(done) == {
        f"case{number:02d}_seg.nii.gz" for number in range(16)
    }
    assert not set(listed) & {name.replace("_seg", "") for name in done}
    assert all("the run was stopped" in reason for reason in listed.values())
    for name in done:
        assert np.asarray(nib.load(output / name).dataobj).shape == (60, 48, 6)
    call(many, output, bundle="unet", **volumes)
    labels = labels_of(output)
    assert len(labels) == 16 and len(set(labels.values())) == 1
    assert labels.items() >= done.items()
    assert not (output / "failed.csv").exists()
