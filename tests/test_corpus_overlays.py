"""What microscopes draw into pictures: found to the row, and nothing found where nothing was drawn."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from networks.workflow.pictures import read_picture
from networks.workflow.pixel_size import read_pixel_size
from scripts.corpus import scale
from scripts.corpus.cleaning import clean, painted_over, save_png
from scripts.corpus.index import read_index
from scripts.corpus.overlays import Box, Overlays, find_overlays
from scripts.corpus.scale import FIELD, LENGTH, Scale, from_texts, has_ocr, read_scale
from tests.converters import REAL

TIO2 = REAL / "bam_tio2_sem" / "SEM"
NASA, POLLEN = REAL / "nasa_microscopy", REAL / "pollen73s"
HEIGHT, WIDTH = 300, 400


def micrograph(dark: int = 45, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Saturated particles on a noisy ground, without anything drawn, (height, width) uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    image = dark + rng.normal(0, 6, (height, width))
    for _ in range(40):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(4, 14)
        image += 260 * np.exp(-((((y - cy) ** 2 + (x - cx) ** 2) / r**2) ** 2))
    return image.clip(0, 255).astype(np.uint8)


def banner(ground: int, ink: int, height: int = 40) -> np.ndarray:
    """As under an SEM's picture: texts, and a bar of 80 pixels between the middles of its ticks."""
    picture = Image.new("L", (WIDTH, height), ground)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    draw.text((6, 12), "EHT = 20.00 kV  WD = 2.8 mm", fill=ink, font=font)
    draw.text((300, 3), "200 nm", fill=ink, font=font)
    draw.rectangle((300, 28, 381, 29), fill=ink)
    for x in (300, 380):
        draw.rectangle((x, 22, x + 1, 35), fill=ink)
    return np.asarray(picture)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def with_bar(ink: int | tuple[int, ...], field: int | None) -> np.ndarray:
    """A micrograph (height, width, 3) with a bar of 90 pixels and its label at the bottom right."""
    picture = Image.fromarray(np.repeat(micrograph()[..., None], 3, axis=2))
    draw = ImageDraw.Draw(picture)
    if field is not None:
        draw.rectangle((285, 240, 394, 294), fill=(field,) * 3)
    draw.rectangle((295, 282, 384, 285), fill=ink)
    draw.text((305, 254), "500 nm", fill=ink, font=ImageFont.load_default(20))
    return np.asarray(picture)


@pytest.mark.parametrize("quality", [None, 75])
@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (255, 0), (0, 160)])
@pytest.mark.parametrize("top", [False, True])
def test_banner_is_found_to_the_row(ground: int, ink: int, top: bool, quality: int | None) -> None:
    parts = [micrograph(), banner(ground, ink)]
    pixels = np.concatenate(parts[::-1] if top else parts)
    found = find_overlays((jpeg(pixels, quality) if quality else pixels)[..., None])
    assert [(box.top, box.bottom) for box in found.banners] == [(0, 40) if top else (HEIGHT, HEIGHT + 40)]
    assert not found.drawn
    if quality is None:
        assert [bar.length for bar in found.bars] == [80]


@pytest.mark.parametrize("dark", [0, 45, 255])
def test_nothing_is_found_where_nothing_is_drawn(dark: int) -> None:
    found = find_overlays(micrograph(dark)[..., None])
    assert not found.banners and not found.drawn and not found.bars


def test_a_flat_border_is_no_banner() -> None:
    """Nobody has written on it, so that it may be a part of the specimen, such as its edge."""
    pixels = micrograph()
    pixels[-60:] = 0
    assert not find_overlays(pixels[..., None]).banners


@pytest.mark.parametrize(("hole", "ground"), [(40, 170), (220, 60)])
@pytest.mark.parametrize(("pitch", "radius", "turn"), [(40, 10, 0), (40, 10, 1), (60, 14, 0.5), (80, 18, 1)])
def test_a_regular_array_has_no_banner(pitch: int, radius: int, turn: float, hole: int, ground: int) -> None:
    """The rows between holes or pillars are flat, and a row of them stands on a line as letters do."""
    y, x = np.mgrid[:768, :1024].astype(float)
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    across, down = ((v % pitch - pitch / 2) ** 2 for v in (x * cos + y * sin, y * cos - x * sin))
    pixels = ndimage.gaussian_filter(np.where(across + down < radius**2, hole, ground).astype(float), 1.5)
    pixels += np.random.default_rng(0).normal(0, 3, pixels.shape)
    pixels = np.rint(pixels).clip(0, 255).astype(np.uint8)
    assert not find_overlays(pixels[..., None]).banners
    below = np.concatenate([pixels, np.pad(banner(0, 255), ((0, 0), (0, 1024 - WIDTH)))])
    assert [(box.top, box.bottom) for box in find_overlays(below[..., None]).banners] == [(768, 808)]


@pytest.mark.parametrize(("ink", "field"), [(255, None), (255, 0), (0, 255), ((255, 0, 0), None)])
def test_drawn_bar_is_found_with_its_label(ink: int | tuple[int, ...], field: int | None) -> None:
    pixels = with_bar(ink if isinstance(ink, tuple) else (ink,) * 3, field)
    found = find_overlays(pixels)
    assert not found.banners and len(found.drawn) == 1 and [bar.length for bar in found.bars] == [90]
    (box,) = found.drawn
    assert box.left <= 295 and box.right >= 385 and box.bottom >= 286 and box.top <= 260 and box.height < 70
    painted = painted_over(pixels, found.drawn)
    outside = np.ones(pixels.shape[:2], bool)
    outside[box.top : box.bottom, box.left : box.right] = False
    assert np.array_equal(painted[outside], pixels[outside])
    assert not find_overlays(painted).drawn


def test_clean_cuts_copies_and_leaves_originals(tmp_path: Path) -> None:
    source = tmp_path / "source" / "particles"
    source.mkdir(parents=True)
    Image.fromarray(np.concatenate([micrograph(), banner(0, 255)])).save(source / "a.png")
    Image.fromarray(micrograph()).save(source / "b.png")
    Image.fromarray(with_bar((255, 255, 255), 0)).save(source / "c.png")
    (source / "d.png").write_bytes(b"no picture")
    before = {path: path.read_bytes() for path in source.iterdir()}
    for _ in range(2):  # the second time nothing is left to do
        with pytest.raises(SystemExit):
            clean(str(source.parent), str(tmp_path / "out"), ocr="false")
        rows = {m.image.name: m for m in read_index(tmp_path / "out" / "labels.csv")}
        assert {name: m.box for name, m in rows.items()} == {
            "a.png": (0, 0, WIDTH, HEIGHT),
            "b.png": (0, 0, WIDTH, HEIGHT),
            "c.png": (0, 0, WIDTH, rows["c.png"].box[3]),
        }
        assert 230 <= rows["c.png"].box[3] <= 245  # the bottom costs less than the right side
        assert all(m.kind == "particles" and m.source.startswith("source/particles/") for m in rows.values())
    assert np.array_equal(read_picture(rows["a.png"].image)[..., 0], micrograph())
    assert "d.png" in (tmp_path / "out" / "failed.csv").read_text()
    assert (tmp_path / "out" / "sheet_removed_1.png").is_file()
    assert {path: path.read_bytes() for path in source.iterdir()} == before


def test_scale_of_tags(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", np.zeros((20, 30), np.uint8)

    def written(**tags) -> Scale:
        tifffile.imwrite(path, pixels, **tags)
        return read_scale(path, pixels[..., None], Overlays(), ocr=False)

    assert written() == Scale()
    size = written(resolution=(1e7 / 7.34, 1e7 / 7.34), resolutionunit="CENTIMETER").size
    assert size == pytest.approx(7.34, rel=1e-4)
    printed = written(resolution=(300, 300), resolutionunit="INCH")
    assert printed.size is None and "printer" in printed.remark
    assert "not square" in written(resolution=(1e6, 2e6), resolutionunit="CENTIMETER").remark


@pytest.mark.parametrize("size", [7.34, 0.4, None])
def test_clean_pictures_carry_their_scale(size: float | None, tmp_path: Path) -> None:
    save_png(np.zeros((4, 4), np.uint8), tmp_path / "a.png", size)
    found = read_pixel_size(tmp_path / "a.png")[0]
    if size == 7.34:
        assert found is not None and found.width == pytest.approx(7.34e-9, rel=1e-6)
    else:  # unknown, or less than PNG can say
        assert found is None


def test_scales_that_png_cannot_carry_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["image,pixel_size_nm"]
    for n, size in enumerate((7.34, 0.4, 12700, 25400, "")):
        Image.fromarray(micrograph(height=64, width=64)).save(tmp_path / f"{n}.png")
        lines.append(f"{n}.png,{size}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    clean(str(tmp_path), str(tmp_path / "out"), ocr="false")
    assert "3 pixel sizes, such as 0.4 nm, do not go into a PNG file" in capsys.readouterr().out
    assert [m.pixel_size for m in read_index(tmp_path / "out" / "labels.csv")] == [7.34, 0.4, 12700, 25400, None]


def test_a_side_file_that_comes_later_or_is_corrected_counts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(micrograph(height=64, width=64)).save(source / "a.png")
    for text, size in ((None, None), ("1um", 100), ("2um", 200)):
        if text is not None:
            (source / "a.TXT").write_text(f"$CM_FULL_SIZE 64 64\n$$SM_MICRON_BAR 10\n$$SM_MICRON_MARKER {text}\n ")
            os.utime(source / "a.TXT", (size, size))
        clean(str(source), str(tmp_path / "out"), ocr="false")
        assert read_index(tmp_path / "out" / "labels.csv")[0].pixel_size == size


@pytest.mark.skipif(not has_ocr("auto"), reason="needs tesseract")
@pytest.mark.skipif(not TIO2.is_dir(), reason="the TiO2 micrographs are not here")
def test_scales_of_real_banners() -> None:
    """7.52 µm over 1024 pixels, and bars of 200 and 300 nm."""
    for name in ("1908248", "1908264"):
        path = TIO2 / f"{name}.tif"
        pixels = read_picture(path)
        scale = read_scale(path, pixels, find_overlays(pixels), True)
        assert scale.size == pytest.approx(7520 / 1024, rel=0.02)


def test_a_comma_that_may_be_of_thousands_is_not_read() -> None:
    for text in ("1,000 nm", "7,516 µm", "1,000,000 nm"):
        assert LENGTH.fullmatch(text) is None and FIELD.search(f"HFW = {text}") is None
    for text, number in (("1,5 µm", "1,5"), ("0,500 µm", "0,500"), ("7.516 µm", "7.516"), ("1000nm", "1000")):
        for match in (LENGTH.fullmatch(text), FIELD.search(f"HFW = {text}")):
            assert match is not None and match["number"] == number


@pytest.mark.parametrize(
    ("label", "field", "size"),
    [
        ("500 µm", "", 6250),
        ("500 pm", "", None),
        ("500 pm", "HFW = 2.5 mm", 6250),
        ("500 pm", "HFW = 2500 pm", 6250),
        ("500 pm", "HFW = 2.5 nm", None),
    ],
)
def test_picometres_are_micrometres_where_the_field_says_so(
    label: str, field: str, size: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OCR takes µ for p: a bar of 80 pixels in a picture of 400."""
    words = [scale._Word(text, Box(300, HEIGHT + 3, 345, HEIGHT + 18)) for text in label.split()]
    words += [scale._Word(text, Box(6, HEIGHT + 12, 60, HEIGHT + 25)) for text in field.split()]
    monkeypatch.setattr(scale, "_words", lambda page, area: words)
    pixels = np.concatenate([micrograph(), banner(0, 255)])[..., None]
    found = from_texts(pixels, find_overlays(pixels))
    assert found.size == pytest.approx(size) if size else found.size is None and found.remark


@pytest.mark.skipif(not has_ocr("auto"), reason="needs tesseract")
@pytest.mark.skipif(not TIO2.is_dir(), reason="the TiO2 micrographs are not here")
def test_contradicting_scales_are_none() -> None:
    """Of a picture that was cut, the banner's width of the field no longer holds; the bar does."""
    pixels = read_picture(TIO2 / "1908248.tif")[:, 430:]
    scale = from_texts(pixels, find_overlays(pixels))
    assert scale.size is None and "contradicts itself" in scale.remark


@pytest.mark.skipif(not TIO2.is_dir(), reason="the TiO2 micrographs are not here")
def test_real_banners_go_and_nothing_else() -> None:
    for path in sorted(TIO2.glob("*.tif"))[::4]:
        found = find_overlays(read_picture(path))
        assert [(box.top, box.bottom) for box in found.banners] == [(712, 768)], path
        assert not found.drawn, path


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(lambda: [p for p in NASA.rglob("*.tif") if "annot" not in p.parent.name][::8], id="NASA"),
        pytest.param(lambda: sorted((NASA / "melt_pool_tiles").rglob("*.png"))[::4], id="melt pools"),
        pytest.param(lambda: sorted(POLLEN.rglob("*.jpg"))[::20], id="pollen"),
    ],
)
def test_real_pictures_lose_nothing(files) -> None:
    found = files()
    if not found:
        pytest.skip("the pictures are not here")
    for path in found:
        overlays = find_overlays(read_picture(path))
        assert not overlays.banners and not overlays.drawn, path


def test_an_interrupted_step_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, calls = tmp_path / "source", []
    source.mkdir()
    for name in "abc":
        Image.fromarray(micrograph(height=64, width=64)).save(source / f"{name}.png")
    from scripts.corpus import cleaning

    real = cleaning._clean

    def stopped(micrograph, *rest):
        if len(calls) == 2:
            raise SystemExit(143)
        calls.append(micrograph.image.name)
        return real(micrograph, *rest)

    monkeypatch.setattr(cleaning, "_clean", stopped)
    with pytest.raises(SystemExit):
        clean(str(source), str(tmp_path / "out"), ocr="false")
    assert not (tmp_path / "out" / "labels.csv").exists()
    journal = tmp_path / "out" / ".journal.jsonl"
    journal.write_text(journal.read_text() + '{"key": "half a li')
    monkeypatch.setattr(cleaning, "_clean", lambda m, *rest: calls.append(m.image.name) or real(m, *rest))
    clean(str(source), str(tmp_path / "out"), ocr="false")
    assert calls == ["a.png", "b.png", "c.png"]
    assert len(read_index(tmp_path / "out" / "labels.csv")) == 3

    shutil.copy(source / "a.png", source / "d.png")  # new pictures are done, those that are gone are forgotten
    (source / "b.png").unlink()
    clean(str(source), str(tmp_path / "out"), ocr="false")
    assert calls[3:] == ["d.png"]
    assert [m.image.name for m in read_index(tmp_path / "out" / "labels.csv")] == ["a.png", "c.png", "d.png"]
    assert not (tmp_path / "out" / "images" / "b.png").exists()
