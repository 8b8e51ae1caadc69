"""A MONAI Label app for the packed bundles in its folder ``model``; ``scripts.label`` copies it to ``main.py``.

What MONAI Label's own app for bundles does not do: a bundle without weights is served as soon as it has been trained,
weights are loaded strictly and from ``model.pt`` alone, label maps come back on the image's own grid by the bundle's
own transforms, mistakes are answered by an HTTP status and a sentence, and uncertainty works for any network.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monailabel
import requests
import torch
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel_tasks import MODEL, BundleInfer, BundleTrain, Uncertainty, causes, newest_weights, reason

logger = logging.getLogger(__name__)
UNCERTAINTY = "uncertainty"


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
        start = newest_weights(models) or models / MODEL
        # each of several processes needs images of its own, to train and to validate on
        validated = labelled - int((1 - split) * labelled + 0.5)  # as MONAI's partition_dataset counts
        several = min(validated, labelled - validated) >= torch.cuda.device_count()
        asked = {
            "model_filename": str(start.relative_to(models)),
            **request,
            "val_split": split,
            "multi_gpu": several and request.get("multi_gpu", True),
        }
        return _answered(lambda: super(BundleApp, self).train(asked), f"The training of {name} failed")

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

    def _with_weights(self, name: Any) -> BundleInfer:
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


def _answered(do: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
    """The result, or the reason for a failure as an HTTP status with a sentence."""
    try:
        return do()
    except HTTPException:
        raise
    except Exception as error:
        logger.exception(what)
        is_input = isinstance(causes(error)[-1], ValueError | FileNotFoundError)
        raise HTTPException(422 if is_input else 500, f"{what}: {reason(error)}") from error
