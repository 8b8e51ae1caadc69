"""Scores per case and class, the training's log, and pictures of what the network does."""

import csv
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.data import MetaTensor
from monai.handlers import from_engine
from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.metrics import HausdorffDistanceMetric
from monai.utils import string_list_all_gather
from monai.visualize import blend_images
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from networks.workflow.training import LOSS

logger = logging.getLogger(__name__)
DECIMALS = 4
COLOURS = "turbo"


class SpacedHausdorffDistance(IgniteMetricHandler):
    """MONAI's Hausdorff distance in the label's own spacing: millimetres for volumes, pixels for pictures.

    MONAI's handler has no way to pass the spacing of each case. NaN where truth and prediction are both empty,
    infinite where one of them is.

    Args:
        percentile: of the surface distances; 95 gives HD95.
        output_transform: gives lists of one-hot predictions and labels (classes, ...), labels with their affine.
    """

    def __init__(self, percentile: float = 95, output_transform: Callable = lambda x: x) -> None:
        metric = _HausdorffDistance(include_background=False, percentile=percentile, reduction="mean")
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=True)

    def update(self, output: Sequence[Any]) -> None:
        """Add a batch of ``[predictions, labels]``."""
        for prediction, label in zip(*output, strict=True):
            spacing = label.pixdim[: label.ndim - 1].tolist() if isinstance(label, MetaTensor) else None
            self.metric_fn(prediction[None], label[None], spacing=spacing)
        self._is_reduced = False


class _HausdorffDistance(HausdorffDistanceMetric):
    """Infinite where a class is in one of truth and prediction only: MONAI's percentile of infinities is NaN."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        distance = super()._compute_tensor(y_pred, y, **kwargs)
        predicted, true = (mask[:, 1:].flatten(2).any(dim=-1) for mask in (y_pred.bool(), y.bool()))
        return distance.masked_fill((predicted ^ true).to(distance.device), math.inf)


class EpochLog:
    """After every epoch a line for people and a row of ``metrics.csv``: loss, learning rate, Dice per class.

    Attach it to the trainer after the validation. Rows of epochs that a resumed run repeats are replaced.

    Args:
        path: the CSV file.
        optimizer: whose learning rate is logged.
        evaluator: the validation's evaluator, with the key metric's details per case and class.
        class_names: names of the classes with background first.
    """

    def __init__(self, path: str, optimizer: Optimizer, evaluator: Engine, class_names: Sequence[str]) -> None:
        self.path, self.optimizer, self.evaluator = Path(path), optimizer, evaluator
        self.class_names = list(class_names[1:])
        self._rows: list[dict[str, str]] | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        Average(output_transform=LOSS).attach(engine, "train_loss")
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        epoch = engine.state.epoch
        row = {
            "epoch": str(epoch),
            "loss": f"{engine.state.metrics['train_loss']:.{DECIMALS}f}",
            "learning_rate": f"{self.optimizer.param_groups[0]['lr']:.3g}",
        }
        validated = self.evaluator.state
        if validated.epoch == epoch and validated.metrics:
            name = validated.key_metric_name
            scores = class_means(validated.metric_details[name])
            row[name] = f"{validated.metrics[name]:.{DECIMALS}f}"
            row |= {c: f"{score:.{DECIMALS}f}" for c, score in zip(self.class_names, scores, strict=True)}
            per_class = ", ".join(f"{c} {row[c]}" for c in self.class_names)
            logger.info("Epoch %d: mean Dice %s on the validation split (%s)", epoch, row[name], per_class)
        if self._rows is None:
            self._rows = self._rows_before(epoch)
        self._rows.append(row)
        write_csv(self.path, self._rows)

    def _rows_before(self, epoch: int) -> list[dict[str, str]]:
        if epoch == 1 or not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]


class CaseReport:
    """Write ``<metric>.csv`` with a row per case and a column per class, and ``summary.csv`` with the means.

    An empty cell is a class that neither truth nor prediction has, ``inf`` a distance to an empty set. Means are
    over the finite values; the summary counts the others.

    Args:
        save_dir: folder of the files.
        class_names: names of the classes with background first.
        metrics: names of the evaluator's metrics that keep details.
    """

    def __init__(self, save_dir: str, class_names: Sequence[str], metrics: Sequence[str]) -> None:
        self.save_dir, self.class_names, self.metrics = Path(save_dir), list(class_names[1:]), list(metrics)
        self._cases: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose loader gives images with their file names."""
        engine.add_event_handler(Events.STARTED, lambda _: self._cases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remember)
        engine.add_event_handler(Events.COMPLETED, self)

    def _remember(self, engine: Engine) -> None:
        self._cases += [str(image.meta["filename_or_obj"]) for image in from_engine("image")(engine.state.batch)]

    def __call__(self, engine: Engine) -> None:
        """Write the files; every process calls it, the first writes."""
        cases = string_list_all_gather(self._cases) if idist.get_world_size() > 1 else self._cases
        if idist.get_rank() > 0:
            return
        summary = []
        for metric in self.metrics:
            values = np.asarray(engine.state.metric_details[metric].cpu(), dtype=float)
            rows = [
                {"case": case, **{c: _cell(v) for c, v in zip(self.class_names, row, strict=True)}}
                for case, row in sorted(zip(cases, values, strict=True), key=lambda pair: pair[0])
            ]
            write_csv(self.save_dir / f"{metric}.csv", rows)
            summary += [_summary(metric, c, column) for c, column in zip(self.class_names, values.T, strict=True)] + [
                _summary(metric, "all classes", values)
            ]
        write_csv(self.save_dir / "summary.csv", summary)
        for row in summary:
            logger.info("%(metric)s of %(class)s: %(mean)s (%(finite)d scored)", row)
        logger.info("Wrote the scores of %d cases to %s.", len(cases), self.save_dir)


class OverlayWriter:
    """Truth and prediction over the image of each validation's first case, side by side in TensorBoard.

    Args:
        log_dir: TensorBoard's folder.
    """

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self._writer: SummaryWriter | None = None
        self._picture: torch.Tensor | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose images are on the grid of its one-hot predictions and labels."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep_first)
            engine.add_event_handler(Events.COMPLETED, self)

    def _keep_first(self, engine: Engine) -> None:
        if self._picture is None:
            output = engine.state.output[0]
            self._picture = overlay(output["image"], output["label"], output["pred"])

    def __call__(self, engine: Engine) -> None:
        """Write the picture under the validation's epoch."""
        self._writer = self._writer or SummaryWriter(self.log_dir)
        self._writer.add_image("truth and prediction", self._picture, engine.state.epoch)
        self._writer.flush()
        self._picture = None


def overlay(image: torch.Tensor, label: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Truth (left) and prediction (right) in colours over the image.

    Args:
        image: (channels, X, Y) or (channels, X, Y, Z), of which the first channel is drawn; the label's grid.
        label: one-hot truth (classes, ...).
        prediction: one-hot prediction (classes, ...).

    Returns:
        (3, Y, 2 X) RGB in 0..1; of a volume, the axial slice with most foreground, front up.
    """
    grey, truth, found = image[:1], label.argmax(0, keepdim=True), prediction.argmax(0, keepdim=True)
    is_volume = grey.ndim == 4
    if is_volume:
        z = int((truth > 0).sum(dim=(0, 1, 2)).argmax())
        grey, truth, found = grey[..., z], truth[..., z], found[..., z]
    halves = [label_overlay(grey, part, label.shape[0]) for part in (truth, found)]
    both = torch.cat(halves, dim=2)
    return both.flip(1) if is_volume else both  # a picture's y runs down, a volume's to the front


def label_overlay(image: torch.Tensor, label: torch.Tensor, classes: int) -> torch.Tensor:
    """Class numbers in colours (``turbo``, evenly spaced over the classes) over a grey or RGB image.

    Args:
        image: (1 or 3, X, Y).
        label: (1, X, Y).
        classes: number of classes with background, which is left as it is.

    Returns:
        (3, Y, X) RGB in 0..1.
    """
    # blend_images stretches the colours over the values that occur; a column that is cut off again pins the range
    image, label = (torch.cat([x, x[..., -1:]], dim=-1) for x in map(torch.as_tensor, (image, label)))
    label[0, :, -1], label[0, 0, -1] = 0, classes - 1
    blended = blend_images(image, label, alpha=0.5, cmap=COLOURS, transparent_background=True)
    return torch.as_tensor(blended)[..., :-1].transpose(1, 2).clamp(0, 1)


def class_means(details: torch.Tensor) -> list[float]:
    """Mean over the cases (cases, classes) of each class, NaN left out."""
    return torch.nanmean(details.float(), dim=0).tolist()


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows under the union of their keys, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = list(dict.fromkeys(key for row in rows for key in row))
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.{DECIMALS}f}"


def _summary(metric: str, name: str, values: np.ndarray) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    return {
        "metric": metric,
        "class": name,
        "mean": _cell(float(finite.mean()) if finite.size else math.nan),
        "finite": int(finite.size),
        "missing": int(np.isnan(values).sum()),
        "infinite": int(np.isinf(values).sum()),
    }
