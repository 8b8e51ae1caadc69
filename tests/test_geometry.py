"""Image and label meet in world coordinates: one grid in another order is brought together, all else refused."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Randomizable

from networks.errors import UserError
from networks.workflow import check_cases, check_dataset, load_weights
from networks.workflow.geometry import TOLERANCE, brought_onto, turn
from networks.workflow.records import read_records
from scripts.catalog.bundles import BY_NAME
from scripts.metrics.__main__ import score
from tests.converters import REAL
from tests.workflows import config_paths, run, tiny_overrides, training_overrides

BUNDLE = BY_NAME["attention_unet"]
SHAPE = (7, 5, 4)
ORIENTATIONS = ("RAS", "LAI", "PIL", "SRA", "AIR")


def oblique(spacing: tuple[float, float, float] = (0.7, 0.8, 5.0)) -> np.ndarray:
    """A patient who lies 20 degrees askew."""
    c, s = np.cos(0.35), np.sin(0.35)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = (-311.7, 42.1, -1203.3)
    return affine


def volume(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array.copy())[None], affine=torch.from_numpy(affine))


def stored(array: np.ndarray, affine: np.ndarray, axcodes: str) -> nib.Nifti1Image:
    """The same voxels in another orientation."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    there = nib.orientations.axcodes2ornt(axcodes)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), there))


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_a_label_in_another_orientation_is_brought_onto_the_image(axcodes: str) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    label = stored(array, oblique(), axcodes)
    found = brought_onto(
        volume(np.asarray(label.dataobj), label.affine), volume(array * 0, oblique()), ("label.nii", "image.nii")
    )
    np.testing.assert_array_equal(found[0], array)
    np.testing.assert_array_equal(found.affine, oblique())


def changed(place: tuple[int, int], by: float) -> np.ndarray:
    affine = oblique()
    affine[place] += by
    return affine


def shifted(voxels: float) -> np.ndarray:
    """Along the first axis."""
    step = np.eye(4)
    step[0, 3] = voxels
    return oblique() @ step


WRONG = {
    "shift of half a voxel": (
        oblique() @ np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        "up to",
    ),
    "spacing": (oblique((0.7, 0.8, 2.5)), "up to"),
    "shear": (oblique() @ (np.eye(4) + np.eye(4, k=1) * [[0.1], [0], [0], [0]]), "up to"),
    "header flipped, voxels not": (np.diag([-1, 1, 1, 1]) @ oblique(), "do not go together|up to"),
    "origin": (changed((0, 3), 10), "up to"),
    "NaN": (changed((1, 1), np.nan), "NaN or infinite"),
    "zero": (np.diag([0.0, 0, 0, 1]), "zero or singular"),
    "singular": (oblique() * [1, 1, 0, 1], "zero or singular"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused(name: str, tmp_path: Path, monkeypatch) -> None:
    """By the rule itself, and by everything that follows it: checks before a run, ``datasets check``, converters."""
    affine, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        turn(affine, SHAPE, oblique(), SHAPE, ("label.nii.gz", "image.nii.gz"))
    array = np.zeros(SHAPE, np.uint8)
    nib.save(nib.Nifti1Image(array.astype(np.int16), oblique()), tmp_path / "image.nii.gz")
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_sform(affine, 1)
    label = nib.Nifti1Image(array, None, header)
    label.header["srow_x"], label.header["srow_y"], label.header["srow_z"] = affine[:3]
    label.header["sform_code"] = 1
    nib.save(label, tmp_path / "label.nii.gz")
    pair = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}
    with pytest.raises(UserError, match=r"label\.nii\.gz"):
        check_cases([pair], 1, 2)
    names = {key: Path(path).name for key, path in pair.items()}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "x"}, "test": [names]}))
    with pytest.raises(UserError, match=r"label\.nii\.gz"):
        check_dataset(str(tmp_path))
    (tmp_path / "predictions").mkdir()
    shutil.move(tmp_path / "label.nii.gz", tmp_path / "predictions" / "image.nii.gz")
    nib.save(nib.Nifti1Image(array, oblique()), tmp_path / "label.nii.gz")
    with pytest.raises(UserError, match=r"predictions/image\.nii\.gz"):
        score(tmp_path / "predictions", tmp_path)


@pytest.mark.parametrize(("unit", "distance"), [("mm", 12.0), ("micron", 0.012), ("unknown", 12.0)])
def test_distances_are_millimetres_whatever_the_unit_of_the_file(unit: str, distance: float, tmp_path: Path) -> None:
    truth, found = np.zeros((2, 8, 8, 8), np.uint8)
    truth[2, 2, 2] = found[2, 2, 5] = 1
    for name, array in (("image", truth), ("label", truth), ("predictions/image", found)):
        volume = nib.Nifti1Image(array, np.diag([1, 1, 4, 1]))
        volume.header.set_xyzt_units(unit)
        (tmp_path / "predictions").mkdir(exist_ok=True)
        nib.save(volume, tmp_path / f"{name}.nii.gz")
    pair = {"image": "image.nii.gz", "label": "label.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "x"}, "test": [pair]}))
    score(tmp_path / "predictions", tmp_path, output=tmp_path / "scores.jsonl")
    (value,) = (r["value"] for r in read_records(tmp_path / "scores.jsonl") if r["metric"] == "hd95")
    assert value == pytest.approx(distance)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "x"}, "test": [pair], "spacing": "unknown"}))
    score(tmp_path / "predictions", tmp_path, output=tmp_path / "scores.jsonl")
    (record,) = (r for r in read_records(tmp_path / "scores.jsonl") if r["metric"] == "hd95")
    assert (record["value"], record["unit"]) == (3, "voxel")


@pytest.mark.parametrize("name", ["NaN", "zero", "singular"])
def test_an_image_whose_place_is_unknown_is_not_predicted_on(name: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = WRONG[name][0][:3]
    image.header["sform_code"] = 1
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), None, image.header), tmp_path / "image.nii")
    assert not np.allclose(nib.load(tmp_path / "image.nii").affine, np.eye(4))
    with pytest.raises(UserError, match=r"image\.nii has an affine"):
        check_cases([{"image": str(tmp_path / "image.nii")}], 1)


def test_rounded_headers_are_the_same_grid() -> None:
    """float32, and text of six digits; a tenth of a voxel is no rounding."""
    large = (512, 512, 200)
    for affine in (oblique().astype(np.float32), np.vectorize(lambda v: float(f"{v:.6g}"))(oblique())):
        assert np.array_equal(turn(affine, large, oblique(), large, ("a", "b")), [[0, 1], [1, 1], [2, 1]])
    for part, same in ((0.9, True), (1.1, False)):
        moved = shifted(part * TOLERANCE)
        if same:
            turn(moved, SHAPE, oblique(), SHAPE, ("a", "b"))
        else:
            with pytest.raises(UserError, match="same grid"):
                turn(moved, SHAPE, oblique(), SHAPE, ("a", "b"))


def test_the_models_own_prediction_scores_one_in_every_orientation(
    ct_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In validation, in evaluation by either protocol, and of saved label maps."""
    root = tmp_path_factory.mktemp("own")
    options = training_overrides(BUNDLE, root, ct_dir, epochs=1)
    train = config_paths(BUNDLE, "train")
    run(train, "train", "training", **options)
    out = {"output_dir": str(root / "predictions")}
    run(config_paths(BUNDLE, "inference"), "inference", **tiny_overrides(BUNDLE, root, ct_dir, **out))
    content = json.loads((ct_dir / "dataset.json").read_text())
    data = Path(shutil.copytree(ct_dir, root / "data"))
    saved = root / "saved"
    saved.mkdir()
    test = []
    for number, axcodes in enumerate(ORIENTATIONS):
        item = content["test"][number % len(content["test"])]
        name = Path(item["image"]).name
        found = nib.load(next((root / "predictions").rglob(name.replace(".nii", "_seg.nii"))))
        label = stored(np.asarray(found.dataobj), found.affine, axcodes)
        case = f"{axcodes}_{name}"
        image = nib.load(ct_dir / item["image"])
        # another value in a corner, for a case must not come twice; too small to move a prediction
        voxels = np.asarray(image.dataobj).copy()
        voxels[0, 0, 0] -= number
        nib.save(nib.Nifti1Image(voxels, image.affine, image.header), data / "imagesTs" / case)
        nib.save(label, data / "labelsTs" / case)
        nib.save(found, saved / case)
        test.append({"image": f"imagesTs/{case}", "label": f"labelsTs/{case}"})
    (data / "dataset.json").write_text(json.dumps({**content, "validation": test, "test": []}))
    there = {**options, "dataset_dir": str(data), "split": "validation", "ckpt_path": str(root / "models" / "model.pt")}
    run([*train, *config_paths(BUNDLE, "evaluate")], "train", **there, output_dir=str(root / "strict"))
    check_ones(root / "strict" / "results_strict.jsonl", 0.999)
    # the papers' own inference gives another prediction, but the same one for every orientation of the truth
    paper = config_paths(BUNDLE, "presets/synapse", "evaluate", "presets/synapse_paper")
    run([*train, *paper], "train", **there, output_dir=str(root / "by_paper"))
    found = {}
    for record in read_records(root / "by_paper" / "results_paper.jsonl"):
        case = Path(record["case"]).name.split("_", 1)[1]
        found.setdefault((case, record["class"], record["metric"]), []).append(record["value"])
    assert all(max(values) - min(values) < 0.01 for values in found.values())
    assert {len(values) for values in found.values()} == {2, 3}
    parser = ConfigParser()
    parser.read_config(train)
    parser.update({**options, "dataset_dir": str(data), "validate::handlers": []})
    load_weights(parser.get_parsed_content("network"), there["ckpt_path"])
    validation = parser.get_parsed_content("validate::evaluator")
    validation.run()
    assert validation.state.metrics["val_mean_dice"] > 0.999
    score(saved, data, split="validation", output=root / "saved.jsonl")
    check_ones(root / "saved.jsonl", 1.0)
    score(saved, data, split="validation", protocol="paper", output=root / "paper.jsonl")
    check_ones(root / "paper.jsonl", 1.0, "dice")


def check_ones(path: Path, least: float, metric: str = "dice") -> None:
    values = [r["value"] for r in read_records(path) if r["metric"] == metric and r["value"] is not None]
    values = [value for value in values if not (metric == "dice" and "paper" in path.name and value == 0)]
    assert values and min(values) >= least


@pytest.mark.skipif(not (REAL / "acdc").is_dir(), reason="the real hearts are not here")
def test_real_data_lie_on_one_grid() -> None:
    """Headers alone: every pair of two real data sets."""
    for folder in (REAL / "acdc", REAL / "hippocampus"):
        content = json.loads((folder / "dataset.json").read_text())
        for item in [item for name in ("training", "validation", "test") for item in content[name]]:
            image, label = (nib.load(folder / item[key]) for key in ("image", "label"))
            turn(label.affine, label.shape, image.affine, image.shape, (item["label"], item["image"]))


def test_borders_keep_their_place_through_the_network_s_grid(tmp_path: Path) -> None:
    """A network that sees a border between two of its pixels gives it back between the same two of the file."""
    grid = np.stack(np.meshgrid(*map(np.arange, (35, 51, 6)), indexing="ij"), axis=-1) - (17.3, 24.6, 2.5)
    signed = 1 - np.linalg.norm(grid / (9.2, 13.7, 4.1), axis=-1)
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(signed.astype(np.float32), np.diag([-1, -1, 1, 1])), path)
    parser = ConfigParser()
    parser.read_config(config_paths(BY_NAME["unet"], "inference")[0])
    parser.update({"img_size": [64, 64], "bundle_root": str(tmp_path), "out_channels": 2, "dataset_dir": str(tmp_path)})
    parser["postprocessing"]["transforms"].pop()  # that writes
    item = parser.get_parsed_content("preprocessing")({"image": str(path)})
    low, high = parser["intensity_range"]
    threshold = item["image"].new_tensor((0 - low) / (high - low))
    item["pred"] = torch.cat([threshold.expand_as(item["image"]), item["image"]])
    found = parser.get_parsed_content("postprocessing")(item)["pred"].numpy()[0] > 0
    truth = signed > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.98  # 0.95 by the nearest


def test_labels_stay_on_their_images_where_both_are_made_smaller(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32)[:, None, None], (64, 64, 2))
    for name, array in (("image", ramp), ("label", (ramp > 32.5).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    parser = ConfigParser()
    parser.read_config(config_paths(BY_NAME["unet"], "train")[0])
    parser.update({"img_size": [18, 18], "bundle_root": str(tmp_path), "dataset_dir": str(tmp_path)})
    transform = parser.get_parsed_content("train::preprocessing")
    item = {key: str(tmp_path / f"{key}.nii.gz") for key in ("image", "label")}
    item = transform(item, end=transform.get_index_of_first(lambda t: isinstance(t, Randomizable)))
    low, high = parser["intensity_range"]
    above = item["image"] > (32.5 - low) / (high - low)
    assert torch.equal(above.as_tensor(), item["label"].as_tensor() > 0)
