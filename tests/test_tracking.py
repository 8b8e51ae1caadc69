"""MONAI's experiment tracking with a bundle: what MLflow gets, and why it gets no artifact by a plain output_dir."""

from pathlib import Path

import pytest

from scripts.catalog.bundles import BY_NAME
from tests.workflows import config_paths, run, training_overrides

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
UNET = BY_NAME["unet"]


@pytest.mark.slow
@pytest.mark.parametrize("save", [False, True])
def test_training_is_tracked(save: bool, ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(UNET, tmp_path, ct_dir, epochs=1, output_dir=str(tmp_path / "eval"))
    options |= {"save_execute_config": str(tmp_path / "run.json")} if save else {}
    run(config_paths(UNET, "train"), "train", "training", tracking="mlflow", experiment_name="trial", **options)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/eval/mlruns.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "trial"]
    (found,) = client.search_runs(experiment.experiment_id)
    assert found.data.metrics["train_loss"] > 0
    assert any("dice" in name for name in found.data.metrics)
    artifacts = [item.path for item in client.list_artifacts(found.info.run_id)]
    # docs/tracking.md says so: MONAI takes the plain path of output_dir for an expression
    assert len(artifacts) == save
