"""Results that are there: those of one model and one input stay so, and none is taken for an input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from networks.errors import UserError
from networks.workflow.checkpoints import save_atomically
from networks.workflow.files import write_json
from scripts.predict import predicting
from scripts.predict.cases import Case
from scripts.predict.predicting import predict
from tests.predicting import call, files_of, labels_of


def test_results_of_two_models_never_mix(images: Path, volumes: dict[str, Any], tmp_path: Path) -> None:
    source, out = images / "a", tmp_path / "out"
    call(source, out, bundle="unet", **volumes)
    before = files_of(out)
    state = torch.load(volumes["ckpt_path"], weights_only=True)
    save_atomically(
        {key: value * 1.5 if value.is_floating_point() else value for key, value in state.items()},
        tmp_path / "other" / "model.pt",
    )
    other = {**volumes, "ckpt_path": str(tmp_path / "other" / "model.pt")}
    with pytest.raises(ValueError, match=r"results of another model .*--overwrite true"):
        predict(str(source), str(out), bundle="unet", **other)
    assert files_of(out) == before
    call(source, out, bundle="unet", overwrite=True, **other)
    assert files_of(out).keys() == before.keys()
    assert files_of(out)["predictions.json"] != before["predictions.json"]
    assert labels_of(out) != {name: before[name] for name in labels_of(out)}
    # what is not replaced would stand under the record of the new model
    before = files_of(out)
    with pytest.raises(UserError, match=r"two_seg\.nii\.gz is the result of another model .*give another folder"):
        predict(str(source / "one.nii.gz"), str(out), bundle="unet", overwrite=True, **volumes)
    assert files_of(out) == before


def test_a_result_is_that_of_one_input(images: Path, volumes: dict[str, Any], tmp_path: Path, capsys) -> None:
    out, one, other = tmp_path / "out", images / "a" / "one.nii.gz", tmp_path / "other"
    call(images / "a", out, bundle="unet", **volumes)
    other.mkdir()
    shutil.copy(images / "a" / "two.nii.gz", other / "one.nii.gz")
    before = files_of(out)
    with pytest.raises(UserError, match=r"one_seg\.nii\.gz is the result of another input .*--overwrite true"):
        predict(str(other), str(out), bundle="unet", **volumes)
    shutil.copy(images / "a" / "two.nii.gz", one)  # edited in place
    with pytest.raises(UserError, match=r"one_seg\.nii\.gz is the result of another input .*--overwrite true"):
        predict(str(images / "a"), str(out), bundle="unet", **volumes)
    assert files_of(out) == before
    call(images / "a", out, bundle="unet", overwrite=True, **volumes)
    call(images / "a", out, bundle="unet", **volumes)
    assert "0 of 2 cases segmented, 2 were there already" in capsys.readouterr().out
    record = json.loads((out / "predictions.json").read_text())
    del record["inputs"]  # as earlier versions wrote it
    write_json(out / "predictions.json", record)
    call(other, out, bundle="unet", **volumes)
    assert "0 of 1 cases segmented, 1 were there already" in capsys.readouterr().out


def test_every_file_of_an_exported_model_tells_it_from_others(tmp_path: Path) -> None:
    case = Case("x.png", (str(tmp_path / "x.png"),), False, str(tmp_path / "out" / "x_seg.png"))
    weights = {"file": "model.xml", "sha256": "1", "files": {"model.xml": "1", "model.bin": "2"}}
    for path in (case.files[0], case.label):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    predicting._prepare(tmp_path / "out", [case], {"weights": {"file": "model.xml", "sha256": "1"}}, False)
    predicting._prepare(tmp_path / "out", [case], {"weights": weights}, False)  # the earlier record names no others
    weights["files"]["model.bin"] = "3"
    with pytest.raises(UserError, match="results of another model"):
        predicting._prepare(tmp_path / "out", [case], {"weights": weights}, False)


def test_results_inside_the_input_are_no_input(images: Path, volumes: dict[str, Any]) -> None:
    (images / "three.nii.gz").unlink()
    call(images, images / "out", bundle="unet", **volumes)
    call(images, images / "out", bundle="unet", **volumes)
    assert set(labels_of(images / "out")) == {"a/one_seg.nii.gz", "a/two_seg.nii.gz"}
    call(images / "a", images, bundle="unet", **volumes)  # what holds the input is no result
    assert {"one_seg.nii.gz", "two_seg.nii.gz"} < set(labels_of(images))
