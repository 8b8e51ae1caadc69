"""Scores: equal to medpy's, smp's and MONAI's to the last digit, and the same from a bundle and from saved files."""

import json
import math
import os
import shutil
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from monai.networks import one_hot
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from torch.multiprocessing import start_processes

from networks.errors import UserError
from networks.phantom import write_precipitate_phantom
from networks.workflow import ZoomedSliceInferer
from networks.workflow.errors import user_error
from networks.workflow.records import KEYS, number, read_records
from networks.workflow.scores import score_case
from scripts.catalog.bundles import BY_NAME
from scripts.metrics import __main__ as metrics
from scripts.metrics.predictions import find_predictions
from tests.workflows import config_paths, run, tiny_overrides

SWIN_UNET = BY_NAME["swin_unet"]
CLASSES = 6


def label_map(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth regions of the classes 0 to 3 that reach the borders."""
    rng = np.random.default_rng(seed)
    return np.stack([gaussian_filter(rng.standard_normal(shape), 2) for _ in range(4)]).argmax(0).astype(np.uint8)


def four_kinds(shape: tuple[int, ...] = (30, 26, 12), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth: classes 1 and 2 in both, 3 in the truth only, 4 in the prediction only, 5 in neither."""
    prediction, truth = label_map(seed, shape), label_map(seed + 1, shape)
    prediction[prediction == 3] = 4
    return prediction, truth


def scores(prediction: np.ndarray, truth: np.ndarray, protocol: str, **options) -> dict[tuple, float]:
    pair = [torch.from_numpy(np.ascontiguousarray(x))[None] for x in (prediction, truth)]
    found = score_case(*pair, CLASSES, protocol, **options)
    return {(score.metric, score.class_number): score.value for score in found}


@pytest.mark.parametrize("seed", range(4))
def test_paper_protocol_of_volumes_is_medpys(seed: int) -> None:
    """The rule for empty cases is from the reference README, section 11."""
    binary = pytest.importorskip("medpy.metric.binary")
    prediction, truth = four_kinds(seed=10 * seed)
    found = scores(prediction, truth, "paper", spacing=(0.5, 0.5, 3.0))
    expected = {}
    for c in range(1, CLASSES):
        p, t = prediction == c, truth == c
        if p.sum() > 0 and t.sum() > 0:
            expected["dice", c], expected["hd95", c] = binary.dc(p, t), binary.hd95(p, t)
        else:
            expected["dice", c], expected["hd95", c] = (1, 0) if p.sum() > 0 and t.sum() == 0 else (0, 0)
    assert found == expected
    assert {c: found["dice", c] for c in (3, 4, 5)} == {3: 0, 4: 1, 5: 0}


def test_hd95_by_brute_force() -> None:
    """Border: a voxel with one of its six neighbours outside the object or the volume."""
    prediction, truth = four_kinds((9, 8, 5))
    clouds = []
    for mask in (prediction == 1, truth == 1):
        padded = np.pad(mask, 1)
        inside = np.all([np.roll(padded, s, axis) for axis in range(3) for s in (1, -1)], axis=0)
        clouds.append(np.argwhere(padded & ~inside))
    between = np.linalg.norm(clouds[0][:, None] - clouds[1][None], axis=2)
    distances = np.concatenate([between.min(1), between.min(0)])
    assert scores(prediction, truth, "paper")["hd95", 1] == pytest.approx(np.percentile(distances, 95), abs=1e-12)


@pytest.mark.parametrize("spacing", [None, (0.8, 0.7, 3.0)])
def test_strict_protocol_is_monais(spacing: tuple | None) -> None:
    prediction, truth = four_kinds()
    found = scores(prediction, truth, "strict", spacing=spacing, tolerance=1.5)
    hot = [one_hot(torch.from_numpy(x)[None, None], CLASSES) for x in (prediction, truth)]
    expected = {
        "dice": compute_dice(*hot, include_background=False),
        "iou": compute_iou(*hot, include_background=False),
        "hd95": compute_hausdorff_distance(*hot, percentile=95, spacing=spacing),
        "nsd@1.5": compute_surface_dice(*hot, [1.5] * (CLASSES - 1), spacing=spacing),
    }
    for metric, values in expected.items():
        assert [found[metric, c] for c in (1, 2)] == values[0, :2].tolist()
        worst = math.inf if metric == "hd95" else 0
        assert [found[metric, c] for c in (3, 4)] == [worst, worst]
        assert math.isnan(found[metric, 5])


def test_distances_are_in_the_spacing_of_the_file() -> None:
    a, b = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    a[2, 2, 2] = b[2, 2, 5] = 1
    assert scores(a, b, "strict", spacing=(1, 1, 4.0))["hd95", 1] == 12
    assert scores(a, b, "paper", spacing=(1, 1, 4.0))["hd95", 1] == 3
    assert scores(a, b, "strict", spacing=(1, 1, 4.0), tolerance=12)["nsd@12", 1] == 1


def test_paper_protocol_of_pictures_is_smps() -> None:
    """segmentation_models_pytorch kept the code of 0.2.1 in ``utils``."""
    smp = pytest.importorskip("segmentation_models_pytorch.utils.metrics")
    iou = smp.IoU(threshold=0.5)
    rng = np.random.default_rng(0)
    for sharpness in (1, 0.1):
        p = torch.from_numpy(rng.dirichlet([sharpness] * 3, (40, 32)).transpose(2, 0, 1)).float()
        truth = torch.from_numpy(rng.integers(0, 3, (1, 40, 32)))
        hot = one_hot(truth[None], 3)
        found = {(s.metric, s.class_number): s.value for s in score_case(p, truth, 3, "paper")}
        assert found.keys() == {("iou_pooled", None), ("iou_foreground", None), ("iou", 1), ("iou", 2)}
        assert found["iou_pooled", None] == iou(p[None], hot).item()
        for c in (1, 2):
            assert found["iou", c] == iou(p[None, c], hot[:, c]).item()
        both = iou(p[None, 1:].sum(1), hot[:, 1:].sum(1))  # coatings: the oxide with its cracks
        assert found["iou_foreground", None] == both.item()
    labels = torch.from_numpy(rng.integers(0, 3, (1, 40, 32)))
    assert score_case(labels, truth, 3, "paper") == score_case(one_hot(labels[None], 3)[0], truth, 3, "paper")


def test_a_pixel_below_the_threshold_is_of_no_class() -> None:
    p = torch.tensor([0.45, 0.35, 0.2])[:, None, None].expand(3, 2, 2)
    found = {s.metric: s.value for s in score_case(p, torch.zeros(1, 2, 2), 3, "paper") if s.class_number is None}
    assert found["iou_pooled"] == pytest.approx(0, abs=1e-6)  # argmax would score 1
    assert found["iou_foreground"] == pytest.approx(0, abs=1e-6)


def test_shapes_and_protocols_that_do_not_fit() -> None:
    truth = torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match="choose strict or paper"):
        score_case(truth, truth, 2, "lenient")
    for prediction in (torch.zeros(1, 4, 5), torch.zeros(2, 4, 4)):
        with pytest.raises(ValueError, match="cannot be scored"):
            score_case(prediction, truth, 2, "strict")


class Net(torch.nn.Conv2d):
    """Three classes that depend on the place and the image."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 3, 5, padding=2)
        torch.manual_seed(3)
        torch.nn.init.normal_(self.weight)


def zoomed(volume: np.ndarray, network: torch.nn.Module, size: int) -> np.ndarray:
    """The papers' inference as the reference README words it: slice by slice, one at a time."""
    labels = np.zeros(volume.shape[1:])
    for z in range(volume.shape[3]):
        channels = volume[..., z]
        x, y = channels.shape[1:]
        small = np.stack([zoom(channel, (size / x, size / y), order=3) for channel in channels])
        with torch.no_grad():
            found = network(torch.from_numpy(small)[None].float()).softmax(1).argmax(1)[0].numpy()
        labels[..., z] = zoom(found, (x / size, y / size), order=0)
    return labels


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (2, 40), (1, 33)])
def test_slice_wise_zoom(channels: int, size: int) -> None:
    volume = np.random.default_rng(0).random((channels, 33, 47, 5)).astype(np.float32)
    network = Net(channels).eval()
    with torch.no_grad():
        found = ZoomedSliceInferer((size, size), 2)(torch.from_numpy(volume)[None], network)
    assert found.shape == (1, 1, *volume.shape[1:])
    assert len(found.unique()) == 3
    np.testing.assert_array_equal(found[0, 0], zoomed(volume, network, size))


def save_random_weights(folder: Path, files: list[str], options: dict) -> torch.nn.Module:
    """The config's network with random weights, as the checkpoint that evaluation and inference read."""
    parser = ConfigParser()
    parser.read_config(files)
    parser.update(options)
    torch.manual_seed(1)
    network = parser.get_parsed_content("network_def").eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:  # strong weights and no biases, so that several classes are predicted
            torch.nn.init.normal_(parameter, std=0.5)
    (folder / "models").mkdir(parents=True)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network


def values(path: Path) -> dict[tuple, float]:
    return {(r["case"], r["metric"], r["class"]): number(r) for r in read_records(path)}


def test_bundle_scores_volumes_as_the_papers(ct_dir: Path, tmp_path: Path) -> None:
    binary = pytest.importorskip("medpy.metric.binary")
    files = config_paths(SWIN_UNET, "train", "presets/synapse", "evaluate", "presets/synapse_paper")
    options = tiny_overrides(SWIN_UNET, tmp_path, ct_dir)
    network = save_random_weights(tmp_path, files, options)
    run(files, "train", **options)
    found = values(tmp_path / "eval" / "results_paper.jsonl")

    content = json.loads((ct_dir / "dataset.json").read_text())
    predicted = set()
    for item in content["test"]:
        image, truth = nib.load(ct_dir / item["image"]), np.asarray(nib.load(ct_dir / item["label"]).dataobj)
        orientation = nib.io_orientation(image.affine)
        scaled = ((nib.as_closest_canonical(image).get_fdata() + 125) / 400).clip(0, 1).astype(np.float32)
        labels = zoomed(scaled[None], network, 48)
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
        labels = nib.orientations.apply_orientation(labels, back)
        for c, name in list(content["labels"].items())[1:]:
            p, t = labels == int(c), truth == int(c)
            predicted |= {name} if p.any() else set()
            both = (binary.dc(p, t), binary.hd95(p, t)) if p.any() and t.any() else (float(p.any()), 0.0)
            case = Path(item["image"]).as_posix()
            assert (found.pop((case, "dice", name)), found.pop((case, "hd95", name))) == both
    assert not found
    assert len(predicted) > 1


def test_bundle_scores_pictures_as_the_papers(tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch.utils.metrics")
    data = tmp_path / "pictures"
    write_precipitate_phantom(data, 2, 1, 2, size=(80, 64))
    files = config_paths(SWIN_UNET, "train", "presets/nasa_super", "evaluate", "presets/nasa_super_paper")
    options = tiny_overrides(SWIN_UNET, tmp_path / "run", data)
    network = save_random_weights(tmp_path / "run", files, options)
    run(files, "train", **options)
    records = read_records(tmp_path / "run" / "eval" / "results_paper.jsonl")
    assert {record["prediction"] for record in records} == {"probabilities"}
    found = {record["case"]: record["value"] for record in records if record["metric"] == "iou_pooled"}

    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    test_list = json.loads((data / "dataset.json").read_text())["test"]
    for item in test_list:
        pixels = np.asarray(Image.open(data / item["image"])).transpose(2, 1, 0) / 255
        image = torch.from_numpy((pixels - mean[:, None, None]) / deviation[:, None, None])[None].float()
        with torch.no_grad():
            p = SlidingWindowInferer((48, 48), 8, 0.5, mode="gaussian")(image, network).softmax(1)
        truth = torch.from_numpy(np.asarray(Image.open(data / item["label"])).T.copy())[None, None]
        expected = smp.IoU(threshold=0.5)(p, one_hot(truth, 3)).item()
        assert found.pop(Path(item["image"]).as_posix()) == pytest.approx(expected, abs=1e-4)
    assert not found


@pytest.mark.parametrize("kind", ["ct", "micrograph"])
def test_evaluation_and_saved_label_maps_score_the_same(kind: str, ct_dir: Path, tmp_path: Path, capsys) -> None:
    data, folder, presets = ct_dir, tmp_path / "run", ([], [])
    if kind == "micrograph":
        data, presets = tmp_path / "pictures", (["presets/nasa_super"], ["presets/nasa_super_inference"])
        write_precipitate_phantom(data, 2, 1, 2, size=(80, 64))
    options = tiny_overrides(SWIN_UNET, folder, data)
    files = config_paths(SWIN_UNET, "train", *presets[0], "evaluate")
    save_random_weights(folder, files, options)
    run(files, "train", **options)
    run(config_paths(SWIN_UNET, "inference", *presets[1]), "inference", **options)
    predictions = folder / "eval" / "predictions"
    metrics.score(str(predictions), str(data), model="saved")
    evaluated, scored = (values(path / "results_strict.jsonl") for path in (folder / "eval", predictions))
    assert evaluated.keys() == scored.keys()
    assert len(evaluated) == 2 * 4 * (8 if kind == "ct" else 2)
    for key, value in evaluated.items():
        assert value == scored[key] or (math.isnan(value) and math.isnan(scored[key]))
    assert "| saved | all classes |" in capsys.readouterr().out
    record = read_records(folder / "eval" / "results_strict.jsonl")[0]
    assert record.keys() == set(KEYS)
    assert [record[key] for key in ("model", "split", "seed")] == ["swin_unet", "test", 0]
    assert len(record["checkpoint"]) == 64


def test_records_say_that_flips_were_averaged(ct_dir: Path, tmp_path: Path) -> None:
    options = tiny_overrides(SWIN_UNET, tmp_path, ct_dir)
    save_random_weights(tmp_path, config_paths(SWIN_UNET, "train"), options)
    for given, told in (("true", True), ("horizontal", "horizontal"), ("false", None)):
        run(config_paths(SWIN_UNET, "train", "evaluate"), "train", **options, tta=given)
        records = read_records(tmp_path / "eval" / "results_strict.jsonl")
        assert {record.get("tta") for record in records} == {told}


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork")
def test_two_processes_score_as_one(ct_dir: Path, tmp_path: Path) -> None:
    options = tiny_overrides(SWIN_UNET, tmp_path, ct_dir)
    save_random_weights(tmp_path, config_paths(SWIN_UNET, "train"), options)
    run(config_paths(SWIN_UNET, "train", "evaluate"), "train", **options)
    results = tmp_path / "eval" / "results_strict.jsonl"
    alone = results.read_text()
    results.unlink()
    del options["device"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(evaluate_in_rank, (options, port), nprocs=2, start_method="fork")
    assert results.read_text() == alone


def evaluate_in_rank(rank: int, options: dict, port: int) -> None:
    """What torchrun does, but forked: a fresh interpreter takes longer to import MONAI than to evaluate."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()})
    run(config_paths(SWIN_UNET, "train", "evaluate", "multi_gpu_train"), "train", **options)


def test_one_label_map_is_not_that_of_two_cases(tmp_path: Path) -> None:
    pairs = [{"image": f"data/{side}/007.png", "label": f"data/{side}/007_mask.png"} for side in ("left", "right")]
    (tmp_path / "right").mkdir()
    (tmp_path / "right" / "007_seg.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"007_seg\.png is the only label map for data/left/007\.png and for data/right"
    ):
        find_predictions(str(tmp_path), pairs, "data")
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "007.png").write_bytes(b"")
    assert [path.parent.name for path in find_predictions(str(tmp_path), pairs, "data")] == ["left", "right"]


def test_labels_may_be_named_as_our_label_maps_are(tmp_path: Path) -> None:
    pairs = [{"image": "data/images/007.png", "label": "data/labels/007_seg.png"}]
    (tmp_path / "007_seg.png").write_bytes(b"")
    assert find_predictions(str(tmp_path), pairs, "data") == [tmp_path / "007_seg.png"]


def test_a_list_without_labels_has_no_scores(ct_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ct_dir, tmp_path / "data")
    content = json.loads((folder / "dataset.json").read_text())
    content["test"] = [item["image"] for item in content["test"]]
    (folder / "dataset.json").write_text(json.dumps(content))
    files = config_paths(SWIN_UNET, "train", "evaluate")
    options = tiny_overrides(SWIN_UNET, tmp_path, folder)
    save_random_weights(tmp_path, files, options)
    with pytest.raises(Exception) as caught:
        run(files, "train", **options)
    assert 'of the list "test" has no label, so there is nothing to score' in str(user_error(caught.value))


def test_scoring_the_truth_is_perfect(ct_dir: Path, tmp_path: Path) -> None:
    metrics.score(str(ct_dir / "labelsTs"), str(ct_dir), output=str(tmp_path / "perfect.jsonl"))
    for (_, metric, _), value in values(tmp_path / "perfect.jsonl").items():
        assert math.isnan(value) or value == (0 if metric == "hd95" else 1)
