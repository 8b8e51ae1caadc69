"""Images that are prepared in another way than in the training are told, before anyone believes the scores."""

from pathlib import Path
from typing import Any

import pytest
import torch

from networks.workflow import warn_of_other_input
from networks.workflow.files import file_hash, write_json
from networks.workflow.records import read_records
from tests.predicting import VOLUMES, write_weights
from tests.workflows import ROOT, config_paths, run, tiny_overrides

IDS = {"preset": "synapse", "intensity_range": [-125, 275], "img_size": [48, 48]}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file with the record of its training."""
    path = tmp_path / "model.pt"
    torch.save({}, path)
    write_json(path.with_suffix(".json"), {"checkpoint": file_hash(path), "ids": IDS})
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"intensity_range": (-125.0, 275.0)}, ""),
        ({"intensity_percentiles": [1, 99]}, ""),  # not in the record, maybe of an earlier version
        ({"intensity_range": None}, "intensity_range [-125, 275], and this run has intensity_range null"),
        ({"preset": None, "img_size": [64, 64]}, 'preset "synapse", img_size [48, 48], and this run has preset null'),
    ],
)
def test_other_values_are_told(weights: Path, changed: dict[str, Any], said: str, caplog) -> None:
    other = warn_of_other_input(weights, {**IDS, **changed}, ROOT / "bundles/unet")
    assert said in caplog.text and bool(said) == bool(caplog.records)
    assert other == (changed if said else {})


def test_nothing_is_said_without_a_fitting_record(weights: Path, tmp_path: Path, caplog) -> None:
    """Packed bundles have the preset in their configs, and a record may be of other weights."""
    packed = tmp_path / "packed"
    (packed / "configs").mkdir(parents=True)
    (packed / "configs" / "metadata.json").touch()
    warn_of_other_input(weights, {**IDS, "preset": None}, packed)
    weights.write_bytes(weights.read_bytes() + b" ")
    warn_of_other_input(weights, {**IDS, "img_size": [64, 64]}, ROOT / "bundles/unet")
    weights.with_suffix(".json").unlink()
    warn_of_other_input(weights, {**IDS, "img_size": [64, 64]}, ROOT / "bundles/unet")
    assert not caplog.records


def test_a_folder_of_results_tells_nothing_of_presets(weights: Path, tmp_path: Path, caplog) -> None:
    """With ``--bundle_root`` elsewhere a forgotten preset is told; a packed bundle's weights lie in its folder."""
    warn_of_other_input(weights, {**IDS, "preset": None}, tmp_path / "results")
    assert 'preset "synapse", and this run has preset null' in caplog.text
    caplog.clear()
    models = tmp_path / "packed" / "models"
    models.mkdir(parents=True)
    for file in (weights, weights.with_suffix(".json")):
        file.rename(models / file.name)
    (tmp_path / "packed" / "configs").mkdir()
    (tmp_path / "packed" / "configs" / "metadata.json").touch()
    warn_of_other_input(models / weights.name, {**IDS, "preset": None}, tmp_path / "results")
    assert not caplog.records


@pytest.mark.parametrize(("files", "kind"), [(("inference",), "inference"), (("train", "evaluate"), None)])
def test_bundles_tell(files: tuple[str, ...], kind: str | None, ct_dir: Path, tmp_path: Path, caplog) -> None:
    """Evaluation and inference with another range of intensities than the training's, and with the same.

    The scores of an evaluation tell as well.
    """
    (tmp_path / "models").mkdir()
    write_weights(VOLUMES, tmp_path / "models")
    record = {"ids": {"preset": None, "intensity_range": [0, 400], "img_size": [48, 48]}}
    write_json(tmp_path / "models" / "model.json", record)
    options = tiny_overrides(VOLUMES, tmp_path, ct_dir)
    run(config_paths(VOLUMES, *files), kind, **options)
    (told,) = [r.getMessage() for r in caplog.records if "was trained with" in r.getMessage()]
    assert "intensity_range [0, 400], and this run has intensity_range [-125, 275]" in told
    if kind is None:
        scored = read_records(tmp_path / "eval" / "results_strict.jsonl")
        assert all(record["other_input"] == {"intensity_range": [-125, 275]} for record in scored)
    caplog.clear()
    run(config_paths(VOLUMES, *files), kind, **options, output_dir=str(tmp_path / "again"), intensity_range=[0, 400])
    assert "was trained with" not in caplog.text
    if kind is None:
        assert not any("other_input" in r for r in read_records(tmp_path / "again" / "results_strict.jsonl"))
