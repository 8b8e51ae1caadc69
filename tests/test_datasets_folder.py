"""Plain folders of images and masks: pairing, colours, bit depths, splits."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from networks.errors import UserError
from networks.workflow.checks import check_dataset
from scripts.datasets.colours import read_class_numbers
from scripts.datasets.folder import convert_folder
from scripts.datasets.writer import CaseError
from tests.converters import ODD_AFFINE, content, lists, names, report, run, save_nifti, save_tiff, voxels

RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)
COLOURS = {"255,0,0": 1, "(0, 0, 255)": 2}


def picture(rng, dtype=np.uint8, channels=3):
    shape = (9, 7) if channels == 1 else (9, 7, channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make(folder, mask_of, count=12, stem="img {} (a)#1", suffix=".png"):
    """Pictures and masks; what the data set has to hold by stem."""
    rng = np.random.default_rng(0)
    expected = {}
    for i in range(count):
        name = stem.format(i)
        image, label = picture(rng), rng.integers(0, 3, (9, 7)).astype(np.uint8)
        save(folder / "images" / f"{name}{suffix}", image)
        save(folder / "masks" / f"{name}_mask.png", mask_of(label))
        expected[name] = image, label
    return expected


def assert_equal(folder, expected):
    found = [item for items in lists(folder).values() for item in items]
    assert len(found) == len(expected)
    for item in found:
        image, label = expected[item["image"].rsplit("/", 1)[1].removesuffix(".png")]
        np.testing.assert_array_equal(np.asarray(Image.open(item["image"])), image)
        np.testing.assert_array_equal(np.asarray(Image.open(item["label"])), label)


PATTERNS = {"images": "images/{case}.png", "masks": "masks/{case}_mask.png", "labels": "background,cell,edge"}
MASKS = {
    "indexed": (lambda label: label, None),
    "colours": (lambda label: np.array([BLACK, RED, BLUE], np.uint8)[label], COLOURS),
    "grey values": (lambda label: np.array([0, 128, 255], np.uint8)[label], {"128": 1, "255": 2}),
    "equal channels": (lambda label: np.repeat(label[..., None], 3, axis=2), None),
    "colours with alpha": (
        lambda label: np.dstack([np.array([BLACK, RED, BLUE], np.uint8)[label], np.full_like(label, 255)]),
        COLOURS,
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks(tmp_path, kind):
    mask_of, colours = MASKS[kind]
    expected = make(tmp_path / "in", mask_of)
    convert_folder(tmp_path / "in", tmp_path / "out", **PATTERNS, colours=colours, validation=2, test=0.25)
    assert_equal(tmp_path / "out", expected)
    assert {name: len(files) for name, files in names(tmp_path / "out").items()} == {
        "training": 7,
        "validation": 2,
        "test": 3,
    }
    assert check_dataset(str(tmp_path / "out"), 3, 3)["test"] == 3
    assert report(tmp_path / "out")["rejected"] == {}


def test_palette_and_one_bit_masks(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        label = rng.integers(0, 2, (9, 7)).astype(np.uint8)
        save(tmp_path / "in" / f"{i}.png", picture(rng))
        mask = Image.fromarray(label)
        if i % 2:
            mask.putpalette([*BLACK, *RED])
        else:
            mask = Image.fromarray(label.astype(bool))
        mask.save(tmp_path / "in" / f"{i}_m.png")
        assert Image.open(tmp_path / "in" / f"{i}_m.png").mode == ("P" if i % 2 else "1")
        np.save(tmp_path / f"{i}.npy", label)
    convert_folder(tmp_path / "in", tmp_path / "out", "{case}.png", "{case}_m.png", "background,cell", test=1)
    for item in (item for items in lists(tmp_path / "out").values() for item in items):
        label = np.load(tmp_path / item["image"].rsplit("/", 1)[1].replace("png", "npy"))
        np.testing.assert_array_equal(np.asarray(Image.open(item["label"])), label)


@pytest.mark.parametrize(
    ("suffix", "colours"), [("png", {"255,0,0": 1}), ("tif", {"255,0,0": 1}), ("png", {"255,255,255": 1})]
)
def test_colours_of_palettes_and_one_bit_are_those_shown(tmp_path, suffix, colours):
    label = np.random.default_rng(0).integers(0, 2, (9, 7)).astype(np.uint8)
    save(tmp_path / "in" / "a.png", picture(np.random.default_rng(1)))
    mask = Image.fromarray(1 - label)
    mask.putpalette([*RED, *BLACK])
    mask = Image.fromarray(label.astype(bool)) if "255,255,255" in colours else mask
    mask.save(tmp_path / "in" / f"a_m.{suffix}")
    options = {"colours": colours, "validation": 0, "test": 0}
    convert_folder(
        tmp_path / "in", tmp_path / "out", "{case}.png", f"{{case}}_m.{suffix}", "background,cell", **options
    )
    (item,) = lists(tmp_path / "out")["training"]
    np.testing.assert_array_equal(np.asarray(Image.open(item["label"])), label)


def test_what_is_transparent_is_background(tmp_path):
    label = np.random.default_rng(0).integers(0, 3, (9, 7)).astype(np.uint8)
    shown = np.array([RED, BLACK, BLUE], np.uint8)[label]  # red was erased, black is a class
    classes = {(0, 0, 0): 1, (0, 0, 255): 2}
    Image.fromarray(np.dstack([shown, np.where(label, 255, 0).astype(np.uint8)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_class_numbers(tmp_path / "a.png", classes), label)
    mask = Image.fromarray(label)
    mask.putpalette([*RED, *BLACK, *BLUE])
    mask.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_class_numbers(tmp_path / "a.png", classes), label)
    for alpha in (np.where(label, 255, 90), np.zeros_like(label)):
        Image.fromarray(np.dstack([shown, alpha.astype(np.uint8)])).save(tmp_path / "a.png")
        with pytest.raises(CaseError, match=r"a\.png: The mask is partly transparent.* save it without alpha"):
            read_class_numbers(tmp_path / "a.png", classes)


def test_16_bit_pictures(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    images = {}
    for i in range(6):
        images[str(i)] = rng.integers(0, 4096, (9, 7) if i % 2 else (9, 7, 3)).astype(np.uint16)
        save_tiff(tmp_path / "in" / "x" / f"{i}.tif", images[str(i)])
        save_tiff(tmp_path / "in" / "y" / f"{i}.tif", np.full((9, 7), i % 2, np.uint16))
    patterns = ("--images", "x/{case}.tif", "--masks", "y/{case}.tif", "--labels", "background,cell")
    where = ("folder", "--source", tmp_path / "in", "--output_dir")
    assert run(monkeypatch, *where, tmp_path / "dark", *patterns) == 0
    highest = max(image.max() for image in images.values())
    assert f"convert again with --window 0,{highest}" in capsys.readouterr().err
    assert run(monkeypatch, *where, tmp_path / "out", *patterns, "--window", "0,4095") == 0
    assert run(monkeypatch, *where, tmp_path / "grey", *patterns, "--window", "0,4095", "--channels", 1) == 0
    for item in (item for items in lists(tmp_path / "out").values() for item in items):
        original = images[item["image"].rsplit("/", 1)[1].removesuffix(".png")]
        shown = np.asarray(Image.open(item["image"])).astype(float)
        expected = original / 4095 * 255
        assert np.abs(shown - (expected if expected.ndim == 3 else expected[..., None])).max() <= 0.5
    assert {Image.open(item["image"]).mode for item in lists(tmp_path / "grey")["training"]} == {"L"}


def test_sub_folders_are_the_lists(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2), ("test", 1), ("other_lab", 2)):
        for i in range(count):
            save(tmp_path / "in" / split / "deep" / "img" / f"{i}.png", picture(rng))
            save(tmp_path / "in" / split / "gt" / f"{i}.bmp", np.ones((9, 7), np.uint8))
    convert_folder(tmp_path / "in", tmp_path / "out", "{split}/**/img/{case}.png", "{split}/gt/{case}.*", ["a", "b"])
    counts = {name: len(files) for name, files in names(tmp_path / "out").items()}
    assert counts == {"training": 3, "validation": 2, "test": 1, "other_lab": 2}


def test_a_group_in_two_sub_folders_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    for split, group in (("train", "a"), ("train", "b"), ("test", "c"), ("test", "b")):
        for kind, array in (("img", picture(rng)), ("gt", np.zeros((9, 7), np.uint8))):
            save(tmp_path / "in" / split / kind / f"{group}_{split}.png", array)
    patterns = ("{split}/img/{group}_{case}.png", "{split}/gt/{group}_{case}.png")
    with pytest.raises(UserError, match="The group b is in the lists test and training"):
        convert_folder(tmp_path / "in", tmp_path / "out", *patterns, ["x", "y"])
    assert not (tmp_path / "out").exists()


def test_what_is_named_for_validation_is_not_drawn_for_the_test(tmp_path):
    rng = np.random.default_rng(0)
    for patient in range(7):
        save(tmp_path / "in" / f"Patient0{patient}_0.png", picture(rng))
        save(tmp_path / "in" / f"Patient0{patient}_0_mask.png", np.zeros((9, 7), np.uint8))
    where = (tmp_path / "in", tmp_path / "out", "{group}_{case}.png", "{group}_{case}_mask.png", ["x", "y"])
    named = "Patient00,Patient01,Patient02,Patient03"
    convert_folder(*where, validation=named, test=2)
    assert [len(files) for files in names(tmp_path / "out").values()] == [1, 4, 2]
    with pytest.raises(UserError, match="Patient03 is named by --validation and by --test"):
        convert_folder(*where, validation=named, test="Patient03")
    with pytest.raises(UserError, match="--test names Patient9, which cannot be chosen here; Patient00"):
        convert_folder(*where, test="Patient9")


def test_groups_stay_together(tmp_path):
    rng = np.random.default_rng(0)
    for patient in range(10):
        for i in range(3):
            save(tmp_path / "in" / f"p{patient}_{i}.png", picture(rng))
            save(tmp_path / "in" / f"p{patient}_{i}_mask.png", np.zeros((9, 7), np.uint8))
    convert_folder(tmp_path / "in", tmp_path / "out", "{group}_{case}.png", "{group}_{case}_mask.png", ["a", "b"])
    groups = {name: {file.split("_")[1] for file in files} for name, files in names(tmp_path / "out").items()}
    assert [len(group) for group in groups.values()] == [6, 2, 2] and len(set.union(*groups.values())) == 10
    assert [len(files) for files in names(tmp_path / "out").values()] == [18, 6, 6]


def test_patients_of_whom_only_the_patterns_tell_stay_together(tmp_path):
    rng = np.random.default_rng(0)
    for patient in range(10):
        for frame in range(2):
            save(tmp_path / "in" / "img" / f"patient{patient:03}_frame{frame}.png", picture(rng))
            save(tmp_path / "in" / "lab" / f"patient{patient:03}_frame{frame}.png", np.zeros((9, 7), np.uint8))
    patterns = "img/patient{who}_frame{at}.png", "lab/patient{who}_frame{at}.png"
    convert_folder(tmp_path / "in", tmp_path / "out", *patterns, ["a", "b"], validation=2, test="1_007,patient003")
    found = {name: sorted(file[2:5] for file in files) for name, files in names(tmp_path / "out").items()}
    assert found["test"] == ["003", "003", "007", "007"]
    assert {name: len(set(whose)) for name, whose in found.items()} == {"training": 6, "validation": 2, "test": 2}
    assert [len(whose) for whose in found.values()] == [12, 4, 4]


def test_long_lists_are_no_names_of_files(tmp_path):
    expected = make(tmp_path / "in", lambda label: label, stem="{:03}_" + "with a long name" * 3)
    colours = json.dumps({str(value): min(value, 2) for value in range(100)})
    assert len(colours) > 255
    chosen = ",".join(sorted(expected)[:9])
    convert_folder(tmp_path / "in", tmp_path / "out", **PATTERNS, colours=colours, validation=chosen, test=1)
    assert_equal(tmp_path / "out", expected)
    assert len(names(tmp_path / "out")["validation"]) == 9


def test_volumes(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for i in range(5):
        image, label = rng.normal(0, 1, (6, 5, 4)).astype(np.float32), rng.integers(0, 2, (6, 5, 4)).astype(np.uint8)
        save_nifti(tmp_path / "in" / f"{i}" / "t1.nii.gz", image)
        nifti = nib.Nifti1Image(label * 255, ODD_AFFINE)
        nib.save(nib.as_closest_canonical(nifti) if i % 2 else nifti, tmp_path / "in" / f"{i}" / "seg.nii.gz")
        arrays[f"{i}.nii.gz"] = image, label
    options = {"colours": {"255": 1}, "validation": 1, "test": 1, "unit": "T1 signal"}
    where = (tmp_path / "in", tmp_path / "out", "{case}/t1.nii.gz", "{case}/seg.nii.gz", "no,yes")
    with pytest.raises(UserError, match="--colours of volumes are single values"):
        convert_folder(*where, **{**options, "colours": {"255,0,0": 1}})
    convert_folder(*where, **options)
    for item in (item for items in lists(tmp_path / "out").values() for item in items):
        image, label = arrays[item["image"].rsplit("/", 1)[1]]
        np.testing.assert_array_equal(voxels(item["image"]), image)
        np.testing.assert_array_equal(voxels(item["label"]), label)
        np.testing.assert_allclose(nib.load(item["label"]).affine, ODD_AFFINE)
    assert content(tmp_path / "out")["intensity"]["unit"] == "T1 signal"


def test_rejects(tmp_path):
    source = tmp_path / "in"
    make(source, lambda label: np.array([BLACK, RED, BLUE], np.uint8)[label], count=20, stem="{}")
    mask = np.asarray(Image.open(source / "masks" / "0_mask.png")).copy()
    mask[0, :3], mask[1, 0] = (1, 2, 3), (9, 9, 9)
    save(source / "masks" / "0_mask.png", mask)
    save(source / "masks" / "1_mask.png", mask[2:7])
    (source / "masks" / "2_mask.png").unlink()
    (source / "images" / "3.png").write_bytes(b"no picture")
    save(source / "notes" / "overview.jpg", mask)
    stack = [Image.fromarray(np.full((9, 7), i, np.uint8)) for i in range(3)]
    stack[0].save(source / "stack.tif", save_all=True, append_images=stack[1:])
    (source / "images" / "4.png").write_bytes((source / "stack.tif").read_bytes())
    convert_folder(source, tmp_path / "out", **PATTERNS, colours=json.dumps(COLOURS))
    rejected = report(tmp_path / "out")["rejected"]
    reasons = {
        "images/0.png": "colours that --colours does not have: 1,2,3 (3 pixels); 9,9,9 (1 pixels)",
        "images/1.png": "shape (9, 7) but its label has (5, 7)",
        "images/2.png": "no mask",
        "images/3.png": "image in a known format",
        "images/4.png": "3 pages",
        "notes/overview.jpg": "neither --images nor --masks",
        "stack.tif": "neither --images nor --masks",
    }
    assert rejected.keys() == reasons.keys() and all(reasons[file] in reason for file, reason in rejected.items())


def test_rejects_volumes(tmp_path):
    """One file that no reader knows takes nothing from the others."""
    source = tmp_path / "in"
    for i in range(5):
        save_nifti(source / f"{i}.nii", np.random.default_rng(i).integers(0, 99, (6, 5, 4)).astype(np.int16))
        save_nifti(source / f"{i}_mask.nii", np.ones((6, 5, 4), np.uint8))
    header = bytearray((source / "0.nii").read_bytes())
    header[70:72] = (1234).to_bytes(2, "little")  # the code of its type
    (source / "0.nii").write_bytes(header)
    save_nifti(source / "1.nii", np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    save_nifti(source / "2.nii", np.zeros((6, 5, 4), np.complex64))
    options = {"labels": "no,yes", "validation": 0, "test": 0}
    convert_folder(source, tmp_path / "out", "{case}.nii", "{case}_mask.nii", **options)
    assert names(tmp_path / "out")["training"] == ["3.nii", "4.nii"]
    rejected = report(tmp_path / "out")["rejected"]
    assert "0.nii cannot be read (data code 1234 not recognized)" in rejected.pop("0.nii")
    assert rejected.keys() == {"1.nii", "2.nii"}
    assert all("colours or complex numbers" in reason for reason in rejected.values())


def test_pages_are_not_dropped(tmp_path):
    stack = [Image.fromarray(np.full((9, 7), i, np.uint8)) for i in range(3)]
    (tmp_path / "in").mkdir()
    stack[0].save(tmp_path / "in" / "a.tif", save_all=True, append_images=stack[1:])
    save(tmp_path / "in" / "a_mask.png", np.zeros((9, 7), np.uint8))
    with pytest.raises(ValueError, match="no usable case"):
        convert_folder(tmp_path / "in", tmp_path / "out", "{case}.tif", "{case}_mask.png", "a,b", test=0, validation=0)


def test_fewer_to_train_on(tmp_path, capsys):
    make(tmp_path / "in", lambda label: label)
    found = []
    for number in (None, 4, 1):
        out = tmp_path / f"out_{number}"
        convert_folder(tmp_path / "in", out, **PATTERNS, validation=2, test=3, training=number)
        found.append({name: set(files) for name, files in names(out).items()})
    every, four, one = found
    assert [len(each["training"]) for each in found] == [7, 4, 1]
    assert one["training"] < four["training"] < every["training"]  # so that only the number makes the difference
    assert all(each[name] == every[name] for each in found for name in ("validation", "test"))
    assert "6 images are in no list, because of --training 1." in capsys.readouterr().err


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    make(tmp_path / "in", lambda label: label)
    base = {"--images": PATTERNS["images"], "--masks": PATTERNS["masks"], "--labels": PATTERNS["labels"]}
    for change, expected in (
        ({"--images": "img/{case}.png"}, "No image matching img/{case}.png"),
        ({"--images": "images/{name}.png"}, "same placeholders"),
        ({"--images": "images/{a b}.png"}, "the placeholder {a b}"),
        ({"--colours": "red"}, "--colours is 'red'"),
        ({"--colours": '{"1,2": 1}'}, "three values"),
        ({"--colours": '{"255": 7}'}, "beyond the 3 names"),
        ({"--channels": 2}, "expected 1 or 3"),
        ({"--window": 4095}, "expected two values"),
        ({"--test": 50}, "12 cases to choose from"),
        ({"--training": 50}, "--training is 50, but the source has 8 cases"),
    ):
        options = [part for pair in (base | change).items() for part in pair]
        message = run(monkeypatch, "folder", tmp_path / "in", tmp_path / "out", *options)
        assert expected in message and "\n" not in message
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
