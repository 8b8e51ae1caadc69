"""A corpus from a folder of micrographs: duplicates, splits, tiles, copies, clusters."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from monai.bundle import ConfigParser
from PIL import Image
from timm.models.vgg import VGG
from torchvision.transforms.v2 import functional as tv

from networks.classifier import Classifier, MaskedImageModel
from networks.errors import UserError
from networks.workflow.checkpoints import save_atomically
from networks.workflow.files import write_json
from networks.workflow.pictures import read_picture
from scripts.corpus.augmenting import augment
from scripts.corpus.cleaning import clean
from scripts.corpus.clustering import cluster, k_means, purity, reduced
from scripts.corpus.duplicates import duplicates
from scripts.corpus.features import bundle_features, fill_timm
from scripts.corpus.index import Micrograph, write_index
from scripts.corpus.joining import join
from scripts.corpus.readers import read_corpus
from scripts.corpus.splitting import split, splits_of
from scripts.corpus.tiling import starts, tile
from scripts.corpus.units import units_of
from tests.classifying import paths
from tests.converters import REAL
from tests.corpora import texture, write_corpus
from tests.tables import rows_of

POLLEN = REAL / "pollen73s"
NASA = REAL / "nasa_microscopy" / "benchmark_segmentation_data"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def rows(folder: Path) -> list[dict[str, str]]:
    return rows_of(folder / "labels.csv")


@pytest.mark.parametrize(
    ("length", "overlap"), [(512, 0), (513, 0), (712, 0), (1024, 0), (1025, 64), (5000, 100), (300, 0)]
)
def test_tiles_lose_no_strip(length: int, overlap: int) -> None:
    size = 512
    found = starts(length, size, overlap)
    assert found[0] == 0 and (length <= size or found[-1] == length - size)
    assert all(b - a <= size - overlap for a, b in itertools.pairwise(found))
    # one fewer would leave a strip out
    assert len(found) == 1 or (len(found) - 1) * (size - overlap) + overlap < length


def test_from_folder_to_training_table(corpus: Path, tmp_path: Path) -> None:
    """Split, tiles and copies: no source is in two splits, and every tile is where its line says."""
    split(str(corpus), str(tmp_path / "split"), validation=0.2, test=0.2)
    assert Counter((r["class"], r["split"]) for r in rows(tmp_path / "split")) == {
        (kind, name): n for kind in ("fine", "coarse") for name, n in (("training", 6), ("validation", 2), ("test", 2))
    }
    tile(str(tmp_path / "split"), str(tmp_path / "tiles"), size=64)
    augment(str(tmp_path / "tiles"), str(tmp_path / "more"), copies=2)
    found = rows(tmp_path / "more")
    assert len(found) == 80 + 2 * 48
    splits = defaultdict(set)
    for row in found:
        splits[row["source"]].add(row["split"])
    assert all(len(names) == 1 for names in splits.values()) and len(splits) == 20
    assert {row["split"] for row in found if row["augmentation"]} == {"training"}
    for row in rows(tmp_path / "tiles")[:8]:
        left, top, width, height = (int(row[key]) for key in ("left", "top", "width", "height"))
        source = read_picture(corpus.parent / row["source"])
        assert np.array_equal(
            read_picture(tmp_path / "tiles" / row["image"]), source[top : top + height, left : left + width]
        )
    with pytest.raises(UserError, match=r"was made by tile .*give another folder"):
        tile(str(tmp_path / "split"), str(tmp_path / "tiles"), size=32)
    with (tmp_path / "split" / "labels.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"split/labels\.csv was edited since split wrote it"):
        split(str(corpus), str(tmp_path / "split"), validation=0.2, test=0.2)
    with pytest.raises(UserError, match="split already"):
        split(str(tmp_path / "tiles"), str(tmp_path / "again"))
    with pytest.raises(UserError, match="lies in"):
        split(str(corpus), str(corpus / "split"))


@pytest.mark.parametrize("seed", range(4))
def test_every_class_keeps_pictures_for_training(seed: int, tmp_path: Path) -> None:
    """Specimens of which some hold all pictures of a rare class beside more of another one."""
    kinds = [*"ab" * 8, *"aaar", *"aaar", *"bbbs"]  # sixteen specimens of one picture, three of four
    specimens = [*range(16), *[20] * 4, *[21] * 4, *[22] * 4]
    corpus = [
        Micrograph(tmp_path / f"{i}.png", kind, source=str(i), group=str(specimen))
        for i, (kind, specimen) in enumerate(zip(kinds, specimens, strict=True))
    ]
    units = units_of(corpus)
    found = splits_of(corpus, units, 0.4, 0.4, seed)
    assert {m.kind for m, unit in zip(corpus, units, strict=True) if found[unit] == "training"} == set("abrs")
    assert set(found.values()) == {"training", "validation", "test"} and len(found) == 19


def test_duplicates_are_found_and_stay_together(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for n in range(12):
        Image.fromarray(texture(n, size=(120, 160))).save(source / f"{n}.png")
    original = Image.fromarray(texture(3, size=(120, 160)))
    original.save(source / "jpeg.jpg", quality=60)
    original.resize((120, 90)).save(source / "small.png")
    original.point(lambda v: min(v * 0.8 + 30, 255)).save(source / "bright.png")
    original.rotate(90, expand=True).save(source / "turned.png")
    # a shading that they have in common does not make two pictures the same
    ramp = np.linspace(0, 200, 160)[None].astype(int)
    for n in (20, 21):
        Image.fromarray((texture(n, size=(120, 160)) // 8 + ramp).astype(np.uint8)).save(source / f"ramp{n}.png")

    def groups(folder: str, **options: bool) -> list[set[str]]:
        duplicates(str(source), str(tmp_path / folder), **options)
        found = defaultdict(set)
        for row in rows(tmp_path / folder):
            if row["duplicates"]:
                found[row["duplicates"]].add(Path(row["image"]).name)
        return list(found.values())

    same = {"3.png", "jpeg.jpg", "small.png", "bright.png"}
    assert groups("one") == [same]
    assert groups("two", turned=True) == [same | {"turned.png"}]
    duplicates(str(source), str(tmp_path / "dropped"), drop=True)
    assert len(rows(tmp_path / "dropped")) == len(list(source.iterdir())) - 3
    split(str(tmp_path / "two"), str(tmp_path / "split"), validation=0.3, test=0.3)
    assert len({row["split"] for row in rows(tmp_path / "split") if row["duplicates"]}) == 1


def test_duplicates_that_were_found_before_stay_together(tmp_path: Path) -> None:
    """A search that turns nothing leaves the turned copies of one that did in their group."""
    for name, seeds in (("a", (0, 1, 2)), ("b", (3, 4, 1))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            Image.fromarray(texture(seed)).save(tmp_path / name / f"{seed}.png")
    for seed in (0, 1):
        Image.fromarray(np.rot90(texture(seed))).save(tmp_path / "a" / f"turned_{seed}.png")
    duplicates(str(tmp_path / "a"), str(tmp_path / "found"), turned=True)
    join(str(tmp_path / "found"), str(tmp_path / "b"), output_dir=str(tmp_path / "joined"))
    for folder, more in (("distinct", set()), ("dropped", {"b/b/1.png"})):
        duplicates(str(tmp_path / "joined"), str(tmp_path / folder), drop=bool(more))
        groups = defaultdict(set)
        for row in rows(tmp_path / folder):
            groups[row["duplicates"]].add(row["source"])
        assert groups.pop("") == {"found/a/2.png", "b/b/3.png", "b/b/4.png"}
        assert groups["1"] == {"found/a/1.png", "found/a/turned_1.png", "b/b/1.png"} - more
        assert groups["2"] == {"found/a/0.png", "found/a/turned_0.png"} and len(groups) == 2
        (pair,) = rows_of(tmp_path / folder / "duplicates.csv")
        assert pair["group"] == "1"


def test_what_was_made_of_other_pictures_is_not_replaced(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(texture(ord(name))).save(tmp_path / name / f"{name}.png")
    clean(str(tmp_path / "a"), str(tmp_path / "clean"), ocr="false")
    with pytest.raises(UserError, match=r"holds what was made of other pictures, such as .*a\.png; give another"):
        clean(str(tmp_path / "b"), str(tmp_path / "clean"), ocr="false")
    assert [Path(row["image"]).name for row in rows(tmp_path / "clean")] == ["a.png"]
    assert (tmp_path / "clean" / "images" / "a.png").is_file()


def test_nor_is_a_list_of_other_pictures(tmp_path: Path) -> None:
    for seed, name in enumerate(("a/x", "b/x", "other/a/x", "other/b/x")):
        (tmp_path / name).mkdir(parents=True)
        for n in range(3):
            Image.fromarray(texture(10 * seed + n)).save(tmp_path / name / f"{n}.png")
    folders = [str(tmp_path / name) for name in ("a", "b", "other/a", "other/b")]
    listed, joined = str(tmp_path / "split"), str(tmp_path / "joined")
    for _ in range(2):  # the same pictures again are no others
        split(folders[0], listed, validation=0.3, test=0.3)
        join(*folders[:2], output_dir=joined)
    before = [Path(folder, "labels.csv").read_bytes() for folder in (listed, joined)]
    with pytest.raises(UserError, match=r"split holds what was made of other pictures, such as .*a/x/0\.png"):
        split(folders[1], listed, validation=0.3, test=0.3)
    with pytest.raises(UserError, match="joined holds what was made of other pictures"):
        join(*folders[2:], output_dir=joined)
    assert [Path(folder, "labels.csv").read_bytes() for folder in (listed, joined)] == before


@pytest.mark.parametrize("step", [tile, duplicates, augment])
def test_sixteen_bit_needs_the_window_of_clean(step: Callable[..., None], tmp_path: Path) -> None:
    """Of 12 bits in 16, other steps would keep 16 grey values."""
    deep = tmp_path / "source"
    deep.mkdir()
    for n in range(2):
        Image.fromarray(16 * texture(n).astype(np.uint16)).save(deep / f"{n}.png")
    (deep / "labels.csv").write_text("image,split\n0.png,train\n1.png,train\n")
    with pytest.raises((UserError, SystemExit)):
        step(str(deep), str(tmp_path / "refused"))
    assert "no value above 4080" in (tmp_path / "refused" / "failed.csv").read_text()
    clean(str(deep), str(tmp_path / "clean"), ocr="false", window=(0, 4080))
    step(str(tmp_path / "clean"), str(tmp_path / "done"))
    assert rows(tmp_path / "done")


def test_joined_corpora_keep_pictures_for_test_apart(tmp_path: Path) -> None:
    """What is for test in one source, or a copy of it in another, is nobody's to learn from."""
    for name in ("a/set", "b/set", "plain"):
        (tmp_path / name).mkdir(parents=True)
    for name, seed in (("a/set/x", 0), ("a/set/y", 1), ("a/set/z", 2), ("b/set/x", 3), ("b/set/t", 1), ("plain/p", 2)):
        Image.fromarray(texture(seed)).save(tmp_path / f"{name}.png")
    Image.fromarray(texture(2)).save(tmp_path / "plain" / "p.jpg", quality=70)
    cases = {name: {"image": f"{name}.png", "label": f"{name}.png"} for name in "xyz"}
    lists = {"training": [cases["x"], cases["y"]], "validation": [cases["x"]], "different_test": [cases["z"]]}
    write_json(tmp_path / "a/set" / "dataset.json", {"labels": {"0": "background", "1": "other"}, **lists})
    (tmp_path / "b/set" / "labels.csv").write_text("image,class,split\nx.png,k,train\nt.png,k,test\n")
    sources = [str(tmp_path / name) for name in ("a/set", "b/set", "plain")]
    join(*sources, output_dir=str(tmp_path / "joined"))
    found = rows(tmp_path / "joined")
    assert [(r["source"], r["split"]) for r in found[:2]] == [("a/set/set/z.png", "test"), ("b/set/t.png", "test")]
    assert {r["split"] for r in found if r["source"].startswith("plain/plain/")} == {"training"}
    assert len(found) == 7  # x, which is in two lists, once
    duplicates(str(tmp_path / "joined"), str(tmp_path / "distinct"), drop=True)
    learned = [m.image.name for m in read_corpus(tmp_path / "distinct") if m.split != "test"]
    assert learned == ["x.png", "x.png"]  # y is a copy of t, both pictures of plain show z
    with pytest.raises(UserError, match="given twice"):
        join(sources[0], sources[0], output_dir=str(tmp_path / "again"))
    with pytest.raises(UserError, match="at least two"):
        join(sources[0], output_dir=str(tmp_path / "again"))
    with pytest.raises(UserError, match="is the source itself"):
        join(*sources, output_dir=sources[1])


@pytest.mark.skipif(not POLLEN.is_dir(), reason="the pollen pictures are not here")
def test_duplicates_of_pollen(tmp_path: Path) -> None:
    lines = [
        line for line in (POLLEN / "labels.csv").read_text().splitlines() if "mimosa" in line or "serjania" in line
    ]
    table = tmp_path / "some.csv"
    table.write_text("image,class,split\n" + "\n".join(f"{POLLEN}/{line}" for line in lines) + "\n")
    duplicates(str(table), str(tmp_path / "out"))
    found = {r["image"].rpartition("/")[2] for r in rows(tmp_path / "out") if r["duplicates"]}
    assert found == {"mimosa_ditans_(23).jpg", "mimosa_ditans_(25).jpg", "serjania_sp_(16).jpg", "serjania_sp_(29).jpg"}


@pytest.mark.skipif(not NASA.is_dir(), reason="NASA's micrographs are not here")
def test_duplicates_across_sets(tmp_path: Path) -> None:
    """Super1 to Super3 have the same images for the test, as files of the same name."""
    files = [path for name in ("Super1", "Super2", "Super3") for path in sorted((NASA / name / "test").iterdir())]
    table = tmp_path / "some.csv"
    table.write_text("image,class\n" + "".join(f'"{path}",{path.parent.parent.name}\n' for path in files))
    duplicates(str(table), str(tmp_path / "out"))
    found = defaultdict(set)
    for row in rows(tmp_path / "out"):
        found[row["duplicates"]].add(Path(row["image"]).name)
    assert len(found) == 4 and all(len(names) == 1 for names in found.values())


def test_k_means_finds_what_there_is() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (4, 30))
    kinds = np.repeat(np.arange(4), (40, 30, 20, 10))
    points = reduced(centres[kinds] + rng.normal(size=(100, 30)), 8)
    tried = {k: k_means(points, k) for k in range(2, 8)}
    assert max(tried, key=lambda k: tried[k].silhouette) == 4
    assert np.array_equal(tried[4].numbers, kinds)  # the largest is the first
    assert purity([str(k) for k in kinds], tried[4].numbers) == 1
    assert purity(list("aabb"), np.array([0, 0, 0, 1])) == 0.75


def test_cluster_sorts_and_says_how_well(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "resnet10t.pth"
    torch.save(timm.create_model("resnet10t", num_classes=7).state_dict(), weights)
    options = {"network": "resnet10t", "weights": str(weights), "size": 96, "max_clusters": 3}
    cluster(str(corpus), str(tmp_path / "given"), **options)
    records = json.loads((tmp_path / "given" / "clusters.json").read_text())["records"]
    two = next(record for record in records if record["clusters"] == 2)
    assert two["adjusted_rand_index"] == 1 and two["purity"] == 1 and two["classes"] == 2
    assert {r["class"] for r in rows(tmp_path / "given")} == {"fine", "coarse"}

    index = read_corpus(corpus)
    write_index(tmp_path, [replace(m, kind="") if n < 3 else m for n, m in enumerate(index)])
    cluster(str(tmp_path / "labels.csv"), str(tmp_path / "some"), **{**options, "clusters": 2})
    (two,) = json.loads((tmp_path / "some" / "clusters.json").read_text())["records"]
    assert (two["labelled"], two["pictures"], two["adjusted_rand_index"], two["purity"]) == (17, 20, 1, 1)

    cluster(str(corpus), str(tmp_path / "unknown"), **{**options, "clusters": 2, "layout": "plain"})
    found = rows(tmp_path / "unknown")
    assert Counter(r["class"] for r in found) == {"cluster_01": 10, "cluster_02": 10}
    assert len({(r["class"], Path(r["image"]).parent.name) for r in found}) == 2
    assert (tmp_path / "unknown" / "sheet_cluster_02.png").is_file()
    with pytest.raises(UserError, match="is not of this network"):
        cluster(str(corpus), str(tmp_path / "other"), **{**options, "network": "resnet18"})
    with pytest.raises(UserError, match="Give one of --network"):
        cluster(str(corpus), str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_vgg_takes_the_names_of_torchvision(tmp_path: Path) -> None:
    """The linear layers of torchvision are convolutions in timm."""
    network = VGG([8, "M", 16], num_classes=0, mlp_ratio=0.01)
    own = network.state_dict()
    state = {name: torch.randn(1).expand(tensor.shape) for name, tensor in own.items() if name.startswith("features.")}
    for number, name in ((0, "fc1"), (3, "fc2")):
        weight = torch.randn(1).expand(own[f"pre_logits.{name}.weight"].flatten(1).shape)
        state |= {f"classifier.{number}.weight": weight, f"classifier.{number}.bias": own[f"pre_logits.{name}.bias"]}
    state |= {"classifier.6.weight": torch.zeros(5, 4096), "classifier.6.bias": torch.zeros(5)}
    torch.save(state, tmp_path / "vgg.pth")
    fill_timm(network, str(tmp_path / "vgg.pth"))
    filled = network.state_dict()
    assert torch.equal(filled["pre_logits.fc1.weight"].flatten(1), state["classifier.0.weight"])
    assert torch.equal(filled["features.0.weight"], state["features.0.weight"])


def training_input(image: Path) -> torch.Tensor:
    """A picture (C, x, y) as the classifier's training would feed it, but for what is random."""
    parser = ConfigParser()
    parser.read_config(paths("train"))
    parser.update({"img_size": [32, 32], "short_side": 32})
    return parser.get_parsed_content("validate::preprocessing")({"image": str(image)})["image"]


def test_features_of_a_classifier_with_and_without_labels(corpus: Path, tmp_path: Path) -> None:
    """What the encoder of the bundle `swin_classification` says, after learning classes as after SimMIM."""
    torch.manual_seed(0)
    sizes = {"depths": [1, 1, 1, 1], "window_size": 4}
    classifier = Classifier(3, 5, 32, **sizes).eval()
    painter = MaskedImageModel(3, 32, **sizes)
    painter.encoder.load_state_dict(classifier.encoder.state_dict())
    images, found = sorted((corpus / "fine").iterdir())[:2], []
    for name, network in (("classes", classifier), ("simmim", painter)):
        weights = tmp_path / name / "model.pt"
        save_atomically(network.state_dict(), weights)
        ids = {"img_size": [32, 32], "short_side": 32, "in_channels": 3, **sizes}
        ids |= {"num_classes": 5} if name == "classes" else {}
        write_json(weights.with_suffix(".json"), {"ids": ids})
        features = bundle_features("swin_classification", str(weights), None, None, "cpu")
        assert features.about["size"] == 32
        found.append(features(images))
    np.testing.assert_array_equal(*found)
    # as training feeds it: the reader of pictures puts x first
    fed = training_input(images[0])
    grey = torch.from_numpy(np.asarray(Image.open(images[0]).convert("RGB"))).permute(2, 1, 0)
    square = tv.center_crop(tv.resize(grey, 32, antialias=True), 32) / 255
    square = tv.normalize(square, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        as_trained, swapped = (
            classifier.pool(classifier.encoder(x[None]))[0] for x in (square, square.transpose(1, 2))
        )
    # up to the rounding of grey values after the resizing
    assert np.abs(found[0][0] - as_trained.numpy()).max() < 0.05 < np.abs(found[0][0] - swapped.numpy()).max()
    assert (fed - square).abs().max() < 0.05 < (fed - square.transpose(1, 2)).abs().max()
    write_json(tmp_path / "classes" / "model.json", {"ids": {**ids, "num_classes": 5, "depths": [1, 1, 2, 1]}})
    with pytest.raises(UserError, match=r"is of another (encoder|Classifier)"):
        bundle_features("swin_classification", str(tmp_path / "classes" / "model.pt"), None, 32, "cpu")


def test_features_of_a_trained_bundle(corpus: Path) -> None:
    """The encoder of the network that comes with U-Net++, on prepared pictures."""
    features = bundle_features("", None, "superalloys", 96, "cpu")
    images = sorted((corpus / "fine").iterdir())[:2]
    found = features(images)
    assert found.shape[0] == 2 and found.shape[1] > 100 and np.isfinite(found).all()
    assert not np.allclose(found[0], found[1])
