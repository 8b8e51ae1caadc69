"""Apps for MONAI Label, and its real server with one: segmentations, trainings, mistakes, uncertainty.

The tests with the server are marked "label" and run in an environment with the extra of that name.
"""

import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from networks.errors import UserError
from networks.state_dicts import read_weights
from networks.workflow.files import file_hash, write_json
from scripts.catalog.bundles import BY_NAME
from scripts.label.prepare import app
from scripts.label.server import start
from scripts.zoo.manifest import MODEL
from scripts.zoo.pack import assemble, write
from scripts.zoo.static_checks import check_manifest
from tests.labelling import TIMEOUT, Server, assert_same, own_inference
from tests.packing import BUNDLE, NAME, ZIP, repository
from tests.tables import rows_of
from tests.workflows import ROOT

UNTRAINED = "swin_unet"
REAL_CT = ROOT.parent / "shared" / "data" / "totalsegmentator" / "example_ct_sm.nii.gz"


@pytest.fixture(scope="module")
def zoo(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed bundles: a small trained one, and one without weights."""
    folder = tmp_path_factory.mktemp("zoo")
    write(assemble(BUNDLE, root=trained), folder)
    write(assemble(BY_NAME[UNTRAINED], root=repository(tmp_path_factory.mktemp("untrained"))), folder)
    return folder


@pytest.fixture(scope="module")
def app_dir(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app with both, in a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("apps") / "my app"
    app(bundles=f"{zoo / ZIP},{zoo / UNTRAINED}_v{BY_NAME[UNTRAINED].version}.zip", output_dir=str(folder))
    file = folder / "model" / UNTRAINED / "configs" / "train.json"  # validates more rarely than it is trained here
    write_json(file, json.loads(file.read_text()) | {"val_interval": 3})
    return folder


def test_app_has_all_it_needs(app_dir: Path, trained: Path) -> None:
    bundle = app_dir / "model" / NAME
    assert (bundle / MODEL).read_bytes() == (trained / "bundles" / NAME / MODEL).read_bytes()
    assert not (app_dir / "model" / UNTRAINED / MODEL).exists()
    assert list(bundle.glob(f"{NAME}_v*/__init__.py"))
    for name in ("main.py", "monailabel_tasks.py"):
        assert "scripts." not in (app_dir / name).read_text().split('"""')[2]
    assert not list(app_dir.glob(".*"))


def test_bundles_of_the_repository_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    app(bundles=("unet", "cs_unet"), output_dir=str(tmp_path / "an app"))
    assert {path.name for path in (tmp_path / "an app" / "model").iterdir()} == {"unet", "cs_unet"}
    command = capsys.readouterr().out.splitlines()[-1].partition("Start it by: ")[2]
    assert shlex.split(command)[4:6] == ["--app", str(tmp_path / "an app")]
    app(bundles="swin_unet", output_dir=str(tmp_path / "an app"))
    assert (tmp_path / "an app" / "model" / "swin_unet").is_dir()


def test_weights_that_come_with_a_bundle_by_name(tmp_path: Path) -> None:
    """They segment in the app as they do in the repository, and can be trained on."""
    app(bundles="hippocampus", output_dir=str(tmp_path / "app"))
    bundle = tmp_path / "app" / "model" / "hippocampus"
    shipped = load_file(ROOT / "bundles" / "unet" / "trained" / "hippocampus.safetensors")
    packed = torch.load(bundle / MODEL, weights_only=True)
    assert packed.keys() == shipped.keys() and all(
        torch.equal(packed[key], shipped[key].to(packed[key])) for key in packed
    )
    record = json.loads((bundle / "models" / "model.json").read_text())
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert record["checkpoint"] == file_hash(bundle / MODEL) == metadata["evaluations"][0]["checkpoint"]
    train = json.loads((bundle / "configs" / "train.json").read_text())
    assert train["out_channels"] == 3 and train["img_size"] == [64, 64]
    check_manifest(bundle)


def test_what_an_app_has_is_not_replaced(zoo: Path, tmp_path: Path) -> None:
    app(bundles=str(zoo / ZIP), output_dir=str(tmp_path / "app"))
    weights = tmp_path / "app" / "model" / NAME / MODEL
    weights.write_bytes(b"trained since")
    with pytest.raises(ValueError, match="may have been trained since"):
        app(bundles=str(zoo / ZIP), output_dir=str(tmp_path / "app"))
    assert weights.read_bytes() == b"trained since"


def test_mistakes_when_preparing(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no bundle 'vnet'; choose from swin_unet"):
        app(bundles="vnet", output_dir=str(tmp_path / "app"))
    with pytest.raises(UserError, match=r"none\.zip does not exist"):
        app(bundles=str(tmp_path / "none.zip"), output_dir=str(tmp_path / "app"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "main.py").write_text("mine")
    with pytest.raises(ValueError, match="is no app of this tool"):
        app(bundles="unet", output_dir=str(tmp_path / "other"))
    assert (tmp_path / "other" / "main.py").read_text() == "mine"
    damaged = tmp_path / "damaged"
    with zipfile.ZipFile(zoo / ZIP) as archive:
        archive.extractall(damaged)
    (damaged / NAME / "configs" / "train.json").write_text("{}")
    with pytest.raises(ValueError, match=r"configs/train\.json"):
        app(bundles=str(damaged / NAME), output_dir=str(tmp_path / "app"))
    assert not list((tmp_path / "app").glob("model/*"))


def test_mistakes_when_starting(app_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no app; make one with: python -m scripts\.label app"):
        start(studies=str(tmp_path), app=str(tmp_path))
    with pytest.raises(UserError, match=r"The folder of studies .* does not exist"):
        start(studies=str(tmp_path / "none"), app=str(app_dir))
    with monkeypatch.context() as patched, pytest.raises(UserError, match="cannot be written to"):
        patched.setattr(os, "access", lambda path, mode: False)  # whoever runs the tests may write everywhere
        start(studies=str(tmp_path), app=str(app_dir))
    with pytest.raises(ValueError, match=f"no bundle 'vnet'; choose from {NAME}"):
        start(studies=str(tmp_path), app=str(app_dir), uncertainty="vnet")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "monailabel" else found(name))
    with pytest.raises(ValueError, match=r"python -m pip install -e '\.\[label\]'"):
        start(studies=str(tmp_path), app=str(app_dir))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found("json") if name == "monailabel" else found(name)
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="cannot be listened on"):
            start(studies=str(tmp_path), app=str(app_dir), port=taken.getsockname()[1])


@pytest.fixture(scope="module")
def server(app_dir: Path, ct_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server with seven phantoms, a real scan where there is one, and a file that is cut off."""
    pytest.importorskip("monailabel", reason="the extra 'label' lives in an environment of its own")
    folder = tmp_path_factory.mktemp("server")
    studies = folder / "the studies"
    studies.mkdir()
    for path in sorted(ct_dir.glob("images*/*.nii.gz")):
        shutil.copy(path, studies)
    if REAL_CT.is_file():
        shutil.copy(REAL_CT, studies / "real.nii.gz")
    (studies / "cut.nii.gz").write_bytes(path.read_bytes()[:2000])
    running = Server(app_dir, studies, folder / "log.txt")
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) in (0, -signal.SIGINT)


@pytest.mark.label
def test_info(server: Server) -> None:
    info = server.get("/info/")
    names = json.loads((server.app_dir / "model" / NAME / "configs" / "metadata.json").read_text())
    names = names["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert info["models"][NAME]["labels"] == {name: int(i) for i, name in names.items() if i != "0"}
    assert info["models"][NAME]["dimension"] == 3
    assert "liver" in info["labels"]
    assert info["trainers"].keys() == {NAME, UNTRAINED}
    assert "uncertainty" in info["strategies"]
    record = json.loads((server.app_dir / "model" / NAME / "models" / "model.json").read_text())
    assert info["train_stats"][NAME]["best_metric"] == record["val_mean_dice"]
    assert info["train_stats"][UNTRAINED] == {}


@pytest.mark.label
@pytest.mark.parametrize("image", ["phantom_005", "real"])
def test_same_as_the_bundles_own_inference(server: Server, image: str, tmp_path: Path) -> None:
    if not (server.studies / f"{image}.nii.gz").is_file():
        pytest.skip("needs the real scan")
    expected = own_inference(server, NAME, image, tmp_path / "own")
    assert np.unique(np.asarray(expected.dataobj)).size > 1
    assert_same(server.segment(NAME, image), expected, tmp_path)


@pytest.mark.label
def test_mistakes_are_answered(server: Server) -> None:
    for path, status, said in [
        (f"/infer/{NAME}?image=cut", 422, "cut.nii.gz cannot be read"),
        (f"/infer/{NAME}?image=nobody", 404, "There is no image 'nobody'"),
        ("/infer/vnet?image=phantom_005", 404, f"There is no model 'vnet'; there are {NAME}"),
        (f"/infer/{UNTRAINED}?image=phantom_005", 409, "has no weights yet; train it first"),
        ("/train/vnet?run_sync=true", 404, "There is no model 'vnet'"),
        (f"/train/{NAME}?run_sync=true", 422, "2 or more images with final labels, one of them to validate on; there"),
        ("/activelearning/wise", 404, "There is no strategy 'wise'"),
        ("/scoring/wise?run_sync=true", 404, "There is no scoring method 'wise'"),
    ]:
        code, answer = server.post(path)
        assert (code, said in answer["detail"]) == (status, True), answer
    assert len(server.segment(NAME, "phantom_005")) > 0


@pytest.mark.label
def test_weights_that_are_no_numbers_are_refused(server: Server) -> None:
    model = server.app_dir / "model" / NAME / "models" / "model.pt"
    good = model.read_bytes()
    expected = server.segment(NAME, "phantom_005")
    state = torch.load(model, weights_only=True)
    first = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[first].view(-1)[0] = float("nan")
    torch.save(state, model)
    try:
        code, answer = server.post(f"/infer/{NAME}?image=phantom_005")
        assert code == 409 and f"{first!r} in {model} are NaN or infinite" in answer["detail"]
    finally:
        model.write_bytes(good)
    assert server.segment(NAME, "phantom_005") == expected


@pytest.mark.label
def test_ten_at_once(server: Server) -> None:
    images = [f"phantom_{i % 7:03d}" for i in range(10)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda image: server.segment(NAME, image), images))
    assert all(answers[i] == answers[i + 7] for i in range(3))


@pytest.mark.label
def test_processes_of_a_training_that_fail_are_a_failure() -> None:
    """As those of several GPUs are started, with the choices that the server offers."""
    tasks = pytest.importorskip("scripts.label.monailabel_tasks", reason="needs the extra 'label'")
    check = "import sys; sys.exit(int('--tracking' in sys.argv))"
    options = ["--tracking", "None", "--tracking_uri", "sqlite://"]
    tasks.BundleTrain.run_multi_gpu(None, {}, [sys.executable, "-c", check, "run", *options], None)
    with pytest.raises(RuntimeError, match="ended with code 1"):
        tasks.BundleTrain.run_multi_gpu(None, {}, [sys.executable, "-c", check, "--tracking", "mlflow"], None)


@pytest.mark.label
def test_what_is_told_of_weights_and_of_a_start(tmp_path: Path) -> None:
    tasks = pytest.importorskip("scripts.label.monailabel_tasks", reason="needs the extra 'label'")
    write_json(tmp_path / "models" / "model.json", {"compression": {}})
    task = type("Task", (), {"bundle_path": tmp_path})
    assert tasks.BundleTrain.stats(task) == {}
    # what a training starts from has scores and no loss
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "metrics.csv").write_text("epoch,loss,learning_rate,val_mean_dice\n0,,,0.5\n")
    stats = tasks.BundleTrain.stats(task)
    assert (stats["epoch"], stats["best_metric"]) == (0, 0.5) and "train" not in stats


@pytest.mark.label
def test_many_images_with_one_that_is_cut(server: Server) -> None:
    """With the server's own defaults, which ask for every GPU there is."""
    defaults = server.get("/openapi.json")["paths"]["/batch/infer/{model}"]["post"]["requestBody"]["content"]
    params = next(iter(defaults.values()))["schema"]["default"]
    assert params["multi_gpu"] is True
    code, answers = server.post(f"/batch/infer/{NAME}?run_sync=true", **params)
    assert code == 200 and len(answers) == len(list(server.studies.glob("*.nii.gz")))
    assert "cut.nii.gz cannot be read" in answers.pop("cut")["error"]
    assert all(answer["tag"] == "original" for answer in answers.values())
    code, answer = server.post("/batch/infer/vnet?run_sync=true")
    assert code == 404 and "There is no model 'vnet'" in answer["detail"]


@pytest.mark.label
def test_uncertainty_orders_the_images(server: Server) -> None:
    code, summary = server.post("/scoring/uncertainty?run_sync=true")
    assert code == 200
    images = [path.name.removesuffix(".nii.gz") for path in server.studies.glob("*.nii.gz")]
    assert summary["executed"] == len(images)
    scores = {image: server.get(f"/datastore/image/info?image={image}").get("epistemic_entropy") for image in images}
    assert scores.pop("cut") is None
    assert all(score > 0 for score in scores.values()) and len(set(scores.values())) == len(scores)
    first, second = (server.post("/activelearning/uncertainty")[1]["id"] for _ in range(2))
    assert first == max(scores, key=scores.get)
    assert second != first  # what was handed out is not handed out again at once


@pytest.mark.label
def test_training_updates_the_model(server: Server, ct_dir: Path, tmp_path: Path) -> None:
    for i in range(3):
        (label,) = ct_dir.glob(f"labels*/phantom_{i:03d}.nii.gz")
        server.submit(f"phantom_{i:03d}", label)
    weights, before = server.weights(NAME), server.segment(NAME, "phantom_005")
    assert server.get("/info/")["trainers"][NAME]["config"]["learning_rate"] == 0.0005
    assert server.post(f"/train/{NAME}?run_sync=true", max_epochs=2, learning_rate=0.0002) == (200, {})
    assert server.weights(NAME) != weights
    rows = rows_of(server.app_dir / "model" / NAME / "eval" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]  # it starts from the weights that were there
    rates = [float(row["learning_rate"]) for row in rows[1:]]
    assert 0 == rates[1] < rates[0] < 0.0002  # it decays over the epochs that were asked for
    after = server.segment(NAME, "phantom_005")
    assert after != before
    assert_same(after, own_inference(server, NAME, "phantom_005", tmp_path / "own"), tmp_path)
    record = json.loads((server.app_dir / "model" / NAME / "models" / "model.json").read_text())
    stats = server.get("/info/")["train_stats"][NAME]
    assert (stats["epoch"], stats["eval"]["best_metric_epoch"]) == (2, record["epoch"])
    assert stats["train"]["metrics"]["train_loss"] > 0
    assert stats["best_metric"] == pytest.approx(record["val_mean_dice"], abs=1e-4)
    assert record["data_set"] == {"name": server.studies.name, "training": 2, "validation": 1}


@pytest.mark.label
def test_training_that_was_stopped_early_loses_no_weights(server: Server, ct_dir: Path) -> None:
    """They are aside by then; an epoch at no rate to speak of changes nothing but statistics."""
    for i in range(2):
        (label,) = ct_dir.glob(f"labels*/phantom_{i:03d}.nii.gz")
        server.submit(f"phantom_{i:03d}", label)
    bundle = server.app_dir / "model" / NAME
    aside = bundle / "models" / "earlier" / "9999"
    aside.mkdir(parents=True)
    (bundle / MODEL).rename(aside / "model.pt")
    assert server.post(f"/train/{NAME}?run_sync=true", max_epochs=1, learning_rate=1e-12) == (200, {})
    after, before = read_weights(bundle / MODEL), read_weights(aside / "model.pt")
    names = [name for name in before if name.endswith("weight")]
    assert names and all(torch.allclose(after[name], before[name], atol=1e-6) for name in names)
    shutil.rmtree(aside)


@pytest.mark.label
def test_training_from_random_weights_if_asked_for(server: Server, ct_dir: Path) -> None:
    for i in range(2):
        (label,) = ct_dir.glob(f"labels*/phantom_{i:03d}.nii.gz")
        server.submit(f"phantom_{i:03d}", label)
    assert server.post(f"/train/{NAME}?run_sync=true", max_epochs=1, pretrained=False) == (200, {})
    assert [row["epoch"] for row in rows_of(server.app_dir / "model" / NAME / "eval" / "metrics.csv")] == ["1"]


@pytest.mark.label
def test_wrong_label_leaves_the_model_as_it_is(server: Server, ct_dir: Path, tmp_path: Path) -> None:
    (path,) = ct_dir.glob("labels*/phantom_003.nii.gz")
    label = nib.load(path)
    values = np.asarray(label.dataobj).copy()
    values[0, 0, 0] = 77
    nib.save(nib.Nifti1Image(values, label.affine), tmp_path / "wrong.nii.gz")
    server.submit("phantom_003", tmp_path / "wrong.nii.gz")
    weights = server.weights(NAME)
    code, answer = server.post(f"/train/{NAME}?run_sync=true", max_epochs=1)
    assert code == 422 and "holds the label values 77; expected whole numbers in 0..8" in answer["detail"]
    code, answer = server.post(f"/train/{NAME}?run_sync=true", batch_size=0.5)
    assert code == 422 and "batch_size is 0.5; give a positive whole number." in answer["detail"]
    assert server.weights(NAME) == weights
    server.submit("phantom_003", path)


@pytest.mark.label
def test_untrained_bundle_is_served_after_its_training(server: Server, ct_dir: Path) -> None:
    for i in range(2):
        (label,) = ct_dir.glob(f"labels*/phantom_{i:03d}.nii.gz")
        server.submit(f"phantom_{i:03d}", label)
    assert UNTRAINED not in server.get("/info/")["models"]
    code, task = server.post(f"/train/{UNTRAINED}", max_epochs=1)
    assert code == 200 and task["status"] in ("SUBMITTED", "RUNNING")
    end = time.monotonic() + TIMEOUT
    while (task := server.get("/train/"))["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < end
        time.sleep(0.5)
    assert task["status"] == "DONE", task["details"]
    assert UNTRAINED in server.get("/info/")["models"]
    assert len(server.segment(UNTRAINED, "phantom_005")) > 0
