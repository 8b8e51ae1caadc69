"""Every bundle does what MONAI, MONAI Label and the model zoo ask of a bundle: train, evaluate, infer, export."""

import json
import socket
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite import distributed as idist
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.transforms import LoadImage

import networks
from networks.state_dicts import read_weights
from networks.workflow.data import read_dataset_json
from networks.workflow.ids import IDS
from networks.workflow.records import read_records
from networks.workflow.training import shared_statistics
from scripts.catalog.bundles import BUNDLES, BY_NAME, Bundle
from scripts.catalog.classification import CLASSIFIERS
from scripts.render.bundle import bundle_configs
from scripts.render.classification_bundle import classification_configs
from scripts.render.documents import plain_ids
from tests.tables import rows_of
from tests.workflows import ROOT, config_paths, run, tiny_network, tiny_overrides, training_overrides

every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)


@every_bundle
def test_train_evaluate_infer(bundle: Bundle, data_dirs: dict[str, Path], tmp_path: Path) -> None:
    data = data_dirs[bundle.default.kind]
    options = training_overrides(bundle, tmp_path, data)
    run(config_paths(bundle, "train"), "train", "training", **options)
    assert (tmp_path / "models" / "model.pt").is_file()
    rows = rows_of(tmp_path / "eval" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"loss", "learning_rate", "val_mean_dice", *bundle.default.classes} <= rows[0].keys()

    run(config_paths(bundle, "train", "evaluate"), "train", **options)
    test_list = json.loads((data / "dataset.json").read_text())["test"]
    records = read_records(tmp_path / "eval" / "results_strict.jsonl")
    for metric in ("dice", "iou", "hd95", "nsd@2"):
        classes = [record["class"] for record in records if record["metric"] == metric]
        assert classes == len(test_list) * list(bundle.default.classes)

    run(config_paths(bundle, "inference"), "inference", **tiny_overrides(bundle, tmp_path, data))
    for item in test_list:
        check_prediction(tmp_path / "eval" / "predictions", data / item["image"], len(bundle.default.classes))


def check_prediction(folder: Path, image_path: Path, classes: int) -> None:
    """A label map of 8 bits under the image's name, on the image's own grid."""
    stem, suffix = image_path.name.split(".", 1)
    (found,) = folder.rglob(f"{stem}_seg.{suffix}")
    reader = None if suffix == "nii.gz" else "PILReader"
    prediction, image = (LoadImage(image_only=True, reader=reader)(path) for path in (found, image_path))
    assert prediction.shape == image.shape[: prediction.ndim]
    assert prediction.max() <= classes
    if suffix == "nii.gz":
        prediction, image = nib.load(found), nib.load(image_path)
        np.testing.assert_allclose(prediction.affine, image.affine, atol=1e-5)
        assert nib.aff2axcodes(prediction.affine) == nib.aff2axcodes(image.affine)
        assert prediction.get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("bundle", "name"),
    [(BY_NAME["swin_unet"], name) for name in ("synapse", "acdc", "nasa_super", "robust_pictures")]
    + [(BY_NAME["cs_unet"], name) for name in ("nasa_ebc", "robust_volumes")],
    ids=lambda value: getattr(value, "name", value),
)
def test_presets_train_evaluate_infer(
    bundle: Bundle, name: str, data_dirs: dict[str, Path], micrograph_dir: Path, tmp_path: Path
) -> None:
    """Presets of every kind of data, over defaults of the same and of another kind."""
    preset = bundle.presets[name]
    data = data_dirs[preset.kind]
    # the phantom of the CT stands in for the MR: its labels need all of its classes
    classes = {"out_channels": 9} if preset.kind == "mr" else {}
    number = len(read_dataset_json(str(data))["labels"]) if preset.recipe.robust else len(preset.classes) + 1
    train, infer = config_paths(bundle, "train", f"presets/{name}"), config_paths(bundle, "inference")
    infer += config_paths(bundle, f"presets/{name}_inference")
    options = training_overrides(bundle, tmp_path, data, epochs=1, val_interval=1, **classes)
    options |= {"slices_per_epoch": 8} if name == "robust_volumes" else {}  # not 2000
    run(train, "train", "training", **options)
    run([*train, *config_paths(bundle, "evaluate")], "train", **options)
    run(infer, "inference", **tiny_overrides(bundle, tmp_path, data, **classes))
    item = json.loads((data / "dataset.json").read_text())["test"][0]
    check_prediction(tmp_path / "eval", data / item["image"], classes.get("out_channels", number) - 1)


@every_bundle
def test_multi_gpu_train(bundle: Bundle, data_dirs: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    """In a group of one process; tests/test_processes.py has two."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}
    for name, value in group.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(idist.utils, "_model", idist.utils._model)  # Ignite would look for the group ever after
    options = training_overrides(bundle, tmp_path, data_dirs[bundle.default.kind], epochs=1)
    del options["device"]
    run(config_paths(bundle, "train", "multi_gpu_train"), "train", "training", **options)
    assert not torch.distributed.is_initialized()
    build_network(bundle).load_state_dict(read_weights(tmp_path / "models" / "model.pt"))


LIGHT = {"encoder_name": "tu-tf_efficientnet_lite0"}  # its norms bring their activations


@pytest.mark.parametrize(
    ("bundle", "options"),
    [*((bundle, {}) for bundle in BUNDLES), (BY_NAME["unet"], LIGHT), (BY_NAME["cs_unet"], LIGHT)],
    ids=lambda part: part.name if isinstance(part, Bundle) else ",".join(part.values()),
)
@torch.no_grad()
def test_batch_statistics_are_shared_by_gpus(bundle: Bundle, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are any; PyTorch shares them on GPUs only, so that here is what the conversion leaves as it was."""
    network = build_network(bundle, **options).eval()
    assert shared_statistics(network) is network  # on processors each process takes its own
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    converted = shared_statistics(build_network(bundle, **options)).eval()
    assert bundle.batch_norm == any(isinstance(m, torch.nn.SyncBatchNorm) for m in converted.modules())
    assert bundle.batch_norm == ("shared_statistics" in str(bundle_configs(bundle)["multi_gpu_train"]["network"]))
    converted.load_state_dict(network.state_dict())
    x = torch.randn(2, network.in_channels, 48, 48)
    torch.testing.assert_close(converted(x), network(x))


def build_network(bundle: Bundle, **options: Any) -> torch.nn.Module:
    """The bundle's network with the small sizes."""
    parser = ConfigParser()
    parser.read_config(config_paths(bundle, "inference"))
    parser.update(tiny_network(bundle) | {"img_size": [48, 48]} | {f"network_def::{k}": v for k, v in options.items()})
    return parser.get_parsed_content("network_def")


@pytest.mark.parametrize("bundle", [BY_NAME["swin_unet"]], ids=lambda bundle: bundle.name)
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
def test_required_properties(bundle: Bundle, kind: str, data_dirs: dict[str, Path], tmp_path: Path) -> None:
    """Also without trained weights, as the zoo's checks run it."""
    workflow = ConfigWorkflow(
        config_file=config_paths(bundle, kind),
        workflow_type=kind,
        logging_file=False,
        **tiny_overrides(bundle, tmp_path, data_dirs[bundle.default.kind]),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@every_bundle
def test_network_takes_and_gives_what_the_metadata_says(bundle: Bundle, tmp_path: Path) -> None:
    configs = Path("bundles", bundle.name, "configs")
    tiny = tiny_network(bundle)
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
    tiny = tiny_network(bundle)
    network = build_network(bundle).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    traced = {} if network.scriptable else {"use_trace": True, "input_shape": [1, network.in_channels, 64, 64]}
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        img_size=[48, 48],
        **traced,
        **tiny,
    )
    x = torch.rand(1, network.in_channels, 64, 64)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), network(x))


@every_bundle
def test_presets_instantiate(bundle: Bundle, data_dirs: dict[str, Path]) -> None:
    """Every preset merges with the configs it is made for: its transforms, optimizer, loss and inferer exist."""
    for name, preset in bundle.presets.items():
        parser = ConfigParser()
        parser.read_config(config_paths(bundle, "train", f"presets/{name}"))
        # a balanced loss reads the data, so that they have to fit
        sizes = {} if preset.volumes else {"img_size": [48, 48]}
        parser.update({**tiny_network(bundle), "dataset_dir": str(data_dirs[preset.kind]), **sizes})
        for part in ("optimizer", "loss", "train::preprocessing", "validate::preprocessing", "validate::inferer"):
            assert parser.get_parsed_content(part) is not None
        parser.read_config(config_paths(bundle, "train", f"presets/{name}", "evaluate", f"presets/{name}_paper"))
        parser.update({"dataset_dir": str(data_dirs[preset.kind])})  # whose classes are counted
        for part in ("validate::preprocessing", "validate::inferer", "validate::postprocessing"):
            assert parser.get_parsed_content(part) is not None
        assert parser["validate"]["scores"]["protocol"] == "paper"
        parser = ConfigParser()
        parser.read_config(config_paths(bundle, "inference", f"presets/{name}_inference"))
        for part in ("preprocessing", "inferer", "postprocessing"):
            assert parser.get_parsed_content(part) is not None


@every_bundle
def test_networks_can_be_built_as_configured(bundle: Bundle) -> None:
    """In the size and with the options of the default and of every preset, which the other tests make small."""
    contents = bundle_configs(bundle)
    arguments = []
    for overlay in ({}, *(contents[f"presets/{name}"] for name in bundle.presets)):
        ids = contents["train"] | overlay
        keys = ("in_channels", "out_channels", "img_size", *bundle.options)
        arguments.append({key: ids[key] for key in keys if key != "drop_path_rate"})
        if isinstance(ids["out_channels"], str):  # as many as the data set has
            arguments[-1]["out_channels"] = 3
    for number, kwargs in enumerate(arguments):
        if kwargs not in arguments[:number]:
            getattr(networks, bundle.network)(**kwargs)


@every_bundle
def test_every_plain_id_is_documented(bundle: Bundle) -> None:
    assert set(plain_ids(bundle_configs(bundle))) <= IDS.keys() | bundle.options.keys()
    assert bundle.options.keys() <= bundle_configs(bundle)["train"].keys()


def test_every_documented_id_exists() -> None:
    contents = [content for bundle in BUNDLES for content in bundle_configs(bundle).values()]
    contents += [content for bundle in CLASSIFIERS for content in classification_configs(bundle).values()]
    assert IDS.keys() <= set().union(*(content.keys() for content in contents))


def recipe(name: str, preset: str, dataset_dir: Path) -> tuple[ConfigParser, torch.optim.Optimizer, torch.nn.Module]:
    """A preset's config, optimizer and loss."""
    parser = ConfigParser()
    parser.read_config(config_paths(BY_NAME[name], "train", f"presets/{preset}"))
    parser.update({**tiny_network(BY_NAME[name]), "dataset_dir": str(dataset_dir)})
    # a balanced loss reads the data, which are smaller than the recipe's crops
    parser["train::dataset::transform"] = "$monai.transforms.Compose(@train::preprocessing.transforms[:1])"
    return parser, parser.get_parsed_content("optimizer"), parser.get_parsed_content("loss")


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "learning_rate", "weights"),
    [
        ("swin_unet", 150, 24, 0.05, (0.4, 0.6)),
        ("hiformer", 401, 10, 0.01, (0.4, 0.6)),
        ("transdeeplab", 200, 24, 0.05, (0.4, 0.6)),
        ("transunet", 150, 24, 0.01, (0.5, 0.5)),
        ("unet", 150, 24, 0.01, (0.5, 0.5)),
        ("attention_unet", 150, 24, 0.01, (0.5, 0.5)),
    ],
)
def test_synapse_presets_are_the_papers_recipes(name, epochs, batch_size, learning_rate, weights, ct_dir) -> None:
    """Reference README, sections 5 to 10, "Training"."""
    parser, optimizer, loss = recipe(name, "synapse", ct_dir)
    assert [parser[key] for key in ("epochs", "batch_size", "img_size")] == [epochs, batch_size, [224, 224]]
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (learning_rate, 0.9, 1e-4)
    assert type(parser.get_parsed_content("lr_scheduler")) is torch.optim.lr_scheduler.PolynomialLR
    assert (loss.lambda_ce, loss.lambda_dice) == weights


@pytest.mark.parametrize(("preset", "epochs"), [("synapse", 350), ("acdc", 400)])
def test_levit_unets_recipe(preset: str, epochs: int, ct_dir: Path) -> None:
    parser, optimizer, _ = recipe("levit_unet", preset, ct_dir)
    assert [parser[key] for key in ("epochs", "batch_size", "variant")] == [epochs, 8, "384"]
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.Adam
    assert (group["lr"], group["weight_decay"]) == (1e-5, 1e-4)


def test_cs_unets_recipe(micrograph_dir: Path) -> None:
    parser, optimizer, loss = recipe("cs_unet", "nasa_super", micrograph_dir)
    assert [parser[key] for key in ("img_size", "window_size", "depths")] == [[512, 512], 8, [2, 2, 6, 2]]
    assert [parser[key] for key in ("learning_rate", "patience", "second_learning_rate")] == [2e-4, 30, 1e-5]
    assert type(optimizer) is torch.optim.Adam
    assert (loss.lambda_ce, loss.lambda_dice) == (0.7, 0.3)
    weight = loss.cross_entropy.weight
    assert weight[0] < weight[2]  # the matrix is common, tertiary precipitates are rare


def test_loss_is_the_papers() -> None:
    """Reference README, section 11: squared denominator, whole batch, all classes, smooth 1e-5."""
    parser = ConfigParser()
    parser.read_config(config_paths(BY_NAME["swin_unet"], "train"))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(9, (3, 1, 8, 8), generator=generator)
    p = logits.softmax(1)
    t = torch.nn.functional.one_hot(labels[:, 0], 9).movedim(-1, 1).double()
    over = (0, 2, 3)
    dice = 1 - (2 * (p * t).sum(over) + 1e-5) / ((p * p).sum(over) + (t * t).sum(over) + 1e-5)
    expected = 0.4 * torch.nn.functional.cross_entropy(logits, labels[:, 0]) + 0.6 * dice.mean()
    torch.testing.assert_close(parser.get_parsed_content("loss")(logits, labels), expected)
