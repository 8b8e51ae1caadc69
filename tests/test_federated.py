"""MONAI's federated learning with a bundle as it is: a client's training, evaluation, weights and statistics."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.fl.client import MonaiAlgo, MonaiAlgoStats
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType
from monai.fl.utils.exchange_object import ExchangeObject

from networks.workflow.records import read_records
from scripts.catalog.bundles import BY_NAME
from tests.workflows import ROOT, same_state, tiny_overrides

BUNDLE = BY_NAME["attention_unet"]
pytestmark = pytest.mark.filterwarnings("ignore:executing the bundle config")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A client's folder with the bundle, which has no weights."""
    shutil.copytree(ROOT / "bundles" / BUNDLE.name / "configs", tmp_path / BUNDLE.name / "configs")
    return tmp_path


@pytest.fixture
def options(site: Path, ct_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of the client; with the bundle's folder as the working one, as a federation's runner has it."""
    monkeypatch.chdir(site / BUNDLE.name)
    found = tiny_overrides(BUNDLE, site, ct_dir, batch_size=4, cache_rate=0.0)
    del found["bundle_root"]  # which MonaiAlgo sets
    return found


def test_client_trains_evaluates_and_gives_weights(site: Path, options: dict[str, Any]) -> None:
    algo = MonaiAlgo(BUNDLE.name, send_weight_diff=False, train_kwargs=dict(options), eval_kwargs=dict(options))
    algo.initialize({ExtraItems.CLIENT_NAME: "site-1", ExtraItems.APP_ROOT: str(site)})
    assert algo.trainer.state.max_epochs == 1
    start = {name: tensor.clone() for name, tensor in algo.trainer.network.state_dict().items()}
    algo.train(ExchangeObject(weights=start))
    trained = algo.get_weights()
    assert not same_state(trained.weights, start)
    assert trained.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] > 0
    final = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.FINAL_MODEL}).weights
    assert same_state(final, trained.weights)
    best = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
    assert same_state(best, torch.load(site / BUNDLE.name / "models" / "model.pt", weights_only=True))

    # the server's weights are what is evaluated, not those of model.pt, and its scores are nobody else's
    metrics = algo.evaluate(ExchangeObject(weights=start)).metrics
    assert same_state(algo.evaluator.network.state_dict(), start)
    assert 0 <= metrics["dice"] <= 1
    records = read_records(site / BUNDLE.name / "eval" / "results_strict.jsonl")
    assert {record["checkpoint"] for record in records} == {None}
    algo.finalize()


def test_statistics_of_a_clients_data(site: Path, ct_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = site / BUNDLE.name / "configs" / "train.json"
    config.write_text(config.read_text().replace('"data/ct_phantom"', f'"{ct_dir}"'))
    stats = MonaiAlgoStats(BUNDLE.name)
    stats.initialize({ExtraItems.CLIENT_NAME: "site-1", ExtraItems.APP_ROOT: str(site)})
    found = stats.get_data_stats({FlStatistics.HIST_BINS: [10], FlStatistics.HIST_RANGE: [[-1000.0, 1000.0]]})
    assert {part: found.statistics[part][FlStatistics.DATA_COUNT] for part in ("train", "eval")} == {
        "train": 3,
        "eval": 2,
    }
    assert found.statistics["train"][FlStatistics.FAIL_COUNT] == 0
    assert found.statistics[FlStatistics.TOTAL_DATA][FlStatistics.DATA_COUNT] == 5
