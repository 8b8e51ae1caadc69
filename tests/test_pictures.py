"""Pictures of every kind become the same 8-bit channels in conversion, training and inference."""

import json
import zlib
from pathlib import Path

import itk
import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from PIL import Image, ImageOps

from networks.errors import UserError
from networks.phantom import write_precipitate_phantom
from networks.workflow import PictureReader, check_cases
from networks.workflow.checks import loader
from networks.workflow.pictures import read_index_map, read_picture, read_pixels
from scripts.catalog.bundles import BY_NAME
from tests.converters import run, save_tiff
from tests.test_bundles import build_network
from tests.workflows import config_paths, tiny_overrides, training_overrides
from tests.workflows import run as run_config

BUNDLE = BY_NAME["cs_unet"]
ORIENTATION = 0x0112
GREY = np.kron(np.random.default_rng(0).integers(0, 256, (5, 7)), np.ones((16, 16))).astype(np.uint8)  # 80 x 112
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
KINDS = [
    *(("L", suffix) for suffix in ("png", "bmp", "tif")),
    *((mode, suffix) for mode in ("I;16", "P", "RGBA", "LA") for suffix in ("png", "tif")),
    ("RGB;16", "tif"),
    ("CMYK", "tif"),
    ("RGB", "png"),
]


def save(path: Path, mode: str, shade: int = 0, **options) -> Path:
    """The picture in one of the kinds that microscopes and cameras write; another shade makes it another picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey, rgb = GREY // (shade + 1), RGB // (shade + 1)
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path, **options)
    elif mode == "RGB;16":
        save_tiff(path, rgb.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey if mode in ("L", "LA") else rgb).convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(90)
        image.save(path, **options)
    return path


@pytest.mark.parametrize(("mode", "suffix"), KINDS)
def test_every_kind_is_the_picture_that_a_viewer_shows(mode: str, suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a.{suffix}", mode)
    expected = np.repeat(GREY[..., None], 3, axis=2) if mode in ("L", "LA", "I;16") else RGB
    if mode == "P":  # of 256 colours
        expected = np.asarray(Image.fromarray(RGB).convert("P").convert("RGB"))
    np.testing.assert_array_equal(read_picture(path, 3), expected)
    np.testing.assert_array_equal(read_picture(path, 1)[..., 0], Image.fromarray(expected).convert("L"))
    loaded = loader(PictureReader(3))(str(path))
    assert loaded.dtype == torch.uint8
    np.testing.assert_array_equal(loaded, expected.transpose(2, 1, 0))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16", "LA"])
def test_pictures_are_upright_as_displayed(mode: str, suffix: str, tmp_path: Path) -> None:
    if (mode, suffix) in (("CMYK", "png"), ("I;16", "jpg"), ("LA", "jpg")):
        pytest.skip("there are no such files")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = {"tiffinfo": {ORIENTATION: orientation}} if suffix == "tif" else {"exif": exif}
        # two decoders differ where colours of half the resolution are brought to the full one
        options |= {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
        path = save(tmp_path / f"{orientation}.{suffix}", mode, **options)
        with Image.open(path) as stored:
            shown = ImageOps.exif_transpose(stored)
            shown = np.asarray(shown) // 257 if mode == "I;16" else np.asarray(shown.convert("RGB"))
        expected = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)
        found = read_picture(path, 3).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= (4 if suffix == "jpg" else 0)


def test_16_bit_colours_that_are_not_upright_are_refused(tmp_path: Path) -> None:
    """Pillow would read their high bytes and ITK turns them wrongly."""
    path = save(tmp_path / "a.tif", "RGB;16")
    data = path.read_bytes()
    assert read_picture(path).shape == (80, 112, 3)
    tag = np.array([ORIENTATION, 3], "<u2").tobytes() + np.array([1], "<u4").tobytes()
    assert data.count(tag) == 1
    at = data.index(tag) + len(tag)
    path.write_bytes(data[:at] + b"\x06\x00" + data[at + 2 :])
    with pytest.raises(UserError, match=r"a\.tif has 16-bit pixels that cannot be read in full .* upright"):
        read_picture(path)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("where", [{"tile": (64, 64)}, {"tile": (64, 64), "compression": "zlib"}, {}])
def test_tiff_in_tiles_planes_and_of_white_zeros_is_read_in_full(where: dict, byteorder: str, tmp_path: Path) -> None:
    """ITK reads tiles and planes into 8 bit, and does not invert."""
    path, options = tmp_path / "a.tif", {"byteorder": byteorder, **where}
    numbers = (GREY // 50).astype(np.uint16)
    tifffile.imwrite(path, numbers, **options)
    np.testing.assert_array_equal(read_index_map(path)[..., 0], numbers)
    tifffile.imwrite(path, GREY.astype(np.uint16) * 16, **options)  # 12 bits
    np.testing.assert_array_equal(read_picture(path, 1, [0, 4080])[..., 0], GREY)
    alpha = np.dstack([RGB, GREY])
    for pixels, more in ((RGB, {}), (alpha, {"extrasamples": ["unassalpha"]})):
        tifffile.imwrite(path, pixels, photometric="rgb", **more, **options)
        np.testing.assert_array_equal(read_pixels(path), pixels)
    tifffile.imwrite(path, RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **options)
    np.testing.assert_array_equal(read_pixels(path), RGB)
    for grey, highest in ((GREY, 255), (GREY.astype(np.uint16) * 257, 65535)):
        tifffile.imwrite(path, grey, photometric="miniswhite", **options)
        if where and (byteorder, highest) == (">", 65535):
            with pytest.raises(UserError, match=r"a\.tif has 16-bit pixels that cannot be read in full"):
                read_pixels(path)
            continue
        np.testing.assert_array_equal(read_pixels(path)[..., 0], highest - grey)
        np.testing.assert_array_equal(read_index_map(path)[..., 0], grey)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "component"), [(np.uint8, itk.UC), (np.uint16, itk.US)])
def test_png_of_fewer_significant_bits_is_not_shifted(kind, component, channels, tmp_path: Path) -> None:
    """Cameras of 12 bits, and FFmpeg, write how many of the bits are significant (sBIT)."""
    path = tmp_path / "a.png"
    values = np.arange(1000, 1000 + 6 * channels).astype(kind).reshape(2, 3, channels)
    itk.imwrite(
        itk.image_view_from_array(values, ttype=itk.VectorImage[itk.UC if kind == np.uint8 else itk.US, 2]), path
    )
    content = path.read_bytes()
    significant = b"sBIT" + bytes([5] * channels)
    chunk = channels.to_bytes(4, "big") + significant + zlib.crc32(significant).to_bytes(4, "big")
    path.write_bytes(content[:33] + chunk + content[33:])
    if (kind, channels) == (np.uint16, 3):
        with pytest.raises(UserError, match="16-bit colours or alpha"):
            read_pixels(path)
    else:
        np.testing.assert_array_equal(read_pixels(path), values)
        np.testing.assert_array_equal(read_index_map(path), values)


@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_without_the_number_of_bits(photometric: int, tmp_path: Path) -> None:
    """One bit is what a TIFF has that does not say otherwise."""
    label = GREY > 128
    Image.fromarray(label).save(tmp_path / "a.tif", tiffinfo={262: photometric})
    with Image.open(tmp_path / "a.tif") as image:
        assert 258 not in image.tag_v2
    np.testing.assert_array_equal(read_index_map(tmp_path / "a.tif")[..., 0], label)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif")[..., 0], label * 255)


def test_tiff_that_would_lose_bits_is_refused(tmp_path: Path) -> None:
    rgb, tile = RGB.astype(np.uint16) * 257, {"tile": (64, 64)}
    kinds = {
        "colours": (rgb, {"photometric": "rgb", **tile}),
        "planes": (rgb.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        "alpha": (rgb[..., :2], {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [2]}),
        "signed": (GREY.astype(np.int8), tile),
        "float": (GREY.astype(np.float32), tile),
    }
    for name, (pixels, options) in kinds.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **options)
        with pytest.raises(UserError, match=rf"{name}\.tif has \d+-bit pixels that cannot be read in full"):
            read_pixels(tmp_path / f"{name}.tif")
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([GREY, GREY]), photometric="minisblack", **tile)
    with pytest.raises(UserError, match=r"pages\.tif has 2 pages"):
        read_pixels(tmp_path / "pages.tif")


def test_pages_animations_and_other_types_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    frames[0].convert("P").save(tmp_path / "p.tif", save_all=True, append_images=[frames[1].convert("P")])
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "f.tif")
    itk.imwrite(itk.image_view_from_array(GREY.astype(np.int16)), str(tmp_path / "s.tif"))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    for name, message in {
        "a.tif": "2 pages",
        "p.tif": "2 pages",
        "a.png": "an animation of 2",
        "f.tif": "type float",
        "s.tif": "type short",
        "cut.png": "cannot be read",
        "text.png": "not an image",
        "none.png": "does not exist",
    }.items():
        for read in (
            lambda path: read_picture(path, 3),
            lambda path: check_cases([{"image": str(path)}], 3, reader=PictureReader(3)),
        ):
            with pytest.raises(UserError, match=rf"{name}.*{message}"):
                read(tmp_path / name)


def test_labels_are_the_numbers_of_a_palette(tmp_path: Path) -> None:
    label = (GREY > 100).astype(np.uint8) + (GREY > 200)
    image = Image.fromarray(label).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.putdata(label.ravel().tolist())
    for name in ("a.png", "a.tif", "a.bmp"):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_index_map(tmp_path / name)[..., 0], label)
    Image.fromarray(label).save(tmp_path / "grey.bmp")
    np.testing.assert_array_equal(read_index_map(tmp_path / "grey.bmp")[..., 0], label)


def test_windows(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 2000, 3000, 4095, 9000]] * 3, np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", 1, [1000, 3000])[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    for window in ([3000, 1000], [1]):
        with pytest.raises(UserError, match="the lower one first"):
            PictureReader(3, window)
    with pytest.raises(UserError, match="in_channels is 2"):
        PictureReader(2)


def test_dark_pictures_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """12 bits in 16 would be 16 grey values; nothing is told of labels, of others, and with a window."""
    for name, factor in (("dark", 16), ("other", 16), ("bright", 257)):
        save_tiff(tmp_path / f"{name}.tif", (GREY[..., None] * np.uint16(factor)).repeat(3, axis=2))
    paths = [str(tmp_path / f"{name}.tif") for name in ("bright", "dark", "other")]
    PictureReader(3, [0, 4095]).get_data(paths)
    PictureReader(is_label=True).get_data(paths)
    PictureReader(3).get_data(paths[:1])
    Image.new("I;16", (4, 4)).save(tmp_path / "black.tif")
    PictureReader(3).get_data([str(tmp_path / "black.tif")])
    assert not caplog.records
    seen, _ = PictureReader(3).get_data(paths)
    (record,) = caplog.records
    assert f"dark.tif has 16 bit and no value above {16 * int(GREY.max())}, so that" in record.getMessage()
    assert len(np.unique(seen[1])) <= 16


def test_inference_sees_what_the_conversion_wrote(tmp_path: Path, monkeypatch) -> None:
    """Of every original the very pixels, 16 bit by the window that the data set keeps."""
    for number, (mode, suffix) in enumerate(KINDS):
        save(tmp_path / "in" / "images" / f"{number:02d}.{suffix}", mode, shade=number)
        (tmp_path / "in" / "masks").mkdir(exist_ok=True)
        Image.fromarray((GREY > 100).astype(np.uint8)).save(tmp_path / "in" / "masks" / f"{number:02d}.png")
    names = ("--images", "images/{case}.*", "--masks", "masks/{case}.png", "--labels", "background,cell")
    where, target = ("--source", tmp_path / "in", "--output_dir", tmp_path / "out"), tmp_path / "out"
    assert run(monkeypatch, "folder", *where, *names, "--window", "100,30000") == 0
    content = json.loads((target / "dataset.json").read_text())
    assert content["intensity"]["window"] == [100, 30000]
    parser = ConfigParser()
    parser.read_config(config_paths(BUNDLE, "inference"))
    parser.update({"dataset_dir": str(target)})
    reader = parser.get_parsed_content("reader")
    written = [target / item["image"] for name in ("training", "validation", "test") for item in content[name]]
    assert len(written) == len(KINDS)
    for path in written:
        (original,) = (tmp_path / "in" / "images").glob(f"{path.stem}.*")
        seen, _ = reader.get_data(reader.read(original))
        np.testing.assert_array_equal(seen.swapaxes(0, 1), np.asarray(Image.open(path)))


@pytest.mark.parametrize(("name", "preset"), [("cs_unet", None), ("unet", "nasa_super")])
def test_originals_are_seen_through_the_window_of_the_training(name: str, preset: str | None, tmp_path: Path) -> None:
    """Its record keeps the one of its data set, and an inference on other pictures reads it there."""
    bundle = BY_NAME[name]
    write_precipitate_phantom(tmp_path / "data", 2, 1, 1, size=(48, 48))
    content = json.loads((tmp_path / "data" / "dataset.json").read_text())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**content, "intensity": {"window": [0, 4095]}}))
    options = training_overrides(bundle, tmp_path, tmp_path / "data", epochs=1)
    options |= {"out_channels": 3, "crops_per_image": 2} if preset else {}
    presets = [f"presets/{preset}"] if preset else []
    run_config(config_paths(bundle, "train", *presets), "training", **options)
    record = json.loads((tmp_path / "models" / "model.json").read_text())
    assert record["ids"]["window"] == [0, 4095] and (record["seed"], record["pretrained"]) == (0, [])
    parser = ConfigParser()
    parser.read_config(config_paths(bundle, "inference", *(f"{path}_inference" for path in presets)))
    parser.update({"dataset_dir": str(tmp_path), "ckpt_path": str(tmp_path / "models" / "model.pt")})
    assert parser.get_parsed_content("reader").window == [0, 4095]


def test_pictures_of_any_size(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for mode, suffix in KINDS:
        assert read_picture(save(tmp_path / f"{mode[0]}.{suffix}", mode)).shape[:2] == GREY.shape
    assert Image.MAX_IMAGE_PIXELS == 10


def test_inference_takes_every_kind(tmp_path: Path) -> None:
    """Grey, 16 bit, palette, alpha and CMYK were refused; the label maps have the sizes of what is displayed."""
    for number, (mode, suffix) in enumerate(KINDS):
        save(tmp_path / "in" / f"{number:02d}.{suffix}", mode)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(tmp_path / "in" / "turned.jpg", "RGB", exif=exif)
    (tmp_path / "models").mkdir()
    torch.save(build_network(BUNDLE).state_dict(), tmp_path / "models" / "model.pt")
    options = tiny_overrides(BUNDLE, tmp_path, tmp_path / "in", window=[0, 65535])
    run_config(config_paths(BUNDLE, "inference"), "inference", **options)
    found = {path.name: Image.open(path).size for path in (tmp_path / "eval").rglob("*_seg.png")}
    assert len(found) == len(KINDS) + 1
    assert found.pop("turned_seg.png") == (80, 112)
    assert set(found.values()) == {(112, 80)}


def test_a_picture_far_smaller_than_the_crops_is_trained_on(tmp_path: Path) -> None:
    write_precipitate_phantom(tmp_path / "data", 1, 1, 1, size=(24, 24))
    for path in (tmp_path / "data").rglob("*.png"):
        with Image.open(path) as picture:
            small = picture.crop((0, 0, 5, 5))
        small.save(path)
    bundle = BY_NAME["unet"]
    files = config_paths(bundle, "train", "presets/nasa_super")
    options = training_overrides(bundle, tmp_path / "out", tmp_path / "data", epochs=1, out_channels=3)
    run_config(files, **options)
    assert (tmp_path / "out" / "models" / "last.pt").is_file()
