"""Measurements of volumes: millilitres whatever the axes and units, and ejection fractions of pairs of frames."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.measure.measuring import measure
from scripts.measure.volumes import CHAMBERS, find_beats
from tests.converters import REAL, needs_acdc
from tests.tables import rows_of


def test_ellipsoids_have_their_millilitres(tmp_path: Path) -> None:
    spacing, radii = np.array([1.2, 0.8, 5]), np.array([30, 20, 40])
    index = np.stack(np.mgrid[:70, :70, :25], axis=-1)
    ball = ((((index + 0.5) * spacing - (42, 28, 62)) / radii) ** 2).sum(axis=-1) <= 1
    # stored as (z, x, y), the first axis backwards: slices are still along z
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -5, 1.2, 0.8, 1
    folder = tmp_path / "maps"
    folder.mkdir()
    nib.save(nib.Nifti1Image(ball.transpose(2, 0, 1)[::-1].astype(np.float32), affine), folder / "a_seg.nii.gz")
    in_micrometres = nib.Nifti1Image(ball.astype(np.uint8), np.diag([*spacing, 1]))
    in_micrometres.header.set_xyzt_units("micron")
    nib.save(in_micrometres, folder / "b_seg.nii")
    measure(str(folder), str(tmp_path / "out"))
    first, second = rows_of(tmp_path / "out" / "images.csv")
    assert float(first["volume"]) == pytest.approx(4 / 3 * np.pi * radii.prod() / 1000, rel=0.01)
    assert float(second["volume"]) == pytest.approx(float(first["volume"]) * 1e-9, rel=1e-6)
    slices = [row for row in rows_of(tmp_path / "out" / "slices.csv") if row["image"] == "a_seg.nii.gz"]
    np.testing.assert_allclose(
        [float(row["slice_area"]) for row in slices], ball.sum(axis=(0, 1))[ball.any(axis=(0, 1))] * 1.2 * 0.8
    )


def test_slices_of_a_tilted_gantry_are_nearer_than_their_steps(tmp_path: Path) -> None:
    """Every slice is shifted against the one before, so that a voxel is smaller than the product of its sides."""
    affine = np.diag([0.8, 0.9, 3, 1])
    affine[1, 2] = -3 * np.tan(np.radians(20))
    block = np.zeros((20, 24, 10), np.uint8)
    block[5:15, 6:16, 2:8] = 1
    nib.save(nib.Nifti1Image(block, affine), tmp_path / "a_seg.nii.gz")
    measure(str(tmp_path), str(tmp_path / "out"))
    (row,) = rows_of(tmp_path / "out" / "images.csv")
    assert float(row["volume"]) == pytest.approx(600 * 0.8 * 0.9 * 3 / 1000, rel=1e-6)
    assert float(row["largest_slice_area"]) == pytest.approx(100 * 0.8 * 0.9, rel=1e-6)
    assert float(row["voxel_z"]) == pytest.approx(3, rel=1e-6)


def test_ejection_fraction_of_two_frames(tmp_path: Path) -> None:
    root = tmp_path / "heart"
    cases = {"patient01_frame01": (6, 9), "patient01_frame09": (6, 5), "patient02_ES": (4, 4), "patient02_ED": (4, 3)}
    cases["patient03_frame01"] = (3, 3)
    for name, (right, left) in cases.items():
        label = np.zeros((20, 10, 10), np.uint8)
        label[:right], label[10 : 10 + left] = 1, 3
        for folder in ("imagesTr", "labelsTr", "predictions"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(label, np.eye(4)), root / folder / f"{name}.nii.gz")
    less = np.zeros((20, 10, 10), np.uint8)
    less[:6], less[10:18] = 1, 3
    nib.save(nib.Nifti1Image(less, np.eye(4)), root / "predictions" / "patient01_frame01.nii.gz")
    pairs = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in cases]
    labels = dict(enumerate(["background", "right ventricle", "myocardium", "left ventricle"]))
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "training": pairs, "test": pairs}))
    measure(str(root / "predictions"), str(tmp_path / "out"), dataset_dir=str(root))
    rows = {(row["patient"], row["class"]): row for row in rows_of(tmp_path / "out" / "ejection_fraction.csv")}
    assert set(rows) == {(f"patient0{i}", c) for i in (1, 2) for c in ("right ventricle", "left ventricle")}
    one = rows["patient01", "left ventricle"]
    assert (float(one["truth_ejection_fraction"]), float(one["ejection_fraction"])) == pytest.approx((400 / 9, 37.5))
    # names are believed, even where the volume says otherwise
    assert float(rows["patient02", "left ventricle"]["ejection_fraction"]) == pytest.approx(-100 / 3)
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "No ejection fraction of patient03" in text and "All voxels are 1 x 1 x 1 mm" in text


@pytest.mark.parametrize("name", ["left ventricle", "Left ventricular cavity", "left_ventricle", "LV", "LV_cavity"])
def test_the_left_ventricle_tells_the_phases_however_it_is_named(name: str) -> None:
    assert CHAMBERS.fullmatch(name)
    volumes = {"patient01_a": {"left atrium": 1.0, name: 9.0}, "patient01_b": {"left atrium": 2.0, name: 5.0}}
    (beat,), _ = find_beats(volumes, "")
    assert (beat.diastole, beat.systole, beat.by) == ("patient01_a", "patient01_b", f"volume of the {name}")


@needs_acdc
def test_patients_of_acdc_are_paired(tmp_path: Path) -> None:
    root = REAL / "acdc"
    content = json.loads((root / "dataset.json").read_text())
    (tmp_path / "some").mkdir()
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "some" / folder).symlink_to(root / folder)
    (tmp_path / "some" / "dataset.json").write_text(json.dumps({**content, "test": content["test"][:6]}))
    measure(str(root / "labelsTr"), str(tmp_path / "out"), dataset_dir=str(tmp_path / "some"))
    rows = rows_of(tmp_path / "out" / "ejection_fraction.csv")
    assert len(rows) == 6 and all("_frame01." in row["ed"] for row in rows)
    assert all(row["ejection_fraction"] == row["truth_ejection_fraction"] for row in rows)
