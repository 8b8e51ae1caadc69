"""Exported models: every format runs in its own runtime as PyTorch does, and none is left that does not."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.utils import add_casts_around_norms, convert_to_onnx
from torch import Tensor, nn

import networks
from networks.errors import UserError
from networks.layers.swin import PatchEmbed, SwinStage
from networks.workflow.checkpoints import save_atomically
from networks.workflow.files import file_hash, write_json
from scripts import command_line
from scripts.catalog.bundles import BUNDLES, BY_NAME
from scripts.export import exporting as tool
from scripts.export.exporting import Difference, export, manifest_path, read_manifest
from scripts.export.runtimes import FORMATS, RuntimeNetwork, load_model
from scripts.opened_bundle import InferenceConfig
from tests.small import SMALL
from tests.workflows import config_paths, tiny_network

UNET, SWIN_UNET = BY_NAME["unet"], BY_NAME["swin_unet"]
LOCAL = [name for name in FORMATS if name != "tensorrt"]
CPU = torch.device("cpu")


def options_of(bundle, dataset_dir: Path, **others) -> dict:
    return {**tiny_network(bundle), "dataset_dir": str(dataset_dir), "img_size": [48, 48], **others}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    config = InferenceConfig("unet", options={**tiny_network(UNET), "img_size": [48, 48]})
    save_atomically(config["network_def"].state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("format", LOCAL)
def test_format_runs_as_pytorch_does(format: str, checkpoint: Path, ct_dir: Path, tmp_path: Path, capsys) -> None:
    options = options_of(UNET, ct_dir, ckpt_path=str(checkpoint))
    export("unet", format, output_dir=tmp_path / "out", **options)
    assert "differs from PyTorch by at most" in capsys.readouterr().out
    file = tmp_path / "out" / FORMATS[format].files[0]
    assert {p.name for p in file.parent.iterdir()} == {*FORMATS[format].files, f"{file.name}.json"}

    manifest = read_manifest(file)
    assert manifest["files"] == {name: file_hash(file.parent / name) for name in FORMATS[format].files}
    assert manifest["checkpoint"] == {"file": "model.pt", "sha256": file_hash(checkpoint)}
    assert manifest["input"]["shape"] == ["batch", 1, 48, 48]
    assert manifest["output"]["labels"]["5"] == "liver"
    assert {"_target_": "ScaleIntensityRanged", "a_min": -125, "a_max": 275}.items() <= manifest["preprocessing"][
        -1
    ].items()
    assert manifest["inferer"]["roi_size"] == [48, 48]
    assert manifest["comparison"]["images"]["count"] == 2
    for measured in (manifest["comparison"]["random"], manifest["comparison"]["images"]):
        assert 0 <= measured["max_difference"] <= manifest["comparison"]["tolerance"] == 1e-4
        assert measured["same_class"] > 0.999
    assert str(tmp_path) not in json.dumps(manifest) and str(ct_dir) not in json.dumps(manifest)

    network = InferenceConfig("unet", options=options)["network_def"].eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    model = load_model(format, file, CPU).eval()
    for shape in ((1, 1, 48, 48), (5, 1, 48, 48)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            torch.testing.assert_close(model(x), network(x), atol=1e-4, rtol=1e-4)


def test_torchscript_of_a_transformer_takes_any_size(ct_dir: Path, tmp_path: Path, capsys) -> None:
    export("swin_unet", "torchscript", output_dir=tmp_path, untrained=True, **options_of(SWIN_UNET, ct_dir))
    assert "random" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "model.ts")
    assert manifest["input"]["free"] == ["batch", "height", "width"]
    assert manifest["checkpoint"] is None
    with torch.no_grad():
        assert load_model("torchscript", tmp_path / "model.ts", CPU)(torch.randn(1, 1, 61, 90)).shape == (1, 9, 61, 90)


@torch.no_grad()
def test_attention_with_several_heads_becomes_onnx(tmp_path: Path) -> None:
    """Its fused kernel lays its output out otherwise than the operator that ONNX has for it."""
    torch.manual_seed(0)
    network = nn.Sequential(PatchEmbed(1, 32), SwinStage(32, 2, 4, (16, 16), drop_path=(0.0, 0.0))).eval()
    x = torch.randn(3, 1, 64, 64)
    FORMATS["onnx"].write(network, x[:2], tmp_path, 8)
    found = load_model("onnx", tmp_path / "model.onnx", CPU)(x)
    torch.testing.assert_close(found, network(x), atol=1e-5, rtol=1e-4)


def test_failed_conversion_is_a_sentence(ct_dir: Path, tmp_path: Path, monkeypatch) -> None:
    def fails(*arguments) -> None:
        (arguments[2] / "model.ts").write_bytes(b"half")
        raise RuntimeError("pages of advice")

    monkeypatch.setitem(FORMATS, "torchscript", dataclasses.replace(FORMATS["torchscript"], write=fails))
    with pytest.raises(ValueError, match=r"unet cannot be written as model\.ts \(RuntimeError;"):
        export("unet", "torchscript", output_dir=tmp_path / "out", untrained=True, **options_of(UNET, ct_dir))
    assert not (tmp_path / "out").exists()


def test_untraceable_decoder_is_traced_with_a_fixed_size(ct_dir: Path, tmp_path: Path) -> None:
    bundle = BY_NAME["unet_plusplus"]
    export(bundle.name, "torchscript", output_dir=tmp_path, untrained=True, cases=1, **options_of(bundle, ct_dir))
    assert read_manifest(tmp_path / "model.ts")["input"]["free"] == ["batch"]


@pytest.mark.parametrize("wrong", ["offset", "nan", "shape"])
def test_different_model_is_refused(wrong: str, checkpoint: Path, ct_dir: Path, tmp_path: Path, monkeypatch) -> None:
    """Also over an earlier model, which stays as it is."""

    def spoiled(name: str, path: Path, device: torch.device) -> RuntimeNetwork:
        def run(x: Tensor) -> Tensor:
            logits = load_model(name, path, device)(x)
            return {"offset": logits + 1e-3 * logits.abs().max(), "nan": logits * np.nan, "shape": logits[:, :1]}[wrong]

        return RuntimeNetwork(run)

    options = options_of(UNET, ct_dir, ckpt_path=str(checkpoint), output_dir=tmp_path)
    export("unet", "torchscript", **options, cases=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(tool, "load_model", spoiled)
    with pytest.raises(ValueError, match=r"othing was written"):
        export("unet", "torchscript", **options)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    if wrong == "offset":
        export("unet", "torchscript", **options, tolerance=0.01, cases=1)
        assert read_manifest(tmp_path / "model.ts")["comparison"]["random"]["max_difference"] > 5e-4


def test_difference_is_relative_to_the_logits() -> None:
    expected = torch.tensor([[1.0, -8.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    difference = Difference(0.2)
    difference.add(expected, expected + torch.tensor([0.0, 0.8]).view(1, 2, 1, 1), "x")
    assert difference.largest == pytest.approx(0.1) and difference.same == 1.0
    with pytest.raises(ValueError, match=r"differs from PyTorch by 0.25 of the largest logit; the tolerance is 0.2"):
        difference.add(expected, expected + 2, "x")


@pytest.mark.parametrize(
    ("format", "changes", "message"),
    [
        ("tensorrt", {}, r"TensorRT needs an NVIDIA GPU"),
        ("tflite", {}, r"format tflite is unknown; choose one of torchscript"),
        ("onnx", {"untrained": False}, r"model\.pt does not exist; train first.*--untrained true"),
        ("onnx", {"img_sise": [32, 32]}, r"--img_sise is not an id .* did you mean img_size"),
        (
            "onnx",
            {"preset": "nasa"},
            r"has no preset nasa; choose one of acdc, nasa_ebc, nasa_super, robust_pictures, robust_volumes, synapse",
        ),
        ("onnx", {"cases": 0}, r"cases is 0"),
        ("onnx", {"dataset_dir": "nowhere"}, r"nowhere does not exist"),
        ("onnx", {"labels": "README.md"}, r"README\.md holds no class names"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_mistakes_leave_nothing(format: str, changes: dict, message: str, ct_dir: Path, tmp_path: Path) -> None:
    options = {**options_of(SWIN_UNET, ct_dir), "untrained": True, **changes}
    with pytest.raises((ValueError, FileNotFoundError, RuntimeError), match=message):
        export("swin_unet", format, output_dir=tmp_path / "out", ckpt_dir=str(tmp_path / "none"), **options)
    assert not (tmp_path / "out").exists()


def test_unknown_bundle() -> None:
    with pytest.raises(UserError, match=r"no bundle swin_net; give one of attention_unet, .*swin_unet"):
        export("swin_net", "onnx")


def test_missing_runtime_is_named(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnx needs onnx, onnxscript, onnxruntime: .*segmentation-bundles\[deploy\]"):
        export("swin_unet", "onnx")


def test_changed_model_is_noticed(ct_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.ts does not exist"):
        read_manifest(tmp_path / "model.ts")
    export("unet", "torchscript", output_dir=tmp_path, untrained=True, cases=1, **options_of(UNET, ct_dir))
    with (tmp_path / "model.ts").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"model\.ts is not the file that model\.ts\.json describes"):
        read_manifest(tmp_path / "model.ts")
    manifest_path(tmp_path / "model.ts").write_text("{}")
    with pytest.raises(ValueError, match=r"not a manifest"):
        read_manifest(tmp_path / "model.ts")


def test_what_the_training_recorded_need_not_be_said(checkpoint: Path, ct_dir: Path, tmp_path: Path) -> None:
    """Its intensities are those of the exported model, and of what predicts with it."""
    shutil.copy(checkpoint, tmp_path / "model.pt")
    ids = {"preset": None, "out_channels": 9, "intensity_range": [0, 1500], "img_size": [48, 48]}
    write_json(tmp_path / "model.json", {"ids": ids})
    options = {**tiny_network(UNET), "dataset_dir": str(ct_dir), "ckpt_path": str(tmp_path / "model.pt")}
    export("unet", "torchscript", output_dir=tmp_path, cases=1, **options)
    manifest = read_manifest(tmp_path / "model.ts")
    assert manifest["options"]["intensity_range"] == [0, 1500]
    (scaling,) = (t for t in manifest["preprocessing"] if t["_target_"] == "ScaleIntensityRanged")
    assert (scaling["a_min"], scaling["a_max"]) == (0, 1500)
    export("unet", "torchscript", output_dir=tmp_path / "said", cases=1, **options, intensity_range=[0, 9])
    assert read_manifest(tmp_path / "said" / "model.ts")["options"]["intensity_range"] == [0, 9]


def test_command_line(ct_dir: Path, tmp_path: Path, monkeypatch) -> None:
    """Options of the config by name, parts of the network among them, and a sentence for a mistake."""
    options = options_of(UNET, ct_dir, output_dir=tmp_path, untrained=True, cases=1)
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", ["export", "unet", "--format", "torchscript", *words])
    command_line.run(export, "export")
    assert read_manifest(tmp_path / "model.ts")["options"]["network_def::encoder_name"] == "resnet18"
    monkeypatch.setattr(sys, "argv", ["export", "unet", "--format", "tflite"])
    with pytest.raises(SystemExit, match=r"^Error: The format tflite is unknown"):
        command_line.run(export, "export")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_tensorrt_config_merges(bundle, tmp_path: Path) -> None:
    """Without a GPU ``trt_compile`` gives the network back, so the config runs as far as it can here."""
    parser = ConfigParser()
    parser.read_config(config_paths(bundle, "inference", "inference_trt"))
    parser.update(tiny_network(bundle))
    assert "$import networks.workflow as workflow" in parser["imports"]
    assert parser["imports"][-1] == "$from monai.networks import trt_compile"
    assert parser.get_parsed_content("trt_args")["dynamic_batchsize"] == [1, 8, 8]
    assert parser.get_parsed_content("evaluator::amp") is False
    network = parser.get_parsed_content("network")
    assert type(network) is getattr(networks, bundle.network)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["SwinUnet", "LevitUnet"])
def test_network_goes_the_way_of_trt_compile(name: str, tmp_path: Path) -> None:
    """What ``trt_compile`` does before TensorRT: wrapped norms, then ONNX with a free batch."""
    torch.manual_seed(0)
    network = getattr(networks, name)(1, 3, 64, **SMALL[name]).eval()
    x, y = torch.randn(1, 1, 64, 64), torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        expected = network(y)
    wrapped: nn.Module = add_casts_around_norms(network)
    config = json.loads(Path("bundles/swin_unet/configs/inference_trt.json").read_text("utf-8"))
    arguments = config["trt_args"]["export_args"]
    path = str(tmp_path / "network.onnx")
    convert_to_onnx(wrapped, {"x": x}, filename=path, input_names=["x"], dynamic_axes={"x": [0]}, **arguments)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": y.numpy()})[0], expected, atol=1e-4)


def test_manifest_can_say_how_pictures_are_read() -> None:
    (first, *_) = InferenceConfig("unet_plusplus", "robust_pictures").resolved("preprocessing")["transforms"]
    assert json.loads(json.dumps(first["reader"]))["_target_"] == "networks.workflow.PictureReader"
