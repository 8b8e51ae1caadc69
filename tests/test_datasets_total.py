"""The converter of scans with TotalSegmentator's labels: made-up scans, and the real ones where they are at hand."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

from scripts.datasets.totalsegmentator import SYNAPSE_ORGANS, convert_totalsegmentator
from tests.converters import TOTAL, lists, needs_total, report

LABEL_MAP = {"label_ids": {"total": {"1": "spleen", "2": "kidney_right", "3": "kidney_left", "5": "liver", "7": "rib"}}}


def make_scans(folder, label_values=(0, 1, 2, 3, 5, 7)):
    """Two scans; the second's label is stored in another orientation, as that of TotalSegmentator's DICOM test."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    (folder / "labels.json").write_text(json.dumps(LABEL_MAP))
    affine = np.array([[-2.0, 0, 0, 30], [0, -2.5, 0, 12], [0, 0, 5, -7], [0, 0, 0, 1]])
    pairs, arrays = [], {}
    for name, list_name, turned in (("a", "training", False), ("b", "validation", True)):
        image = rng.integers(-1000, 1500, (6, 5, 4)).astype(np.int32 if turned else np.int16)
        label = rng.choice(label_values, (6, 5, 4)).astype(np.uint8)
        nib.save(nib.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
        stored = nib.Nifti1Image(label, affine)
        nib.save(nib.as_closest_canonical(stored) if turned else stored, folder / f"{name} (seg).nii.gz")
        pairs.append({"image": f"{name}.nii.gz", "label": f"{name} (seg).nii.gz", "list": list_name})
        arrays[name] = image, label
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return affine, arrays


def test_totalsegmentator_maps_and_turns(tmp_path):
    affine, arrays = make_scans(tmp_path / "in")
    organs = ("kidney_left", "liver", "spleen")
    convert_totalsegmentator(tmp_path / "in", tmp_path / "out", organs=organs, pairs=tmp_path / "in" / "pairs.json")
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert list(content["labels"].values()) == ["background", "left kidney", "liver", "spleen"]
    for list_name, name in (("training", "a"), ("validation", "b")):
        (case,) = lists(tmp_path / "out")[list_name]
        image, label = nib.load(case["image"]), nib.load(case["label"])
        np.testing.assert_allclose(image.affine, affine)
        np.testing.assert_allclose(label.affine, affine)
        assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), arrays[name][0])
        expected = np.select([arrays[name][1] == i for i in (3, 5, 1)], [1, 2, 3], 0)
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), expected)


def test_totalsegmentator_rejects(tmp_path):
    source = tmp_path / "in"
    affine, _ = make_scans(source)
    moved, values = affine.copy(), np.zeros((6, 5, 4), np.uint8)
    moved[0, 3] += 4
    for name, content, grid in (
        ("moved", values, moved),
        ("short", values[:5], affine),
        ("strange", values + 99, affine),
    ):
        nib.save(nib.Nifti1Image(np.full((6, 5, 4), len(name), np.int16), affine), source / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(content, grid), source / f"{name}_seg.nii.gz")
    for name in ("cut", "lost"):
        shutil.copy(source / "a (seg).nii.gz", source / f"{name}_seg.nii.gz")
    (source / "cut.nii.gz").write_bytes((source / "a.nii.gz").read_bytes()[:120])
    pairs = json.loads((source / "pairs.json").read_text())
    for name in ("moved", "short", "strange", "cut", "lost"):
        pairs.append({"image": f"{name}.nii.gz", "label": f"{name}_seg.nii.gz", "list": "training"})
    (source / "pairs.json").write_text(json.dumps(pairs))
    convert_totalsegmentator(source, tmp_path / "out", organs="liver", pairs=source / "pairs.json")
    rejected = report(tmp_path / "out")["rejected"]
    reasons = {
        "moved": "do not lie on the same grid",
        "short": "The label has shape (5, 5, 4), but the image has (6, 5, 4)",
        "strange": "holds the values 99",
        "cut": "cannot be read",
        "lost": "does not exist",
    }
    assert rejected.keys() == {f"{name}.nii.gz" for name in reasons}
    assert all(reason in rejected[f"{name}.nii.gz"] for name, reason in reasons.items())


def test_totalsegmentator_mistakes(tmp_path):
    make_scans(tmp_path / "in")
    with pytest.raises(ValueError, match="did you mean liver"):
        convert_totalsegmentator(tmp_path / "in", tmp_path / "out", organs=["livr"])
    with pytest.raises(ValueError, match="choose ct or mr"):
        convert_totalsegmentator(tmp_path / "in", tmp_path / "out", modality="pet")
    with pytest.raises(ValueError, match="no usable case for training"):
        convert_totalsegmentator(tmp_path / "in", tmp_path / "out", organs="liver")  # none of the known files
    (tmp_path / "in" / "labels.json").write_text("[]")
    with pytest.raises(ValueError, match="is no label map"):
        convert_totalsegmentator(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@needs_total
def test_real_ct(tmp_path):
    convert_totalsegmentator(TOTAL, tmp_path / "out")
    found = lists(tmp_path / "out")
    assert [len(items) for items in found.values()] == [1, 1, 1] and found["validation"] == found["test"]
    assert report(tmp_path / "out")["rejected"].keys() == {"example_ct_sm.nii.gz"}
    (case,) = found["training"]
    original = nib.load(TOTAL / "example_ct.nii.gz")
    image, label = nib.load(case["image"]), nib.load(case["label"])
    np.testing.assert_array_equal(image.affine, original.affine)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), np.asanyarray(original.dataobj))
    counts = np.bincount(np.asanyarray(label.dataobj).ravel())[1:]
    assert counts.tolist() == [1839, 1319, 5090, 7134, 41692, 695, 9668, 4836]

    # The DICOM scan: its label is stored with y the other way; after turning, the liver has a liver's attenuation.
    (case,) = found["test"]
    loaded = LoadImaged(("image", "label"), ensure_channel_first=True)(case)
    np.testing.assert_allclose(loaded["image"].affine, loaded["label"].affine)
    assert (loaded["label"] == 6).sum() == 1327
    liver = loaded["image"][loaded["label"] == 5]
    assert 60 < liver.median() < 160 and (liver < -50).float().mean() < 0.01


@needs_total
def test_real_mr_is_one_patient(tmp_path):
    convert_totalsegmentator(TOTAL, tmp_path / "mr", modality="mr")
    assert [len(items) for items in lists(tmp_path / "mr").values()] == [1, 0, 0]
    (case,) = report(tmp_path / "mr")["cases"]
    counts = [672, 1121, 1442, 1721, 18480, 1176, 1941, 4221]
    assert list(case["label_counts"].values())[1:] == counts and len(SYNAPSE_ORGANS) == len(counts)
    convert_totalsegmentator(TOTAL, tmp_path / "same", modality="mr", allow_same_patient=True)
    assert [len(items) for items in lists(tmp_path / "same").values()] == [1, 1, 1]
    assert "repeat the training scans" in json.loads((tmp_path / "same" / "dataset.json").read_text())["description"]
