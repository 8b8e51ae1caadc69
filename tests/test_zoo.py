"""Packed bundles: they carry their code, stand beside each other, and every kind of damage is noticed."""

import http.server
import json
import os
import re
import shutil
import site
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import huggingface_hub
import nibabel as nib
import pytest
import torch

from networks.errors import UserError
from networks.workflow.files import file_hash
from networks.workflow.provenance import describe_cases
from scripts.catalog.bundles import BUNDLES, BY_NAME, Bundle
from scripts.render.bundle import NO_WEIGHTS
from scripts.zoo import packed_configs
from scripts.zoo.carried import carry, follow, rename_imports
from scripts.zoo.manifest import MANIFEST
from scripts.zoo.pack import Packed, assemble, write
from scripts.zoo.push import push
from scripts.zoo.verify import check, load_checks, verify
from tests.packing import BUNDLE, CHANNELS, NAME, ZIP, repository
from tests.workflows import ROOT


@pytest.fixture(scope="module")
def zoo(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with two versions of the bundle: the trained one, and one without weights whose code differs."""
    folder = tmp_path_factory.mktemp("zoo")
    write(assemble(BUNDLE, root=trained), folder)
    newer = repository(tmp_path_factory.mktemp("newer"))
    with (newer / "networks" / "attention_unet.py").open("a") as file:
        file.write("\nNEWER = True\n")
    changelog = {"0.2.0": "newer", **BUNDLE.changelog}
    write(assemble(replace(BUNDLE, changelog=changelog), root=newer), folder)
    return folder


@pytest.fixture(scope="module")
def server(zoo: Path) -> Iterator[str]:
    """The zoo's address on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(zoo)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment with everything that is installed here but this repository."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (purelib,) = folder.glob("lib/python*/site-packages")
    # folders in a .pth file join the path, but .pth files in them, such as that of an editable install, do not count
    (purelib / "installed.pth").write_text("\n".join(path for path in sys.path if path in site.getsitepackages()))
    return folder / "bin" / "python"


@pytest.fixture
def unpacked(zoo: Path, tmp_path: Path) -> Path:
    """The trained bundle's folder."""
    with zipfile.ZipFile(zoo / ZIP) as archive:
        archive.extractall(tmp_path)
    return tmp_path / NAME


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


def copy_of(trained: Path, folder: Path) -> tuple[Path, Path]:
    root = repository(folder)
    shutil.copytree(trained / "bundles", root / "bundles", dirs_exist_ok=True)
    return root, root / "bundles" / NAME


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


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    content |= changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}, indent=4) + "\n")


def seal(folder: Path) -> Path:
    """Make the manifest right again after a change."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {path: file_hash(folder / path) for path in manifest["files"] if (folder / path).is_file()}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=4) + "\n")
    return folder


def failures(folder: Path) -> dict[str, str]:
    return {name: detail for name, passed, detail in check(str(folder), load=False) if not passed}


DAMAGE = {
    "paths": (lambda f: edit(f / "configs/train.json", dataset_dir="/data/ours"), "'/data/ours' is an absolute path"),
    "version": (lambda f: edit(f / "configs/metadata.json", changelog={"0.0.1": "x"}), "missing in the changelog"),
    "metadata schema": (lambda f: edit(f / "configs/metadata.json", task=None), "'task' is a required property"),
    "JSON": (lambda f: (f / "configs/multi_gpu_train.json").write_text('{"a": 1}'), "not indented by 4"),
    "files": (lambda f: (f / "LICENSE").write_text(""), "LICENSE missing or empty"),
    "weights": (lambda f: torch.save({}, f / "models/model.pt"), "other weights"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, unpacked: Path) -> None:
    damage, sentence = DAMAGE[name]
    damage(unpacked)
    found = failures(unpacked)
    assert found.keys() == {"manifest", name, "loading"}  # nothing of what was changed is run
    found = failures(seal(unpacked))
    assert list(found) == [name] and sentence in found[name]


def test_changed_added_and_lost_files_are_named(unpacked: Path) -> None:
    (unpacked / "docs" / "README.md").write_text("other")
    (unpacked / "configs" / "logging.conf").unlink()
    (unpacked / "extra.py").write_text("")
    for written in ("models/last.pt", "eval/metrics.csv", "__pycache__/x.pyc"):  # what runs write
        (unpacked / written).parent.mkdir(exist_ok=True)
        (unpacked / written).write_text("")
    sentence = failures(unpacked)["manifest"]
    for part in ("docs/README.md is not the file", "configs/logging.conf is missing", "extra.py is not in"):
        assert part in sentence
    assert sentence.count(" is not in ") == 1


@pytest.mark.parametrize(
    ("member", "mode", "sentence"),
    [
        (f"{NAME}/../../evil.py", 0o100644, "outside of its folder"),
        ("/etc/evil.py", 0o100644, "outside of its folder"),
        (f"{NAME}\\..\\evil.py", 0o100644, "outside of its folder"),
        (f"{NAME}/link", 0o120777, "a link or a device"),
        ("other/file", 0o100644, "must hold one folder"),
        (f"{NAME}/LICENSE", 0o100644, "a file twice"),
        (f"{NAME}/__pycache__/x.cpython-311.pyc", 0o100644, "compiled Python"),
    ],
)
def test_unsafe_archives_are_not_unpacked(zoo: Path, tmp_path: Path, member: str, mode: int, sentence: str) -> None:
    path = Path(shutil.copy(zoo / ZIP, tmp_path))
    info = zipfile.ZipInfo(member)
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "../../target")
    ((name, passed, detail),) = check(str(path), load=False)
    assert (name, passed) == ("archive", False) and sentence in detail
    assert [p.name for p in tmp_path.iterdir()] == [ZIP]


def test_archives_that_differ_from_model_info_or_are_cut(zoo: Path, tmp_path: Path) -> None:
    for name in (ZIP, "model_info.json"):
        shutil.copy(zoo / name, tmp_path)
    path = tmp_path / ZIP
    path.write_bytes(path.read_bytes()[:-100])
    assert "its SHA-1 differs" in check(str(path), load=False)[0][2]
    (tmp_path / "model_info.json").unlink()
    assert "is damaged" in check(str(path), load=False)[0][2]


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


def test_verify_says_what_failed_and_exits_with_1(unpacked: Path, server: str, capsys) -> None:
    (unpacked / "LICENSE").unlink()
    with pytest.raises(SystemExit) as stop:
        verify(str(unpacked), load=False)
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert "FAILED   manifest: LICENSE is missing." in output and "checks passed, " in output
    for source in (f"{server}/none.zip", str(unpacked / "none.zip")):
        with pytest.raises(UserError, match=r"none\.zip"):
            verify(source)


def test_a_check_that_cannot_be_made_is_skipped(unpacked: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    verify(str(unpacked), load=False)
    said = capsys.readouterr().out
    assert "skipped  metadata schema: not made, since jsonschema is not installed: python -m pip install" in said
    assert " 0 failed, 1 skipped." in said


def test_push_needs_a_token_and_a_hub(zoo: Path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="no token"):
        push(NAME, "group/unet", output_dir=str(zoo))
    with pytest.raises(ValueError, match=r"does not list unet; run 'python -m scripts\.zoo pack unet' first"):
        push("unet", "group/unet", output_dir=str(zoo))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    calls = []
    cards = []

    class Hub:
        def create_repo(self, repo: str, **arguments) -> None:
            calls.append(("repo", repo, arguments))

        def upload_folder(self, repo_id: str, folder_path: Path) -> str:
            cards.append((folder_path / "README.md").read_text())
            return "url"

        def create_tag(self, repo: str, **arguments) -> None:
            calls.append(("tag", repo, arguments))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    push(NAME, "group/unet", output_dir=str(zoo), load=False)
    assert calls == [
        ("repo", "group/unet", {"private": True, "exist_ok": True}),
        ("tag", "group/unet", {"tag": "0.2.0", "exist_ok": True}),
    ]
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


def test_imports_are_followed_and_renamed() -> None:
    assert "networks.layers.window_attention" in follow(ROOT, ["networks.swin_unet"])
    followed = follow(ROOT, ["networks.workflow"])
    assert "networks" not in followed and "networks.workflow.checkpoints" in followed
    text = "def f():\n    from networks.layers.swin import (\n        Mlp,\n    )\n    return 'networks'\n"
    assert rename_imports(text, "p1", "x.py") == text.replace("from networks", "from p1")
    with pytest.raises(ValueError, match=r"x\.py, line 1: write 'from networks"):
        rename_imports("import networks.layers\n", "p1", "x.py")
    with pytest.raises(ValueError, match=r"networks\.Missing"):
        carry(ROOT, "b", "0.1.0", {"Missing"}, set())


def test_names_of_code_differ_with_the_code(tmp_path: Path) -> None:
    """Also when somebody forgot to raise the version."""
    root = repository(tmp_path)
    first = carry(root, "b", "0.1.0", {"SwinUnet"}, set()).package
    assert carry(root, "b", "0.1.0", {"SwinUnet"}, set()).package == first
    with (root / "networks" / "layers" / "swin.py").open("a") as file:
        file.write("# changed\n")
    assert carry(root, "b", "0.1.0", {"SwinUnet"}, set()).package != first


def test_expressions_reach_modules_through_ids() -> None:
    content = {
        "imports": ["$import os", "$import networks.workflow as workflow"],
        "bundle_root": ".",
        "a": "$workflow.f(@x::y, 'workflow') if @workflow_like else [w for w in workflow.g()]",
        "b": {"_target_": "networks.workflow.Thing", "c": {"_target_": "networks.Net"}},
    }
    names, modules = packed_configs.used_by([content])
    assert (names, modules) == ({"Net"}, {"networks.workflow"})
    packed = packed_configs.pack_config(content, "p", packed_configs.module_ids([content]))
    assert packed["a"] == "$@workflow.f(@x::y, 'workflow') if @workflow_like else [w for w in @workflow.g()]"
    assert packed["b"] == {"_target_": "$@workflow.Thing", "c": {"_target_": "$@code.Net"}}
    with pytest.raises(ValueError, match="'code' is needed"):
        packed_configs.pack_config({"bundle_root": ".", "code": 1}, "p", {})
