"""What a MONAI Label app does with a packed bundle: inference, training and uncertainty.

``scripts.label`` copies it into the app, where ``main.py`` imports it.
"""

import csv
import json
import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monai.handlers import CheckpointLoader
from monai.transforms import Activations, AsDiscreted, Invertd, SaveImaged
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.transform.writer import Writer

logger = logging.getLogger(__name__)
MODEL = "model.pt"
KEY_METRIC = "val_mean_dice"
SIMULATIONS = 4
SETTINGS = ("learning_rate", "batch_size", "slices_per_epoch", "crops_per_image")  # of a training, beside max_epochs


class BundleInfer(BundleInferTask):
    """Inference with a bundle.

    Args:
        folder: of the bundle.
        conf: the app's.
        **others: of MONAI Label's task.
    """

    def __init__(self, folder: Path, conf: dict[str, str], **others: Any) -> None:
        self.valid = False
        self._checked: tuple[str, int] | None = None
        self._arguments = {"path": str(folder), "conf": conf, "load_strict": True, "add_post_restore": False, **others}
        self.refresh()

    def refresh(self) -> None:
        """Become valid when there are weights."""
        if self.valid or not Path(self._arguments["path"], "models", MODEL).is_file():
            return
        super().__init__(**self._arguments)
        # last.pt lies beside it, whose shorter name MONAI Label would prefer
        self._config["model_filename"] = [MODEL]
        # the network takes slices, the model takes what its transforms take
        self.dimension = self.bundle_config.get_parsed_content("spatial_dims")

    def is_valid(self) -> bool:
        """Whether there are weights."""
        return self.valid

    def get_path(self, validate: bool = True) -> str | None:
        """The weights; until a new training has validated, those of the one before."""
        weights = newest_weights(Path(self._arguments["path"], "models"))
        return str(weights) if weights else super().get_path(validate)

    def check_weights(self) -> None:
        """Raise HTTPException 409 with a sentence if the weights do not fit the network or are no numbers."""
        path = str(self.get_path())
        found = path, Path(path).stat().st_mtime_ns
        if found == self._checked:
            return
        workflow, network = (self.bundle_config.get_parsed_content(key) for key in ("workflow", "network_def"))
        try:
            workflow.load_weights(network, path)
        except ValueError as error:
            raise HTTPException(409, str(error)) from error
        self._checked = found

    def check(self, path: str) -> None:
        """Raise HTTPException 422 with a sentence if the bundle cannot segment an image."""
        config = {key: self.bundle_config.get_parsed_content(key) for key in ("in_channels", "reader", "spatial_dims")}
        workflow = self.bundle_config.get_parsed_content("workflow")
        try:
            workflow.check_cases([{"image": path}], **config)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the label map with the image's own affine, as NIfTI for volumes and PNG for pictures by default."""
        formats = {2: ".png", 3: ".nii.gz"}
        data["result_extension"] = extension or data.get("result_extension") or formats[self.dimension]
        data["result_dtype"] = dtype or data.get("result_dtype") or "uint8"
        data["labels"] = self.labels
        data[self.output_label_key] = data[self.output_label_key][0]  # without the channel
        return Writer(label=self.output_label_key, json=self.output_json_key, nibabel=True)(data)


class BundleTrain(BundleTrainTask):
    """Training of a bundle."""

    def __init__(self, folder: Path, conf: dict[str, str]) -> None:
        super().__init__(str(folder), conf, load_strict=True)
        self._request: dict[str, Any] = {}

    def config(self) -> dict[str, Any]:
        """As MONAI Label's, for one file of weights, and with settings of the bundle's training."""
        return super().config() | {"model_filename": [MODEL]} | self._settings()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> Any:
        """Train as MONAI Label does, with the settings that the request has.

        Raises:
            ValueError: a setting is no positive number of its kind.
        """
        for name, default in self._settings().items():
            value, whole = request.get(name, default), isinstance(default, int)
            if not isinstance(value, int if whole else int | float) or value <= 0:
                raise ValueError(f"{name} is {value!r}; give a positive {'whole ' * whole}number.")
        self._request = request
        return super().__call__(request, datastore)

    def _settings(self) -> dict[str, Any]:
        found = {name: self.bundle_config.get(name) for name in SETTINGS}
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    def stats(self) -> dict[str, Any]:
        """Of the latest training here, or of that of the weights the bundle came with: as MONAI Label's ``/info/``."""
        log, record = (Path(self.bundle_path, name) for name in ("eval/metrics.csv", "models/model.json"))
        if log.is_file():
            with log.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return _stats(rows, rows[-1]["loss"])
        found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        return _stats([found], "") if "epoch" in found else {}  # compressed weights are of no epoch

    def run_multi_gpu(self, request: dict[str, Any], cmd: list[str], env: dict[str, str]) -> None:
        """In a process per GPU, as MONAI Label does, which says that training is done also where it failed.

        Raises:
            RuntimeError: a process has failed.
        """
        at = cmd.index("--tracking") if "--tracking" in cmd else len(cmd)
        if cmd[at + 1 : at + 2] == ["None"]:  # the first of the choices that it offers; nothing comes after them
            cmd = cmd[:at]
        done = subprocess.run(cmd, env=env, check=False)
        if done.returncode:
            raise RuntimeError(f"The training's processes ended with code {done.returncode}; the log says why.")

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[dict[str, Any]]) -> None:
        # MONAI Label's knows model.pt only, which a training that was stopped before its first validation has not left
        weights = newest_weights(Path(model_pytorch).parent) if pretrained else None
        # the list is the bundle's own, which may have the loader of the training before
        train_handlers[:] = [handler for handler in train_handlers if not _loads(handler)]
        if weights:
            super()._load_checkpoint(str(weights), True, train_handlers)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        metadata = json.loads(Path(self.bundle_metadata_path).read_text(encoding="utf-8"))
        names = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        overrides["class_names"] = [names[str(i)] for i in range(len(names))]
        overrides |= {name: self._request[name] for name in self._settings().keys() & self._request.keys()}
        # MONAI Label sets the trainer's alone, but learning rates decay over the bundle's
        overrides["epochs"] = overrides[self.const.key_train_trainer_max_epochs()]
        overrides["val_interval"] = min(self.bundle_config.get("val_interval"), overrides["epochs"])
        # a few corrections may make good weights worse
        overrides["val_at_start"] = any(map(_loads, overrides[self.const.key_train_handlers()]))
        # a phantom is no part of these studies
        overrides["dataset_dir"] = str(Path(overrides[self.const.key_train_dataset_data()][0]["image"]).parent)
        return overrides


class FlippedInfer(BundleInfer):
    """Class probabilities of an image that is flipped at random and back, on the network's grid."""

    def __init__(self, folder: Path, conf: dict[str, str]) -> None:
        super().__init__(folder, conf, skip_writer=True, post_filter=[SaveImaged, Invertd, AsDiscreted])

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda") -> dict[str, Any]:
        """As MONAI Label's, between two flips along the image's rows, columns, both or neither."""
        axes = [axis for axis in (1, 2) if torch.rand(()) < 0.5]
        data[self.input_key] = torch.flip(data[self.input_key], axes)
        data = super().run_inferer(data, convert_to_batch, device)
        pred = torch.flip(data[self.output_label_key].float().cpu(), axes)
        data[self.output_label_key] = Activations(softmax=True)(pred)
        return data


class Uncertainty(ScoringMethod):
    """Entropy of the mean prediction over random flips (test-time augmentation; Wang et al., Neurocomputing 2019).

    Dropout, which MONAI Label's app asks for, is not part of most of these networks.

    Args:
        folders: of the bundles; the first with weights is asked.
        conf: the app's.
    """

    def __init__(self, folders: Sequence[Path], conf: dict[str, str]) -> None:
        super().__init__("Entropy of the mean prediction over flips of the image")
        self.folders, self.conf = folders, conf

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score the unlabelled images that were not scored with these weights; nothing without weights."""
        for folder in self.folders:
            task = FlippedInfer(folder, self.conf)
            if task.is_valid():
                return _Scoring(task, simulation_size=SIMULATIONS)(request, datastore)
        return {"skipped": "no bundle has weights"}


class _Scoring(EpistemicScoring):
    def run_scoring(self, image_id: str, *others: Any) -> None:
        """As MONAI Label's; an image that cannot be read does not keep the others from being scored."""
        try:
            super().run_scoring(image_id, *others)
        except Exception as error:
            logger.warning("%s was not scored: %s", image_id, reason(error))


def _loads(handler: dict[str, Any]) -> bool:
    return handler["_target_"] == CheckpointLoader.__name__


def _stats(rows: list[dict[str, Any]], loss: str) -> dict[str, Any]:
    """Epochs, with their scores on the validation split, in the words of MONAI Label's own trainings.

    Epoch 0, which is what a training starts from, has no loss.
    """
    scored = [(float(row[KEY_METRIC]), int(row["epoch"])) for row in rows if row.get(KEY_METRIC)]
    found: dict[str, Any] = {"epoch": int(rows[-1]["epoch"])}
    if loss:
        found["train"] = {"metrics": {"train_loss": float(loss)}}
    if scored:
        best, epoch = max(scored, key=lambda score: score[0])
        metrics = {KEY_METRIC: scored[-1][0]}
        names = {"key_metric_name": KEY_METRIC, "best_metric": best, "best_metric_epoch": epoch}
        found |= {"best_metric": best, "eval": {"metrics": metrics, **names}}
    return found


def newest_weights(models: Path) -> Path | None:
    """The newest weights of a bundle: a training moves those of the one before it aside when it starts."""
    found = [*sorted(models.glob(f"earlier/*/{MODEL}")), *models.glob(MODEL)]
    return found[-1] if found else None


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from, the first cause last."""
    return [] if error is None else [error, *causes(error.__cause__ or error.__context__)]


def reason(error: BaseException) -> str:
    """The first cause in one line: MONAI wraps errors in pages of advice."""
    first = causes(error)[-1]
    text = first.msg if isinstance(first, MONAILabelException) else str(first)
    return (text.strip().splitlines() or [type(first).__name__])[0][:500]
