"""Checking data sets and drawing them; conversions that are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from networks.errors import UserError
from networks.workflow.data import load_datalist
from networks.workflow.evaluation import label_overlay, overlay
from scripts.datasets.check import HISTOGRAM, SHEET, TILE
from scripts.datasets.nasa import convert_nasa
from tests.converters import NASA, make_ebc, make_super, needs_nasa, run, save_nifti, save_tiff
from tests.workflows import ROOT

torch = pytest.importorskip("torch")


def make_pictures(folder):
    """Two lists; the training image is bright above and its label is class 2 below."""
    image, label = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8)
    image[:20], label[30:] = 255, 2
    (folder / "a").mkdir(parents=True)
    Image.fromarray(image).save(folder / "a" / "one.png")
    Image.fromarray(label).save(folder / "a" / "one_label.png")
    Image.fromarray(image[::-1]).save(folder / "a" / "two.png")
    Image.fromarray(image // 2).save(folder / "a" / "three.png")
    content = {
        "labels": {"0": "background", "1": "never there", "2": "lower part"},
        "training": [{"image": "a/one.png", "label": "a/one_label.png"}],
        "validation": [{"image": "a/three.png", "label": "a/one_label.png"}],
        "test": [{"image": "a/two.png"}],
        "elsewhere": [{"image": "a/one.png", "label": "a/one_label.png"}],
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def test_check_counts_and_draws(tmp_path, monkeypatch, capsys):
    make_pictures(tmp_path / "set")
    assert run(monkeypatch, "check", tmp_path / "set") == 0
    text = capsys.readouterr().out
    rows = {line.split("  ")[0]: re.findall(r"(\d+) +([\d.]+)% +(\d+/\d+)", line) for line in text.splitlines()}
    assert rows["0 background"] == [("1800", "75.000", "1/1")] * 3
    assert rows["1 never there"] == [("0", "0.000", "0/1")] * 3
    assert rows["2 lower part"] == [("600", "25.000", "1/1")] * 3
    assert "no labels" in text and "3x60x40; values 0 to 255" in text
    assert "1 training, 1 validation, 1 test, 1 elsewhere" in text
    sheet = np.asarray(Image.open(tmp_path / "set" / SHEET)).astype(int)
    assert Image.open(tmp_path / "set" / HISTOGRAM).size[0] > 500
    # The first tile lies below the legend and the title of its list, the picture in its middle, 220 wide.
    rows = np.flatnonzero((sheet[:, TILE // 2] < 60).all(axis=1) | (sheet[:, TILE // 2] > 250).all(axis=1))
    red = np.argwhere((sheet[..., 0] > sheet[..., 1] + 40) & (sheet[..., 0] > sheet[..., 2] + 40))
    first = red[(red[:, 0] > 60) & (red[:, 0] < 60 + TILE)]
    assert len(first) > 3000 and rows.size
    bright_above = sheet[first[:, 0].min() - 100 : first[:, 0].min() - 60, TILE // 2].mean()
    assert bright_above > 200  # the class at the bottom, the bright half above it: not upside down


def test_check_names_every_bad_case(tmp_path, monkeypatch):
    make_pictures(tmp_path / "set")
    label = np.zeros((40, 60), np.uint8)
    label[0, 0] = 9
    Image.fromarray(label).save(tmp_path / "set" / "a" / "one_label.png")
    (tmp_path / "set" / "a" / "two.png").write_bytes(b"cut")
    message = run(monkeypatch, "check", tmp_path / "set")
    assert "3 of 3 cases" in message and "label values 9" in message and "two.png is not an image" in message
    assert not (tmp_path / "set" / SHEET).exists()
    assert "has no dataset.json" in run(monkeypatch, "check", tmp_path)
    assert "does not exist" in run(monkeypatch, "check", tmp_path / "nowhere")


def test_volumes_are_drawn_as_radiologists_look(tmp_path, monkeypatch):
    """Patient's right on the left, front up, whatever the orientation in the file."""
    array, label = np.full((30, 20, 5), -1000, np.int16), np.zeros((30, 20, 5), np.uint8)
    # stored with x to the left, y to the front, z to the feet: right and back is the corner (0, 0)
    array[:8, :5], label[:8, :5, 3] = 1000, 1
    affine = np.diag([-2.0, 3, -5, 1])
    save_nifti(tmp_path / "set" / "a.nii.gz", array, affine)
    save_nifti(tmp_path / "set" / "b.nii.gz", label, affine)
    content = {"labels": {"0": "background", "1": "thing"}, "test": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(content))
    assert run(monkeypatch, "check", tmp_path / "set", "--output_dir", tmp_path / "pictures") == 0
    sheet = np.asarray(Image.open(tmp_path / "pictures" / SHEET)).astype(int)
    below = sheet[50 : 50 + TILE, :TILE]
    red = np.argwhere((below[..., 0] > below[..., 1] + 40) & (below[..., 0] > below[..., 2] + 40))
    dark = np.argwhere((below < 10).all(axis=2))
    assert red[:, 1].max() < 0.35 * TILE  # the right side, on the left
    assert red[:, 0].mean() > dark[:, 0].mean() + 0.2 * TILE  # the back, below
    assert not (tmp_path / "set" / SHEET).exists()


def test_overlay_of_a_picture_is_not_upside_down():
    image, label = torch.rand(1, 6, 4), torch.zeros(1, 6, 4)
    label[0, :, 3] = 1
    shown = overlay(image, label, label, 2)
    torch.testing.assert_close(shown[..., :6], label_overlay(image, label, 2))
    assert shown.shape == (3, 4, 12)
    grey = (shown[0] - shown[1]).abs() < 1e-6
    assert grey[:3, 1:5].all() and not grey[3].any()


@pytest.mark.slow
def test_a_killed_conversion_is_never_taken_for_a_finished_one(tmp_path, monkeypatch, capsys):
    """SIGKILL while files are written; then the same command again."""
    source, output = tmp_path / "EBC1", tmp_path / "out"
    rng = np.random.default_rng(0)
    make_ebc(source)
    for i in range(60):
        save_tiff(source / "train" / f"{i}.tif", np.dstack([rng.integers(0, 256, (300, 300)).astype(np.uint8)] * 3))
        save_tiff(source / "train_annot" / f"{i}.tif", np.zeros((300, 300), np.uint8))
    command = [sys.executable, "-m", "scripts.datasets", "nasa", "--source", source, "--output_dir", output]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob(".out.*.tmp/imagesTr/*"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (left,) = tmp_path.glob(".out.*.tmp")
    assert not output.exists() and not (left / "dataset.json").exists()
    with pytest.raises(UserError):
        load_datalist(str(output))
    assert "has no dataset.json" in run(monkeypatch, "check", left)
    assert run(monkeypatch, "nasa", source, output) == 0
    assert f"{left}. Delete" in capsys.readouterr().out
    assert len(load_datalist(str(output))["training"]) == 63


def test_a_full_disk_is_no_fault_of_the_files(tmp_path, monkeypatch):
    """The conversion stops and nothing is left, instead of rejecting one file after the other."""
    make_super(tmp_path / "Super1", names=["a"])

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert "No space left" in run(monkeypatch, "nasa", tmp_path / "Super1", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["Super1"]


@needs_nasa
def test_real_sets(tmp_path, monkeypatch, capsys):
    """The out-of-distribution list of a real set is counted and drawn."""
    convert_nasa(NASA / "Super3", tmp_path / "Super3")
    assert run(monkeypatch, "check", tmp_path / "Super3", "--cases", 2) == 0
    text = capsys.readouterr().out
    assert "1 training, 4 validation, 4 test, 5 different_test" in text and "tertiary precipitate" in text
    assert Path(tmp_path / "Super3" / SHEET).is_file()
