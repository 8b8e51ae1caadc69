"""Tasks of the Medical Segmentation Decathlon, how cases are carved off, and how much memory it takes."""

import hashlib
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from monai.apps import DecathlonDataset
from monai.transforms import LoadImaged

from networks.errors import UserError
from networks.workflow.checks import check_dataset
from scripts.datasets.msd import convert_msd
from scripts.datasets.splits import carve
from tests.converters import ODD_AFFINE, content, lists, names, run, save_nifti, voxels

SHAPE = (6, 5, 4)


def make_task(folder, channels=1, count=10):
    """A Decathlon task; arrays by case."""
    rng = np.random.default_rng(0)
    modality = {"0": "CT"} if channels == 1 else dict(zip("0123", ("FLAIR", "T1w", "t1gd", "T2w"), strict=True))
    arrays, training = {}, []
    for i in range(count):
        name = f"spleen_{i * 3}"
        shape = SHAPE if channels == 1 else (*SHAPE, channels)
        image = rng.normal(0, 300, shape).astype(np.float32)
        label = rng.integers(0, 3, SHAPE).astype(np.uint8)
        save_nifti(folder / "imagesTr" / f"{name}.nii.gz", image)
        save_nifti(folder / "labelsTr" / f"{name}.nii.gz", label)
        (folder / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"of macOS")
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
        arrays[name] = image, label
    description = {
        "name": "Spleen",
        "description": "Spleen segmentation.",
        "licence": "CC-BY-SA 4.0",
        "modality": modality,
        "labels": {"0": "background", "1": "spleen", "2": "cyst"},
        "training": training,
        "test": ["./imagesTs/spleen_1.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return arrays


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_decathlon_task(tmp_path, kind):
    arrays = make_task(tmp_path / "in" / "Task09_Spleen")
    source = tmp_path / "in" / "Task09_Spleen"
    if kind == "tar":
        source = shutil.make_archive(tmp_path / "Task09_Spleen", "tar", tmp_path / "in", "Task09_Spleen")
    convert_msd(source, tmp_path / "out", seed=3)
    found = lists(tmp_path / "out")
    assert {name: len(items) for name, items in found.items()} == {"training": 7, "validation": 1, "test": 2}
    for item in (item for items in found.values() for item in items):
        name = item["image"].rsplit("/", 1)[1].removesuffix(".nii.gz")
        np.testing.assert_array_equal(voxels(item["image"]), arrays[name][0])
        np.testing.assert_array_equal(voxels(item["label"]), arrays[name][1])
        original = tmp_path / "in" / "Task09_Spleen" / "imagesTr" / f"{name}.nii.gz"
        assert Path(item["image"]).read_bytes() == original.read_bytes()
    assert content(tmp_path / "out")["intensity"]["unit"] == "HU"
    convert_msd(source, tmp_path / "again", seed=3)
    assert names(tmp_path / "again") == names(tmp_path / "out")


def test_decathlon_channels(tmp_path):
    arrays = make_task(tmp_path / "in", channels=4)
    convert_msd(tmp_path / "in", tmp_path / "all", validation="spleen_3", test="spleen_6.nii.gz,spleen_9")
    assert names(tmp_path / "all")["test"] == ["spleen_6.nii.gz", "spleen_9.nii.gz"]
    assert check_dataset(str(tmp_path / "all"), in_channels=4, out_channels=3)["validation"] == 1
    convert_msd(tmp_path / "in", tmp_path / "one", channel="T1gd")
    (case, *_) = lists(tmp_path / "one")["training"]
    name = case["image"].rsplit("/", 1)[1].removesuffix(".nii.gz")
    loaded = LoadImaged(("image", "label"), ensure_channel_first=True)(case)
    assert loaded["image"].shape == loaded["label"].shape == (1, *SHAPE)
    np.testing.assert_array_equal(loaded["image"][0].numpy(), arrays[name][0][..., 2])
    np.testing.assert_allclose(loaded["image"].affine.numpy(), ODD_AFFINE)
    assert content(tmp_path / "one")["modality"] == {"0": "t1gd"}
    low, high = content(tmp_path / "one")["intensity"]["intensity_range"]
    assert -1500 < low < -500 and 500 < high < 1500  # measured, since MR has no unit
    with pytest.raises(ValueError, match=r"--channel T9 is not one of the task's channels: 0 \(FLAIR\)"):
        convert_msd(tmp_path / "in", tmp_path / "out", channel="T9")


def test_decathlon_download(tmp_path, monkeypatch):
    """MONAI's downloader with a file for a server; once there, the archive is not fetched again."""
    make_task(tmp_path / "in" / "Task09_Spleen")
    archive = shutil.make_archive(tmp_path / "server", "tar", tmp_path / "in", "Task09_Spleen")
    monkeypatch.setitem(DecathlonDataset.resource, "Task09_Spleen", f"file://{archive}")
    monkeypatch.setitem(DecathlonDataset.md5, "Task09_Spleen", hashlib.md5(Path(archive).read_bytes()).hexdigest())
    options = ("--source", tmp_path / "cache", "--download", "Task09_Spleen", "--output_dir")
    assert run(monkeypatch, "msd", *options, tmp_path / "a") == 0
    monkeypatch.setitem(DecathlonDataset.resource, "Task09_Spleen", "file:///nowhere.tar")
    assert run(monkeypatch, "msd", *options, tmp_path / "b") == 0
    assert names(tmp_path / "a") == names(tmp_path / "b")
    (tmp_path / "cache" / "Task09_Spleen.tar").unlink()
    message = run(monkeypatch, "msd", *options, tmp_path / "c")
    assert "could not be fetched from file:///nowhere.tar" in message and "\n" not in message
    message = run(monkeypatch, "msd", tmp_path / "cache", tmp_path / "d", "--download", "Task99")
    assert "choose Task01_BrainTumour" in message


def test_decathlon_mistakes(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="one task, such as Task09_Spleen"):
        convert_msd(tmp_path / "in", tmp_path / "out")
    for text in ("[]", "{", '{"labels": {"0": "a"}, "modality": {"0": "CT"}, "training": [{"image": "../x"}]}'):
        (tmp_path / "in" / "dataset.json").write_text(text)
        with pytest.raises(ValueError, match="is not a Decathlon task"):
            convert_msd(tmp_path / "in", tmp_path / "out")
    make_task(tmp_path / "task", channels=4)
    description = json.loads((tmp_path / "task" / "dataset.json").read_text())
    (tmp_path / "task" / "dataset.json").write_text(json.dumps({**description, "modality": {"0": "CT"}}))
    with pytest.raises(ValueError, match="no usable case for training"):
        convert_msd(tmp_path / "task", tmp_path / "out")
    twice = [{"image": f"./{case}/image.nii.gz", "label": f"./{case}/label.nii.gz"} for case in ("a", "b")]
    (tmp_path / "task" / "dataset.json").write_text(json.dumps({**description, "training": twice}))
    with pytest.raises(UserError, match=r"lists ./a/image.nii.gz and ./b/image.nii.gz, which would be one case"):
        convert_msd(tmp_path / "task", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "task"]


def test_carving_is_repeatable_and_complete():
    cases = [f"c{i}" for i in range(20)]
    assert carve(cases, 5, 1) == carve(cases[::-1], 5, 1) != carve(cases, 5, 2)
    assert len(carve(cases, 0.25)) == 5 and len(carve(cases[:3], 0.01)) == 1 and carve(cases, 0) == []
    assert carve(cases, ("c3", "c1")) == carve(cases, "c1, c3") == ["c1", "c3"]
    for choice in (21, -1, 1.5):
        with pytest.raises(ValueError, match="give a smaller number"):
            carve(cases, choice)


def test_memory_does_not_grow_with_the_data_set(tmp_path):
    peaks = []
    for count in (3, 12):
        folder = tmp_path / str(count)
        rng = np.random.default_rng(0)
        items = []
        for i in range(count):
            for kind in ("images", "labels"):
                array = rng.integers(0, 2, (64, 64, 40)).astype(np.int16)
                save_nifti(folder / f"{kind}Tr" / f"a_{i}.nii", array)
            items.append({"image": f"imagesTr/a_{i}.nii", "label": f"labelsTr/a_{i}.nii"})
        task = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "a"}, "training": items}
        (folder / "dataset.json").write_text(json.dumps(task))
        tracemalloc.start()
        convert_msd(folder, tmp_path / f"out{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
