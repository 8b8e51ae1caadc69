"""Pictures in classes, from folders and from tables, and the mistakes in them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from networks.errors import UserError
from networks.workflow.labelled_pictures import (
    check_pictures,
    load_pictures,
    picture_classes,
    picture_list,
    unlabelled_pictures,
)
from tests.workflows import ROOT

POLLEN = ROOT.parent / "shared" / "data" / "pollen73s"


def picture(path: Path, seed: int | None = None) -> Path:
    """A small picture, unlike others unless a seed is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(path)) if seed is None else seed)
    Image.fromarray(rng.integers(0, 255, (20, 24), dtype=np.uint8)).save(path)
    return path


def lists(root: Path) -> dict[str, list[tuple[str, int]]]:
    """Names and numbers of the classes of every split."""
    found = load_pictures(str(root), picture_classes(str(root)))
    check_pictures(str(root), picture_classes(str(root)), **found)
    return {split: [(item["name"], item["label"]) for item in items] for split, items in found.items()}


def test_folders_of_splits(tmp_path: Path) -> None:
    for name in (
        "train/b/1.png",
        "train/a/deep/2.png",
        "val/a/3.png",
        "val/b/4.png",
        "Test/b/5.png",
        "train/b/.cache/6.png",
    ):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert lists(tmp_path) == {
        "training": [("train/a/deep/2.png", 0), ("train/b/1.png", 1)],
        "validation": [("val/a/3.png", 0), ("val/b/4.png", 1)],
        "test": [("Test/b/5.png", 1)],
    }


def test_a_fifth_of_every_class_is_kept_for_validation(tmp_path: Path) -> None:
    """The same wherever the data set lies; a class of one picture keeps it for training."""
    for root in (tmp_path / "here", tmp_path / "there"):
        for kind, number in (("a", 10), ("b", 5), ("c", 1)):
            for i in range(number):
                picture(root / kind / f"{i}.png")
    found = lists(tmp_path / "here")
    assert found == lists(tmp_path / "there")
    assert [sum(label == i for _, label in found["validation"]) for i in range(3)] == [2, 1, 0]
    assert len(found["training"]) == 13 and found["test"] == []


def test_what_belongs_together_is_kept_for_validation_together(tmp_path: Path) -> None:
    """By columns and by patients, whatever the order of the lines; every class keeps pictures for training."""
    lines = [f"s{i // 4}_{i}.png,a,{i // 4},," for i in range(40)]  # ten sources of four tiles
    lines += [
        f"t_{i}.png,a,t{i},{'x' if i < 4 else ''},{'7' if i > 2 else ''}" for i in range(8)
    ]  # linked by the fourth
    lines += [f"patient{i // 2}_{i}.png,b,,," for i in range(20)]
    lines += ["s0_rare.png,rare,0,,"]
    for line in lines:
        picture(tmp_path / line.partition(",")[0])
    found = []
    for ordered in (lines, lines[::-1]):
        (tmp_path / "labels.csv").write_text("\n".join(["image,class,source,group,duplicates", *ordered]))
        found.append({split: sorted(items) for split, items in lists(tmp_path).items()})
    assert found[0] == found[1]
    training, validation = (
        {name.partition("_")[0] for name, _ in found[0][split]} for split in ("training", "validation")
    )
    assert not training & validation and "s0" in training
    assert len(validation) == 4 and sum(unit.startswith("patient") for unit in validation) == 2


def test_one_source_cannot_be_split(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("image,class,source\n" + "".join(f"{i}.png,{i % 2},x\n" for i in range(4)))
    with pytest.raises(UserError, match="none can be kept for it"):
        picture_list(load_pictures(str(tmp_path), ["0", "1"]), "validation")
    with pytest.raises(UserError, match="none can be kept for it"):
        unlabelled_pictures(str(tmp_path))


def test_tables(tmp_path: Path) -> None:
    """A table by itself or in its folder, with a byte-order mark and further columns; paths lead from its folder."""
    picture(tmp_path / "outside.png")
    rows = ["class,image,split,by"]
    for name, split in (("1", "train"), ("2", "Training"), ("3", "valid"), ("4", "test")):
        picture(tmp_path / "set" / "images" / f"{name}.png")
        rows.append(f"{'ab'[int(name) % 2]},images/{name}.png,{split},me")
    rows.append("a,../outside.png,test,you")
    (tmp_path / "set" / "labels.csv").write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    found = lists(tmp_path / "set")
    assert found == lists(tmp_path / "set" / "labels.csv")
    assert found["training"] == [("images/1.png", 1), ("images/2.png", 0)]
    assert [label for _, label in found["test"]] == [0, 0]
    with pytest.raises(UserError, match=r"no pictures for 'other' \(it has 2 for training, 1 for validation, 2 for"):
        picture_list(load_pictures(str(tmp_path / "set"), ["a", "b"]), "other")


def test_pictures_without_labels(tmp_path: Path) -> None:
    """Any tree, a table without classes, the lists of a segmentation's data set; never a picture for test."""
    for i in range(10):
        picture(tmp_path / "tree" / str(i % 3) / f"{i}.png")
    found = unlabelled_pictures(str(tmp_path / "tree"))
    assert [len(found[split]) for split in ("training", "validation")] == [8, 2]
    table = tmp_path / "table.csv"
    table.write_text(
        "image,split\n" + "\n".join(f"tree/{i % 3}/{i}.png,{'test' if i > 4 else 'train'}" for i in range(10))
    )
    assert len(unlabelled_pictures(str(table))["training"]) == 4
    (tmp_path / "splits").mkdir()
    for number, split in enumerate(("training", "test")):
        (tmp_path / "splits" / split).symlink_to(tmp_path / "tree" / str(number))
    found = unlabelled_pictures(str(tmp_path / "splits"))
    assert {Path(item["name"]).parts[0] for items in found.values() for item in items} == {"training"}
    picture(tmp_path / "splits" / "loose.png")
    with pytest.raises(UserError, match="lies beside the folders of splits"):
        unlabelled_pictures(str(tmp_path / "splits"))


def test_no_copy_of_a_test_picture_is_learnt_from(tmp_path: Path) -> None:
    """Nor one of another picture; a picture that is also listed for test is one for test."""
    for i, seed in enumerate((0, 1, 2, 2, 3, 4, 0, 3)):
        picture(tmp_path / f"{i}.png", seed)
    splits = ["train"] * 5 + ["val"] + ["test"] * 2
    lines = [f"{i}.png,{split}" for i, split in enumerate(splits)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,split", *lines, "1.png,test"]))
    said: list[str] = []
    found = unlabelled_pictures(str(tmp_path), say=said.append)
    names = {split: [item["name"] for item in items] for split, items in found.items()}
    assert names == {"training": ["2.png"], "validation": ["5.png"]}
    assert ["2 of the 5" in text and "copies of pictures for test" in text for text in said] == [True, False]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("source", "xyzx", r"The source x is in training \(.*1.png\) and in test \(.*4.png\)"),
        ("group", "xyy ", "The group y is in training"),
        ("duplicates", " 77 ", "The group of duplicates 7 is in training"),
    ],
)
def test_what_belongs_together_is_in_one_split(column: str, values: str, message: str, tmp_path: Path) -> None:
    """Also where the splits are given, unless that is meant; without labels it is left out."""
    lines = [f"image,class,split,{column}"]
    for i, (value, split) in enumerate(zip(values, ("train", "train", "val", "test"), strict=True), start=1):
        picture(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{split},{value}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=f"{message}.*--allow_overlap"):
        lists(tmp_path)
    found = load_pictures(str(tmp_path), ["a", "b"])
    check_pictures(str(tmp_path), ["a", "b"], allow_overlap="true", **found)


def test_what_belongs_to_test_pictures_is_not_learnt_from(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), ("b", "train", "y", "1"), ("sub-1_c", "train", "", ""), ("d", "train", "z", "")]
    rows += [("e", "val", "z", ""), ("f", "test", "x", "1"), ("sub-1_g", "test", "", "")]
    lines = ["image,split,source,group"]
    for name, *others in rows:
        picture(tmp_path / f"{name}.png")
        lines.append(",".join([f"{name}.png", *others]))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    said: list[str] = []
    found = unlabelled_pictures(str(tmp_path), say=said.append)
    assert [[item["name"] for item in items] for items in found.values()] == [["d.png"], ["e.png"]]
    assert len(said) == 1 and said[0].startswith("3 of the 5 pictures") and "share a source" in said[0]


def test_nor_from_what_belongs_to_their_kin_and_copies(tmp_path: Path) -> None:
    """b is of test picture a's specimen and of c's source; d is a copy of a, and of e's specimen."""
    rows = [
        ("a", 0, "test", "", "1"),
        ("b", 1, "train", "x", "1"),
        ("c", 2, "train", "x", ""),
        ("d", 0, "val", "", "2"),
    ]
    rows += [("e", 3, "train", "", "2"), ("f", 4, "train", "", ""), ("g", 5, "val", "", "")]
    lines = ["image,split,source,group"]
    for name, seed, *others in rows:
        picture(tmp_path / f"{name}.png", seed)
        lines.append(",".join([f"{name}.png", *others]))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    found = unlabelled_pictures(str(tmp_path))
    assert [[item["name"] for item in items] for items in found.values()] == [["f.png"], ["g.png"]]


def test_lists_of_a_segmentation(micrograph_dir: Path) -> None:
    found = unlabelled_pictures(str(micrograph_dir))
    names = {split: [item["name"] for item in items] for split, items in found.items()}
    assert names == {
        "training": ["imagesTr/phantom_000.png", "imagesTr/phantom_001.png"],
        "validation": ["imagesVa/phantom_002.png"],
    }


def _table(text: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        picture(root / "1.png")
        picture(root / "2.png")
        (root / "labels.csv").write_text(text)

    return make


def _folders(*names: str, same: bool = False) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for name in names:
            if name.endswith("/"):
                (root / name).mkdir(parents=True)
            else:
                picture(root / name, 0 if same else None)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.rmdir(), "does not exist; give --dataset_dir a folder of pictures in classes"),
        (lambda root: None, "holds no pictures"),
        (_folders("a/1.png"), "one class of pictures, 'a'; expected at least two"),
        (_folders("a/1.png", "b/"), "holds no pictures of the class 'b'"),
        (_folders("a/1.png", "b/2.png", "3.png"), "lies in no folder of a class"),
        (_folders("train/a/1.png", "train/b/2.png", "c/3.png"), r"folders of splits \(train\) beside others \(c\)"),
        (_folders("train/a/1.png", "train/b/2.png", "3.png"), r"3.png lies beside the folders of splits \(train\)"),
        (_folders("train/a/1.png", "test/b/2.png"), "The class 'b' of .* has no pictures for training"),
        (_folders("train/a/1.png", "train/b/2.png", same=True), r"\(a\) and .* \(b\) hold the same picture"),
        (
            _folders("train/a/1.png", "val/a/2.png", "train/b/0.tif", same=True),
            "hold the same image, which is in",
        ),
        (_table("picture,class\n1.png,a"), "has no column 'image'"),
        (_table("image;class\n1.png;a"), "has no column 'image'"),
        (_table("image,class\n1.png,a\n2.png,"), "Line 3 of .* has no class"),
        (_table("image,class\n1.png,a\n3.png,b"), "Line 3 of .* but there is no such file"),
        (_table("image,class,split\n1.png,a,train\n2.png,b,later"), "has the split 'later'; expected training"),
        (_table("image,class,split\n1.png,a,train\n2.png,b,train\n1.png,a,test"), "1.png is in training and in test"),
    ],
)
def test_mistakes_have_one_sentence(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(UserError, match=message):
        lists(root)


@pytest.mark.skipif(not POLLEN.is_dir(), reason="the pollen pictures are not here")
def test_pollen() -> None:
    """1731 training, 287 validation and 505 test pictures of 73 classes."""
    found = lists(POLLEN)
    assert [len(found[split]) for split in ("training", "validation", "test")] == [1731, 287, 505]
    assert {label for _, label in found["training"]} == set(range(73))
