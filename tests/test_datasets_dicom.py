"""DICOM: series to NIfTI and label maps to SEG, on made-up series and on the real one."""

import json
import shutil
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImage
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from networks.workflow.data import list_images
from scripts.datasets.dicom import TO_RAS, convert_dicom, find_series, read_only_series, read_series
from scripts.datasets.dicom_seg import write_dicom_seg
from scripts.datasets.writer import CaseError
from tests.converters import TOTAL, content, lists, needs_total, report, run, voxels

highdicom = pytest.importorskip("highdicom")

SPACING, PITCH, SLOPE, INTERCEPT = (0.8, 0.6), 2.5, 2, -1024  # of rows, of columns, of slices; mm
ORIGIN = np.array([-40.0, 12.5, 300.0])
# Rows run to the patient's back, columns to the head, tilted: a sagittal series that is oblique to the body.
ANGLE = np.deg2rad(20)
ROW, COLUMN = np.array([0, 1.0, 0]), np.array([np.sin(ANGLE), 0, np.cos(ANGLE)])
NORMAL = np.cross(ROW, COLUMN)


def make_series(folder, count=5, modality="CT", tilt=0.0, **changes):
    """A series whose files are named in another order than the slices lie; stored values (slice, row, column)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(str(folder).encode())).integers(0, 2000, (count, 6, 4)).astype(np.int16)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for z in range(len(pixels)):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.PatientID, data.PatientName, data.InstanceNumber = modality, "1", "Doe^Jane", z + 1
        data.StudyDate = data.StudyTime = data.AccessionNumber = data.StudyID = data.ReferringPhysicianName = ""
        data.PatientBirthDate = data.PatientSex = data.PositionReferenceIndicator = ""
        data.SeriesNumber, data.Rows, data.Columns = 3, *pixels.shape[1:]
        data.ImageOrientationPatient = [*ROW, *COLUMN]
        data.ImagePositionPatient = [*np.round(ORIGIN + z * (PITCH * NORMAL + tilt * COLUMN), 6)]
        data.PixelSpacing, data.SliceThickness = [*SPACING], 3
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = SLOPE, INTERCEPT
        for name, value in changes.items():
            setattr(data, name, value)
        data.PixelData = pixels[z].tobytes()
        data.save_as(folder / f"{(z * 7) % 11:02d}.dcm", enforce_file_format=True)
    return pixels


def make_contours(file):
    """A structure set, as planning software leaves it beside the images: DICOM without pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = RTStructureSetStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = generate_uid(), generate_uid(), "RTSTRUCT"
    data.save_as(file, enforce_file_format=True)


def make_enhanced(file, places, slopes=(2,), shift=0.0):
    """All slices in one file, frame by frame with its place in mm along the axis of the body."""
    pixels = make_series(file.parent, 1)[0]
    (one,) = file.parent.iterdir()
    data = pydicom.dcmread(one)
    one.unlink()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = EnhancedCTImageStorage
    data.ImageType, data.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(places)
    for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del data[name]

    def group(keyword, **elements):
        item, functional = pydicom.Dataset(), pydicom.Dataset()
        for name, value in elements.items():
            setattr(item, name, value)
        setattr(functional, keyword, [item])
        return functional

    shared = group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.update(group("PixelMeasuresSequence", PixelSpacing=[*SPACING], SliceThickness=3))
    frames = []
    for i, z in enumerate(places):
        frame = group("PlanePositionSequence", ImagePositionPatient=[-10.0 + i * shift, 20.0, float(z)])
        frame.update(group("FrameContentSequence", StackID="1", InStackPositionNumber=i + 1))
        scale = {"RescaleSlope": slopes[i % len(slopes)], "RescaleIntercept": INTERCEPT, "RescaleType": "HU"}
        frame.update(group("PixelValueTransformationSequence", **scale))
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    stored = np.stack([pixels + i for i in range(len(places))])
    data.PixelData = stored.tobytes()
    data.save_as(file, enforce_file_format=True)
    return stored


def affine(count):
    """NIfTI's affine of indices (column, row, slice)."""
    result = np.eye(4)
    result[:3] = np.column_stack([ROW * SPACING[1], COLUMN * SPACING[0], NORMAL * PITCH, ORIGIN])
    return TO_RAS @ result


def test_series_to_volumes(tmp_path, capsys):
    """HU, order, oblique orientation and unequal spacing; two series in one folder and one below it by a link."""
    stored = {}
    stored["in"] = make_series(tmp_path / "in", 5)
    stored["in_late phase"] = make_series(tmp_path / "late", 4)
    (tmp_path / "in" / "late phase").symlink_to(tmp_path / "late")
    stored["in_2"] = make_series(tmp_path / "other", 3)
    for file in (tmp_path / "other").iterdir():
        shutil.copy(file, tmp_path / "in" / f"second_{file.name}")
    (tmp_path / "in" / "report.pdf").write_bytes(b"%PDF")
    (tmp_path / "in" / "DICOMDIR").write_bytes(b"")
    convert_dicom(tmp_path / "in", tmp_path / "out")
    found = {len(voxels(item["image"]).T): item["image"] for item in lists(tmp_path / "out")["test"]}
    assert sorted(found) == [3, 4, 5]
    for count, pixels in ((len(p), p) for p in stored.values()):
        image = nib.load(found[count])
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(voxels(found[count]), pixels.transpose(2, 1, 0) * SLOPE + INTERCEPT)
        np.testing.assert_allclose(image.affine, affine(count), atol=1e-4)
        np.testing.assert_allclose(image.header.get_zooms(), (SPACING[1], SPACING[0], PITCH), atol=1e-5)
    assert {path.rsplit("/", 1)[1] for path in found.values()} == {"in.nii.gz", "in_2.nii.gz", "late phase.nii.gz"}
    assert report(tmp_path / "out")["rejected"] == {"report.pdf": "It is no DICOM file of a series, or it is damaged."}
    assert content(tmp_path / "out")["intensity"]["unit"] == "HU" and "[-125,275]" in capsys.readouterr().out
    assert len(list_images(str(tmp_path / "out"))) == 3
    assert "Doe" not in (tmp_path / "out" / "conversion.json").read_text()


def test_one_number_in_different_texts_is_one_series(tmp_path):
    """Of every second slice alone a volume of twice the pitch came out."""
    make_series(tmp_path / "one", 6)
    make_series(tmp_path / "two", 3)
    for n, file in enumerate(sorted((tmp_path / "one").iterdir())):
        data = pydicom.dcmread(file)
        data.SliceThickness, data.SeriesNumber = ("3", "3") if n % 2 else ("3.0", "03")
        data.save_as(file)
    for file in (tmp_path / "two").iterdir():
        shutil.copy(file, tmp_path / "one" / f"other_{file.name}")
        shutil.copy(file, tmp_path / "one" / f".hidden_{file.name}")
    series, strangers = find_series(tmp_path / "one")
    assert sorted(map(len, series)) == [3, 6] and not strangers
    volume = read_series(max(series, key=len))
    assert volume.shape == (4, 6, 6)
    np.testing.assert_allclose(volume.affine, affine(6), atol=1e-4)


def test_series_that_are_no_volumes(tmp_path):
    source = tmp_path / "in"
    make_series(source / "good")
    make_series(source / "gap")
    (source / "gap" / "03.dcm").unlink()
    make_series(source / "tilted", tilt=0.5)
    make_series(source / "localiser", 1)
    make_series(source / "twice", ImagePositionPatient=[0, 0, 0])
    make_series(source / "report", modality="SR")
    make_contours(source / "contours" / "good.dcm")
    make_series(source / "cut")
    file = source / "cut" / "07.dcm"
    file.write_bytes(file.read_bytes()[:-20])
    convert_dicom(source, tmp_path / "out")
    rejected = report(tmp_path / "out")["rejected"]
    assert "is damaged" in rejected.pop("cut/07.dcm")
    rejected = {file.split("/")[0]: reason for file, reason in rejected.items()}
    reasons = {
        "gap": "slices are missing",
        "tilted": "tilted gantry",
        "localiser": "one slice",
        "twice": "several volumes",
        "report": "of the kind SR",
        "contours": "of the kind RTSTRUCT",
        "cut": "slices are missing",
    }
    assert rejected.keys() == reasons.keys() and all(reasons[name] in reason for name, reason in rejected.items())


@pytest.mark.parametrize("places", [(0, 5, 10, 15), (15, 10, 5, 0)])
def test_slices_in_one_file(tmp_path, places):
    stored = make_enhanced(tmp_path / "in" / "a.dcm", places)
    image = read_only_series(tmp_path / "in")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), stored.transpose(2, 1, 0) * SLOPE + INTERCEPT)
    step = places[1] - places[0]
    expected = [[-SPACING[1], 0, 0, 10], [0, -SPACING[0], 0, -20], [0, 0, step, places[0]], [0, 0, 0, 1]]
    np.testing.assert_allclose(image.affine, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("places", "options", "expected"),
    [
        ((0, 10, 5, 15), {}, "not in the order of their places"),
        ((0, 5, 10, 30), {}, "5.00 to 20.00 mm apart, with the widest gap after frame 3"),
        ((0, 5, 10, 0, 5, 10), {}, "the place of frame 1; the series holds several volumes"),
        ((0, 5, 10, 15), {"slopes": (1, 2)}, "different scales of their values"),
        ((0, 5, 10, 15), {"shift": 0.4}, "tilted gantry"),
    ],
)
def test_slices_in_one_file_that_are_no_volume(tmp_path, places, options, expected):
    """GDCM takes the first frame's word for all, and reads a stack of 1 mm where it finds no rule."""
    make_enhanced(tmp_path / "a.dcm", places, **options)
    with pytest.raises(CaseError, match=expected):
        read_only_series(tmp_path)


def test_a_film_is_no_volume(tmp_path):
    pixels = make_series(tmp_path, 1)
    (file,) = tmp_path.iterdir()
    data = pydicom.dcmread(file)
    data.NumberOfFrames, data.PixelData = 3, pixels.tobytes() * 3
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UltrasoundMultiFrameImageStorage
    data.save_as(file)
    with pytest.raises(CaseError, match="does not say where its frames lie"):
        read_only_series(tmp_path)


def test_dicom_mistakes(tmp_path, monkeypatch):
    make_series(tmp_path / "in" / "ct")
    make_series(tmp_path / "in" / "mr", modality="MR")
    assert "several modalities" in run(monkeypatch, "dicom", tmp_path / "in", tmp_path / "out")
    assert "does not exist" in run(monkeypatch, "dicom", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "no usable case" in run(monkeypatch, "dicom", tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write_label(path, count, turned=False, classes=4):
    label = np.random.default_rng(0).integers(0, classes, (4, 6, count)).astype(np.uint8)
    image = nib.Nifti1Image(label, affine(count))
    nib.save(nib.as_closest_canonical(image) if turned else image, path)
    return label


LABELS = {"labels": {"0": "background", "1": "left kidney", "2": "liver", "3": "odd thing"}}


@pytest.mark.parametrize("turned", [False, True])
def test_seg_refers_to_the_series_and_gives_the_voxels_back(tmp_path, turned, capsys):
    make_series(tmp_path / "in" / "a", 5)
    make_series(tmp_path / "in" / "b", 4)  # another grid, not taken
    label = write_label(tmp_path / "seg.nii.gz", 5, turned)
    (tmp_path / "dataset.json").write_text(json.dumps(LABELS))
    paths = tmp_path / "seg.nii.gz", tmp_path / "in", tmp_path / "dataset.json", tmp_path / "seg.dcm"
    write_dicom_seg(*paths, algorithm="Swin-Unet")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    slices = sorted((pydicom.dcmread(f) for f in (tmp_path / "in" / "a").iterdir()), key=lambda d: d.InstanceNumber)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == slices[0][name].value
    assert seg.PatientID == "1" and seg.SeriesInstanceUID != slices[0].SeriesInstanceUID
    uids = [data.SOPInstanceUID for data in slices]
    frames = seg.get_pixels_by_source_instance(uids, combine_segments=True)
    np.testing.assert_array_equal(frames, label.transpose(2, 1, 0))
    descriptions = [seg.get_segment_description(n) for n in seg.segment_numbers]
    assert [d.segment_label for d in descriptions] == ["left kidney", "liver", "odd thing"]
    kidney = descriptions[0].SegmentedPropertyTypeCodeSequence[0]
    assert kidney.CodeMeaning == "Kidney"
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert descriptions[2].segmented_property_type.scheme_designator == "99SEGBUNDLES"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset.json", "in", "seg.dcm", "seg.nii.gz"]


def test_seg_mistakes(tmp_path, monkeypatch):
    make_series(tmp_path / "in" / "a", 5)
    shutil.copytree(tmp_path / "in" / "a", tmp_path / "twins" / "a")
    shutil.copytree(tmp_path / "in" / "a", tmp_path / "twins" / "b")
    make_series(tmp_path / "short", 4)
    write_label(tmp_path / "seg.nii.gz", 5)
    write_label(tmp_path / "empty.nii.gz", 5, classes=1)
    (tmp_path / "dataset.json").write_text(json.dumps(LABELS))
    (tmp_path / "few.json").write_text('{"labels": {"0": "background", "1": "liver"}}')
    (tmp_path / "odd.json").write_text("[]")
    good = {"segmentation": "seg.nii.gz", "source": "in", "labels": "dataset.json", "output": "seg.dcm"}
    for change, expected in (
        ({"source": "short"}, "0 series on the grid"),
        ({"source": "twins"}, "2 series on the grid"),
        ({"source": "nowhere"}, "does not exist"),
        ({"segmentation": "empty.nii.gz"}, "background everywhere"),
        ({"labels": "few.json"}, "class numbers [2, 3]"),
        ({"labels": "odd.json"}, "no class names"),
        ({"output": "odd.json"}, "already exists"),
    ):
        options = [part for key, name in (good | change).items() for part in (f"--{key}", tmp_path / name)]
        message = run(monkeypatch, "dicom_seg", *options)
        assert expected in message and "\n" not in message
    assert not list(tmp_path.glob("*.dcm")) and not list(tmp_path.glob(".part*"))


@needs_total
def test_real_series_there_and_back(tmp_path, capsys):
    """The volume equals MONAI's reading; label map and volume agree with what the SEG gives back slice by slice."""
    series = TOTAL / "example_ct_dicom"
    convert_dicom(series, tmp_path / "out")
    (case,) = lists(tmp_path / "out")["test"]
    expected = LoadImage(image_only=True, reader="ITKReader")(series)
    image = nib.load(case["image"])
    np.testing.assert_array_equal(voxels(case["image"]), expected.numpy())
    np.testing.assert_allclose(image.affine, expected.affine.numpy())
    assert image.shape == (512, 512, 20) and voxels(case["image"]).min() == -1024

    ids = {1: "spleen", 5: "liver", 6: "stomach", 7: "pancreas", 52: "aorta"}
    original = nib.load(TOTAL / "example_seg_dicom.nii.gz")
    numbers = np.zeros(256, np.uint8)
    numbers[list(ids)] = range(1, 6)
    # as a prediction of inference, but in the label's own orientation, which is not the series'
    label = numbers[np.asanyarray(original.dataobj).astype(np.uint8)]
    nib.save(nib.Nifti1Image(label, original.affine), tmp_path / "seg.nii.gz")
    channels = {str(i): name for i, name in enumerate(["background", *ids.values()])}
    metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    write_dicom_seg(tmp_path / "seg.nii.gz", series, tmp_path / "metadata.json", tmp_path / "seg.dcm")
    assert "no StudyInstanceUID and SeriesInstanceUID" in capsys.readouterr().out

    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == list(ids.values())
    volume = seg.get_volume(combine_segments=True)
    back = nib.Nifti1Image(volume.array.transpose(2, 1, 0), (TO_RAS @ volume.affine)[:, [2, 1, 0, 3]])
    turned = nib.as_closest_canonical(nib.Nifti1Image(label, original.affine))
    back = nib.as_closest_canonical(back)
    np.testing.assert_allclose(back.affine, turned.affine, atol=1e-3)  # every slice has an organ
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), np.asanyarray(turned.dataobj))
    liver = voxels(case["image"])[np.asanyarray(nib.as_closest_canonical(back).dataobj)[::-1, ::-1] == 2]
    assert 60 < np.median(liver) < 160
    assert read_only_series(series).shape == image.shape
