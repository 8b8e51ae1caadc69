"""Label maps in other programs' hands: numbers, colours, pixel sizes and names survive the way there."""

import json
from pathlib import Path

import imageio.v3 as iio
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, SaveImage
from PIL import Image

from networks.workflow.checks import loader, reader_of
from networks.workflow.pictures import read_index_map
from networks.workflow.pixel_size import PixelSize, parse_pixel_size, read_pixel_size
from networks.workflow.saving import colour, complete_writers, mark_as_labels, save_picture, write_label_names
from scripts.catalog.bundles import BY_NAME
from scripts.opened_bundle import InferenceConfig, read_labels
from tests.predicting import call, options_of, write_weights

SIZE = PixelSize(4.2e-9, 5e-9, "a test")
LABEL = np.arange(3, dtype=np.uint8).repeat(80).reshape(12, 20)


def lengths(path: Path) -> tuple[float, float]:
    size, why = read_pixel_size(path)
    assert size is not None, why
    return size.height, size.width


def test_png_shows_colours_and_holds_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_picture(LABEL, path, SIZE)
    with Image.open(path) as picture:
        assert picture.mode == "P" and np.array_equal(np.asarray(picture), LABEL)
        shown = np.asarray(picture.convert("RGB"))
    assert [tuple(shown[i, 0]) for i in (0, 4, 8)] == [colour(0), colour(1), colour(2)]
    assert lengths(path) == pytest.approx((4.2e-9, 5e-9), rel=1e-6)
    # every way in which this project reads label maps
    assert np.array_equal(read_index_map(path)[..., 0], LABEL)
    for reader in ("PILReader", reader_of(str(path), is_label=True)):
        assert np.array_equal(np.asarray(loader(reader)(path))[0].T, LABEL)
    assert np.array_equal(np.asarray(LoadImage(reader="PILReader", image_only=True)(path)).T, LABEL)
    save_picture(LABEL, path, PixelSize(1e-11, 1e-11, ""))
    assert read_pixel_size(path)[0] is None  # more than PNG can say


def test_tiff_is_imagejs_and_plain_numbers_for_all_others(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save_picture(LABEL, path, SIZE)
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej and file.imagej_metadata == {"ImageJ": 1.54, "unit": "nm", "min": 0, "max": 2}
        across, down = (file.pages[0].tags[name].value for name in ("XResolution", "YResolution"))
        assert (across[1] / across[0], down[1] / down[0]) == pytest.approx((5, 4.2), rel=1e-6)
        assert np.array_equal(file.asarray(), LABEL)
    assert np.array_equal(iio.imread(path), LABEL)  # napari's way
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), LABEL)  # 3D Slicer's
    assert np.array_equal(read_index_map(path)[..., 0], LABEL)
    assert lengths(path) == pytest.approx((4.2e-9, 5e-9), rel=1e-6)
    save_picture(LABEL, path)
    assert read_pixel_size(path)[0] is None and np.array_equal(tifffile.imread(path), LABEL)


def test_nifti_says_that_it_is_a_label_map(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(mark_as_labels(nib.Nifti1Image(LABEL.T, np.eye(4)), SIZE), path)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), LABEL)
    assert image.GetSpacing() == pytest.approx((5e-6, 4.2e-6), rel=1e-6)  # millimetres
    assert image.GetMetaData("intent_code") == "1002"


@pytest.mark.parametrize("unit", ["mm", "micron"])
def test_inference_writes_them_too(unit: str, tmp_path: Path) -> None:
    source = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.diag([2, 2, 3, 1]))
    source.header.set_xyzt_units(unit)
    nib.save(source, tmp_path / "scan.nii.gz")
    image = LoadImage(image_only=True)(tmp_path / "scan.nii.gz")
    label = MetaTensor(torch.ones((1, 4, 5, 6)), affine=image.affine, meta=image.meta)
    options = {"separate_folder": False, "resample": False, "print_log": False, "output_dtype": np.uint8}
    save = SaveImage(output_dir=tmp_path, output_ext=".nii.gz", writer="NibabelWriter", **options)
    complete_writers(save)
    save(label)
    header = nib.load(tmp_path / "scan_trans.nii.gz").header
    assert header.get_intent()[0] == "label" and header.get_zooms() == (2, 2, 3)
    assert (header.get_xyzt_units()[0] == "micron") == (unit == "micron")
    # probabilities are no labels
    save = SaveImage(output_dir=tmp_path, output_ext=".nii.gz", writer="NibabelWriter", output_postfix="p")
    complete_writers(save)
    save(label)
    assert nib.load(next(tmp_path.rglob("*_p.nii.gz"))).header.get_intent()[0] == "none"


def test_names_for_people_and_for_3d_slicer(tmp_path: Path) -> None:
    write_label_names(tmp_path, {1: "left ventricle", 0: "background"})
    assert read_labels(tmp_path / "labels.json") == {0: "background", 1: "left ventricle"}
    lines = (tmp_path / "labels.ctbl").read_text().splitlines()
    assert lines[-2:] == ["0 background 0 0 0 0", "1 left_ventricle 230 159 0 255"]


def test_pixel_sizes_of_microscopes(tmp_path: Path) -> None:
    picture = Image.fromarray(LABEL)
    fei = "[User]\r\nDate=1\r\n[Scan]\r\nPixelWidth=1.1e-009\r\nPixelHeight=1.2e-009\r\n"
    zeiss = "\r\n0\r\nAP_PIXEL_SIZE\r\nPixel Size = 5.5 nm\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 2.2 µm\r\n"
    picture.save(tmp_path / "fei.tif", tiffinfo={34682: fei})
    picture.save(tmp_path / "zeiss.tif", tiffinfo={34118: zeiss.encode("cp1252")})
    tifffile.imwrite(tmp_path / "imagej.tif", LABEL, imagej=True, resolution=(10, 20), metadata={"unit": "um"})
    ome = {"axes": "YX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2}
    tifffile.imwrite(tmp_path / "a.ome.tif", LABEL, ome=True, metadata=ome)
    tifffile.imwrite(tmp_path / "cm.tif", LABEL, resolution=(1e4, 2e4), resolutionunit="CENTIMETER")
    picture.save(tmp_path / "jeol.png")
    (tmp_path / "jeol.txt").write_text("$CM_FULL_SIZE 20 12\r\n$$SM_MICRON_BAR 10\r\n$$SM_MICRON_MARKER 1um\r\n")
    expected = {
        "fei.tif": (1.2e-9, 1.1e-9),
        "zeiss.tif": (2.2e-6, 2.2e-6),
        "imagej.tif": (0.05e-6, 0.1e-6),
        "a.ome.tif": (0.2e-6, 0.1e-6),
        "cm.tif": (0.5e-6, 1e-6),
        "jeol.png": (0.1e-6, 0.1e-6),
    }
    resized = f"{fei}[Image]\r\nResolutionX=60\r\n"
    picture.save(tmp_path / "resized.tif", tiffinfo={34682: resized})
    size, why = read_pixel_size(tmp_path / "resized.tif")
    assert size is None and "60 columns" in why
    for name, size in expected.items():
        assert lengths(tmp_path / name) == pytest.approx(size, rel=1e-5), name
    lying = Image.Exif()
    lying[0x0112] = 6
    picture.save(tmp_path / "lying.png", dpi=(25400, 50800), exif=lying)
    assert lengths(tmp_path / "lying.png") == pytest.approx((1e-6, 0.5e-6), rel=1e-3)


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_resolutions_of_printers_are_no_pixel_size(dpi: int, tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.jpg"):
        Image.fromarray(LABEL).save(tmp_path / name, dpi=(dpi, dpi))
        size, why = read_pixel_size(tmp_path / name)
        assert size is None and f"{dpi} dpi" in why
    (tmp_path / "a.txt").write_text("$CM_FULL_SIZE 1280 960\n$$SM_MICRON_BAR 10\n$$SM_MICRON_MARKER 1um\n")
    assert read_pixel_size(tmp_path / "a.png")[0] is None  # the bar is that of a picture of another width


def test_resolutions_of_printers_by_other_programs(tmp_path: Path) -> None:
    picture, per_cm = tmp_path / "a.tif", tmp_path / "a.jpg"
    for unit, number, value in (("inch", "INCH", 300), ("cm", "CENTIMETER", 118), ("inch", "NONE", 72)):
        options = {"resolution": (value, value), "resolutionunit": number, "metadata": {"unit": unit}}
        tifffile.imwrite(picture, LABEL, imagej=True, **options)
        assert read_pixel_size(picture)[0] is None  # as ImageJ hands it on
    tifffile.imwrite(picture, LABEL, imagej=True, resolution=(1e5, 1e5), metadata={"unit": "cm"})
    assert lengths(picture) == pytest.approx((1e-7, 1e-7))
    for density, printed in ((28, True), (118, True), (20000, False)):
        Image.fromarray(LABEL).save(per_cm)
        data = per_cm.read_bytes()  # Pillow writes JFIF per inch only; byte 13 is the unit, 2 for cm
        per_cm.write_bytes(data[:13] + b"\x02" + 2 * density.to_bytes(2, "big") + data[18:])
        size, why = read_pixel_size(per_cm)
        assert (size is None and "printer" in why) if printed else lengths(per_cm) == pytest.approx((5e-7, 5e-7))


def test_said_pixel_sizes() -> None:
    assert parse_pixel_size("4.2 nm").width == pytest.approx(4.2e-9)
    size = parse_pixel_size("5e-1um,2µm")
    assert (size.width, size.height) == pytest.approx((0.5e-6, 2e-6))


def test_prediction_carries_sizes_and_names_and_is_measured(micrograph_dir: Path, tmp_path: Path) -> None:
    bundle = BY_NAME["cs_unet"]
    options = write_weights(bundle, tmp_path)
    names = {
        str(i): f"phase {i}" for i in range(InferenceConfig("cs_unet", options=options_of(bundle))["out_channels"])
    }
    record = {"ids": {}, "data_set": {"labels": names}}
    (tmp_path / "model.json").write_text(json.dumps(record))
    out = tmp_path / "out"
    call(micrograph_dir, out, bundle="cs_unet", format="tiff", measure=True, pixel_size="4.2nm", **options)
    (file,) = out.rglob("*_seg.tif")
    assert lengths(file) == pytest.approx((4.2e-9, 4.2e-9), rel=1e-6)
    assert json.loads((out / "labels.json").read_text())["labels"] == names
    measured = json.loads((out / "measurements" / "measure.json").read_text())
    assert measured["with_truth"] == 1 and measured["units"] == ["nm"]
    assert [region["class"] for region in measured["regions"]] == list(names.values())[1:]
    assert (out / "measurements" / "bland_altman.png").is_file()
