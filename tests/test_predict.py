"""Prediction: what the bundle's own inference gives, for every kind of input, whatever fails beside it."""

import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from networks.errors import UserError
from networks.workflow.files import file_hash, write_json
from scripts.catalog.bundles import BY_NAME
from scripts.export.exporting import export
from scripts.opened_bundle import InferenceConfig, as_trained
from scripts.predict import predicting
from scripts.predict.cases import Case
from scripts.predict.predicting import predict
from scripts.predict.segmenter import Computed, Segmenter
from tests.predicting import VOLUMES, call, failures, files_of, labels_of, write_weights
from tests.workflows import ROOT, config_paths, run

PICTURES = BY_NAME["cs_unet"]
NAMES = ("labels.json", "labels.ctbl")


def test_folder_of_volumes_equals_the_bundles_inference(
    images: Path, volumes: dict[str, Any], tmp_path: Path, capsys
) -> None:
    run(
        config_paths(VOLUMES, "inference"),
        "inference",
        dataset_dir=str(images),
        output_dir=str(tmp_path / "own"),
        **volumes,
    )
    call(images, tmp_path / "out", bundle="unet", overlays=True, **volumes)
    assert "3 of 3 cases segmented" in capsys.readouterr().out
    own = files_of(tmp_path / "own")
    assert set(own) == {"a/one_seg.nii.gz", "a/two_seg.nii.gz", "three_seg.nii.gz"}
    assert labels_of(tmp_path / "out") == own
    assert len(np.unique(nib.load(tmp_path / "out" / "three_seg.nii.gz").dataobj)) > 2
    others = set(files_of(tmp_path / "out")) - set(own)
    assert others == {"a/one_overlay.png", "a/two_overlay.png", "three_overlay.png", "predictions.json", *NAMES}
    # "two" is "one" the other way round on disk, so it looks the same
    one, two = (Image.open(tmp_path / "out" / "a" / f"{name}_overlay.png") for name in ("one", "two"))
    assert one.size == (5 * 120, 5 * 48) and one == two  # enlarged, as slices of 48 pixels are small

    # nothing is done twice, and what is missing is made up for
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*_seg.nii.gz")}
    (tmp_path / "out" / "three_seg.nii.gz").unlink()
    call(images, tmp_path / "out", bundle="unet", overlays=True, **volumes)
    assert "1 of 3 cases segmented, 2 were there already" in capsys.readouterr().out
    assert labels_of(tmp_path / "out") == own
    changed = [p.name for p, moment in before.items() if p.stat().st_mtime_ns != moment]
    assert changed == ["three_seg.nii.gz"]


def test_pictures_equal_the_bundles_inference(micrograph_dir: Path, tmp_path: Path) -> None:
    options = write_weights(PICTURES, tmp_path)
    run(
        config_paths(PICTURES, "inference"),
        "inference",
        dataset_dir=str(micrograph_dir),
        output_dir=str(tmp_path / "own"),
        **options,
    )
    call(micrograph_dir, tmp_path / "out", bundle="cs_unet", overlays=True, **options)
    own = files_of(tmp_path / "own")
    assert own and labels_of(tmp_path / "out") == own
    (name,) = own
    image = Image.open(micrograph_dir / name.replace("_seg", "")).convert("RGB")
    picture = Image.open(tmp_path / "out" / name.replace("_seg", "_overlay"))
    assert picture.size == (2 * image.width, image.height)
    left = np.asarray(picture)[:, : image.width].astype(float)
    assert np.corrcoef(left.ravel(), np.asarray(image).astype(float).ravel())[0, 1] > 0.99
    call(micrograph_dir, tmp_path / "nifti", bundle="cs_unet", format="nifti", **options)
    label = np.asarray(nib.load(tmp_path / "nifti" / name.replace(".png", ".nii.gz")).dataobj)
    assert np.array_equal(label.squeeze().T, np.asarray(Image.open(tmp_path / "out" / name)))


def test_flips_at_test_time_are_those_of_the_bundles_inference(
    images: Path, volumes: dict[str, Any], tmp_path: Path
) -> None:
    run(
        config_paths(VOLUMES, "inference"),
        "inference",
        dataset_dir=str(images / "a"),
        output_dir=str(tmp_path / "own"),
        tta="true",
        **volumes,
    )
    call(images / "a", tmp_path / "out", bundle="unet", tta=True, **volumes)
    call(images / "a", tmp_path / "plain", bundle="unet", **volumes)
    assert labels_of(tmp_path / "out") == files_of(tmp_path / "own")
    assert labels_of(tmp_path / "out") != labels_of(tmp_path / "plain")


def test_one_file_to_one_file(images: Path, volumes: dict[str, Any], tmp_path: Path) -> None:
    call(images / "three.nii.gz", tmp_path / "new" / "label.nii.gz", bundle="unet", **volumes)
    call(images / "three.nii.gz", tmp_path / "folder", bundle="unet", **volumes)
    assert set(files_of(tmp_path / "new")) == {"label.nii.gz"}
    assert (tmp_path / "new" / "label.nii.gz").read_bytes() == (tmp_path / "folder" / "three_seg.nii.gz").read_bytes()
    # it may be of another image or model, which nothing beside it tells
    before = files_of(images)
    for source, target, message in (
        (images / "a" / "one.nii.gz", tmp_path / "new" / "label.nii.gz", "label.nii.gz exists; give another name"),
        (images / "three.nii.gz", images / "three.nii.gz", "is input and output"),
    ):
        with pytest.raises(UserError, match=message):
            predict(str(source), str(target), bundle="unet", overwrite="is input" in message, **volumes)
    assert files_of(images) == before
    call(images / "a" / "one.nii.gz", tmp_path / "new" / "label.nii.gz", bundle="unet", overwrite=True, **volumes)


def test_exported_model_in_its_runtime(images: Path, volumes: dict[str, Any], tmp_path: Path) -> None:
    call(images, tmp_path / "torch", bundle="unet", **volumes)
    arguments = {**volumes, "dataset_dir": str(images), "ckpt_dir": str(tmp_path / "models")}
    export("unet", "torchscript", cases=1, output_dir=tmp_path / "models", **arguments)
    model = tmp_path / "models" / "model.ts"
    call(images, tmp_path / "out", model=str(model))  # bundle, runtime and options are the manifest's
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["runtime"] == "torchscript"
    for name in labels_of(tmp_path / "torch"):
        ours, theirs = (np.asarray(nib.load(tmp_path / run / name).dataobj) for run in ("out", "torch"))
        assert (ours == theirs).mean() > 0.999, name
    for wrong, message in (
        ({"bundle": "swin_unet", "network_def::embed_dim": 12}, "of the bundle unet, not of swin_unet"),
        ({"out_channels": 3}, "was exported with out_channels 9, not 3"),
        ({"runtime": "onnx"}, "of the format torchscript, not onnx"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(str(images), str(tmp_path / "wrong"), model=str(model), **wrong)
    assert not (tmp_path / "wrong").exists()


def test_exported_model_of_an_earlier_training_is_refused(images: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bundles" / "unet" / "configs", tmp_path / "unet" / "configs")
    model, weights = tmp_path / "unet" / "models" / "model.onnx", tmp_path / "unet" / "models" / "model.pt"
    model.parent.mkdir()
    model.write_bytes(b"network")
    weights.write_bytes(b"trained again")
    about = {"format": "onnx", "bundle": "another", "preset": None, "options": {}, "input": {"shape": []}}
    about |= {"files": {model.name: file_hash(model)}, "output": {"labels": {}}}
    for checkpoint, message in (
        ({"file": "model.pt", "sha256": "0" * 64}, r"model\.onnx was exported with other weights .*; export it again"),
        (None, r"model\.onnx was exported with other weights"),  # random ones
        ({"file": "model.pt", "sha256": file_hash(weights)}, "is a model of the bundle another, not of unet"),
    ):
        write_json(model.with_suffix(".onnx.json"), about | {"checkpoint": checkpoint})
        with pytest.raises(UserError, match=message):
            predict(str(images), str(tmp_path / "out"), bundle=str(tmp_path / "unet"), runtime="onnx")


def test_failed_cases_are_listed_and_the_rest_is_done(
    images: Path, volumes: dict[str, Any], tmp_path: Path, capfd
) -> None:
    whole = (images / "three.nii.gz").read_bytes()
    (images / "three.nii.gz").write_bytes(whole[: len(whole) // 2])
    (images / "b.png").write_bytes(b"no picture")
    volume = nib.load(images / "a" / "two.nii.gz")
    nib.save(nib.Nifti1Image(np.full((4, 4, 2), np.nan, np.float32), volume.affine), images / "a" / "two.nii.gz")
    call(images, tmp_path / "out", 1, bundle="unet", **volumes)
    captured = capfd.readouterr()
    assert "1 of 4 cases segmented" in captured.out and "3 failed" in captured.out
    assert "Traceback" not in captured.err
    listed = failures(tmp_path / "out")
    assert set(listed) == {"three.nii.gz", "a/two.nii.gz", "b.png"}
    assert "cannot be read" in listed["three.nii.gz"] and "NaN" in listed["a/two.nii.gz"]
    assert set(files_of(tmp_path / "out")) == {"a/one_seg.nii.gz", "failed.csv", "predictions.json", *NAMES}
    (images / "three.nii.gz").write_bytes(whole)
    (images / "b.png").unlink()
    (images / "a" / "two.nii.gz").unlink()
    call(images, tmp_path / "out", bundle="unet", **volumes)
    assert set(labels_of(tmp_path / "out")) == {"a/one_seg.nii.gz", "three_seg.nii.gz"}
    assert not (tmp_path / "out" / "failed.csv").exists()


def test_a_case_is_written_while_the_next_is_computed(
    images: Path, volumes: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, waited, at_writing = [Event() for _ in range(3)], [], []
    compute, write = Segmenter.compute, Segmenter.write

    def computes(self: Segmenter, case: Case) -> Computed:
        result = compute(self, case)
        next(event for event in computed if not event.is_set()).set()
        return result

    def writes(self: Segmenter, item: Computed) -> bool:
        waited.append(len(waited) == 2 or computed[len(waited) + 1].wait(60))
        if item.case.name == "a/two.nii.gz":
            raise OSError("the disk is full")
        return write(self, item)

    def writes_in_turn(self: Segmenter, item: Computed) -> bool:
        time.sleep(0.5)  # in which another thread would compute the next
        at_writing.append(sum(event.is_set() for event in computed))
        return write(self, item)

    monkeypatch.setattr(Segmenter, "compute", computes)
    monkeypatch.setattr(Segmenter, "write", writes_in_turn)
    monkeypatch.setattr(predicting, "cores_of_a_process", lambda: torch.get_num_threads())
    call(images, tmp_path / "plain", bundle="unet", **volumes)  # the network takes all cores
    assert at_writing == [1, 2, 3]
    for event in computed:
        event.clear()
    monkeypatch.setattr(Segmenter, "write", writes)
    monkeypatch.setattr(predicting, "cores_of_a_process", lambda: torch.get_num_threads() + 1)
    call(images, tmp_path / "out", 1, bundle="unet", times=True, **volumes)
    assert waited == [True] * 3
    assert failures(tmp_path / "out") == {"a/two.nii.gz": "the disk is full"}
    plain, found = labels_of(tmp_path / "plain"), labels_of(tmp_path / "out")
    assert found == {name: value for name, value in plain.items() if name != "a/two_seg.nii.gz"}
    measured = json.loads((tmp_path / "out" / "times.json").read_text())
    assert measured.keys() == {"a/one.nii.gz", "three.nii.gz"}
    monkeypatch.undo()
    call(images, tmp_path / "out", bundle="unet", times=True, **volumes)
    assert measured.items() < json.loads((tmp_path / "out" / "times.json").read_text()).items()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_memory_of_one_array_serves_the_next() -> None:
    # in a process of its own, since it would hold for all tests after this one
    code = """
import resource, numpy
from scripts.predict.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(200_000_000, dtype=numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults(), faults(), keep_freed_memory(), faults(), faults()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    *without, kept, first, again = json.loads(done.stdout.lower())
    assert kept and min(*without, first) > 100 * max(again, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"Give --bundle NAME"),
        ({"bundle": "unet", "runtime": "onnx"}, r"model\.onnx does not exist; write it with .*scripts\.export unet"),
        ({"bundle": "unet", "runtime": "caffe"}, r"runtime caffe is unknown"),
        ({"bundle": "unet", "format": "png"}, r"does not fit a PNG"),
        ({"bundle": "unet", "format": "dicom_seg"}, r"is no DICOM series"),
        ({"bundle": "unet", "format": "gif"}, r"format gif is unknown"),
        ({"bundle": "unet", "img_sise": 3}, r"did you mean img_size"),
        ({"bundle": "unet", "output_dir": "x"}, r"--output_dir is the second argument"),
        ({"bundle": "unet", "ckpt_path": "nowhere.pt"}, r"nowhere\.pt does not exist"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict(str(images), str(tmp_path / "out"), **changes)
    assert not labels_of(tmp_path / "out")


def test_inputs_that_cannot_be_told_apart_or_found(images: Path, volumes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copy(images / "three.nii.gz", images / "three.nii")
    for source, output, message in (
        (images, tmp_path / "out", r"three\.nii and three\.nii\.gz would both become"),
        (images, images, r"is input and output"),
        (images, tmp_path / "out.nii.gz", r"holds 4 cases, but .* is one file"),
        (tmp_path / "empty", tmp_path / "out", r"holds neither images .* nor DICOM series"),
        (tmp_path / "nowhere", tmp_path / "out", r"nowhere does not exist; give an image, a folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            predict(str(source), str(output), bundle="unet", **volumes)


def test_what_the_training_recorded_need_not_be_said(
    volumes: dict[str, Any], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Sizes and the network's options are those of the weights; what is given counts more."""
    weights = tmp_path / "weights" / "model.pt"
    weights.parent.mkdir()
    shutil.copy(volumes["ckpt_path"], weights)
    inside = {key: value for key, value in volumes.items() if "::" in key}  # of the network's definition, no ids
    ids = {key: value for key, value in volumes.items() if key not in ("ckpt_path", "device", *inside)} | {
        "out_channels": 9
    }
    write_json(weights.with_suffix(".json"), {"ids": {"preset": None, **ids}})
    call(images / "three.nii.gz", tmp_path / "said", bundle="unet", **volumes)
    call(images / "three.nii.gz", tmp_path / "recorded", bundle="unet", ckpt_path=str(weights), device="cpu", **inside)
    assert labels_of(tmp_path / "said") == labels_of(tmp_path / "recorded")
    assert json.loads((tmp_path / "recorded" / "predictions.json").read_text())["options"]["img_size"] == [48, 48]
    preset, options = as_trained("unet", None, {"ckpt_path": str(weights), "img_size": [64, 64]})
    assert preset is None and options["img_size"] == [64, 64] and options["out_channels"] == 9
    write_json(weights.with_suffix(".json"), {"checkpoint": file_hash(weights), "ids": {**ids, "preset": "acdc"}})
    assert as_trained("unet", None, {"ckpt_path": str(weights)})[0] == "acdc"
    assert "other weights" not in capsys.readouterr().out
    weights.write_bytes(weights.read_bytes() + b" ")
    assert as_trained("unet", None, {"ckpt_path": str(weights)})[0] == "acdc"
    assert "model.json was written for other weights" in capsys.readouterr().out
    assert as_trained("unet", "synapse", {"ckpt_path": str(weights)}) == ("synapse", {"ckpt_path": str(weights)})
    # ids that only the training's preset has
    write_json(weights.with_suffix(".json"), {"ids": {"preset": "robust_pictures", "in_channels": 3}})
    preset, options = as_trained("unet", None, {"ckpt_path": str(weights), "window": [0, 4095]})
    assert InferenceConfig("unet", preset, options)["reader"].window == [0, 4095]
    weights.with_suffix(".json").write_text("[]")
    with pytest.raises(UserError, match=r"model\.json is not the record of a training"):
        as_trained("unet", None, {"ckpt_path": str(weights)})
