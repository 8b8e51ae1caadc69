"""What has to stay in one split, such as a specimen, does so after pictures that link it are gone from the index."""

from pathlib import Path

from PIL import Image

from scripts.corpus.duplicates import duplicates
from scripts.corpus.joining import join
from scripts.corpus.readers import read_corpus
from scripts.corpus.units import units_of
from tests.corpora import texture


def units(folder: Path) -> dict[str, str]:
    """The unit of every picture of a step's folder by its file's name."""
    corpus = read_corpus(folder)
    return dict(zip((m.image.name for m in corpus), units_of(corpus), strict=True))


def write(folder: Path, table: str, **seeds: int) -> str:
    folder.mkdir()
    for name, seed in seeds.items():
        Image.fromarray(texture(seed)).save(folder / f"{name}.png")
    (folder / "labels.csv").write_text(table)
    return str(folder)


def test_a_file_of_two_corpora_keeps_what_both_say_of_it(tmp_path: Path) -> None:
    """x is of specimen 1 in one corpus; in the other it has a group, a source and a duplicate, each with one more."""
    one = write(tmp_path / "one", "image,group\nx.png,specimen 1\ny.png,specimen 1\nz.png,\n", x=0, y=1, z=2)
    lines = "../one/x.png,s 1,big.tif,1\ngroup.png,s 1,,\nsource.png,,big.tif,\nsame.png,,,1\nother.png,s 2,,\n"
    two = write(tmp_path / "two", f"image,group,source,duplicates\n{lines}", group=3, source=4, same=5, other=6)
    for n, sources in enumerate(((one, two), (two, one))):
        join(*sources, output_dir=str(tmp_path / f"joined{n}"))
        found = units(tmp_path / f"joined{n}")
        assert len(found) == 7
        together = {found.pop(f"{name}.png") for name in ("x", "y", "group", "source", "same")}
        assert len(together) == 1
        assert len({*found.values(), *together}) == 3  # z and other are each their own


def test_dropped_duplicates_leave_together_what_they_linked(tmp_path: Path) -> None:
    """b shows what a shows, c is of b's specimen and d of its source: all are of one micrograph's surroundings."""
    lines = "a.png,specimen 1,\nb.png,specimen 2,big.tif\nc.png,specimen 2,\nd.png,,big.tif\ne.png,specimen 3,\n"
    source = write(tmp_path / "source", f"image,group,source\n{lines}", a=0, b=0, c=1, d=2, e=3)
    for drop in (False, True):
        folder = tmp_path / f"found{drop}"
        duplicates(source, str(folder), drop=drop)
        found = units(folder)
        assert ("b.png" in found) is not drop
        assert found["a.png"] == found["c.png"] == found["d.png"] != found["e.png"]
    assert {m.image.name: m.group for m in read_corpus(tmp_path / "foundTrue")}["e.png"] == "specimen 3"
