"""Converters of volumes: tiny files in the originals' layouts (Synapse, ACDC), voxel for voxel."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest

from networks.class_names import ORGANS
from networks.errors import UserError
from networks.workflow.checks import check_dataset
from scripts.datasets.acdc import convert_acdc
from scripts.datasets.synapse import BTCV_ORGANS, TEST_CASES, convert_synapse
from tests.converters import ODD_AFFINE, content, lists, names, report, run, save_nifti, voxels

CASES = [f"{n:04d}" for n in (*range(1, 11), *range(21, 41))]
TRAINING = [case for case in CASES if case not in TEST_CASES]
SHAPE = (6, 5, 4)


def random_pair(rng, classes, shape=SHAPE):
    return rng.integers(-1024, 1500, shape).astype(np.int16), rng.integers(0, classes, shape).astype(np.uint8)


def make_btcv(folder, layout="averaged-training"):
    """The 30 labelled scans in one of the challenge's two layouts; arrays by case."""
    rng = np.random.default_rng(0)
    image_dir, label_dir = ("img", "label") if layout == "RawData/Training" else ("images", "labels")
    join = (lambda kind: folder / layout / kind) if "/" in layout else (lambda kind: folder / f"{layout}-{kind}")
    arrays = {}
    for case in CASES:
        image, label = random_pair(rng, 14)
        label[:, 0] = 6  # the liver is the largest
        save_nifti(join(image_dir) / f"img{case}.nii.gz", image)
        save_nifti(join(label_dir) / f"label{case}.nii.gz", label.astype(np.float64 if case == "0005" else np.uint8))
        arrays[case] = image, label
    return arrays


def make_transunet(folder, classes=9, liver=5):
    """The TransUNet line's files: slices of training cases, volumes of test cases; arrays (slice, row, column)."""
    import h5py

    rng = np.random.default_rng(0)
    (folder / "train_npz").mkdir(parents=True)
    (folder / "test_vol_h5").mkdir()
    arrays = {}
    for case in CASES:
        image = rng.random((3, 6, 5)).astype(np.float32)
        label = rng.integers(0, classes, image.shape).astype(np.float32)
        label[0], label[1, 0, 0] = liver, classes - 1
        arrays[case] = image, label
        if case in TEST_CASES:
            with h5py.File(folder / "test_vol_h5" / f"case{case}.npy.h5", "w") as file:
                file["image"], file["label"] = image, label
        else:
            for z in range(len(image)):
                path = folder / "train_npz" / f"case{case}_slice{z:03d}.npz"
                np.savez(path, image=image[z], label=label[z])
    return arrays


@pytest.mark.parametrize("layout", ["averaged-training", "RawData/Training"])
@pytest.mark.parametrize("organs", [8, 13, {"kidney": [2, 3], "liver": 6}])
def test_btcv(tmp_path, layout, organs, capsys):
    arrays = make_btcv(tmp_path / "in", layout)
    save_nifti(tmp_path / "in" / "RawData" / "Testing" / "img" / "img0061.nii.gz", arrays["0001"][0] + 1)
    convert_synapse(tmp_path / "in", tmp_path / "out", organs=organs)
    found = lists(tmp_path / "out")
    assert {name: len(items) for name, items in found.items()} == {"training": 15, "validation": 3, "test": 12}
    assert names(tmp_path / "out")["test"] == [f"case{case}.nii.gz" for case in TEST_CASES]
    kept = {8: ORGANS, 13: BTCV_ORGANS}.get(organs if isinstance(organs, int) else 0, ("kidney", "liver"))
    numbers = np.zeros(14, int)
    for number, name in enumerate(kept, 1):
        numbers[[2, 3] if name == "kidney" else BTCV_ORGANS.index(name) + 1] = number
    assert list(content(tmp_path / "out")["labels"].values()) == ["background", *kept]
    for items in found.values():
        for item in items:
            image, label = nib.load(item["image"]), nib.load(item["label"])
            original = arrays[item["image"][-11:-7]]
            assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
            np.testing.assert_array_equal(voxels(item["image"]), original[0])
            np.testing.assert_array_equal(voxels(item["label"]), numbers[original[1]])
            np.testing.assert_allclose(image.affine, ODD_AFFINE)
            np.testing.assert_allclose(label.affine, ODD_AFFINE)
    assert list(report(tmp_path / "out")["rejected"].values()) == ["There is no label for it."]
    assert content(tmp_path / "out")["intensity"]["intensity_range"] == [-125, 275]
    assert '--intensity_range "[-125,275]"' in capsys.readouterr().out
    assert report(tmp_path / "out")["warnings"] == []


def test_transunet_files(tmp_path, capsys):
    pytest.importorskip("h5py")
    arrays = make_transunet(tmp_path / "in")
    convert_synapse(tmp_path / "in", tmp_path / "out", validation="0005,case0030_slice001")
    found = names(tmp_path / "out")
    assert found["validation"] == ["case0005.nii.gz", "case0030.nii.gz"] and len(found["training"]) == 16
    assert found["test"] == [f"case{case}.nii.gz" for case in TEST_CASES]
    for item in (item for items in lists(tmp_path / "out").values() for item in items):
        image, label = arrays[item["image"][-11:-7]]
        np.testing.assert_array_equal(voxels(item["image"]), np.moveaxis(image, 0, -1))
        np.testing.assert_array_equal(voxels(item["label"]), np.moveaxis(label, 0, -1))
        np.testing.assert_array_equal(nib.load(item["image"]).affine, np.eye(4))
    described = content(tmp_path / "out")
    assert described["intensity"]["intensity_range"] == [0, 1] and "[0, 1]" in described["intensity"]["unit"]
    assert "spacing" in described["description"] and "0005, 0030" in described["description"]
    assert '--intensity_range "[0,1]"' in capsys.readouterr().out
    assert check_dataset(str(tmp_path / "out"), 1, 9) == {"training": 16, "validation": 2, "test": 12}


def test_transunet_files_with_thirteen_organs_and_mistakes(tmp_path, capsys):
    pytest.importorskip("h5py")
    source = tmp_path / "in"
    arrays = make_transunet(source, classes=14, liver=6)
    train = source / "train_npz"
    (train / "case0005_slice001.npz").unlink()
    (train / "case0006_slice002.npz").write_bytes((train / "case0006_slice002.npz").read_bytes()[:150])
    np.savez(train / "case0007_slice000.npz", img=np.zeros((6, 5)))
    np.savez(train / "case0009_slice000.npz", image=arrays["0009"][0][0] * 400, label=arrays["0009"][1][0])
    np.savez(train / "case0001_slice000.npz", image=arrays["0001"][0][0], label=arrays["0001"][1][0])
    (source / "test_vol_h5" / "case0002.npy.h5").write_bytes(b"cut")
    shutil.copy(source / "test_vol_h5" / "case0003.npy.h5", source / "test_vol_h5" / "case0010.npy.h5")
    convert_synapse(source, tmp_path / "out", validation=0)
    rejected = report(tmp_path / "out")["rejected"]
    reasons = {
        "train_npz/case0005_slice001.npz": "missing",
        "train_npz/case0006_slice002.npz": "cannot be read",
        "train_npz/case0007_slice000.npz": "no 'image' but img",
        "train_npz/case0009_slice000.npz": "expected 0 to 1",
        "train_npz/case0001_slice000.npz": "must not be trained on",
        "test_vol_h5/case0002.npy.h5": "cannot be read",
        "test_vol_h5/case0010.npy.h5": "must not be tested on",
    }
    assert rejected.keys() == reasons.keys() and all(reasons[file] in reason for file, reason in rejected.items())
    found = lists(tmp_path / "out")
    assert [len(items) for items in found.values()] == [17, 0, 11]
    (case,) = (item for item in found["training"] if "0005" in item["image"])
    kept = [BTCV_ORGANS.index(name) + 1 for name in ORGANS]
    expected = np.moveaxis(arrays["0005"][1][[0, 2]], 0, -1)
    np.testing.assert_array_equal(voxels(case["label"]), sum((expected == i) * n for n, i in enumerate(kept, 1)))

    shutil.rmtree(source)
    make_transunet(source, liver=6)  # eight ids in another order than the papers'
    convert_synapse(source, tmp_path / "odd")
    assert "largest organ is pancreas and not the liver" in capsys.readouterr().err
    assert "look at the contact sheet" in report(tmp_path / "odd")["warnings"][0]


def test_synapse_mistakes_are_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    make_transunet(tmp_path / "in")
    for options, expected in {
        ("--organs", 13): "eight organs",
        ("--organs", '{"liver": 99}'): "each id",
        ("--organs", "livr"): "--organs is 'livr'",
        ("--validation", "0001"): "--validation names 0001",
        ("--validation", 40): "18 cases to choose from",
        ("--validation", "none.txt"): "none.txt does not exist",
    }.items():
        message = run(monkeypatch, "synapse", "--source", tmp_path / "in", "--output_dir", tmp_path / "out", *options)
        assert expected in message and "\n" not in message
    save_nifti(tmp_path / "in" / "img0001.nii.gz", np.zeros((2, 2, 2), np.int16))
    assert "both forms" in run(monkeypatch, "synapse", tmp_path / "in", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "neither imgXXXX" in run(monkeypatch, "synapse", tmp_path / "empty", tmp_path / "out")
    assert "does not exist" in run(monkeypatch, "synapse", tmp_path / "nowhere", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "in"]


GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")


def make_acdc(folder, patients=100, tested=4):
    rng = np.random.default_rng(0)
    arrays = {}
    for n in [*range(1, patients + 1), *range(101, 101 + tested)]:
        name = f"patient{n:03d}"
        path = folder / ("training" if n <= 100 else "testing") / name
        path.mkdir(parents=True)
        end = 8 + n % 5
        group = GROUPS[(n - 1) % 100 // 20]
        lines = [f"ED: 1\nES: {end}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"]
        (path / "Info.cfg").write_text("".join(lines))
        save_nifti(path / f"{name}_4d.nii.gz", np.zeros((2, 2, 2, 2), np.int16))
        for phase, frame in (("ED", 1), ("ES", end)):
            image, label = random_pair(rng, 4)
            save_nifti(path / f"{name}_frame{frame:02d}.nii.gz", image)
            save_nifti(path / f"{name}_frame{frame:02d}_gt.nii.gz", label)
            arrays[f"{name}_{phase}"] = image, label
    return arrays


def patients(folder):
    return {name: {file[:10] for file in files} for name, files in names(folder).items()}


def test_acdc_voxels_and_the_rule_of_ten(tmp_path):
    arrays = make_acdc(tmp_path / "in")
    convert_acdc(tmp_path / "in", tmp_path / "out")
    found = lists(tmp_path / "out")
    assert {name: len(items) for name, items in found.items()} == {"training": 140, "validation": 20, "test": 40}
    by_list = patients(tmp_path / "out")
    assert {name: len(members) for name, members in by_list.items()} == {"training": 70, "validation": 10, "test": 20}
    assert not by_list["training"] & by_list["test"] and not by_list["validation"] & by_list["test"]
    tested = [(int(name[7:]) - 1) // 20 for name in by_list["test"]]
    assert np.bincount(tested).tolist() == [4] * 5  # every diagnosis
    for item in (item for items in found.values() for item in items):
        image, label = arrays[item["image"].rsplit("/", 1)[1].removesuffix(".nii.gz")]
        np.testing.assert_array_equal(voxels(item["image"]), image)
        np.testing.assert_array_equal(voxels(item["label"]), label)
        np.testing.assert_allclose(nib.load(item["label"]).affine, ODD_AFFINE)
    assert list(content(tmp_path / "out")["labels"].values())[1:] == ["right ventricle", "myocardium", "left ventricle"]
    assert report(tmp_path / "out")["rejected"] == {}


def test_acdc_official_test_and_published_lists(tmp_path):
    make_acdc(tmp_path / "in", patients=12)
    convert_acdc(tmp_path / "in", tmp_path / "official", test="testing", validation=3)
    by_list = patients(tmp_path / "official")
    assert by_list["test"] == {f"patient{n}" for n in range(101, 105)}
    assert len(by_list["validation"]) == 3 and len(by_list["training"]) == 9
    (tmp_path / "train.txt").write_text("case_001_sliceED_0\ncase_001_sliceES_1\npatient002_frame01\n")
    (tmp_path / "val.txt").write_text("patient005\n")
    (tmp_path / "test.list").write_text("case_009_volume_ED\ncase_101_volume_ES\n")
    files = {
        "training": str(tmp_path / "train.txt"),
        "validation": str(tmp_path / "val.txt"),
        "test": str(tmp_path / "test.list"),
    }
    convert_acdc(tmp_path / "in", tmp_path / "listed", **files)
    assert patients(tmp_path / "listed") == {
        "training": {"patient001", "patient002"},
        "validation": {"patient005"},
        "test": {"patient009", "patient101"},
    }
    (tmp_path / "val.txt").write_text("patient009\n")
    with pytest.raises(ValueError, match="patient009 would be in validation and test"):
        convert_acdc(tmp_path / "in", tmp_path / "leak", **files)
    (tmp_path / "val.txt").write_text("patient050\n")
    with pytest.raises(ValueError, match="--validation names patient050"):
        convert_acdc(tmp_path / "in", tmp_path / "unknown", **files)


def test_acdc_rejects(tmp_path):
    source = tmp_path / "in"
    make_acdc(source, patients=12, tested=0)
    training = source / "training"
    (training / "patient001" / "Info.cfg").unlink()
    (training / "patient002" / "patient002_frame01_gt.nii.gz").unlink()
    info = training / "patient003" / "Info.cfg"
    info.write_text(info.read_text().replace("ED: 1", "ED: 2"))
    path = training / "patient004" / "patient004_frame01.nii.gz"
    # cut in the voxels: the header is fine
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:400]))
    save_nifti(training / "patient005" / "patient005_frame01_gt.nii.gz", np.full(SHAPE, 7, np.uint8))
    convert_acdc(source, tmp_path / "out")
    rejected = report(tmp_path / "out")["rejected"]
    reasons = {
        "training/patient001": "Info.cfg does not exist",
        "training/patient002/patient002_frame01.nii.gz": "no label",
        "training/patient003/patient003_frame01.nii.gz": "neither ED nor ES",
        "training/patient004/patient004_frame01.nii.gz": "cannot be read",
        "training/patient005/patient005_frame01.nii.gz": "holds the values 7",
    }
    assert rejected.keys() == reasons.keys() and all(reasons[file] in reason for file, reason in rejected.items())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no patientXXX"):
        convert_acdc(tmp_path / "empty", tmp_path / "out2")
