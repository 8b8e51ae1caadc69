"""The page's work: the same files and numbers as the command line's, and nothing left of what was uploaded."""

import shutil
import zipfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from networks.errors import UserError
from networks.workflow.files import write_json
from scripts import command_line
from scripts.catalog.bundles import BY_NAME
from scripts.demo import workbench
from scripts.demo.server import find_choices
from scripts.demo.uploads import receive
from scripts.demo.views import CLASSES
from scripts.demo.workbench import Workbench
from tests.predicting import VOLUMES, call, failures, labels_of, write_weights
from tests.tables import rows_of
from tests.workflows import ROOT

PICTURES = BY_NAME["cs_unet"]
SERIES = ROOT.parent / "shared" / "data" / "totalsegmentator" / "example_ct_dicom"
LIMIT = 10**8


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Options of ``scripts.predict`` for small networks, for pictures and volumes."""
    made = {}
    for bundle in (PICTURES, VOLUMES):
        weights = write_weights(bundle, tmp_path_factory.mktemp(bundle.name))
        made[bundle.name] = {"bundle": bundle.name, **weights}
    return made


@pytest.fixture(scope="module")
def choices(options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    made = {}
    for name, chosen in options.items():
        others = {key: value for key, value in chosen.items() if key != "bundle"}
        made[name] = next(iter(find_choices(name, None, None, None, None, others).values()))
    return made


@pytest.fixture
def bench(choices: dict[str, Any], tmp_path: Path) -> Iterator[Workbench]:
    root = tmp_path / "root"
    root.mkdir()
    yield Workbench(choices, root, LIMIT)


@pytest.fixture
def micrograph(micrograph_dir: Path) -> Path:
    return next((micrograph_dir / "imagesTs").glob("*.png"))


@pytest.fixture
def volume(ct_dir: Path) -> Path:
    return next((ct_dir / "imagesTs").glob("*.nii.gz"))


def upload(folder: Path, *files: Path) -> list[str]:
    """Copies, as the browser's."""
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    return [str(folder / file.name) for file in files]


@pytest.mark.parametrize(("kind", "name"), [("micrograph", "cs_unet"), ("volume", "unet")])
def test_files_and_numbers_are_the_command_lines(kind, name, request, bench, options, tmp_path) -> None:
    image = request.getfixturevalue(kind)
    call(image, tmp_path / "out", measure=True, overlays=True, **options[name])
    bench.receive("one", upload(tmp_path / "upload", image))
    assert list((tmp_path / "upload").iterdir()) == []
    assert bench.fitting("one", "unet" if name == "cs_unet" else "cs_unet") == name
    result = bench.segment("one", name)
    ((expected, content),) = labels_of(tmp_path / "out").items()
    assert Path(result.case.label).name == expected and Path(result.case.label).read_bytes() == content
    names = {file.name: file.read_text() for file in result.files[1:]}
    assert names == {"labels.json": (tmp_path / "out" / "labels.json").read_text()}

    measured, tables, _ = bench.measure("one")
    for table in tables:
        assert table.read_bytes() == (tmp_path / "out" / "measurements" / table.name).read_bytes(), table.name
    classes = rows_of(tmp_path / "out" / "measurements" / "images.csv")
    assert [row["class"] for row in classes] == [row["class"] for row in measured.found.classes]

    # the overlay is the command line's, and the likeliest class is the one in the label map
    view, plane = result.view, "axial"
    at = view.fullest(plane)
    drawn = view.draw(plane, at, CLASSES, 0.5)
    overlay = np.asarray(Image.open(next((tmp_path / "out").glob("*_overlay.png"))))
    beside = Image.fromarray(overlay[:, overlay.shape[1] // 2 :]).resize(drawn.shape[1::-1], Image.Resampling.NEAREST)
    np.testing.assert_allclose(drawn, np.asarray(beside, int), atol=1)  # greys have 8 bit before they are mixed
    assert view.shown == [CLASSES, *(f"probability: {name}" for name in view.names.values())]
    shares = view._probabilities.int()  # of 255, so that several classes may have the largest
    assert (shares.max(dim=0).values - shares.gather(0, view._found.long())[0]).max() <= 1
    heat = [view.draw(plane, at, shown, 1) for shown in view.shown[1:]]
    assert all(picture.shape == drawn.shape for picture in heat) and not np.array_equal(*heat[:2])
    assert all(escape(name) in view.legend(CLASSES) for number, name in view.names.items() if number)

    bench.close("one")
    assert list(bench.root.iterdir()) == []
    with pytest.raises(UserError, match="drop the image again"):
        bench.measure("one")


def test_pixel_size_is_the_images(bench, options, micrograph, tmp_path) -> None:
    """The label map has it as a resolution, in other digits and from another source."""
    fei = "[Scan]\r\nPixelWidth=3.3e-009\r\nPixelHeight=3.3e-009\r\n"
    Image.open(micrograph).save(tmp_path / "fei.tif", tiffinfo={34682: fei})
    call(tmp_path / "fei.tif", tmp_path / "out", measure=True, **options["cs_unet"])
    bench.receive("one", upload(tmp_path / "upload", tmp_path / "fei.tif"))
    bench.segment("one", "cs_unet")
    measured, tables, _ = bench.measure("one")
    assert measured.source == "FEI's metadata" and measured.spacing == pytest.approx((3.3, 3.3), rel=1e-12)
    for table in tables:
        assert table.read_bytes() == (tmp_path / "out" / "measurements" / table.name).read_bytes(), table.name


def test_planes_are_upright_and_have_square_pixels(bench, tmp_path) -> None:
    """Bright where the patient's left, front and head are, in voxels that are higher than wide."""
    data = np.zeros((20, 16, 6), np.int16)
    data[-4:, -4:, -2:] = 200  # the file's axes run to the right, the back and the head
    nib.save(nib.Nifti1Image(data, np.diag([1, -1, 3, 1])), tmp_path / "corner.nii.gz")
    bench.receive("one", upload(tmp_path / "upload", tmp_path / "corner.nii.gz"))
    view = bench.segment("one", "unet").view
    for plane, index, size, corner in (
        ("axial", 5, (20, 16), "bottom left"),
        ("coronal", 0, (20, 18), "top left"),
        ("sagittal", 0, (16, 18), "top right"),
    ):
        drawn = view.draw(plane, index, CLASSES, 0)[..., 0]
        zoom = drawn.shape[1] // size[0]
        assert drawn.shape == (size[1] * zoom, size[0] * zoom), plane
        y, x = (places.mean() for places in np.nonzero(drawn > 128))
        found = f"{'top' if y < drawn.shape[0] / 2 else 'bottom'} {'left' if x < drawn.shape[1] / 2 else 'right'}"
        assert found == corner, plane


def test_mistakes_get_the_command_lines_sentences(bench, options, micrograph, tmp_path) -> None:
    text, damaged = tmp_path / "notes.txt", tmp_path / "damaged.nii.gz"
    text.write_text("no image")
    damaged.write_bytes(b"no volume")
    for file, name in ((text, "unet"), (damaged, "unet"), (micrograph, "unet"), (damaged, "cs_unet")):
        bench.receive("one", upload(tmp_path / "upload", file))
        with pytest.raises(Exception) as caught:
            bench.segment("one", name)
        said = bench.without_folders(command_line.reason(caught.value))
        call(file, tmp_path / f"out_{file.stem}_{name}", 1, **options[name])
        (expected,) = failures(tmp_path / f"out_{file.stem}_{name}").values()
        assert said == expected.replace(f"{file.parent}/", ""), said
        assert str(tmp_path) not in said and "session" not in said
    both = [*upload(tmp_path / "upload", text), *upload(tmp_path / "other", text)]  # of one name
    bench.receive("one", both)
    with pytest.raises(UserError, match="holds neither images"):
        bench.segment("one", "unet")
    bench.receive("one", upload(tmp_path / "upload", micrograph))
    bench.segment("one", "cs_unet")
    with pytest.raises(UserError, match=r"--pixel_size is 'wide'; expected a length such as 4\.2nm"):
        bench.measure("one", "wide")


@pytest.mark.skipif(not SERIES.is_dir(), reason="needs the DICOM series of shared/data")
def test_dicom_series_as_files_or_zip(bench, options, tmp_path) -> None:
    slices = sorted(SERIES.iterdir())[:6]
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for file in slices:
            archive.write(file, f"study/{file.name}")
    call_source = tmp_path / "study"
    upload(call_source, *slices)
    call(call_source, tmp_path / "out", format="nifti", **options["unet"])
    (expected,) = labels_of(tmp_path / "out").values()
    for files in (upload(tmp_path / "a", *slices), upload(tmp_path / "b", tmp_path / "series.zip")):
        bench.receive("one", files)
        result = bench.segment("one", "unet")
        assert Path(result.case.label).read_bytes() == expected
        assert {file.suffix for file in result.files} == {".gz", ".json", ".dcm"}
        assert "StudyInstanceUID" in result.note


def test_what_is_uploaded_stays_in_its_folder_and_bounds(bench, micrograph, volume, tmp_path) -> None:
    def zipped(name: str, members: dict[str, bytes], mode: int = 0) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                info = zipfile.ZipInfo(member)
                info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        return tmp_path / name

    bomb = zipped("bomb.zip", {f"{i}.png": bytes(2 * LIMIT // 10) for i in range(6)})
    assert bomb.stat().st_size < LIMIT // 100
    (tmp_path / "other.zip").write_bytes(b"PK no zip")
    (tmp_path / "mean.mhd").write_text("ObjectType = Image\nElementDataFile = /etc/passwd\n")
    (tmp_path / "mean.nrrd").write_text("NRRD0004\ntype: uchar\ndata file: /etc/passwd\n")
    (tmp_path / "colon.mha").write_text("ObjectType = Image\nElementDataFile : /etc/passwd\n")
    for name, line in (("case", "elementdatafile = LOCAL"), ("comment", "Comment\nElementDataFile = LOCAL")):
        (tmp_path / f"{name}.mha").write_text(f"ObjectType = Image\n{line}\nElementDataFile = /etc/passwd\n")
    (tmp_path / "return.nrrd").write_bytes(b"NRRD0004\nencoding: raw\rdata file: /etc/passwd\n\n")
    (tmp_path / "return.mha").write_bytes(b"NDims = 2\rElementDataFile = /etc/passwd\nElementDataFile = LOCAL\n")
    (tmp_path / "value.mha").write_bytes(b"NDims = 2\nElementDataFile = LOCAL\r/../../passwd\n")
    (tmp_path / "long.nrrd").write_text(f"NRRD0004\n{'# remark' * 9000}\ntype: uchar\ndata file: /etc/passwd\n\n")
    for file, sentence in (
        (bomb, "bomb.zip has 120 MB, but this page takes 100 MB"),
        (zipped("up.zip", {"../up.png": b""}), "would be written outside of its folder"),
        (zipped("root.zip", {"/root.png": b""}), "would be written outside of its folder"),
        (zipped("link.zip", {"link.png": b"/etc/passwd"}, 0o120777), "that is a link or a device"),
        (zipped("none.zip", {}), "holds no files"),
        (tmp_path / "other.zip", r"other\.zip cannot be unpacked"),
        (tmp_path / "mean.mhd", r"mean\.mhd keeps its voxels in another file"),
        (tmp_path / "mean.nrrd", r"mean\.nrrd keeps its voxels in another file"),
        (tmp_path / "colon.mha", r"colon\.mha keeps its voxels in another file"),
        (tmp_path / "case.mha", r"case\.mha keeps its voxels in another file"),
        (tmp_path / "comment.mha", r"comment\.mha keeps its voxels in another file"),
        (tmp_path / "return.nrrd", r"return\.nrrd keeps its voxels in another file"),
        (tmp_path / "return.mha", r"return\.mha keeps its voxels in another file"),
        (tmp_path / "value.mha", r"value\.mha keeps its voxels in another file"),
        (tmp_path / "long.nrrd", r"long\.nrrd keeps its voxels in another file, or may"),
    ):
        files = upload(tmp_path / "upload", file)
        with pytest.raises(UserError, match=sentence):
            bench.receive("one", files)
        assert list(bench.root.iterdir()) == [] and list((tmp_path / "upload").iterdir()) == []
    assert not (tmp_path / "up.png").exists() and not (bench.root / "up.png").exists()
    with pytest.raises(UserError, match="The upload has"):
        receive(upload(tmp_path / "upload", micrograph), tmp_path, 100)

    huge = nib.load(volume).header.copy()
    huge.set_data_shape((2000, 2000, 2000))
    (tmp_path / "huge.nii").write_bytes(huge.binaryblock + bytes(4))
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3000 3000 3000\nencoding: gzip\n\n"
    (tmp_path / "huge.nrrd").write_text(header)
    for files, sentence in (
        ([micrograph, volume], "holds 2 images"),
        ([tmp_path / "huge.nrrd"], r"huge\.nrrd has 108000 MB in memory"),
        ([tmp_path / "huge.nii"], r"huge\.nii has 32000 MB in memory"),
    ):
        bench.receive("one", upload(tmp_path / "upload", *files))
        with pytest.raises(UserError, match=sentence):
            bench.segment("one", "unet")

    # a data set's lists could name files of this computer
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "a"}, "test": [{"image": "/etc/hostname"}]}')
    bench.receive("one", upload(tmp_path / "upload", tmp_path / "dataset.json", volume))
    assert bench.segment("one", "unet").case.name == volume.name


def test_sessions_are_kept_apart_and_few(bench, micrograph, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(workbench, "MAX_SESSIONS", 2)
    for key in ("../../outside", "two", "three"):
        bench.receive(key, upload(tmp_path / "upload", micrograph))
    assert len(list(bench.root.iterdir())) == 2
    with pytest.raises(UserError, match="drop the image again"):
        bench.segment("../../outside", "cs_unet")
    bench.receive("three", upload(tmp_path / "upload", micrograph))
    assert len(list(bench.root.iterdir())) == 2
    with pytest.raises(UserError, match="Nothing is segmented yet"):
        bench.result("three")


def test_choices_are_checked_before_the_page_opens(options) -> None:
    shipped = find_choices(None, None, None, None, None, {"device": "cpu"})
    assert {"superalloys", "hippocampus"} <= set(shipped)
    assert shipped["superalloys"].names[2] == "tertiary precipitate" and "Dice" in shipped["superalloys"].about
    given = {key: value for key, value in options["unet"].items() if key != "bundle"}
    first = next(iter(find_choices("unet", None, None, None, None, given)))
    assert first == "unet (model.pt)"
    for arguments, chosen, sentence in (
        (("unet",), {"ckpt_path": "nowhere.pt"}, r"The checkpoint nowhere\.pt does not exist"),
        ((None,), {"ckpt_path": "nowhere.pt"}, "--ckpt_path says nothing without --bundle"),
        (("unet",), {"dataset_dir": "x"}, "--dataset_dir is of scripts.predict"),
        (("nnet",), {}, "There is no bundle nnet"),
    ):
        with pytest.raises(UserError, match=sentence):
            find_choices(*arguments, None, None, None, None, chosen)


def test_every_licence_is_named(options, tmp_path: Path) -> None:
    """Of the training's data, and of what a compression's own training or teacher has seen."""
    weights = tmp_path / "model.pt"
    shutil.copy(options["unet"]["ckpt_path"], weights)
    given = {key: value for key, value in options["unet"].items() if key not in ("bundle", "ckpt_path")}

    def about(record: dict[str, Any]) -> str:
        write_json(weights.with_suffix(".json"), {"ids": {"out_channels": 9}, **record})
        found = find_choices("unet", None, None, None, None, {**given, "ckpt_path": str(weights)})
        return next(iter(found.values())).about

    one, other = ({"name": name, "training": 1, "licence": name.upper()} for name in ("one", "other"))
    assert "Licence" not in about({})
    assert about({"data_set": one}).endswith("Licence of the data: ONE.")
    steps = {"compression": {"steps": [{"teacher": {"data_sets": [other]}}]}}
    assert about({"data_set": one, **steps}).endswith("Licences of the data: ONE (one), OTHER (other).")
