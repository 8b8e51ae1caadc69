"""Weights that come with the bundles: as small as half precision makes them, and known by their name."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from networks.errors import UserError
from networks.state_dicts import read_weights
from networks.workflow.files import file_hash
from scripts import opened_bundle
from scripts.catalog.bundles import BY_NAME
from scripts.opened_bundle import shipped_weights
from scripts.predict.predicting import predict
from scripts.render.bundle import NO_WEIGHTS
from scripts.render.shipped import data_licences, section, statement
from scripts.zoo import ship as command
from scripts.zoo.static_checks import check_weights
from scripts.zoo.weights import shipped
from tests.packing import NAME
from tests.workflows import ROOT, config_paths, run


@pytest.fixture
def repository(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a trained bundle in a repository of its own."""
    shutil.copytree(trained / "bundles", tmp_path / "bundles")
    shutil.copytree(ROOT / "bundles" / NAME / "configs", tmp_path / "bundles" / NAME / "configs", dirs_exist_ok=True)
    monkeypatch.setattr(opened_bundle, "ROOT", tmp_path)
    return tmp_path / "bundles" / NAME


def test_weights_are_shipped_scored_and_used(repository: Path, ct_dir: Path, tmp_path: Path, monkeypatch) -> None:
    checkpoint = repository / "models" / "model.pt"
    path = command.ship(str(repository), "phantom", str(checkpoint))
    assert path == repository / "trained" / "phantom.safetensors"
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["checkpoint"] == file_hash(path) and record["evaluations"] == []
    full, half = read_weights(checkpoint), read_weights(path)
    assert full.keys() == half.keys()
    for key, tensor in full.items():
        assert half[key].dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
        torch.testing.assert_close(half[key].to(tensor.dtype), tensor, atol=1e-3, rtol=1e-3)

    ids = record["ids"] | {"dataset_dir": str(ct_dir), "ckpt_path": str(path), "device": "cpu", "num_workers": 0}
    del ids["preset"]
    ids |= {"output_dir": str(tmp_path / "eval"), "bundle_root": str(repository)}
    run(config_paths(BY_NAME[NAME], "train", "evaluate"), "train", **ids)
    scores = str(tmp_path / "eval" / "results_strict.jsonl")
    command.ship(str(repository), "phantom", str(checkpoint), f"{scores},{scores}")
    record = json.loads(path.with_suffix(".json").read_text())
    assert [item["protocol"] for item in record["evaluations"]] == ["strict"]
    command.ship(str(repository), "phantom", str(checkpoint))
    assert json.loads(path.with_suffix(".json").read_text()) == record
    command.ship(str(repository), "phantom", str(checkpoint), str(_of_another_list(scores)))
    assert [item["split"] for item in json.loads(path.with_suffix(".json").read_text())["evaluations"]] == [
        "test",
        "validation",
    ]
    with pytest.raises(UserError, match="evaluate exactly that file"):
        command.ship(str(repository), "other", str(repository / "models" / "model.pt"), str(_of_others(scores)))

    assert shipped_weights("phantom") == [path]
    with pytest.raises(SystemExit) as end:
        predict(str(ct_dir), str(tmp_path / "predicted"), trained="phantom", device="cpu")
    assert end.value.code == 0
    said = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    assert said["weights"] == {"file": path.name, "sha256": file_hash(path)}
    assert said["options"]["img_size"] == record["ids"]["img_size"]
    for mistake, sentence in (
        ({"trained": "none"}, "No weights called 'none' come with the bundles; there are phantom"),
        ({"trained": "phantom", "bundle": NAME}, "give no --bundle, --model or --ckpt_path beside it"),
    ):
        with pytest.raises(UserError, match=sentence):
            predict(str(ct_dir), str(tmp_path / "other"), **mistake)

    monkeypatch.setattr(command, "LIMIT", 1000)
    with pytest.raises(UserError, match="train a smaller network"):
        command.ship(str(repository), "large", str(checkpoint))
    (repository / "models" / "model.json").unlink()
    with pytest.raises(UserError, match=r"its record model\.json are not both there"):
        command.ship(str(repository), "phantom", str(checkpoint))


RECORD = {
    "data_set": {"name": "EM", "description": "Membranes.", "training": 20, "validation": 5, "licence": "CC BY 4.0"},
    "ids": {"preset": "robust_pictures"},
    "evaluations": [
        {
            "protocol": "strict",
            "data_set": "EM",
            "split": "test",
            "cases": 5,
            "scores": {"dice": 0.912345, "iou": 0.8},
        }
    ],
}


def test_documents_say_what_weights_are() -> None:
    assert statement({}) == NO_WEIGHTS and section({}) == ""
    assert statement({"em": RECORD}) == "Small weights come with this bundle, in trained/: em (trained on EM)."
    text = section({"em": RECORD})
    assert "trained on 20 cases of EM (Membranes), 5 for" in text and "Licence of the data: CC BY 4.0." in text
    assert "python -m scripts.predict IMAGES OUTPUT --trained em" in text
    assert "| strict | EM, test | 5 | dice 0.9123, iou 0.8 |" in text
    flipped = RECORD | {"evaluations": [RECORD["evaluations"][0] | {"tta": True}]}
    assert "| strict with --tta true | EM, test | 5 |" in section({"em": flipped})
    scored = {"scores": {"dice": 0.9}, "counts": {"dice": "n=4, 1 missing", "hd95, pixel": "n=0, 5 infinite"}}
    told = section({"em": RECORD | {"evaluations": [RECORD["evaluations"][0] | scored]}})
    assert "| dice 0.9 n=4, 1 missing, hd95, pixel none n=0, 5 infinite |" in told
    assert data_licences({"em": RECORD}) == "trained/em.safetensors was trained on EM (Membranes): CC BY 4.0\n"
    assert "| protocol |" not in section({"em": RECORD | {"evaluations": []}})


def test_a_bundle_has_the_weights_it_describes(tmp_path: Path) -> None:
    weights = tmp_path / "trained" / "em.safetensors"
    for folder in ("trained", "configs"):
        (tmp_path / folder).mkdir()
    weights.write_bytes(b"weights")
    metadata = {"shipped_weights": {"em": RECORD | {"checkpoint": file_hash(weights)}}}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    assert check_weights(tmp_path) == "em in trained"
    for damage in (lambda: weights.write_bytes(b"others"), weights.unlink):
        damage()
        with pytest.raises(UserError, match=r"describes trained/em\.safetensors, which is missing or another file"):
            check_weights(tmp_path)


def test_weights_never_pass_with_the_record_of_others(repository: Path, tmp_path: Path, monkeypatch) -> None:
    checkpoint = repository / "models" / "model.pt"
    path = command.ship(str(repository), "phantom", str(checkpoint))
    _, weights = shipped("phantom", tmp_path)
    assert weights.training["checkpoint"] == file_hash(tmp_path / "model.pt")

    other = _with_record({key: tensor + 1 for key, tensor in read_weights(checkpoint).items()}, repository, tmp_path)
    monkeypatch.setattr(command, "atomic", _stop)
    with pytest.raises(KeyboardInterrupt):
        command.ship(str(repository), "phantom", other)
    for damage in (lambda: None, path.with_suffix(".json").unlink):
        damage()
        with pytest.raises(UserError, match=r"phantom\.json is missing or about other weights than .*; restore both"):
            shipped("phantom", tmp_path)


def test_what_half_precision_cannot_hold_keeps_its_own(repository: Path, tmp_path: Path) -> None:
    state = read_weights(repository / "models" / "model.pt")
    large, small = [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.ndim > 1][:2]
    state |= {large: torch.full_like(state[large], 1e5), small: state[small] * 1e-7}
    shipped_state = read_weights(command.ship(str(repository), "phantom", _with_record(state, repository, tmp_path)))
    for name in (large, small):
        assert torch.equal(shipped_state[name], state[name])


def test_mistakes_ship_nothing(repository: Path, tmp_path: Path) -> None:
    checkpoint, taken = str(repository / "models" / "model.pt"), tmp_path / "bundles" / "unet" / "trained"
    taken.mkdir(parents=True)
    (taken / "phantom.safetensors").write_bytes(b"others")
    for name, sentence in (("phantom", r"phantom\.safetensors already"), ("unet", "unet is a bundle already")):
        with pytest.raises(UserError, match=f"{sentence}; give the weights another name"):
            command.ship(str(repository), name, checkpoint)
    state = {f"other.{key}": tensor for key, tensor in read_weights(checkpoint).items()}
    with pytest.raises(UserError, match="of another architecture"):
        command.ship(str(repository), "other", _with_record(state, repository, tmp_path))
    assert not list(repository.glob("trained/*"))


def test_weights_of_the_repository_have_their_own_records(tmp_path: Path) -> None:
    for file in shipped_weights():
        bundle, weights = shipped(file.stem, tmp_path / file.stem)
        assert bundle.name == file.parent.parent.name and weights.evaluations


def _with_record(state: dict, repository: Path, folder: Path) -> str:
    """Weights with the record of the repository's training."""
    path = folder / "other.pt"
    torch.save(state, path)
    record = json.loads((repository / "models" / "model.json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | {"checkpoint": file_hash(path)}))
    return str(path)


def _stop(*_) -> None:
    raise KeyboardInterrupt


def _of_others(scores: str) -> Path:
    """The same scores, of other weights."""
    return _changed(scores, checkpoint="0" * 64)


def _of_another_list(scores: str) -> Path:
    return _changed(scores, split="validation")


def _changed(scores: str, **values: str) -> Path:
    path = Path(scores).with_name("results_other.jsonl")
    records = [json.loads(line) | values for line in Path(scores).read_text().splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
