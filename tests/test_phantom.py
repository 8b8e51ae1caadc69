"""The phantoms are what a user trains on first: orientation, classes and half-written folders must be right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import load_decathlon_datalist
from monai.transforms import Compose, LoadImaged, Orientationd
from PIL import Image

from networks import phantom
from networks.class_names import ORGANS, PRECIPITATES
from networks.texture_phantom import ensure_texture_phantom

SMALL_CT = {"num_training": 2, "num_validation": 1, "num_test": 1, "size": (48, 48, 12)}
SMALL_2D = {"num_training": 1, "num_validation": 1, "num_test": 1, "size": (128, 96)}
LISTS = ("training", "validation", "test")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return phantom.write_ct_phantom(tmp_path_factory.mktemp("phantom") / "ct", **SMALL_CT)


def _cases(folder):
    index = folder / "dataset.json"
    return [case for name in LISTS for case in load_decathlon_datalist(index, data_list_key=name)]


def test_ct_follows_the_contract(ct):
    content = json.loads((ct / "dataset.json").read_text())
    assert list(content["labels"].values()) == ["background", *ORGANS]
    assert [len(content[name]) for name in LISTS] == [2, 1, 1]
    assert (content["numTraining"], content["numValidation"], content["numTest"]) == (2, 1, 1)
    assert phantom.NOT_EVIDENCE in content["description"]
    assert all(case["image"].startswith("./") for case in content["training"])
    assert not [p for p in ct.parent.iterdir() if p.name.startswith(".")]


def test_ct_looks_like_a_scan(ct):
    for case in _cases(ct):
        image, label = nib.load(case["image"]), nib.load(case["label"])
        values, classes = np.asanyarray(image.dataobj), np.asanyarray(label.dataobj)
        assert values.dtype == np.int16 and classes.dtype == np.uint8
        np.testing.assert_array_equal(image.affine, label.affine)
        assert np.unique(classes).tolist() == list(range(9))
        assert -1100 < np.percentile(values, 1) < -900
        aorta, gallbladder, liver = (np.median(values[classes == i]) for i in (1, 2, 5))
        assert gallbladder < 50 < liver < 140 and aorta > 70  # small ones mix with the fat around them
        zooms = image.header.get_zooms()
        assert zooms[2] > 1.3 * zooms[0] and image.header.get_xyzt_units()[0] == "mm"


def test_ct_sides_are_the_patients(ct):
    orientations = set()
    for case in _cases(ct):
        label = nib.load(case["label"])
        orientations.add("".join(nib.aff2axcodes(label.affine)))
        centre = {
            organ: nib.affines.apply_affine(label.affine, np.argwhere(np.asanyarray(label.dataobj) == i).mean(0))
            for i, organ in enumerate(ORGANS, 1)
        }  # mm to the right, to the front, to the head
        assert centre["left kidney"][0] < centre["aorta"][0] < centre["right kidney"][0]
        assert centre["spleen"][0] < centre["stomach"][0] < centre["liver"][0]
        assert centre["left kidney"][1] < centre["pancreas"][1] < centre["gallbladder"][1]
        assert centre["right kidney"][2] < centre["spleen"][2]
    assert orientations == {"RAS", "LPS", "LAS", "RPI"}


def test_monai_brings_ct_to_one_orientation(ct):
    load = Compose(
        [
            LoadImaged(("image", "label"), ensure_channel_first=True),
            Orientationd(("image", "label"), axcodes="RAS", labels=None),
        ]
    )
    for case in _cases(ct):
        loaded = load(case)
        assert loaded["image"].shape == loaded["label"].shape == (1, 48, 48, 12)
        first = [torch.where(loaded["label"][0] == i)[0].float().mean() for i in (3, 4)]
        assert first[0] < first[1]  # the first axis runs to the right


@pytest.mark.parametrize(
    ("write", "options"), [(phantom.write_ct_phantom, SMALL_CT), (phantom.write_precipitate_phantom, SMALL_2D)]
)
def test_the_seed_decides(tmp_path, write, options):
    read = {".gz": lambda p: np.asanyarray(nib.load(p).dataobj), ".png": lambda p: np.asarray(Image.open(p))}
    arrays = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        files = [Path(case[kind]) for case in _cases(write(tmp_path / name, seed=seed, **options)) for kind in case]
        arrays[name] = [read[file.suffix](file) for file in files]
    assert all(np.array_equal(x, y) for x, y in zip(arrays["a"], arrays["b"], strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(arrays["a"], arrays["c"], strict=True))
    assert not np.array_equal(arrays["a"][0], arrays["a"][2])  # cases differ


def test_precipitates(tmp_path):
    folder = phantom.write_precipitate_phantom(tmp_path / "p", **{**SMALL_2D, "size": (256, 256)})
    content = json.loads((folder / "dataset.json").read_text())
    assert list(content["labels"].values()) == ["matrix", *PRECIPITATES]
    for case in _cases(folder):
        image, label = Image.open(case["image"]), Image.open(case["label"])
        assert (image.mode, label.mode, image.size) == ("RGB", "L", (256, 256))
        pixels, classes = np.asarray(image), np.asarray(label)
        assert (pixels == pixels[..., :1]).all()
        shares = [(classes == i).mean() for i in range(3)]
        assert 0.4 < shares[1] < 0.6 and 0.01 < shares[2] < 0.05 and np.isclose(sum(shares), 1)
        loaded = LoadImaged(("image", "label"), ensure_channel_first=True)(case)
        assert loaded["image"].shape == (3, 256, 256) and loaded["label"].shape == (1, 256, 256)


def test_too_small_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="too small to hold"):
        phantom.write_ct_phantom(tmp_path / "x", size=(6, 6, 2))
    assert list(tmp_path.iterdir()) == []


def test_ensure_writes_once(tmp_path, capsys):
    folder = tmp_path / "new" / "data"
    assert phantom.ensure_precipitate_phantom(folder, **SMALL_2D) == str(folder)
    assert len(capsys.readouterr().out.splitlines()) == 1
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    phantom.ensure_precipitate_phantom(str(folder))
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert capsys.readouterr().out == ""


def test_ensure_fills_an_empty_folder_but_no_other(tmp_path):
    (tmp_path / "empty").mkdir()
    phantom.ensure_precipitate_phantom(tmp_path / "empty", **SMALL_2D)
    assert (tmp_path / "empty" / "dataset.json").is_file()
    (tmp_path / "textures").mkdir()
    ensure_texture_phantom(tmp_path / "textures")
    assert (tmp_path / "textures" / "training").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="not an empty folder"):
        phantom.ensure_precipitate_phantom(tmp_path / "mine", **SMALL_2D)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


PROCESSES = """
import os, sys
from networks import phantom

def child(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid

def killed():
    draw, calls = phantom._abdomen, []
    def dying(*args):
        if calls:
            os._exit(9)
        calls.append(args)
        return draw(*args)
    phantom._abdomen = dying
    phantom.write_ct_phantom(folder, size=(48, 48, 12))

def ensure():
    ready.read(1)  # until the parent has started both
    phantom.ensure_ct_phantom(folder, num_training=2, num_validation=1, num_test=1, size=(48, 48, 12))

folder = sys.argv[1]
print(os.waitstatus_to_exitcode(os.waitpid(child(killed), 0)[1]), os.path.exists(folder))
read, write = os.pipe()
ready = os.fdopen(read, "rb", buffering=0)
children = [child(ensure) for _ in range(2)]
os.write(write, b"..")
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks, so that it imports torch only once")
def test_killed_and_concurrent_writes(tmp_path):
    """A write that is killed leaves nothing under the final name; then two processes ensure the same folder."""
    folder = tmp_path / "ct"
    result = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in result.stdout.splitlines() if not line.startswith("Wrote a phantom")]
    assert lines == ["9 False", "[0, 0]"]
    assert result.stdout.count("Wrote a phantom") == 1
    assert len(_cases(folder)) == 4
    left = sorted(p.name for p in tmp_path.iterdir())
    assert len(left) == 2 and left[0].startswith(".ct.") and left[1] == "ct"  # the first is the killed one's


def test_ensure_loses_the_race_quietly(tmp_path, monkeypatch, capsys):
    """Another process finishes while this one is writing."""
    draw = phantom._micrograph

    def slow(*args):
        if not (tmp_path / "p").exists():
            monkeypatch.setattr(phantom, "_micrograph", draw)
            phantom.write_precipitate_phantom(tmp_path / "p", **SMALL_2D)
        return draw(*args)

    monkeypatch.setattr(phantom, "_micrograph", slow)
    phantom.ensure_precipitate_phantom(tmp_path / "p", **SMALL_2D)
    assert [p.name for p in tmp_path.iterdir()] == ["p"] and capsys.readouterr().out == ""
