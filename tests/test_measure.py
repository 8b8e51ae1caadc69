"""Measurements: drawn objects of known size give that size, whatever the pixels, and files go in and out whole."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from skimage.measure import perimeter_crofton, regionprops_table

from networks.errors import UserError
from networks.workflow.pixel_size import PixelSize
from networks.workflow.records import read_records
from networks.workflow.saving import mark_as_labels, save_picture, write_label_names
from scripts.measure.kinds import Region, choose_regions, default_kind
from scripts.measure.measurement import measure_map
from scripts.measure.measuring import measure
from scripts.measure.objects import find_objects, perimeters
from scripts.metrics.__main__ import summarise
from tests.tables import rows_of

SPACINGS = [(1, 1), (4.2, 4.2), (1, 0.5), (2, 1)]


def grid(size: tuple[float, float], spacing: Sequence[float], centre: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Right and up from the centre, of the pixels' centres of a picture of (height, width)."""
    rows, columns = np.mgrid[: round(size[0] / spacing[0]), : round(size[1] / spacing[1])]
    return (columns + 0.5) * spacing[1] - centre[1], centre[0] - (rows + 0.5) * spacing[0]


def along(x: np.ndarray, y: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Along a direction, counter-clockwise from the horizontal, and square to it."""
    angle = np.radians(degrees)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def ellipse(long: float, short: float, degrees: float, size, spacing, centre) -> np.ndarray:
    u, v = along(*grid(size, spacing, centre), degrees)
    return (u / long) ** 2 + (v / short) ** 2 <= 1


def bar(length: float, width: float, degrees: float, size, spacing, centre) -> np.ndarray:
    u, v = along(*grid(size, spacing, centre), degrees)
    return (abs(u) <= length / 2) & (abs(v) <= width / 2)


def measured(mask: np.ndarray, kind: str, spacing: Sequence[float] = (1, 1), **options):
    return measure_map(mask.astype(np.uint16), [Region("it", (1,), kind)], spacing, **options)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_discs_and_ellipses_have_their_size(spacing: tuple[float, float]) -> None:
    scale = max(spacing)
    size = (300 * scale, 400 * scale)
    mask = ellipse(40 * scale, 40 * scale, 0, size, spacing, (100 * scale, 80 * scale))
    mask |= ellipse(60 * scale, 20 * scale, 30, size, spacing, (200 * scale, 250 * scale))
    mask |= ellipse(30 * scale, 30 * scale, 0, size, spacing, (150 * scale, 400 * scale))  # half of it is outside
    made = measured(mask, "particles", spacing)
    disc, cut, long = made.objects
    assert [row["at_border"] for row in made.objects] == [False, True, False]
    assert disc["diameter"] == pytest.approx(80 * scale, rel=0.005)
    assert disc["perimeter"] == pytest.approx(80 * np.pi * scale, rel=0.01)
    assert disc["aspect_ratio"] == pytest.approx(1, abs=0.01)
    assert (disc["y"], disc["x"]) == pytest.approx((100 * scale, 80 * scale), abs=0.1 * scale)
    assert long["area"] == pytest.approx(np.pi * 60 * 20 * scale**2, rel=0.01)
    assert long["aspect_ratio"] == pytest.approx(3, rel=0.01)
    assert long["orientation"] == pytest.approx(30, abs=0.3)
    assert long["perimeter"] == pytest.approx(267.3 * scale, rel=0.015)
    assert disc["neighbour_distance"] == pytest.approx(np.hypot(100, 170) * scale, rel=0.005)
    (row,) = made.classes
    assert (row["number"], row["number_at_border"]) == (3, 1)
    # the one that is cut off has no known size
    assert row["mean_diameter"] == pytest.approx((disc["diameter"] + long["diameter"]) / 2)
    assert row["area_fraction"] == pytest.approx(mask.mean())
    assert row["number_density"] == pytest.approx(3 / (size[0] * size[1]))
    assert cut["area"] == pytest.approx(np.pi * 30**2 / 2 * scale**2, rel=0.02)


def test_shapes_are_scikit_images(micrograph_dir: Path) -> None:
    label = np.asarray(Image.open(next((micrograph_dir / "labelsTr").glob("*.png")))) > 0
    made = measured(label, "particles")
    objects = find_objects(label, (1, 1), False, 1)
    names = ("area", "equivalent_diameter_area", "centroid", "orientation", "axis_major_length")
    found = regionprops_table(objects, properties=names)
    assert len(made.objects) > 5
    for name, theirs in (("area", "area"), ("diameter", "equivalent_diameter_area")):
        np.testing.assert_allclose([row[name] for row in made.objects], found[theirs])
    np.testing.assert_allclose([row["y"] - 0.5 for row in made.objects], found["centroid-0"])
    large = [i for i, row in enumerate(made.objects) if row["aspect_ratio"] > 1.2 and row["area"] > 50]
    angles = (np.degrees(found["orientation"]) + 90) % 180
    difference = np.array([made.objects[i]["orientation"] - angles[i] for i in large])
    np.testing.assert_allclose((difference + 90) % 180 - 90, 0, atol=1e-6)
    theirs = [perimeter_crofton(objects == number, 4) for number in range(1, objects.max() + 1)]
    np.testing.assert_allclose(perimeters(objects, (1, 1)), theirs)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0.5)])
def test_touching_discs_are_split_and_single_objects_are_not(spacing: tuple[float, float]) -> None:
    size = (100, 220)
    two = ellipse(20, 20, 0, size, spacing, (50, 35)) | ellipse(18, 18, 0, size, spacing, (50, 68))
    long = ellipse(40, 14, 20, size, spacing, (50, 160))
    assert measured(two | long, "particles", spacing).classes[0]["number"] == 2
    made = measured(two | long, "particles", spacing, split_touching=True)
    diameters = sorted(row["diameter"] for row in made.objects)
    assert diameters == pytest.approx([36, 40, 2 * np.sqrt(40 * 14)], rel=0.03)
    for angle in range(0, 90, 10):
        rod = bar(90, 14, angle, (100, 100), (1, 1), (50, 50)) | ellipse(3, 1, angle, (100, 100), (1, 1), (5, 5))
        assert measured(rod, "particles", split_touching=True).classes[0]["number"] == 2


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("degrees", [0, 10, 30, 75, 90, 170])
def test_layers_have_their_thickness_in_every_direction(spacing: tuple[float, float], degrees: float) -> None:
    scale = max(spacing)
    mask = bar(2000 * scale, 50 * scale, degrees, (400 * scale, 500 * scale), spacing, (201 * scale, 249 * scale))
    made = measured(mask, "layer", spacing)
    (row,), (layer,) = made.classes, made.objects
    assert row["mean_thickness"] == pytest.approx(50 * scale, abs=scale if degrees % 90 == 0 else 0.05 * scale)
    assert row["min_thickness"] > 48 * scale and row["max_thickness"] < 52 * scale
    assert layer["orientation"] == pytest.approx(degrees, abs=0.05)
    assert row["upper_rq"] < 0.6 * scale and row["lower_rq"] < 0.6 * scale
    assert row["coverage"] == 1 and row["number"] == 1


def test_roughness_gaps_pores_and_fragments_of_layers() -> None:
    rows, columns = np.mgrid[:300, :600]
    mask = (rows >= 100 + 8 * np.sin(2 * np.pi * columns / 60)) & (rows < 180)
    mask[140:150, 300:320] = False  # a pore
    mask[20:24, 20:24] = True  # a speck that is no layer
    made = measured(mask, "layer")
    (row,) = made.classes
    # whole pixels lose up to one of the wave's height
    assert row["upper_rq"] == pytest.approx(8 / np.sqrt(2), abs=0.2)
    assert row["upper_ra"] == pytest.approx(16 / np.pi, abs=0.2)
    assert row["lower_rq"] == pytest.approx(0, abs=1e-9)
    assert row["mean_thickness"] == pytest.approx(79.5, abs=0.1)
    mask[:, 200:260] = False
    broken = measured(mask, "layer")
    assert broken.classes[0]["number"] == 1 and broken.classes[0]["coverage"] == pytest.approx(0.9)
    mask[250:280] = True
    two = measured(mask, "layer")
    assert [row["mean_thickness"] for row in two.objects] == pytest.approx([79.5, 30], abs=0.2)
    # two in a portrait are wide, though they are higher than wide together; so is one of many pieces
    high = np.zeros((1200, 1000), bool)
    high[20:60] = high[1100:1150] = True
    for picture, degrees in ((high, 0), (high.T, 90)):
        made = measured(picture, "layer")
        assert [row["mean_thickness"] for row in made.objects] == [50, 40]
        assert made.classes[0]["coverage"] == 1 and made.objects[0]["orientation"] == degrees
    pieces = (rows >= 100) & (rows < 180) & (columns % 60 > 5)
    assert measured(pieces, "layer").classes[0]["coverage"] == pytest.approx(0.9)
    assert measured(pieces.T, "layer").classes[0]["mean_thickness"] == 80
    # nothing is known of a layer that the border cuts off
    assert measured(rows < 50, "layer").classes[0]["mean_thickness"] is None


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("degrees", [0, 22.5, 45, 90, 120])
def test_cracks_have_the_length_of_their_skeleton(spacing: tuple[float, float], degrees: float) -> None:
    scale, length, width = max(spacing), 200, 5
    mask = bar(length * scale, width * scale, degrees, (320 * scale, 320 * scale), spacing, (160 * scale, 160 * scale))
    (crack,) = measured(mask, "crack", spacing).objects
    # links lie in steps of 45 degrees; a skeleton ends half a width before the crack does
    rest = np.radians(degrees % 90)
    links = max(np.cos(rest), np.sin(rest)) + (np.sqrt(2) - 1) * min(np.cos(rest), np.sin(rest))
    assert crack["length"] == pytest.approx(
        (length - width) * links * scale, rel=0.035 if spacing[0] == spacing[1] else 0.045
    )
    assert crack["longest_path"] == pytest.approx(crack["length"], rel=0.02)
    assert crack["orientation"] == pytest.approx(degrees, abs=0.5)
    assert not crack["at_border"]


def test_spacing_branches_and_single_pixels_of_cracks() -> None:
    size = (320, 320)
    mask = np.zeros(size, bool)
    for column in (60, 100, 180):
        mask |= bar(200, 5, 80, size, (1, 1), (160, column))
    made = measured(mask, "crack")
    (row,) = made.classes
    across = np.sin(np.radians(80))
    assert (row["min_spacing"], row["max_spacing"]) == pytest.approx((40 * across, 80 * across), abs=0.5)
    assert row["number"] == 3 and row["total_length"] == pytest.approx(sum(c["length"] for c in made.objects))
    assert row["length_density"] == pytest.approx(row["total_length"] / 320**2)
    cross = bar(200, 3, 0, size, (1, 1), (160, 160)) | bar(100, 3, 90, size, (1, 1), (110, 160))
    (crack,) = measured(cross, "crack").objects
    assert crack["length"] == pytest.approx(296, abs=4) and crack["longest_path"] == pytest.approx(197, abs=3)
    dot = np.zeros((9, 9), bool)
    dot[4, 4] = True
    (crack,) = measured(dot, "crack").objects
    assert crack["length"] == 0 and crack["width"] is None
    (particle,) = measured(dot, "particles").objects
    assert particle["aspect_ratio"] == 1 and particle["neighbour_distance"] is None


@pytest.mark.parametrize("kind", ["particles", "layer", "crack"])
def test_empty_maps_have_no_objects_and_no_sizes(kind: str) -> None:
    made = measured(np.zeros((20, 30), bool), kind)
    (row,) = made.classes
    assert (row["area_fraction"], row["number"], made.objects) == (0, 0, [])
    assert all(value is None for name, value in row.items() if name.startswith(("mean_", "max_", "upper_")))
    full = measured(np.ones((20, 30), bool), kind, split_touching=True)
    assert full.classes[0]["area_fraction"] == 1 and full.classes[0]["number"] == 1


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three label maps with names, and the truth; the last one is empty."""
    maps, truth = tmp_path / "maps", tmp_path / "truth"
    for folder in (maps, truth):
        folder.mkdir()
    for i, (radius, true) in enumerate([(20, 22), (30, 30), (0, 5)]):
        for folder, name, r in ((maps, f"{i}_seg.png", radius), (truth, f"{i}.tif", true)):
            label = ellipse(r, r, 0, (100, 100), (1, 1), (50, 50)) if r else np.zeros((100, 100))
            save_picture(label.astype(np.uint8), folder / name)
            if folder is maps:
                Image.new("RGB", (100, 100)).save(maps / f"{i}_overlay.png")
    write_label_names(maps, {0: "matrix", 1: "grain", 2: "crack"})
    return maps, truth


def test_numbers_of_the_truth_beside_them(folders: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    maps, truth = folders
    out = tmp_path / "out"
    measure(str(maps), str(out), truth=str(truth), pixel_size="4nm")
    said = capsys.readouterr().out
    assert "grain as particles, crack as crack" in said and "4 x 4 nm, from --pixel_size" in said
    rows = {(row["image"], row["class"]): row for row in rows_of(out / "images.csv")}
    assert len(rows) == 6
    first = rows["0_seg.png", "grain"]
    assert float(first["mean_diameter"]) == pytest.approx(160, rel=0.01)
    assert float(first["truth_mean_diameter"]) == pytest.approx(176, rel=0.01)
    empty = rows["2_seg.png", "grain"]
    assert (empty["number"], empty["mean_diameter"], empty["truth_number"]) == ("0", "", "1")
    records = read_records(out / "measurements.jsonl")
    areas = [r for r in records if (r["metric"], r["class"]) == ("area_fraction", "grain")]
    difference = [record["value"] - record["truth"] for record in areas]
    limit = 1.96 * np.std(difference, ddof=1)
    (line,) = [line for line in said.splitlines() if line.startswith("| grain | area fraction")]
    cells = [cell.strip() for cell in line.split("|")]
    assert float(cells[6].split()[0]) == pytest.approx(np.mean(difference), rel=1e-3)
    low, high = map(float, cells[7].split(" to "))
    assert (low, high) == pytest.approx((np.mean(difference) - limit, np.mean(difference) + limit), rel=1e-3)
    # the means of a row are of the same images: one has no grain in the label map
    (line,) = [line for line in said.splitlines() if line.startswith("| grain | mean diameter")]
    images, mean, true, bias = (cell.split("[")[0].strip() for cell in line.split("|")[3:7])
    diameters = [
        r for r in records if (r["metric"], r["class"]) == ("mean_diameter", "grain") and r["value"] is not None
    ]
    assert images == "2 of 3" and float(true) == pytest.approx(np.mean([r["truth"] for r in diameters]), rel=1e-3)
    assert float(bias) == pytest.approx(float(mean) - float(true), abs=0.2)
    summarise(str(out / "measurements.jsonl"))  # the records are those of scripts.metrics
    assert "measure protocol, 3 cases" in capsys.readouterr().out
    for name in ("distribution.png", "bland_altman.png"):
        assert Image.open(out / name).size[0] > 300
    # other measurements are not replaced unasked
    before = {path: path.read_bytes() for path in out.iterdir()}
    other = shutil.copytree(maps, tmp_path / "other" / maps.name)
    for source, beside in ((maps, None), (other, truth), (maps, shutil.copytree(truth, tmp_path / "also"))):
        with pytest.raises(UserError, match="holds other measurements"):
            measure(str(source), str(out), truth=beside, pixel_size="4nm")
    measure(str(maps), str(out), truth=str(truth), pixel_size="4nm")
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    measure(str(maps), str(out), overwrite=True)
    assert "3 of 3 pictures are measured in pixels" in capsys.readouterr().out
    assert not (out / "bland_altman.png").exists() and "truth" not in (out / "images.csv").read_text()


def test_measurements_below_the_label_maps_are_none(folders: tuple[Path, Path]) -> None:
    truth = folders[1]
    for _ in range(2):
        measure(str(truth), str(truth / "measured"), overwrite=True)
        assert len(rows_of(truth / "measured" / "images.csv")) == 3


def test_label_maps_of_other_origins(tmp_path: Path) -> None:
    disc = ellipse(20, 20, 0, (80, 90), (1, 1), (40, 45))
    colours = np.zeros((80, 90, 3), np.uint8)
    colours[disc] = (255, 0, 0)
    wide = disc.astype(np.uint16) * 300
    files = {
        "sixteen.png": Image.fromarray(wide),
        "mask.png": Image.fromarray(disc.astype(np.uint8) * 255),
        "grey.png": Image.fromarray(np.repeat(disc[..., None].astype(np.uint8), 3, axis=2)),
        "bit.png": Image.fromarray(disc),
    }
    for name, picture in files.items():
        picture.save(tmp_path / name)
    nib.save(nib.Nifti1Image(disc.astype(np.int16).T, np.eye(4)), tmp_path / "picture.nii.gz")
    for name in (*files, "picture.nii.gz"):
        out = tmp_path / f"out_{name}"
        measure(str(tmp_path / name), str(out))
        (row,) = rows_of(out / "images.csv")
        expected = {"sixteen.png": "class 300", "mask.png": "class 255"}.get(name, "class 1")
        assert (row["class"], row["number"], row["unit"]) == (expected, "1", "pixel")
        assert float(row["mean_area"]) == disc.sum()
    Image.fromarray(colours).save(tmp_path / "red.png")
    indexed = Image.fromarray(1 - disc.astype(np.uint8))
    indexed.putpalette([255, 0, 0, 0, 0, 0])
    indexed.save(tmp_path / "indexed.png")
    for name in ("red", "indexed"):
        measure(str(tmp_path / f"{name}.png"), str(tmp_path / name), colours='{"255,0,0": 1}')
        assert float(rows_of(tmp_path / name / "images.csv")[0]["mean_area"]) == disc.sum()
    with pytest.raises(UserError, match=r"red\.png: The mask is coloured; give --colours"):
        measure(str(tmp_path / "red.png"), str(tmp_path / "no"))
    Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "lossy.jpg")
    with pytest.raises(UserError, match="does not keep class numbers"):
        measure(str(tmp_path / "lossy.jpg"), str(tmp_path / "no"))
    numbers = np.arange(80 * 90).reshape(80, 90).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "numbers.png")
    with pytest.raises(UserError, match="look like numbers of objects"):
        measure(str(tmp_path / "numbers.png"), str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_what_is_measured_as_what() -> None:
    names = {0: "background", 1: "oxide", 2: "crack", 3: "pore"}
    kinds = {region.name: region.kind for region in choose_regions(names, False)}
    assert kinds == {"oxide": "layer", "crack": "crack", "pore": "particles"}
    joined = ("oxide_layer", "grown_oxides", "Crack_1", "dioxide", "layered")
    assert [default_kind(name, False) for name in joined] == ["layer", "layer", "crack", "particles", "particles"]
    chosen = choose_regions(names, False, "oxide+crack:layer, 3:none,oxide:particles")
    assert [(r.name, r.numbers, r.kind) for r in chosen] == [
        ("oxide", (1,), "particles"),
        ("crack", (2,), "crack"),
        ("oxide+crack", (1, 2), "layer"),
    ]
    assert {region.kind for region in choose_regions(names, True)} == {"volume"}
    for text, said in (
        ("oxyde:layer", "did you mean oxide"),
        ("oxide:layers", "expected CLASS:KIND"),
        ("oxide:volume", "the label maps are pictures"),
        ("oxide:none,crack:none,pore:none", "no class to measure"),
    ):
        with pytest.raises(UserError, match=said):
            choose_regions(names, False, text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pixel_size": "4.2"}, "expected a length such as 4.2nm"),
        ({"pixel_size": "-1nm"}, "expected a length"),
        ({"unit": "km"}, "--unit is 'km'"),
        ({"min_pixels": 0}, "--min_pixels is 0"),
        ({"truth": "nowhere"}, "is no folder"),
        ({"labels": "nowhere.json"}, "does not exist"),
    ],
)
def test_mistakes_are_sentences(folders: tuple[Path, Path], tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        measure(str(folders[0]), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_a_class_without_a_name_is_not_left_out(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) // 4).save(maps / "a_seg.png")
    (maps / "labels.json").write_text('{"labels": {"0": "matrix", "1": "pore", "3": "phase"}}')
    with pytest.raises(UserError, match=r"a_seg\.png has the class 2, for which there is no name: give --labels"):
        measure(str(maps), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_pixel_sizes_are_of_images_as_large_as_the_label_maps(tmp_path: Path) -> None:
    label, image = tmp_path / "a_seg.png", tmp_path / "a.tif"
    save_picture(np.ones((20, 30), np.uint8), label)
    save_picture(np.ones((30, 20), np.uint8), image, PixelSize(4e-9, 4e-9, ""))
    with pytest.raises(UserError, match=r"a\.tif has 20 x 30 pixels, but .*a_seg\.png has 30 x 20.* --pixel_size"):
        measure(str(label), str(tmp_path / "out"), images=str(image))
    measure(str(label), str(tmp_path / "given"), images=str(image), pixel_size="2nm")
    Image.fromarray(np.ones((30, 20), np.uint8)).save(image, dpi=(1e7, 1e7), tiffinfo={0x0112: 6})  # shown lying
    measure(str(label), str(tmp_path / "turned"), images=str(image))
    assert {rows_of(tmp_path / name / "images.csv")[0]["unit"] for name in ("given", "turned")} == {"nm"}
    nib.save(mark_as_labels(nib.Nifti1Image(np.ones((30, 20), np.uint8), np.eye(4))), tmp_path / "a_seg.nii.gz")
    measure(str(tmp_path / "a_seg.nii.gz"), str(tmp_path / "nifti"), images=str(image))


def test_files_that_do_not_go_together(folders: tuple[Path, Path], tmp_path: Path) -> None:
    maps, truth = folders
    Image.new("L", (99, 100)).save(truth / "1.tif")
    with pytest.raises(UserError, match=r"1_seg.png has 100 x 100 pixels, but .*1.tif has 99 x 100"):
        measure(str(maps), str(tmp_path / "out"), truth=str(truth))
    (truth / "1.tif").unlink()
    with pytest.raises(UserError, match="holds 0 label maps"):
        measure(str(maps), str(tmp_path / "out"), truth=str(truth))
    save_picture(np.zeros((100, 100), np.uint8), maps / "1_seg.tif")
    with pytest.raises(UserError, match=r"1_seg\.png and .*1_seg\.tif are two label maps of one image"):
        measure(str(maps), str(tmp_path / "out"))
    (maps / "1_seg.tif").unlink()
    save_picture(np.full((9, 9), 7, np.uint8), maps / "3_seg.png")
    with pytest.raises(UserError, match=r"3_seg.png holds the label values 7"):
        measure(str(maps), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
