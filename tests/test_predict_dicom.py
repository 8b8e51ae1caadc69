"""Prediction on DICOM series, and what it writes for them."""

import shutil
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

from scripts.opened_bundle import InferenceConfig
from tests.predicting import VOLUMES, call, failures, files_of, options_of, write_weights
from tests.workflows import ROOT

SERIES = ROOT.parent / "shared" / "data" / "totalsegmentator" / "example_ct_dicom"


@pytest.mark.skipif(not SERIES.is_dir(), reason="needs the DICOM series of shared/data")
def test_dicom_series(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A folder of series, one of them broken: DICOM SEG and NIfTI hold the same voxels at the same places."""
    volumes = write_weights(VOLUMES, tmp_path / "weights")
    for name in ("patient/first", "patient/second"):
        shutil.copytree(SERIES, tmp_path / "in" / name)
    slices = sorted((tmp_path / "in" / "patient" / "second").iterdir())
    slices[10].unlink()
    call(tmp_path / "in", tmp_path / "seg", 1, bundle="unet", overlays=True, **volumes)
    for text in capsys.readouterr():  # when it happens, and at the end
        assert text.count("Note: patient/first: The series has no StudyInstanceUID and SeriesInstanceUID") == 1
    listed = failures(tmp_path / "seg")
    assert set(listed) == {"patient/second"} and "missing or unevenly spaced" in listed["patient/second"]
    # what archives keep beside the images is no case
    shutil.copy(tmp_path / "seg" / "patient" / "first_seg.dcm", tmp_path / "in" / "patient" / "first")
    call(tmp_path / "in", tmp_path / "nifti", 1, bundle="unet", format="nifti", **volumes)
    assert set(failures(tmp_path / "nifti")) == set(listed)
    # the ending of the one file in capitals, as some archives have it
    call(tmp_path / "in" / "patient" / "first", tmp_path / "ONE.DCM", bundle="unet", **volumes)
    assert hd.seg.segread(tmp_path / "ONE.DCM").SeriesDescription == "Segmentation: unet"
    made = {"patient/first_seg.dcm", "patient/first_overlay.png", "failed.csv", "predictions.json"}
    assert set(files_of(tmp_path / "seg")) == made

    seg = hd.seg.segread(tmp_path / "seg" / "patient" / "first_seg.dcm")
    label = nib.load(tmp_path / "nifti" / "patient" / "first_seg.nii.gz")
    data = np.asarray(label.dataobj)
    volume = seg.get_volume(combine_segments=True)
    found = {d.SegmentLabel for d in seg.SegmentSequence}
    names = InferenceConfig("unet", options=options_of(VOLUMES)).labels()
    assert found == {names[int(number)] for number in np.unique(data) if number}
    assert (volume.array > 0).sum() == (data > 0).sum() > 0
    centre = [np.argwhere(mask).mean(0) for mask in (volume.array > 0, data > 0)]
    places = [
        affine[:3, :3] @ c + affine[:3, 3] for affine, c in zip((volume.affine, label.affine), centre, strict=True)
    ]
    np.testing.assert_allclose(places[0], np.diag([-1, -1, 1]) @ places[1], atol=1e-2)
