"""What people have, as pictures of a corpus: folders, tables, databases."""

import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from networks.errors import UserError
from scripts.corpus.index import Micrograph, read_index, write_index
from scripts.corpus.readers import read_corpus
from tests.corpora import texture, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_layouts(corpus: Path, tmp_path: Path) -> None:
    found = read_corpus(corpus)
    assert Counter(m.kind for m in found) == {"fine": 10, "coarse": 10} and {m.split for m in found} == {""}
    assert found[0].source == "micrographs/coarse/0.png"
    assert {m.kind for m in read_corpus(corpus, "plain")} == {""}
    for name in ("train/a", "val/a", "train/b"):
        (tmp_path / "splits" / name).mkdir(parents=True)
        Image.fromarray(texture(0)).save(tmp_path / "splits" / name / "x.png")
    assert {(m.split, m.kind) for m in read_corpus(tmp_path / "splits")} == {
        ("training", "a"),
        ("validation", "a"),
        ("training", "b"),
    }
    Image.fromarray(texture(0)).save(tmp_path / "splits" / "loose.png")
    with pytest.raises(UserError, match="folders of splits"):
        read_corpus(tmp_path / "splits")
    assert [m.split for m in read_corpus(tmp_path / "splits", "plain")] == [""] * 4
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "fine").symlink_to(corpus / "fine")
    assert len(read_corpus(tmp_path / "linked")) == 10


def test_a_loose_picture_beside_classes_is_told(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(corpus, tmp_path / "source"))
    Image.fromarray(texture(0)).save(source / "overview.png")
    assert {m.kind for m in read_corpus(source)} == {""}
    said = capsys.readouterr().out
    assert "1 of the 21 pictures" in said and "overview.png" in said and "none gets a class" in said
    read_corpus(source, "plain")
    read_corpus(corpus)
    assert not capsys.readouterr().out


def test_uhcs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "micrographs").mkdir()
    with sqlite3.connect(tmp_path / "microstructures.sqlite") as database:
        database.execute(
            "CREATE TABLE micrograph (micrograph_id INTEGER, path TEXT, micron_bar FLOAT, micron_bar_units TEXT, "
            "micron_bar_px INTEGER, sample_key INTEGER, primary_microconstituent TEXT)"
        )
        lines = [
            (1, "a/micrograph1.tif", 5.0, "um", 100, 7, "pearlite"),
            (2, "b.png", None, None, None, None, "spheroidite"),
        ]
        database.executemany("INSERT INTO micrograph VALUES (?, ?, ?, ?, ?, ?, ?)", lines)
    for name in ("micrograph1.tif", "b.png", "unknown.png"):
        Image.fromarray(texture(0)).save(tmp_path / "micrographs" / name)
    one, two = read_corpus(tmp_path)
    assert (one.kind, one.group, one.pixel_size, one.pixel_size_from) == ("pearlite", "specimen 7", 50.0, "database")
    assert (two.kind, two.group, two.pixel_size) == ("spheroidite", "", None)
    assert "1 of the 3 pictures" in capsys.readouterr().out


def test_index_keeps_everything(tmp_path: Path) -> None:
    Image.fromarray(texture(0)).save(tmp_path / "a.png")
    whole = Micrograph(
        tmp_path / "a.png", "k", "test", "s/a.tif", "g", 7.34375, "Zeiss", (1, 2, 3, 4), {"mine": "x, y"}
    )
    write_index(tmp_path, [whole])
    assert read_index(tmp_path / "labels.csv") == [whole]
    (tmp_path / "bad.csv").write_text("image,class,split\na.png,k,tset\n")
    with pytest.raises(UserError, match=r"Line 2 of .*'tset'"):
        read_index(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("image,class\na.png,k\na.png,l\n")
    with pytest.raises(UserError, match="again, as line 2"):
        read_index(tmp_path / "bad.csv")
