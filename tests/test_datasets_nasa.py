"""The micrographs: tiny files in the originals' layouts, pixel for pixel; the real files where they are at hand."""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from networks.errors import UserError
from networks.workflow.pictures import read_pixels, to_8_bit
from scripts.datasets.nasa import convert_nasa
from tests.converters import (
    NASA,
    ODD_NAMES,
    lists,
    make_ebc,
    make_super,
    needs_nasa,
    report,
    run,
    save_tiff,
)


@pytest.mark.parametrize(("make", "bits"), [(make_super, 8), (make_super, 16), (make_ebc, None)])
def test_nasa_voxel_for_voxel(tmp_path, make, bits):
    source, output = tmp_path / "Set#1 (new)", tmp_path / "out"
    expected = make(source, bits) if bits else make(source)
    convert_nasa(source, output)
    found = lists(output)
    assert list(found)[:3] == ["training", "validation", "test"] and ("different_test" in found) == bool(bits)
    load = LoadImaged(("image", "label"), ensure_channel_first=True)
    for items in found.values():
        assert len(items) == len(ODD_NAMES)
        for case in items:
            grey, label = expected.pop(Path(case["image"]).stem)
            assert (Image.open(case["image"]).mode, Image.open(case["label"]).mode) == ("RGB", "L")
            np.testing.assert_array_equal(np.asarray(Image.open(case["image"])), np.dstack([grey] * 3))
            np.testing.assert_array_equal(np.asarray(Image.open(case["label"])), label)
            loaded = load(case)  # MONAI puts x first
            np.testing.assert_array_equal(loaded["image"][0].numpy(), grey.T)
            np.testing.assert_array_equal(loaded["label"][0].numpy(), label.T)
    assert not expected and report(output)["rejected"] == {} and report(output)["renamed"] == {}


def test_16_bit_rounds_like_opencv():
    values = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_8_bit(values), np.round(values / 257))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_every_compression_and_alpha_is_read(tmp_path, compression):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), pixels)


def test_a_file_cut_in_its_pixels_is_rejected(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a.png cannot be read \("):
        read_pixels(tmp_path / "a.png")


def test_nasa_names_every_rejected_file(tmp_path, capsys):
    source, output = tmp_path / "Super", tmp_path / "out"
    names = ["good", "small", "cut", "coloured", "strange", "swapped", "flat"]
    make_super(source, names=names)
    train, annot = source / "train", source / "train_annot"
    save_tiff(annot / "small_train_mask.tif", np.zeros((5, 5, 4), np.uint8))
    (train / "cut_train.tif").write_bytes((train / "cut_train.tif").read_bytes()[:100])
    save_tiff(train / "coloured_train.tif", np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8))
    annotation = read_pixels(annot / "strange_train_mask.tif")
    annotation[0, 0] = (0, 255, 0, 255)
    save_tiff(annot / "strange_train_mask.tif", annotation)
    shutil.copy(annot / "good_train_mask.tif", annot / "swapped_train_mask.tif")
    save_tiff(annot / "flat_train_mask.tif", np.zeros((12, 16), np.uint8))
    for kind, folder in (("", train), ("_mask", annot)):
        shutil.copy(source / f"val{'_annot' if kind else ''}" / f"good_val{kind}.tif", folder / f"leak{kind}.tif")
    (train / "alone.tif").write_bytes(b"")
    (annot / "lonely_mask.tif").write_bytes(b"")
    (annot / "unnamed.tif").write_bytes(b"")
    (train / "notes.txt").write_text("not an image")
    (train / ".DS_Store").write_text("ignored")
    convert_nasa(source, output)
    reasons = {
        "train_annot/lonely_mask.tif": "no image lonely",
        "train_annot/unnamed.tif": "ends in _mask",
        "train/alone.tif": "no annotation alone_mask",
        "train/notes.txt": "not an image file",
        "train/small_train.tif": "shape (12, 16) but its annotation has (5, 5)",
        "train/cut_train.tif": "damaged",
        "train/coloured_train.tif": "coloured",
        "train/strange_train.tif": "1 pixels that are neither grey nor pure blue nor pure red",
        "train/swapped_train.tif": "another micrograph",
        "train/flat_train.tif": "no colours",
        "val/good_val.tif": "same image as train/leak.tif",
    }
    rejected = report(output)["rejected"]
    assert rejected.keys() == reasons.keys()
    assert all(part in rejected[file] and rejected[file].endswith(".") for file, part in reasons.items())
    assert len(lists(output)["training"]) == 2 and len(lists(output)["validation"]) == len(names) - 1
    assert capsys.readouterr().err.count("Rejected ") == len(reasons)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_nasa_all_sets_of_a_repository(tmp_path, kind, capsys):
    """Every set below the source, from the folder or an archive, to the same files; what is there is left alone."""
    repository = tmp_path / "pretrained-microscopy-models-main"
    make_super(repository / "benchmark_segmentation_data" / "Super2", names=ODD_NAMES[:1])
    make_ebc(repository / "benchmark_segmentation_data" / "EBC1")
    (repository / "README.md").write_text("text")
    convert_nasa(repository, tmp_path / "expected", ebc_labels="oxide")
    source = repository
    if kind != "folder":
        source = Path(shutil.make_archive(tmp_path / "archive", kind, tmp_path, repository.name))
    convert_nasa(source, tmp_path / "out", ebc_labels="oxide")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["EBC1", "Super2"]
    files = [p.relative_to(tmp_path / "expected") for p in (tmp_path / "expected").rglob("*") if p.is_file()]
    assert len(files) == 2 * (4 + 9) + 4
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()
    capsys.readouterr()
    convert_nasa(source, tmp_path / "out", sets="EBC1")
    assert capsys.readouterr().out.endswith("EBC1 is there already.\n")


def test_a_set_that_is_there_twice_is_refused(tmp_path):
    """One of them was taken without a word."""
    for copy in ("new", "old"):
        make_ebc(tmp_path / "source" / copy / "EBC1")
    with pytest.raises(UserError, match=r"EBC1 is in .*new.EBC1 and in .*old.EBC1; give --source one of them"):
        convert_nasa(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_members_that_climb_out_are_never_written(tmp_path):
    make_super(tmp_path / "in" / "Super1", names=["a"])
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (tmp_path / "in").rglob("*.tif"):
            file.write(path, path.relative_to(tmp_path / "in"))
        file.writestr("Super1/train/../../../../evil.tif", b"x")
        file.writestr("/Super1/train/evil.tif", b"x")
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    convert_nasa(archive, tmp_path / "out")
    assert report(tmp_path / "out" / "Super1")["rejected"] == {}
    assert not [p for p in {*tmp_path.rglob("*"), *Path(tempfile.gettempdir()).iterdir()} - before if "evil" in p.name]


def test_damaged_archives(tmp_path):
    make_super(tmp_path / "in" / "Super1", names=["a", "b"])
    archive = Path(shutil.make_archive(tmp_path / "a", "zip", tmp_path / "in"))
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo("Super1/train/a_train.tif")
    content = bytearray(archive.read_bytes())
    middle = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    content[middle : middle + 8] = b"\0" * 8
    archive.write_bytes(content)
    convert_nasa(archive, tmp_path / "out")
    (reason,) = report(tmp_path / "out" / "Super1")["rejected"].items()
    assert reason[0] == "train/a_train.tif" and "cannot be read" in reason[1]
    compressed = shutil.make_archive(tmp_path / "b", "gztar", tmp_path / "in")
    with pytest.raises(ValueError, match="neither a folder nor a zip nor an uncompressed tar"):
        convert_nasa(compressed, tmp_path / "out2")


@pytest.mark.parametrize(
    ("choice", "numbers", "labels"),
    [
        ("oxide_crack", (0, 1, 2), ["background", "oxide", "crack"]),
        ("oxide", (0, 1, 1), ["background", "oxide"]),
        ("oxide_without_crack", (0, 1, 0), ["background", "oxide"]),
    ],
)
def test_cracks_belong_where_the_user_says(tmp_path, choice, numbers, labels):
    expected = make_ebc(tmp_path / "EBC2")
    convert_nasa(tmp_path / "EBC2", tmp_path / "out", ebc_labels=choice)
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert list(content["labels"].values()) == labels and "crack" in content["description"]
    for case in lists(tmp_path / "out")["training"]:
        _, label = expected[Path(case["image"]).stem]
        np.testing.assert_array_equal(np.asarray(Image.open(case["label"])), np.array(numbers)[label])


def test_wrong_class_numbers_and_unsafe_names(tmp_path):
    source = tmp_path / "EBC"
    make_ebc(source)
    save_tiff(source / "train_annot" / "plain.v1_train.tif", np.full((9, 7), 9, np.uint8))
    for folder in ("train", "train_annot"):
        (source / folder / f"{ODD_NAMES[1]}_train.tif").rename(source / folder / '%a:b?"c.tif')
    convert_nasa(source, tmp_path / "out")
    assert report(tmp_path / "out")["rejected"] == {
        "train/plain.v1_train.tif": "The label holds the values 9, which the label map does not have."
    }
    assert report(tmp_path / "out")["renamed"] == {'train/%a:b?"c.tif': "_a_b__c"}


def test_command_line_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys):
    source = tmp_path / "Super1"
    make_super(source, names=["a"])
    output = tmp_path / "out"
    assert "does not exist" in run(monkeypatch, "nasa", "--source", tmp_path / "no", "--output_dir", output)
    message = run(monkeypatch, "nasa", "--source", source / "train", "--output_dir", output)
    assert "the folder of one set, such as Super1" in message
    assert "it has Super1" in run(monkeypatch, "nasa", tmp_path, output, "--sets", "Super9")
    assert "choose oxide_crack" in run(monkeypatch, "nasa", tmp_path, output, "--ebc_labels", "cracks")
    (source / "val_annot" / "a_val_mask.tif").unlink()
    message = run(monkeypatch, "nasa", "--source", source, "--output_dir", output)
    assert message.startswith("Error: ") and "no usable case for validation" in message and "\n" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Super1"]  # nothing half-written
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    assert "not an empty folder" in run(monkeypatch, "phantom", "--kind", "precipitate", "--output_dir", output)
    assert "unknown" in run(monkeypatch, "phantom", "--kind", "pet", "--output_dir", tmp_path / "x")
    assert [p.name for p in output.iterdir()] == ["mine.txt"]


def test_command_line_phantom_and_check(tmp_path, monkeypatch, capsys):
    pytest.importorskip("networks.workflow.checks")
    options = ("--num_training", 1, "--num_validation", 1, "--num_test", 0, "--size", "64,64")
    assert run(monkeypatch, "phantom", "--kind", "precipitate", "--output_dir", tmp_path / "p", *options) == 0
    assert run(monkeypatch, "check", tmp_path / "p") == 0
    assert "1 training, 1 validation, 0 test" in capsys.readouterr().out
    assert "names 3 classes" in run(monkeypatch, "check", tmp_path / "p", "--out_channels", 2)


@needs_nasa
def test_real_super1(tmp_path):
    convert_nasa(NASA / "Super1", tmp_path / "out")
    found = lists(tmp_path / "out")
    assert {name: len(items) for name, items in found.items()} == {"training": 10, "validation": 4, "test": 4}
    assert report(tmp_path / "out")["rejected"] == {}
    cases = report(tmp_path / "out")["cases"]
    for name in found:
        counts = [list(case["label_counts"].values()) for case in cases if case["lists"] == [name]]
        _, secondary, tertiary = np.mean(counts, axis=0) / 512**2
        assert 0.46 < secondary < 0.52 and 0.019 < tertiary < 0.035  # the description says 47 to 51 %, 2.0 to 3.4 %


@needs_nasa
def test_real_super4_has_16_bit_files(tmp_path):
    convert_nasa(NASA / "Super4", tmp_path / "out")
    found = lists(tmp_path / "out")
    assert [len(items) for items in found.values()] == [4, 4, 5] and report(tmp_path / "out")["rejected"] == {}
    (case,) = [c for c in found["test"] if "precip - untested-2_0" in c["image"]]
    original = read_pixels(NASA / "Super4" / "test" / Path(case["image"]).with_suffix(".tif").name)
    assert original.dtype == np.uint16
    loaded = LoadImaged(("image", "label"), ensure_channel_first=True)(case)
    np.testing.assert_array_equal(loaded["image"].numpy(), np.round(original / 257).transpose(2, 1, 0))
    assert 0.3 < (loaded["label"] == 1).float().mean() < 0.6 and (loaded["label"] == 2).any()
