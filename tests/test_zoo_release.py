"""From a suite's runs to a folder that can be uploaded."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from monai.bundle import load

from networks.errors import UserError
from networks.workflow.files import file_hash, write_json
from networks.workflow.records import read_records, write_records
from scripts.experiments.runs import RunFolder
from scripts.experiments.suite import load_suite
from scripts.zoo.card import model_card
from scripts.zoo.release import release
from tests.packing import NAME


@pytest.fixture
def suite(trained: Path, ct_dir: Path, tmp_path: Path) -> Path:
    """Two runs that are done, with other weights each, of which the second has the better validation."""
    path = tmp_path / "trial.json"
    content = {
        "name": "trial",
        "description": "a trial",
        "data_sets": {"CT, small": {"dataset_dir": str(ct_dir), "preset": "synapse"}},
        "networks": {"A": {"bundle": NAME}},
        "recipes": {"short": {}},
        "seeds": [0, 1, 2],
        "protocols": ["strict"],
    }
    write_json(path, content)
    source = trained / "bundles" / NAME
    for seed, run in enumerate(load_suite(str(path)).runs[:2]):
        folder = RunFolder(run, tmp_path / "runs")
        shutil.copytree(source / "models", folder.path / "models")
        record = json.loads((source / "models" / "model.json").read_text())
        write_json(folder.path / "models" / "model.json", record | {"val_mean_dice": 0.1 + seed, "epoch": seed})
        (scores,) = folder.score_files()
        records = read_records(source / "eval" / "results_strict.jsonl")
        scores.parent.mkdir(parents=True)
        write_records(scores, records)
        write_json(folder.path / "run.json", {"spec": run.spec(), "done": dict.fromkeys(folder.steps), "error": ""})
    return path


def test_the_best_run_is_released(suite: Path, tmp_path: Path) -> None:
    output = tmp_path / "release"
    (path,) = release(
        str(suite), str(tmp_path / "runs"), str(output), base_url="http://localhost:1", train=False, only="seed"
    )
    assert path.name == f"{NAME}_ct_small_v0.1.0.zip"
    info = json.loads((output / "model_info.json").read_text())
    assert info[path.stem]["source"] == f"http://localhost:1/{path.name}"
    shutil.unpack_archive(path, tmp_path / "zoo")
    folder = tmp_path / "zoo" / f"{NAME}_ct_small"
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["trained_weights"]["epoch"] == 1
    assert file_hash(folder / "models" / "model.pt") == metadata["evaluations"][0]["checkpoint"]
    assert load(folder.name, bundle_dir=str(folder.parent)) is not None
    card = ModelCard((output / f"{path.stem}_README.md").read_text())
    assert card.data.model_name == folder.name and card.data.license == "apache-2.0"
    (dice,) = (result for result in card.data.eval_results if result.metric_type == "dice")
    assert dice.metric_value == metadata["evaluations"][0]["scores"]["dice"] and dice.dataset_split == "test"
    assert (
        "## **Limitations**" in card.text and card.text.strip() == (folder / "docs" / "README.md").read_text().strip()
    )


def test_nothing_to_release(suite: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No run of .* with 'seed2' in its name is done"):
        release(str(suite), str(tmp_path / "runs"), str(tmp_path / "release"), train=False, only="seed2")
    with pytest.raises(UserError, match=r"No run of \S* is done"):
        release(str(suite), str(tmp_path / "none"), str(tmp_path / "release"), train=False)
    assert not (tmp_path / "release").exists()


def test_runs_without_a_score_to_choose_by(suite: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "runs").rglob("model.json"):
        record = json.loads(file.read_text())
        del record["val_mean_dice"]
        write_json(file, record)
    with pytest.raises(
        UserError,
        match=r"no val_mean_dice, by which one of several runs .* name one run by --only",
    ):
        release(str(suite), str(tmp_path / "runs"), str(tmp_path / "release"), train=False)


def test_data_sets_of_one_name_are_not_the_best_of_each_other(ct_dir: Path, tmp_path: Path) -> None:
    data = {"dataset_dir": str(ct_dir), "preset": "synapse"}
    content = {
        "name": "trial",
        "description": "a trial",
        "data_sets": {"CT_small": data, "CT small": data},
        "networks": {"A": {"bundle": NAME}},
        "recipes": {"short": {}},
        "seeds": [0],
        "protocols": ["strict"],
    }
    write_json(tmp_path / "trial.json", content)
    with pytest.raises(UserError, match=f"'CT_small' and 'CT small', both {NAME}_ct_small; rename one"):
        release(str(tmp_path / "trial.json"), str(tmp_path / "runs"), str(tmp_path / "release"))


def test_card_of_weights_under_the_licence_of_their_data() -> None:
    data = {"name": "EM", "licence": "CC BY-SA 4.0"}
    card = ModelCard(model_card("unet_em", {"trained_weights": {"data_set": data}}, "# U-Net\n"))
    assert (card.data.license, card.data.license_name) == ("other", "CC BY-SA 4.0")
    assert card.data.license_link == "docs/data_license.txt" and card.data.eval_results is None
