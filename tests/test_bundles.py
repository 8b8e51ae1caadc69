"""Every bundle does what MONAI, MONAI Label and the model zoo ask of a bundle: train, evaluate, infer, export."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.transforms import LoadImage

from networks.phantom import write_precipitate_phantom
from networks.workflow.records import read_records
from scripts.catalog import BUNDLES, Bundle
from scripts.ids import IDS
from scripts.render import bundle_configs, plain_ids
from tests.workflows import ROOT, TINY, config_paths, run, tiny_overrides, training_overrides

every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)


@every_bundle
def test_train_evaluate_infer(bundle: Bundle, ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(bundle, tmp_path, ct_dir)
    run(config_paths(bundle, "train"), "train", "training", **options)
    assert (tmp_path / "models" / "model.pt").is_file()
    rows = list(csv.DictReader((tmp_path / "eval" / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"loss", "learning_rate", "val_mean_dice", "aorta", "stomach"} <= rows[0].keys()

    run(config_paths(bundle, "train", "evaluate"), "train", **options)
    records = read_records(tmp_path / "eval" / "results_strict.jsonl")
    for metric in ("dice", "iou", "hd95", "nsd@2"):
        classes = [record["class"] for record in records if record["metric"] == metric]
        assert classes == 2 * bundle.default.classes

    run(config_paths(bundle, "inference"), "inference", **tiny_overrides(bundle, tmp_path, ct_dir))
    test_list = json.loads((ct_dir / "dataset.json").read_text())["test"]
    for item in test_list:
        image = nib.load(ct_dir / item["image"])
        name = Path(item["image"]).name.replace(".nii.gz", "_seg.nii.gz")
        (found,) = (tmp_path / "eval" / "predictions").rglob(name)
        prediction = nib.load(found)
        assert prediction.shape == image.shape
        np.testing.assert_allclose(prediction.affine, image.affine, atol=1e-5)
        assert nib.aff2axcodes(prediction.affine) == nib.aff2axcodes(image.affine)
        assert prediction.get_data_dtype() == np.uint8


@every_bundle
@pytest.mark.parametrize("kind", ["ct", "micrograph"])
def test_presets_train_evaluate_infer(bundle: Bundle, kind: str, ct_dir: Path, tmp_path: Path) -> None:
    """One preset of each kind of data, on a phantom of that kind."""
    data, written = ct_dir, ".nii.gz"
    if kind == "micrograph":
        data, written = tmp_path / "pictures", ".png"
        write_precipitate_phantom(data, 2, 1, 1, size=(80, 64))
    (name, *_) = [name for name, preset in bundle.presets.items() if preset.kind == kind]
    train, infer = config_paths(bundle, "train", f"presets/{name}"), config_paths(bundle, "inference")
    infer += config_paths(bundle, f"presets/{name}_inference")
    options = training_overrides(bundle, tmp_path, data, epochs=1, val_interval=1)
    run(train, "train", "training", **options)
    run([*train, *config_paths(bundle, "evaluate")], "train", **options)
    run(infer, "inference", **tiny_overrides(bundle, tmp_path, data))
    item = json.loads((data / "dataset.json").read_text())["test"][0]
    (found,) = (tmp_path / "eval").rglob(Path(item["image"]).name.replace(written, f"_seg{written}"))
    load = LoadImage(image_only=True, reader="PILReader" if kind == "micrograph" else None)
    assert load(found).shape == load(data / item["label"]).shape
    assert load(found).max() < len(bundle.presets[name].classes) + 1


@every_bundle
@pytest.mark.parametrize("place", ["bundle", "elsewhere"])
def test_runs_from_any_folder(bundle: Bundle, place: str, ct_dir: Path, tmp_path: Path, monkeypatch) -> None:
    """From inside the bundle it is found by itself, from elsewhere by --bundle_root."""
    folder = ROOT / "bundles" / bundle.name
    monkeypatch.chdir(folder if place == "bundle" else tmp_path)
    options = training_overrides(bundle, folder, ct_dir, epochs=1)
    where = {key: str(tmp_path / "out") for key in ("ckpt_dir", "output_dir", "log_dir")}
    if place == "bundle":
        del options["bundle_root"]
    file = "configs/train.json" if place == "bundle" else str(folder / "configs" / "train.json")
    workflow = run([file], "train", "training", **options, **where)
    assert Path(workflow.parser.get_parsed_content("bundle_root")).resolve() == folder
    assert (tmp_path / "out" / "model.pt").is_file()


@every_bundle
@pytest.mark.parametrize("kind", ["train", "inference"])
def test_required_properties(bundle: Bundle, kind: str, ct_dir: Path, tmp_path: Path) -> None:
    """Also without trained weights, as the zoo's checks run it."""
    workflow = ConfigWorkflow(
        config_file=config_paths(bundle, kind),
        workflow_type=kind,
        logging_file=False,
        **tiny_overrides(bundle, tmp_path, ct_dir),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@every_bundle
def test_network_takes_and_gives_what_the_metadata_says(bundle: Bundle, tmp_path: Path) -> None:
    configs = Path("bundles", bundle.name, "configs")
    tiny = {f"network_def::{key}": value for key, value in TINY[bundle.name].items()}
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        **tiny,
    )


@every_bundle
def test_torchscript_export(bundle: Bundle, tmp_path: Path) -> None:
    configs = Path("bundles", bundle.name, "configs")
    tiny = {f"network_def::{key}": value for key, value in TINY[bundle.name].items()}
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    parser.update(tiny)
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        **tiny,
    )
    x = torch.rand(1, network.in_channels, *parser["img_size"])
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), network(x))


@every_bundle
def test_presets_instantiate(bundle: Bundle) -> None:
    """Every preset merges with the configs it is made for: its transforms, optimizer, loss and inferer exist."""
    for name in bundle.presets:
        parser = ConfigParser()
        parser.read_config(config_paths(bundle, "train", f"presets/{name}"))
        parser.update({f"network_def::{key}": value for key, value in TINY[bundle.name].items()})
        for part in ("optimizer", "loss", "train::preprocessing", "validate::preprocessing", "validate::inferer"):
            assert parser.get_parsed_content(part) is not None
        parser.read_config(config_paths(bundle, "train", f"presets/{name}", "evaluate", f"presets/{name}_paper"))
        for part in ("validate::preprocessing", "validate::inferer", "validate::postprocessing"):
            assert parser.get_parsed_content(part) is not None
        assert parser["validate"]["scores"]["protocol"] == "paper"
        parser = ConfigParser()
        parser.read_config(config_paths(bundle, "inference", f"presets/{name}_inference"))
        for part in ("preprocessing", "inferer", "postprocessing"):
            assert parser.get_parsed_content(part) is not None


@every_bundle
def test_every_plain_id_is_documented(bundle: Bundle) -> None:
    documented = IDS.keys() | bundle.options.keys()
    assert set(plain_ids(bundle)) <= documented
    used = set().union(*(content.keys() for content in bundle_configs(bundle).values()))
    assert documented - used == set()


def test_synapse_preset_is_the_papers_recipe() -> None:
    """Swin-Unet's code: 150 epochs, batch 24, SGD 0.05 / 0.9 / 1e-4, 0.4 CE + 0.6 Dice, 224 pixels."""
    parser = ConfigParser()
    parser.read_config(config_paths(BUNDLES[0], "train", "presets/synapse"))
    assert [parser[key] for key in ("epochs", "batch_size", "img_size")] == [150, 24, [224, 224]]
    optimizer = parser.get_parsed_content("optimizer")
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.9, 1e-4)
    loss = parser.get_parsed_content("loss")
    assert (loss.lambda_ce, loss.lambda_dice) == (0.4, 0.6)


def test_loss_is_the_papers() -> None:
    """Reference README, section 11: squared denominator, whole batch, all classes, smooth 1e-5."""
    parser = ConfigParser()
    parser.read_config(config_paths(BUNDLES[0], "train"))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(9, (3, 1, 8, 8), generator=generator)
    p = logits.softmax(1)
    t = torch.nn.functional.one_hot(labels[:, 0], 9).movedim(-1, 1).double()
    over = (0, 2, 3)
    dice = 1 - (2 * (p * t).sum(over) + 1e-5) / ((p * p).sum(over) + (t * t).sum(over) + 1e-5)
    expected = 0.4 * torch.nn.functional.cross_entropy(logits, labels[:, 0]) + 0.6 * dice.mean()
    torch.testing.assert_close(parser.get_parsed_content("loss")(logits, labels), expected)
