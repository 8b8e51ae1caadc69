"""The bundle that classifies pictures: training, evaluation, inference, and what MONAI asks of a bundle."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite import distributed as idist
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.engines import SupervisedTrainer
from PIL import Image
from torch import nn

import networks
from networks.classifier import Classifier
from networks.errors import UserError
from networks.state_dicts import read_weights
from networks.texture_phantom import TEXTURES
from networks.workflow.class_figures import misclassified_figure
from networks.workflow.ids import IDS
from networks.workflow.records import read_records
from networks.workflow.training import AccumulatedMean, StopOnNan
from scripts.catalog.classification import CLASSIFIERS, ClassificationBundle, segmentation_bundle
from scripts.opened_bundle import bundle_folder
from scripts.render.classification_bundle import classification_configs
from scripts.render.documents import plain_ids
from tests.classifying import SMALL, TINY, chain, evaluate, options, paths
from tests.tables import rows_of
from tests.workflows import run, same_state


@pytest.fixture(scope="module")
def trained(texture_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    run(paths("train"), "train", "training", **options(folder, texture_dir))
    return folder


def test_training_leaves_log_and_record(trained: Path) -> None:
    rows = rows_of(trained / "eval" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0].keys() == {"epoch", "loss", "learning_rate", "val_top1", "val_top5"}
    record = json.loads((trained / "models" / "model.json").read_text())
    assert list(record["data_set"]["labels"].values()) == sorted(TEXTURES)
    assert (record["data_set"]["training"], record["data_set"]["validation"]) == (24, 8)
    assert record["ids"]["depths"] == [1, 1, 1, 1] and record["ids"]["num_classes"] == 4


def test_evaluation_takes_the_network_from_the_record(trained: Path, texture_dir: Path, tmp_path: Path) -> None:
    evaluate(trained, texture_dir, tmp_path)
    records = read_records(tmp_path / "results_strict.jsonl")
    assert [record["metric"] for record in records] == ["top1"] * 8
    assert {record["case"] for record in records} == {f"test/{name}/00{i}.png" for name in TEXTURES for i in (0, 1)}
    assert all(record["case"].split("/")[1] == record["truth"] for record in records)
    assert all(record["value"] == (record["truth"] == record["answer"]) for record in records)
    right = sum(record["value"] for record in records)
    rows = rows_of(tmp_path / "classes.csv")
    assert [row["class"] for row in rows] == [*sorted(TEXTURES), "all classes"]
    assert rows[-1]["right"] == str(int(right)) and rows[-1]["pictures"] == "8"
    assert float(rows[-1]["low"]) < float(rows[-1]["top1"]) + 1e-9 < float(rows[-1]["high"]) + 1e-9
    counts = [[int(row[name]) for name in sorted(TEXTURES)] for row in rows_of(tmp_path / "confusion.csv")]
    assert sum(map(sum, counts)) == 8 and sum(counts[i][i] for i in range(4)) == right
    for name in ("confusion", "misclassified"):
        assert min(Image.open(tmp_path / f"{name}.png").size) > 100


def test_misclassified_pictures_are_shown_as_the_network_sees_them(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 2048], [4095, 4095]], np.uint16)).save(tmp_path / "deep.png")
    figure = misclassified_figure([(tmp_path / "deep.png", "a", "b", 0.9)], (0, 4095))
    assert figure.axes[0].images[0].get_array()[..., 0].tolist() == [[0, 128], [255, 255]]
    (config,) = paths("evaluate")
    assert json.loads(Path(config).read_text())["validate::scores"]["window"] == "@window"


def test_evaluation_goes_by_the_names_of_the_classes(trained: Path, texture_dir: Path, tmp_path: Path) -> None:
    """A data set with some of the classes has other numbers for them, and one with others is refused."""
    some = tmp_path / "some"
    for name in ("needles", "particles"):
        (some / "test").mkdir(parents=True, exist_ok=True)
        (some / "test" / name).symlink_to(texture_dir / "test" / name)
    evaluate(trained, some, tmp_path / "some_scores")
    evaluate(trained, texture_dir, tmp_path / "all_scores")
    found = {r["case"]: r for r in read_records(tmp_path / "all_scores" / "results_strict.jsonl")}
    for record in read_records(tmp_path / "some_scores" / "results_strict.jsonl"):
        assert [record[key] for key in ("answer", "value")] == [
            found[record["case"]][key] for key in ("answer", "value")
        ]
    (some / "test" / "scratches").symlink_to(texture_dir / "test" / "grains")
    with pytest.raises(Exception) as caught:
        evaluate(trained, some, tmp_path / "refused")
    assert "the class 'scratches', which is none of the 4" in chain(caught.value)


@pytest.mark.parametrize("kind", ["folder", "table", "picture"])
def test_inference_writes_a_table(kind: str, trained: Path, texture_dir: Path, tmp_path: Path) -> None:
    images = sorted((texture_dir / "test").rglob("*.png"))
    where = texture_dir / "test"
    if kind == "table":
        where = texture_dir / f"{tmp_path.name}.csv"
        where.write_text("\n".join(["image", *(str(path.relative_to(texture_dir)) for path in images)]))
    if kind == "picture":
        where, images = images[0], images[:1]
    tiny = {f"network_def::{name}": value for name, value in SMALL.items()}
    places = {"bundle_root": str(trained), "dataset_dir": str(where), "output_dir": str(tmp_path), "device": "cpu"}
    run(paths("inference"), "inference", **places, **tiny)
    rows = rows_of(tmp_path / "classes.csv")
    root = texture_dir if kind == "table" else where if kind == "folder" else where.parent
    assert [row["image"] for row in rows] == [str(path.relative_to(root)) for path in images]
    for row in rows:
        shares = {name: float(row[f"probability of {name}"]) for name in TEXTURES}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
        assert row["class"] == max(shares, key=shares.__getitem__) and float(row["probability"]) == max(shares.values())


def test_classes_without_a_record_are_numbered(trained: Path, texture_dir: Path, tmp_path: Path) -> None:
    """Four classes may be others than the four of the phantom."""
    weights = shutil.copy(trained / "models" / "model.pt", tmp_path / "alone.pt")
    where = options(tmp_path, texture_dir / "test" / "grains", output_dir=str(tmp_path), ckpt_path=str(weights))
    del where["epochs"]
    run(paths("inference"), "inference", **where)
    assert {row["class"] for row in rows_of(tmp_path / "classes.csv")} <= {f"class {i}" for i in range(4)}


def test_pictures_that_cannot_be_read_are_all_named_before_the_first(
    trained: Path, texture_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(texture_dir / "test", tmp_path / "test"))
    page = Image.open(next(folder.rglob("*.png")))
    page.save(folder / "pages.tif", save_all=True, append_images=[page])
    (folder / "cut.png").write_bytes((folder / "grains" / "000.png").read_bytes()[:60])
    where = options(trained, folder, output_dir=str(tmp_path / "out"))
    del where["epochs"]
    with pytest.raises(Exception) as caught:
        run(paths("inference"), "inference", **where)
    said = chain(caught.value)
    assert "2 of 10 cases cannot be used" in said and "pages.tif" in said and "cut.png" in said
    assert not (tmp_path / "out").exists()


def test_stopped_training_resumes_to_the_same_end(
    trained: Path, texture_dir: Path, tmp_path: Path, monkeypatch
) -> None:
    """The random transforms and the order of the pictures are those of a training without the stop."""

    class StoppedError(Exception):
        pass

    check = StopOnNan.check_network

    def stop(self: StopOnNan, engine: Any) -> None:
        if engine.state.epoch == 2:
            raise StoppedError
        check(self, engine)

    with monkeypatch.context() as patched:
        patched.setattr(StopOnNan, "check_network", stop)
        with pytest.raises(RuntimeError, match="Failed to evaluate"):
            run(paths("train"), "train", "training", **options(tmp_path, texture_dir))
    assert read_weights(tmp_path / "models" / "last.pt")["progress"]["epoch"] == 1
    run(paths("train"), "train", "training", **options(tmp_path, texture_dir, resume=True))
    for name in ("model.pt", "model_final.pt"):
        assert same_state(*(read_weights(folder / "models" / name) for folder in (tmp_path, trained)))


def test_any_encoder_of_timm(texture_dir: Path, tmp_path: Path) -> None:
    """By one option, whose weights then go into CS-UNet; a batch is computed in two parts."""
    name = "mobilenetv3_small_050"
    wanted = options(tmp_path, texture_dir, encoder_name=name, epochs=1, accumulation_steps=2)
    run(paths("train"), "train", "training", **wanted)
    evaluate(tmp_path, texture_dir, tmp_path / "scores")
    small = networks.CSUnet.small | {"encoder_name": f"tu-{name}"}
    network = networks.CSUnet(3, 2, 64, **small)
    (report,) = networks.pretrained.load_all(network, tmp_path / "models" / "model.pt")
    assert all(key.startswith("cnn_encoder.") for key in report.loaded) and report.loaded
    assert not [key for key in report.left if key.startswith("cnn_encoder.")]


def test_the_last_step_of_an_epoch_has_the_mean_gradient_of_its_batches() -> None:
    """Of five batches two make a step, and the fifth one by itself."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    batches = [{"image": torch.full((1, 1), x), "label": torch.zeros(1, 1)} for x in (1.0, 3.0, 5.0, 7.0, 11.0)]
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        loss_function=lambda answer, _: answer.sum(),  # whose gradient is the input
        train_handlers=[AccumulatedMean(optimizer)],
        accumulation_steps=2,
    )
    weights = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: weights.append(network.weight.item()))
    trainer.run()
    assert weights == [0, -2, -2, -8, -19, -19, -21, -21, -27, -38]


def test_a_picture_left_for_the_last_batch_is_left_out(texture_dir: Path, tmp_path: Path) -> None:
    """Batch normalisation has no statistics of one; of 24 pictures 23 make a batch."""
    wanted = options(tmp_path, texture_dir, encoder_name="mobilenetv3_small_050", epochs=1, batch_size=23)
    run(paths("train"), "train", "training", **wanted)
    parser = ConfigParser()
    parser.read_config(paths("train"))
    for size, batches in ((23, 1), (24, 1), (11, 3), (1, 24)):
        parser.update({"dataset_dir": str(texture_dir), "batch_size": size, "cache_rate": 0.0})
        parser.parse()
        assert len(parser.get_parsed_content("train::dataloader")) == batches


def test_multi_gpu_train(texture_dir: Path, tmp_path: Path, monkeypatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}
    for name, value in group.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(idist.utils, "_model", idist.utils._model)  # Ignite would look for the group ever after
    wanted = options(tmp_path, texture_dir, epochs=1)
    del wanted["device"]
    run(paths("train", "multi_gpu_train"), "train", "training", **wanted)
    assert not torch.distributed.is_initialized()
    network = Classifier(3, 4, 32, **SMALL, depths=(1, 1, 1, 1), window_size=4)
    network.load_state_dict(read_weights(tmp_path / "models" / "model.pt"))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"accumulation_steps": 3}, "which 3 batches of one size cannot make up"),
        ({"short_side": 31}, "short_side is 31, less than img_size"),
        ({"label_smoothing": 1}, "--label_smoothing is 1; expected a number from 0 to 0.9"),
        ({"encoder_name": "resnet81"}, "neither 'swin' nor a model of timm"),
    ],
)
def test_mistakes_are_told_before_the_first_batch(
    others: dict, message: str, texture_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as caught:
        run(paths("train"), "train", "training", **options(tmp_path, texture_dir, **others))
    assert message in chain(caught.value) and not (tmp_path / "models").exists()


@pytest.mark.parametrize(("name", "rate", "decay"), [("from_scratch", 5e-4, 0.05), ("fine_tuned", 5e-5, 1e-8)])
def test_recipes(name: str, rate: float, decay: float, texture_dir: Path) -> None:
    parser = ConfigParser()
    parser.read_config(paths("train", f"presets/{name}"))
    parser.update({"dataset_dir": str(texture_dir), "device": "cpu", "batch_size": 4, **TINY})
    wanted = {"epochs": 30, "img_size": [224, 224], "patience": 5, "label_smoothing": 0.1, "preset": name}
    assert {key: parser[key] for key in wanted} == wanted
    optimizer, scheduler = (parser.get_parsed_content(key) for key in ("optimizer", "lr_scheduler"))
    assert type(optimizer) is torch.optim.AdamW
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, decay}
    decaying = next(group for group in optimizer.param_groups if group["weight_decay"])
    assert all(parameter.ndim > 1 for parameter in decaying["params"])
    assert [group["initial_lr"] for group in optimizer.param_groups] == [rate, rate]
    assert (scheduler.warmup_steps, scheduler.t_total) == (5 * 6, 30 * 6)


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_required_properties(kind: str, texture_dir: Path, tmp_path: Path) -> None:
    """Also without trained weights, as the zoo's checks run it."""
    wanted = options(tmp_path, texture_dir)
    if kind == "inference":
        del wanted["epochs"]
    workflow = ConfigWorkflow(config_file=paths(kind), workflow_type=kind, logging_file=False, **wanted)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_takes_and_gives_what_the_metadata_says() -> None:
    (metadata,) = paths("metadata")
    (inference,) = paths("inference")
    verify_net_in_out(net_id="network_def", meta_file=metadata, config_file=inference, device="cpu", **TINY)


def test_torchscript_export(trained: Path, tmp_path: Path) -> None:
    (metadata,) = paths("metadata")
    (inference,) = paths("inference")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=metadata,
        config_file=inference,
        img_size=[32, 32],
        **TINY,
    )
    network = Classifier(3, 4, 32, **SMALL, depths=(1, 1, 1, 1), window_size=4).eval()
    network.load_state_dict(read_weights(trained / "models" / "model.pt"))
    x = torch.rand(2, 3, 40, 32)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), network(x))


@pytest.mark.parametrize("bundle", CLASSIFIERS, ids=lambda bundle: bundle.name)
def test_every_plain_id_is_documented(bundle: ClassificationBundle) -> None:
    contents = classification_configs(bundle)
    assert set(plain_ids(contents)) <= IDS.keys() | bundle.options.keys()
    assert bundle.options.keys() <= contents["train"].keys()
    text = json.dumps(contents)
    assert ".json::" not in text


def test_tools_for_segmentation_say_that_it_is_not_for_them() -> None:
    for refused in (bundle_folder, segmentation_bundle):
        with pytest.raises(UserError, match="swin_classification classifies whole pictures"):
            refused("swin_classification")
