"""A MONAI Label app for the packed bundles in its folder ``model``; ``scripts.label`` copies it to ``main.py``.

What MONAI Label's own app for bundles does not do: a bundle without weights is served as soon as it has been trained,
weights are loaded strictly and from ``model.pt`` alone, label maps come back on the image's own grid by the bundle's
own transforms, mistakes are answered by an HTTP status and a sentence, and uncertainty works for any network.
"""

import csv
import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import monailabel
import requests
import torch
from fastapi import HTTPException
from monai.transforms import Activations, AsDiscreted, Invertd, SaveImaged
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.transform.writer import Writer

logger = logging.getLogger(__name__)
MODEL = "model.pt"
KEY_METRIC = "val_mean_dice"
UNCERTAINTY = "uncertainty"
SIMULATIONS = 4


class BundleApp(MONAILabelApp):
    """The server's program: one model for every folder in ``model``.

    Args:
        app_dir: the app's folder.
        studies: folder of images or address of a DICOMweb server.
        conf: ``uncertainty``, the bundle that the strategy of that name asks ("first": the first with weights).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        folders = sorted(path for path in Path(app_dir, "model").iterdir() if (path / "configs").is_dir())
        self.bundles = {folder.name: folder for folder in folders}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"Segmentation bundles (MONAI Label {monailabel.__version__})",
            description="U-shaped transformer, convolutional and hybrid segmentation networks",
            version=monailabel.__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """A task for each bundle, valid once there are weights."""
        return {name: BundleInfer(folder, self.conf) for name, folder in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """A task for each bundle."""
        return {name: BundleTrain(folder, self.conf) for name, folder in self.bundles.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        """How the next image to label is chosen."""
        chosen = Epistemic(desc="The image whose segmentation is the least certain, of those served least recently")
        return {UNCERTAINTY: chosen, "random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """What the strategy "uncertainty" goes by."""
        chosen = self.conf.get("uncertainty", "first")
        names = list(self.bundles) if chosen == "first" else [chosen]
        return {UNCERTAINTY: Uncertainty([self.bundles[name] for name in names], self.conf)}

    def info(self) -> dict[str, Any]:
        """As MONAI Label's, with bundles that were trained since the start."""
        for task in self._infers.values():
            task.refresh()
        return super().info()

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment an image.

        Raises:
            HTTPException: 404 for an unknown model or image, 409 for a model without weights, 422 for an image that
                cannot be read or does not suit the model, 500 for anything else.
        """
        name = request.get("model")
        task = self._with_weights(name)
        image = request.get("image")

        def segment() -> dict[str, Any]:
            if isinstance(image, str):
                task.check(self._path(image, datastore or self.datastore()))
            return super(BundleApp, self).infer(request, datastore)

        return _answered(segment, f"{name} failed on {image}")

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment many images; one that fails gets its sentence under ``error`` and the others are done.

        Raises:
            HTTPException: 404 for an unknown model, 409 for a model without weights.
        """
        self._with_weights(request.get("model"))
        if not torch.cuda.is_available():
            # MONAI Label would share the images among the GPUs, and divide by their number
            request = {**request, "multi_gpu": False, "device": "cpu"}

        def segment(single: dict[str, Any], studies: Datastore) -> dict[str, Any]:
            try:
                return self.infer(single, studies)
            except HTTPException as error:
                return {"error": error.detail}

        return self._batch_infer(request, datastore or self.datastore(), segment)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train on the labels that were submitted as final; the weights of the best validation become ``model.pt``.

        Raises:
            HTTPException: 404 for an unknown model, 422 for too few labels or labels that do not suit the model,
                500 for anything else.
        """
        name = request.get("model")
        self._known(self._trainers, name)
        labelled = len(self.datastore().datalist())
        if labelled < 2:
            raise HTTPException(
                422,
                f"Training needs 2 or more images with final labels, one of them to validate on; there are {labelled}.",
            )
        # never validated on what it was trained on: at least one image is kept for validation
        split = max(float(request.get("val_split", 0.2)), 1 / labelled)
        models = self.bundles[name] / "models"
        start = _weights(models) or models / MODEL
        # each of several processes needs images of its own, to train and to validate on
        validated = labelled - int((1 - split) * labelled + 0.5)  # as MONAI's partition_dataset counts
        several = min(validated, labelled - validated) >= torch.cuda.device_count()
        settings = {
            "model_filename": str(start.relative_to(models)),
            **request,
            "val_split": split,
            "multi_gpu": several and request.get("multi_gpu", True),
        }
        return _answered(lambda: super(BundleApp, self).train(settings), f"The training of {name} failed")

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """As MONAI Label's; 404 for a strategy that does not exist."""
        self._known(self._strategies, request.get("strategy") or "random", "strategy")
        return super().next_sample(request)

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """As MONAI Label's; 404 for a method that does not exist."""
        self._known(self._scoring_methods, request.get("method"), "scoring method")
        return super().scoring(request, datastore)

    def _download_dcmqi_tools(self) -> None:
        """MONAI Label fetches a program for DICOM SEG from the internet and does not start without."""
        try:
            super()._download_dcmqi_tools()
        except Exception as error:
            logger.warning("dcmqi's itkimage2segimage cannot be fetched (%s); DICOM SEG needs it on the PATH.", error)

    def _local_request(self, url: str, params: dict[str, Any] | None, action: str) -> Any:
        """A training in its own process asks the server for new scores; it is no failure of it if that fails."""
        try:
            answer = requests.post(f"http://127.0.0.1:{settings.MONAI_LABEL_SERVER_PORT}{url}", json=params or {})
        except OSError as error:
            logger.warning("%s could not be asked for: %s", action, error)
            return None
        if answer.ok:
            return answer.json()
        if answer.status_code == 429:  # too many
            logger.info("%s was under way already, so it was not started again.", action)
        else:
            logger.warning("%s could not be asked for: %s", action, answer.text)
        return None

    def _with_weights(self, name: Any) -> "BundleInfer":
        task = self._known(self._infers, name)
        task.refresh()
        if not task.is_valid():
            raise HTTPException(409, f"The bundle {name} has no weights yet; train it first: POST /train/{name}.")
        task.check_weights()
        return task

    def _known(self, tasks: dict[str, Any], name: Any, kind: str = "model") -> Any:
        if name not in tasks:
            raise HTTPException(404, f"There is no {kind} {name!r}; there are {', '.join(tasks)}.")
        return tasks[name]

    def _path(self, image: str, datastore: Datastore) -> str:
        path = image if Path(image).exists() else datastore.get_image_uri(image)
        if not path or not Path(path).exists():
            raise HTTPException(404, f"There is no image {image!r} in the studies.")
        return path


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
        weights = _weights(Path(self._arguments["path"], "models"))
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

    def config(self) -> dict[str, Any]:
        """As MONAI Label's, for one file of weights."""
        return super().config() | {"model_filename": [MODEL]}

    def stats(self) -> dict[str, Any]:
        """Of the latest training here, or of that of the weights the bundle came with: as MONAI Label's ``/info/``."""
        log, record = (Path(self.bundle_path, name) for name in ("eval/metrics.csv", "models/model.json"))
        if log.is_file():
            with log.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return _stats(rows, float(rows[-1]["loss"]))
        if record.is_file():
            return _stats([json.loads(record.read_text(encoding="utf-8"))], None)
        return {}

    def run_multi_gpu(self, request: dict[str, Any], cmd: list[str], env: dict[str, str]) -> None:
        """In a process per GPU, as MONAI Label does, which says that training is done also where it failed.

        Raises:
            RuntimeError: a process has failed.
        """
        if (
            "--tracking" in cmd and cmd[cmd.index("--tracking") + 1] == "None"
        ):  # the first of the choices that it offers
            cmd = cmd[: cmd.index("--tracking")]
        done = subprocess.run(cmd, env=env, check=False)
        if done.returncode:
            raise RuntimeError(f"The training's processes ended with code {done.returncode}; the log says why.")

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        metadata = json.loads(Path(self.bundle_metadata_path).read_text(encoding="utf-8"))
        names = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        overrides["class_names"] = [names[str(i)] for i in range(len(names))]
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
            logger.warning("%s was not scored: %s", image_id, _reason(error))


def _stats(rows: list[dict[str, Any]], loss: float | None) -> dict[str, Any]:
    """Epochs, with their scores on the validation split, in the words of MONAI Label's own trainings."""
    scored = [(float(row[KEY_METRIC]), int(row["epoch"])) for row in rows if row.get(KEY_METRIC)]
    found: dict[str, Any] = {"epoch": int(rows[-1]["epoch"])}
    if loss is not None:
        found["train"] = {"metrics": {"train_loss": loss}}
    if scored:
        best, epoch = max(scored, key=lambda score: score[0])
        metrics = {KEY_METRIC: scored[-1][0]}
        names = {"key_metric_name": KEY_METRIC, "best_metric": best, "best_metric_epoch": epoch}
        found |= {"best_metric": best, "eval": {"metrics": metrics, **names}}
    return found


def _weights(models: Path) -> Path | None:
    """The newest weights of a bundle: a training moves those of the one before it aside when it starts."""
    found = [*sorted(models.glob(f"earlier/*/{MODEL}")), *models.glob(MODEL)]
    return found[-1] if found else None


def _answered(do: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
    """The result, or the reason for a failure as an HTTP status with a sentence."""
    try:
        return do()
    except HTTPException:
        raise
    except Exception as error:
        logger.exception(what)
        is_input = isinstance(_chain(error)[-1], ValueError | FileNotFoundError)
        raise HTTPException(422 if is_input else 500, f"{what}: {_reason(error)}") from error


def _chain(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_chain(error.__cause__ or error.__context__)]


def _reason(error: BaseException) -> str:
    """The first cause in one line: MONAI wraps errors in pages of advice."""
    first = _chain(error)[-1]
    text = first.msg if isinstance(first, MONAILabelException) else str(first)
    return (text.strip().splitlines() or [type(first).__name__])[0][:500]
