"""Eight bits in other runtimes, and the comparison of compressed networks with what they were made of."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from networks.errors import UserError
from networks.workflow.records import read_records
from scripts.compress import compare as tool
from scripts.compress import int8 as int8_tool
from scripts.compress.compare import compare, find_variant, read_lines
from scripts.compress.drawing import draw
from scripts.compress.int8 import calibration_images, int8, is_transformer
from scripts.compress.quantize import quantize
from scripts.export.exporting import read_manifest
from scripts.opened_bundle import InferenceConfig
from tests.packing import NAME, ZIP
from tests.small import build


@pytest.fixture(scope="module")
def source(trained: Path) -> dict[str, str]:
    return {"bundle": NAME, "ckpt_path": str(trained / "bundles" / NAME / "models" / "model.pt")}


def test_calibration_sees_what_inference_makes_of_training_images(source: dict, ct_dir: Path) -> None:
    config = tool.Variant("", NAME, None, {"img_size": [48, 48], "out_channels": 9}, Path()).config()
    images = calibration_images(config, str(ct_dir), 10)
    assert len(images) == 10 and {image.shape for image in images} == {(1, 1, 48, 48)}
    cases = json.loads((ct_dir / "dataset.json").read_text())["training"]
    whole = config["preprocessing"]({"image": str(ct_dir / cases[0]["image"])})["image"]
    slices = [torch.as_tensor(whole)[..., z] for z in range(whole.shape[-1])]
    assert any(torch.allclose(torch.from_numpy(images[0][0]), x) for x in slices)
    assert all((a == b).all() for a, b in zip(images, calibration_images(config, str(ct_dir), 10), strict=True))


def test_classes_are_called_as_in_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as in the data set that calibrates."""
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "left", "2": "right"}}')
    found = {}

    def write_model(name, format, options, output_dir, preset, labels=None, **_):
        found.update(InferenceConfig(name, preset, options).labels(labels))

    monkeypatch.setattr(int8_tool.exporting, "write_model", write_model)
    int8(str(tmp_path / "out"), trained="hippocampus", dataset_dir=str(tmp_path))
    assert found == {0: "background", 1: "anterior", 2: "posterior"}


def test_networks_with_attention_are_transformers() -> None:
    modes = {name: is_transformer(build(name)) for name in ("SwinUnet", "LevitUnet", "Unet", "AttentionUnet")}
    assert modes == {"SwinUnet": True, "LevitUnet": True, "Unet": False, "AttentionUnet": False}


def test_nncf_is_told_to_send_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nncf.py").write_text(
        "import os\nquantize = Dataset = lambda *_, **__: os.environ['NNCF_CI']\nquantize()\n"
    )
    monkeypatch.setenv("NNCF_CI", "")  # so that it is put back
    monkeypatch.setitem(sys.modules, "nncf", None)
    del sys.modules["nncf"]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("NNCF_CI")
    assert int8_tool._quantised(None, [], False, None) == "1"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["openvino", "onnx"])
def test_eight_bits_are_calibrated_compared_and_scored(
    format: str, source: dict, ct_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8(str(tmp_path / "int8"), format, **source, dataset_dir=str(ct_dir), samples=8, cases=1)
    model = tmp_path / "int8" / ("model.xml" if format == "openvino" else "model.onnx")
    manifest = read_manifest(model)
    found = manifest["int8"]
    assert found["mode"] == "convolutional" and found["samples"] == 8
    assert len(found["products_in_float"]) < found["products"] / 2
    assert manifest["comparison"]["tolerance"] is None and manifest["comparison"]["images"]["same_class"] > 0.8
    if format == "onnx":
        return
    folder = tmp_path / "four"
    quantize(str(folder), **source)
    monkeypatch.setattr(tool, "in_fresh_process", lambda function, *arguments: function(*arguments))
    output, picture = tmp_path / "results.jsonl", tmp_path / "drawn.svg"
    options = {"dataset_dir": str(ct_dir), "output": str(output), "repeats": 1, "threads": 1}
    before = find_variant(str(folder))
    assert before.runtime == "torch" and before.files() == [folder / "models" / "model.pt"]
    compare(str(folder), str(model), figure=str(picture), **options)
    first, second = read_lines([output])
    assert first["dice"]["cases"] == 2 and first["steps"][0]["bits"].keys() == {"4", "8"}
    assert (first["dtype"], second["dtype"], second["runtime"]) == ("float32", "int8", "openvino")
    assert first["bytes"] == (folder / "models" / "model.pt").stat().st_size and first["forward"]["speedup"] > 0
    assert abs(first["dice"]["mean"] - second["dice"]["mean"]) < 0.1
    assert "<svg" in picture.read_text()
    again = {"torch": first, "openvino": {**second, "bytes": 1}}
    monkeypatch.setattr(tool, "in_fresh_process", lambda function, variant, *arguments: again[variant.runtime])
    compare(str(folder), str(model), **options)  # replaces
    assert read_lines([output]) == list(again.values())
    # the scores are part of the bundle now
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    (evaluation,) = metadata["evaluations"]
    scored = read_records(folder / "eval" / "results_strict.jsonl")
    assert evaluation["checkpoint"] == first["checkpoint"] == scored[0]["checkpoint"]
    assert evaluation["scores"]["dice"] == pytest.approx(first["dice"]["mean"], abs=1e-4)


def test_a_bundle_of_the_zoo_is_scored_and_stays_as_it_is(
    zoo: Path, ct_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith(f"{NAME}_v")]:  # of another folder
        monkeypatch.delitem(sys.modules, module)
    shutil.unpack_archive(zoo / ZIP, tmp_path)
    variant = find_variant(str(tmp_path / NAME))
    dice, _ = tool.score(variant, variant.network(), str(ct_dir), "test", 2)
    assert dice["cases"] == 2 and not (tmp_path / NAME / "eval").exists()


def test_mistakes_are_told(source: dict, ct_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of openvino, onnx"):
        int8(str(tmp_path), "tensorrt", **source)
    with pytest.raises(UserError, match="calibrate"):
        int8(str(tmp_path), **source)
    with pytest.raises(UserError, match="before compression"):
        compare("hippocampus", dataset_dir=str(ct_dir))
    with pytest.raises(UserError, match="No weights called"):
        find_variant("nothing")
    with pytest.raises(UserError, match="hippocampus is given twice"):
        compare("hippocampus", "hippocampus", dataset_dir=str(ct_dir))
    (tmp_path / "lines.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="Line 1"):
        read_lines([tmp_path / "lines.jsonl"])
    with pytest.raises(UserError, match="no name of a picture"):
        compare("hippocampus", "superalloys", dataset_dir=str(ct_dir), figure=str(tmp_path / "drawn"))
    with pytest.raises(UserError, match="nothing to draw"):
        draw([], tmp_path / "drawn.svg")
