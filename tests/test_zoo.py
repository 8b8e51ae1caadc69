"""Packed bundles: they carry their code, stand beside each other, and say what their runs recorded."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import nibabel as nib
import pytest
import torch

from networks.errors import UserError
from networks.workflow.files import file_hash
from networks.workflow.provenance import describe_cases
from scripts.catalog.bundles import BUNDLES, BY_NAME, Bundle
from scripts.render.bundle import NO_WEIGHTS
from scripts.zoo.manifest import MANIFEST
from scripts.zoo.pack import Packed, assemble, write
from scripts.zoo.push import push
from scripts.zoo.verify import check, load_checks, verify
from tests.packing import BUNDLE, CHANNELS, NAME, ZIP, copy_of, repository


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment with everything that is installed here but this repository."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (purelib,) = folder.glob("lib/python*/site-packages")
    # folders in a .pth file join the path, but .pth files in them, such as that of an editable install, do not count
    (purelib / "installed.pth").write_text("\n".join(path for path in sys.path if path in site.getsitepackages()))
    return folder / "bin" / "python"


def alone(python: Path, folder: Path, *arguments: str) -> str:
    """Output of a process in which only installed packages can be imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


ELSEWHERE = """
import importlib.util, json, sys
from pathlib import Path
assert importlib.util.find_spec("networks") is None and importlib.util.find_spec("scripts") is None

import torch
from monai.bundle import ConfigParser, download, load, run

url, data = sys.argv[1:]
folders = {version: Path("host", version) for version in ("0.1.0", "0.2.0")}
for version, folder in folders.items():
    folder.mkdir(parents=True)
    download("attention_unet", url=f"{url}/attention_unet_v{version}.zip", bundle_dir=folder, progress=False)


def code(network):
    return sys.modules[type(network).__module__]

# the trained network with its weights and its options
network = load("attention_unet", bundle_dir=folders["0.1.0"], device="cpu")
state = torch.load(folders["0.1.0"] / "attention_unet/models/model.pt", weights_only=True)
assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
assert not Path("data").exists()

# the other version beside it, with code of its own
config_file = str(folders["0.2.0"] / "attention_unet/configs/inference.json")
parser = ConfigParser()
parser.read_config(config_file)
newer = parser.get_parsed_content("network_def")
assert code(newer).NEWER and not hasattr(code(network), "NEWER")
assert "0.2.0" in code(newer).__file__ and "0.1.0" in code(network).__file__
again = load("attention_unet", bundle_dir=folders["0.1.0"], device="cpu")
assert code(again) is code(network)

# as MONAI Label loads bundles: the folder on the path for a while, bundle_root set, parts of the config one by one
del config_file
for module in [name for name in sys.modules if name.startswith("attention_unet_v")]:
    del sys.modules[module]
sys.path[:] = [path for path in sys.path if "host" not in path]
for version, folder in folders.items():
    root = str((folder / "attention_unet").absolute())
    sys.path.insert(0, root)
    parser = ConfigParser()
    parser.read_config(f"{root}/configs/inference.json")
    parser["bundle_root"] = root
    labelled = parser.get_parsed_content("network_def", instantiate=True)
    sys.path.remove(root)
    assert parser.get_parsed_content("postprocessing") and parser.get_parsed_content("inferer")
    assert f"/{version}/" in code(labelled).__file__

# training and inference, from another folder than the bundle's
bundle = folders["0.1.0"] / "attention_unet"
options = {"dataset_dir": data, "epochs": 1, "seed": 1, "device": "cpu"}
before = Path(bundle, "models/model.pt").read_bytes()
run("training", config_file=str(bundle / "configs/train.json"), **options)
assert Path(bundle, "models/model.pt").read_bytes() != before and Path(bundle, "models/last.pt").is_file()
run(config_file=str(bundle / "configs/inference.json"), dataset_dir=data, device="cpu")
assert "networks" not in sys.modules and "scripts" not in sys.modules
print("predictions:", len(list(bundle.glob("eval/predictions/**/*_seg.nii.gz"))))
"""


@pytest.mark.slow
def test_bundles_work_where_this_repository_is_not(server: str, python: Path, ct_dir: Path, tmp_path: Path) -> None:
    """Downloaded over HTTP, loaded, two versions in one process, trained for an epoch, and used."""
    output = alone(python, tmp_path, "-c", ELSEWHERE, server, str(ct_dir))
    assert "predictions: 2" in output
    # as a user starts it, from the bundle's folder
    folder = tmp_path / "host" / "0.1.0" / NAME
    shutil.rmtree(folder / "eval")
    image = next((ct_dir / "imagesTs").iterdir())
    options = ["--config_file", "configs/inference.json", "--dataset_dir", str(image)]
    alone(python, folder, "-m", "monai.bundle", "run", *options)
    (found,) = (folder / "eval" / "predictions").rglob("*.nii.gz")
    assert nib.load(found).shape == nib.load(image).shape


def test_same_input_same_bytes(trained: Path, zoo: Path, tmp_path: Path) -> None:
    os.utime(trained / "bundles" / NAME / "models" / "model.pt", (1, 1))
    path = write(assemble(BUNDLE, root=trained), tmp_path)
    assert path.read_bytes() == (zoo / ZIP).read_bytes()
    info = json.loads((zoo / "model_info.json").read_text())
    assert set(info) == {f"{NAME}_v0.1.0", f"{NAME}_v0.2.0"}
    assert json.loads((tmp_path / "model_info.json").read_text())[f"{NAME}_v0.1.0"] == info[f"{NAME}_v0.1.0"]


def test_published_versions_stay(trained: Path, tmp_path: Path) -> None:
    packed = assemble(BUNDLE, root=trained)
    path = write(packed, tmp_path)
    before = path.read_bytes()
    other = replace(packed, files={**packed.files, "LICENSE": b"other"})
    with pytest.raises(ValueError, match=r"already holds attention_unet 0\.1\.0 with other content"):
        write(other, tmp_path)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "model_info.json"}
    write(other, tmp_path, base_url="https://zoo.example/", overwrite=True)
    info = json.loads((tmp_path / "model_info.json").read_text())
    assert info[f"{NAME}_v0.1.0"]["source"] == f"https://zoo.example/{ZIP}"
    (tmp_path / "model_info.json").write_text("{")
    with pytest.raises(UserError, match=r"model_info\.json is not valid JSON"):
        write(packed, tmp_path)
    assert path.read_bytes() != before


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_every_bundle_carries_what_it_needs(bundle: Bundle, tmp_path: Path) -> None:
    """Its network and the workflow, no other network, and no way out of the package."""
    packed = assemble(bundle, root=repository(tmp_path))
    manifest = json.loads(packed.files[MANIFEST])
    package, modules = manifest["code"]["package"], set(manifest["code"]["modules"])
    families = {bundle.name for bundle in BUNDLES}
    # CS-UNet shares the decoder's names with Swin-Unet, and smp's networks their class
    shared = {"cs_unet": "swin_unet", "unet_plusplus": "unet", "deeplabv3_plus": "unet"}
    expected = {bundle.name, shared.get(bundle.name, bundle.name)}
    assert {family for family in families if f"networks.{family}" in modules} == expected
    python = {path: text.decode() for path, text in packed.files.items() if path.endswith(".py")}
    assert all(path.startswith(f"{package}/") for path in python)
    assert not any(re.search(r"^\s*(from|import) networks", text, re.MULTILINE) for text in python.values())
    configs = {path: text.decode() for path, text in packed.files.items() if path.startswith("configs/")}
    assert not any(re.search(r'"networks\.|import networks', text) for text in configs.values())
    assert NO_WEIGHTS in json.loads(configs["configs/metadata.json"])["intended_use"]
    assert [name for name, passed, _ in checked(packed, tmp_path / "out") if not passed] == []


def checked(packed: Packed, folder: Path) -> list:
    return check(str(write(packed, folder)), load=False)


@pytest.mark.slow
def test_trained_bundle_passes_every_check(zoo: Path, server: str, capsys) -> None:
    """Fetched from the server, with its weights loaded by MONAI."""
    verify(f"{server}/{ZIP}")
    output = capsys.readouterr().out
    assert "FAILED" not in output
    for line in ("SHA-1 right", "trained on CT phantom, evaluated on CT phantom test", "scripted", "tensors"):
        assert line in output


def test_metadata_are_what_the_runs_wrote(unpacked: Path, ct_dir: Path) -> None:
    metadata = json.loads((unpacked / "configs" / "metadata.json").read_text())
    checksum = file_hash(unpacked / "models" / "model.pt")
    record, (evaluation,) = metadata["trained_weights"], metadata["evaluations"]
    assert record["checkpoint"] == evaluation["checkpoint"] == checksum
    assert record["data_set"]["name"] == evaluation["data_set"] == "CT phantom"
    assert (record["data_set"]["training"], record["data_set"]["validation"], evaluation["cases"]) == (3, 2, 2)
    assert str(ct_dir) not in json.dumps(metadata)
    assert evaluation["protocol"] == "strict" and evaluation["split"] == "test"
    mean = metadata["eval_metrics"]["mean dice (strict protocol, CT phantom, test)"]
    assert mean == evaluation["scores"]["dice"] and 0 <= mean <= 1
    assert "CT phantom" in metadata["data_source"] and NO_WEIGHTS not in metadata["intended_use"]
    readme = (unpacked / "docs" / "README.md").read_text()
    assert "The weights were trained on CT phantom" in readme and f"| `channels` | `{CHANNELS}` |" in readme
    assert "bundles/" not in readme
    for name in ("train", "inference"):
        config = json.loads((unpacked / "configs" / f"{name}.json").read_text())
        assert config["channels"] == CHANNELS and config["img_size"] == [48, 48]
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [48, 48]


def test_replaced_lists_are_not_taken_for_the_data_set(ct_dir: Path, tmp_path: Path) -> None:
    """An annotation server gives a config its own cases and leaves ``dataset_dir`` alone."""
    item = json.loads((ct_dir / "dataset.json").read_text())["training"][0]
    inside, outside = {"image": str(ct_dir / item["image"])}, {"image": str(tmp_path / "studies" / "a.nii.gz")}
    described = describe_cases(str(ct_dir), training=[inside, inside], validation=[])
    assert (described["name"], described["training"], described["validation"]) == ("CT phantom", 1, 0)
    assert describe_cases(str(ct_dir), training=[outside]) == {"name": "studies", "training": 1}
    around = {"image": str(ct_dir / ".." / "studies" / "a.nii.gz")}
    assert describe_cases(str(ct_dir), training=[around]) == {"name": "studies", "training": 1}
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "imagesTr").symlink_to(ct_dir / "imagesTr")
    shutil.copy(ct_dir / "dataset.json", linked)
    assert describe_cases(str(linked), training=[{"image": str(linked / item["image"])}])["name"] == "CT phantom"


def test_weights_without_their_record_are_refused(trained: Path, tmp_path: Path) -> None:
    root, bundle = copy_of(trained, tmp_path)
    model, record = bundle / "models" / "model.pt", bundle / "models" / "model.json"
    torch.save({"a": torch.zeros(1)}, model)
    with pytest.raises(ValueError, match=r"model\.json is about other weights"):
        assemble(BUNDLE, root=root)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"checkpoint": file_hash(model)}))
    with pytest.raises(ValueError, match="does not fit AttentionUnet"):
        assemble(BUNDLE, root=root)
    record.unlink()
    with pytest.raises(ValueError, match="what it was trained on is unknown"):
        assemble(BUNDLE, root=root)


def test_evaluation_of_other_weights_is_left_out(trained: Path, tmp_path: Path) -> None:
    root, bundle = copy_of(trained, tmp_path)
    file = bundle / "eval" / "results_strict.jsonl"
    file.write_text(file.read_text().replace(file_hash(bundle / "models" / "model.pt"), "0" * 64))
    packed = assemble(BUNDLE, root=root)
    assert len(packed.notes) == 1 and "scores of other weights" in packed.notes[0]
    metadata = json.loads(packed.files["configs/metadata.json"])
    assert metadata["eval_metrics"] == {} and metadata["evaluations"] == []
    file.unlink()
    assert "never evaluated" in assemble(BUNDLE, root=root).notes[0]


def test_weights_of_a_preset_bring_its_data_format(tmp_path: Path) -> None:
    """What a bundle trained on pictures expects and gives, whatever the catalog's default is."""
    root = repository(tmp_path)
    models = root / "bundles" / "swin_unet" / "models"
    models.mkdir(parents=True)
    ids = {"preset": "nasa_super", "in_channels": 3, "out_channels": 2, "spatial_dims": 2, "reader": "PILReader"}
    ids |= {"img_size": [32, 64], "upsample": "bilinear", "num_skips": 0, "drop_path_rate": 0.0}
    from networks import SwinUnet

    arguments = {key: ids[key] for key in ("in_channels", "out_channels", "img_size", "upsample", "num_skips")}
    torch.save(SwinUnet(**arguments).state_dict(), models / "model.pt")
    data = {"name": "grains", "licence": "CC BY 4.0", "labels": {"0": "background", "1": "grain"}}
    record = {"checkpoint": file_hash(models / "model.pt"), "ids": ids}
    record["data_set"] = {**data, "training": 8, "validation": 2}
    (models / "model.json").write_text(json.dumps(record))
    packed = assemble(BY_NAME["swin_unet"], root=root)
    metadata, inference = (json.loads(packed.files[f"configs/{name}.json"]) for name in ("metadata", "inference"))
    image, pred = (metadata["network_data_format"][k][n] for k, n in (("inputs", "image"), ("outputs", "pred")))
    assert (image["num_channels"], image["spatial_shape"], image["modality"]) == (3, [32, 64], "SEM")
    assert pred["channel_def"] == {"0": "background", "1": "grain"} and pred["num_channels"] == 2
    assert inference["inferer"]["_target_"] == "SlidingWindowInferer" and inference["upsample"] == "bilinear"
    assert packed.files["docs/data_license.txt"] == b"grains: CC BY 4.0\n"
    readme = packed.files["docs/README.md"].decode()
    assert (
        "The network sees windows of 32 x 64." in readme
        and "`train.json`: pictures, random crops at 32 x 64," in readme
    )
    del ids["drop_path_rate"]  # as in a record of before there was such an option
    (models / "model.json").write_text(json.dumps(record))
    assert "models/model.pt" in assemble(BY_NAME["swin_unet"], root=root).files


@pytest.mark.slow
def test_network_that_cannot_be_scripted_needs_a_reason(tmp_path: Path) -> None:
    bundle = BY_NAME["unet_plusplus"]
    packed = assemble(replace(bundle, not_scriptable=""), root=repository(tmp_path / "repository"))
    with zipfile.ZipFile(write(packed, tmp_path)) as archive:
        archive.extractall(tmp_path)
    found = {name: detail for name, passed, detail in load_checks(tmp_path / bundle.name) if not passed}
    assert list(found) == ["TorchScript"] and "metadata.json gives no reason" in found["TorchScript"]


def test_reasons_are_stated_for_exactly_the_networks_that_need_them() -> None:
    import networks

    for bundle in BUNDLES:
        assert bool(bundle.not_scriptable) != getattr(networks, bundle.network).scriptable


def test_push_needs_a_token_and_a_hub(zoo: Path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="no token"):
        push(NAME, "group/unet", output_dir=str(zoo))
    with pytest.raises(ValueError, match=r"does not list unet; run 'python -m scripts\.zoo pack unet' first"):
        push("unet", "group/unet", output_dir=str(zoo))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    calls = []
    cards = []
    tags = ["0.1.0"]

    class Hub:
        def create_repo(self, repo: str, **arguments) -> None:
            calls.append(("repo", repo, arguments))

        def list_repo_refs(self, repo: str) -> SimpleNamespace:
            return SimpleNamespace(tags=[SimpleNamespace(name=name) for name in tags])

        def upload_file(self, path_or_fileobj: bytes, path_in_repo: str, repo_id: str) -> None:
            calls.append(("card", repo_id, path_in_repo))
            cards.append(path_or_fileobj.decode())

    def hand_over(repo: str, name: str, bundle_dir: str, **arguments) -> str:
        assert (Path(bundle_dir) / name / "configs" / "metadata.json").is_file()
        calls.append(("bundle", repo, arguments))
        return "url"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr("scripts.zoo.push.push_to_hf_hub", hand_over)
    push(NAME, "group/unet", output_dir=str(zoo), load=False)
    assert calls == [
        ("repo", "group/unet", {"private": True, "exist_ok": True}),
        ("card", "group/unet", "README.md"),
        (
            "bundle",
            "group/unet",
            {
                "private": True,
                "version": "0.2.0",
                "ignore_patterns": ["README.md"],
                "delete_patterns": ["*/*", "large_files.yml"],
            },
        ),
    ]
    tags.append("0.2.0")
    with pytest.raises(ValueError, match=r"has the version 0\.2\.0 already; pack a newer one"):
        push(NAME, "group/unet", output_dir=str(zoo), load=False)
    assert len(calls) == 4
    assert huggingface_hub.ModelCard(cards[0]).data.library_name == "monai"
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ValueError, match="was not pushed to group/unet"):
        push(NAME, "group/unet", output_dir=str(zoo), load=False)


def test_large_weights_can_stay_beside_the_zip(trained: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("scripts.zoo.pack.LARGE", 1000)
    packed = assemble(BUNDLE, "https://zoo.example", root=trained)
    path = write(packed, tmp_path, "https://zoo.example")
    model = trained / "bundles" / NAME / "models" / "model.pt"
    assert (tmp_path / f"{NAME}_v0.1.0_model.pt").read_bytes() == model.read_bytes()
    listed = packed.files["large_files.yml"].decode()
    assert f"https://zoo.example/{NAME}_v0.1.0_model.pt" in listed and file_hash(model) in listed
    assert [name for name, passed, _ in check(str(path), load=False) if not passed] == []
