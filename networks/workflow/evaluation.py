"""Scores per case and class, the training's log, and pictures of what the network does."""

import csv
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.metrics import Average
from matplotlib.colors import Colormap
from monai.data import MetaTensor
from monai.utils import string_list_all_gather
from monai.visualize import blend_images
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from networks.workflow.data import case_name, dataset_name, has_spacing
from networks.workflow.files import atomic, file_hash, not_written
from networks.workflow.geometry import spacing_of
from networks.workflow.ids import HORIZONTAL, truth
from networks.workflow.protocols import TOLERANCE, check_protocol
from networks.workflow.records import Record, make_records, write_records
from networks.workflow.scores import score_case
from networks.workflow.state import MEASURES, state_of
from networks.workflow.statistics import markdown, summarise, tables
from networks.workflow.training import LOSS

logger = logging.getLogger(__name__)
DECIMALS = 4
COLOURS = "turbo"


class EpochLog:
    """After every epoch a line for people and a row of ``metrics.csv``: loss, learning rate, scores, Dice per class.

    Attach it to the trainer after the validation. Rows of epochs that a resumed run repeats are replaced. The scores of
    what a training starts from, where they are asked for, are those of epoch 0.

    Args:
        path: the CSV file.
        optimizer: whose learning rate is logged.
        evaluator: the validation's evaluator, with the key metric's details per case and class.
        class_names: names of the classes with background first, where the key metric has a score for each.
    """

    def __init__(self, path: str, optimizer: Optimizer, evaluator: Engine, class_names: Sequence[str] = ()) -> None:
        self.path, self.optimizer, self.evaluator = Path(path), optimizer, evaluator
        self.class_names = list(class_names[1:])
        self._rows: list[dict[str, str]] | None = None
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        Average(output_transform=LOSS).attach(engine, "train_loss")
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        self.evaluator.add_event_handler(Events.COMPLETED, self._log_start)

    def _start(self) -> None:
        self._started = time.monotonic()

    def _log_start(self) -> None:
        if idist.get_rank() > 0 or state_of(self.evaluator).epoch > 0:
            return
        scores, text = self._validated(0)
        logger.info("Before the first epoch: %s", text)
        self._write({"epoch": "0", "loss": "", "learning_rate": "", **scores})

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        epoch = engine.state.epoch
        row = {
            "epoch": str(epoch),
            "loss": f"{engine.state.metrics['train_loss']:.{DECIMALS}f}",
            "learning_rate": f"{self.optimizer.param_groups[0]['lr']:.3g}",
        }
        text = f"loss {row['loss']}, learning rate {row['learning_rate']}, {time.monotonic() - self._started:.1f} s"
        scores, shown = self._validated(epoch)
        logger.info("Epoch %d of %d: %s", epoch, engine.state.max_epochs, f"{text}, {shown}" if shown else text)
        self._write(row | scores)

    def _validated(self, epoch: int) -> tuple[dict[str, str], str]:
        """Columns of the scores of an epoch, and the same for people; empty if it was not validated."""
        validated = state_of(self.evaluator)
        if validated.epoch != epoch or not validated.metrics:
            return {}, ""
        name = validated.key_metric_name
        columns = {metric: f"{value:.{DECIMALS}f}" for metric, value in validated.metrics.items()}
        best = ", the best so far" if validated.best_metric_epoch == epoch else ""
        text = f"{MEASURES.get(name, name)} {columns[name]} on the validation split{best}"
        details = validated.metric_details.get(name)
        if self.class_names and details is not None and details.shape[1:] == (len(self.class_names),):
            means = class_means(details)
            columns |= {c: f"{score:.{DECIMALS}f}" for c, score in zip(self.class_names, means, strict=True)}
            text += f" ({', '.join(f'{c} {columns[c]}' for c in self.class_names)})"
        return columns, text

    def _write(self, row: dict[str, str]) -> None:
        if self._rows is None:
            self._rows = self._rows_before(int(row["epoch"]))
        self._rows.append(row)
        write_csv(self.path, self._rows)

    def _rows_before(self, epoch: int) -> list[dict[str, str]]:
        if epoch <= 1 or not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]


class ScoreWriter:
    """Score every case and write ``results_<protocol>.jsonl``, the records of ``networks.workflow.records``.

    The means also become the engine's metrics, for whatever tracks them, and go to the log with their intervals. The
    records name the file of the weights if ``StrictCheckpointLoader`` loaded one, before this handler.

    Args:
        save_dir: folder of the file.
        protocol: "strict" or "paper".
        class_names: names of the classes, background first.
        dataset_dir: the data set's folder.
        model, split, seed: as in the records.
        tolerance: of the normalised surface Dice, in millimetres or pixels, which the metric's name tells.
        tta: as of :func:`networks.workflow.flips.flipped`; the records have it where there were flips.
        other_input: as of :func:`networks.workflow.classes.warn_of_other_input`; the records have it where the images
            are prepared unlike in training.

    Raises:
        ValueError: there is no such protocol.
    """

    def __init__(
        self,
        save_dir: str,
        protocol: str,
        class_names: Sequence[str],
        dataset_dir: str,
        model: str,
        split: str,
        seed: int,
        tolerance: float = TOLERANCE,
        tta: bool | str = False,
        other_input: Mapping[str, Any] | None = None,
    ) -> None:
        check_protocol(protocol)
        self.path = Path(save_dir) / f"results_{protocol}.jsonl"
        self.class_names, self.dataset_dir = list(class_names), dataset_dir
        self.ids: dict[str, Any] = {"protocol": protocol, "model": model, "split": split, "seed": seed}
        if tta == HORIZONTAL or truth(tta):
            self.ids["tta"] = tta if tta == HORIZONTAL else True
        if other_input:
            self.ids["other_input"] = dict(other_input)
        self.tolerance = tolerance
        self._records: list[Record] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that gives class numbers, or probabilities, on the grid of the label's file."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._records.clear()
        # weights that a program brought, such as a federation's, are those of no file
        loaded = getattr(engine.state, "checkpoint", None)
        self.ids |= {"dataset": dataset_name(self.dataset_dir), "checkpoint": file_hash(loaded) if loaded else None}
        self.has_spacing = has_spacing(self.dataset_dir)

    def _score(self, engine: Engine) -> None:
        state = state_of(engine)
        for item, output in zip(state.batch, state.output, strict=True):
            self._records += score_records(
                output["pred"],
                output["label"],
                self.class_names,
                case=case_name(item["image"].meta["filename_or_obj"], self.dataset_dir),
                tolerance=self.tolerance,
                in_millimetres=self.has_spacing,
                **self.ids,
            )

    def __call__(self, engine: Engine) -> None:
        """Write the file; every process calls it, the first writes."""
        lines = [json.dumps(record) for record in self._records]
        if idist.get_world_size() > 1:
            lines = string_list_all_gather(lines)
        records = sorted(map(json.loads, lines), key=lambda record: record["case"])
        scored = tables(records)
        engine.state.metrics |= {table.metric: summarise(table)[-1].mean for table in scored}
        if idist.get_rank() == 0:
            write_records(self.path, records)
            logger.info("Wrote %s.\n\n%s\n", self.path, markdown(scored))


def score_records(
    prediction: torch.Tensor,
    label: torch.Tensor,
    class_names: Sequence[str],
    protocol: str,
    tolerance: float = TOLERANCE,
    in_millimetres: bool = True,
    **ids: Any,
) -> list[Record]:
    """Score a case and make records of it; distances in volumes are in the label's spacing.

    Args:
        prediction: class numbers (1, X, Y[, Z]) or probabilities (classes, X, Y).
        label: class numbers (1, X, Y[, Z]) with their affine.
        class_names: names of the classes, background first.
        protocol, tolerance: as in :func:`networks.workflow.scores.score_case`.
        in_millimetres: whether the label's file tells its spacing; else distances are in voxels.
        **ids: further keys of the records.
    """
    known = label if in_millimetres and isinstance(label, MetaTensor) and label.ndim == 4 else None
    spacing = None if known is None else spacing_of(known)
    scores = score_case(prediction, label, len(class_names), protocol, spacing, tolerance)
    kind = "labels" if prediction.shape[0] == 1 else "probabilities"
    return make_records(scores, class_names, protocol=protocol, prediction=kind, **ids)


class EventLog:
    """TensorBoard's file, made when there is something to write: a run that is refused leaves none.

    Args:
        log_dir: TensorBoard's folder.

    The methods are those of ``SummaryWriter`` that MONAI's handlers call.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self._writer: SummaryWriter | None = None

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Add a number."""
        self._call("add_scalar", *args, **kwargs)

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        """Add a picture."""
        self._call("add_image", *args, **kwargs)

    def flush(self) -> None:
        """Write what is waiting."""
        self._call("flush")

    def _call(self, name: str, *args: Any, **kwargs: Any) -> None:
        try:
            self._writer = self._writer or self._open()
            getattr(self._writer, name)(*args, **kwargs)
        except OSError as error:
            raise not_written(self.log_dir, error) from error

    def _open(self) -> SummaryWriter:
        others = threading.excepthook

        def hook(args: threading.ExceptHookArgs) -> None:
            # what fails in TensorBoard's thread is raised by the next call here, so it needs no traceback there
            if not type(args.thread).__module__.startswith("tensorboard."):
                others(args)

        threading.excepthook = hook
        return SummaryWriter(self.log_dir)


class OverlayWriter:
    """Truth and prediction over the image of each validation's first case, side by side in TensorBoard.

    Args:
        events: where to write it.
        num_classes: number of classes with background.
    """

    def __init__(self, events: EventLog, num_classes: int) -> None:
        self.events = events
        self.num_classes = num_classes
        self._picture: torch.Tensor | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose images are on the grid of its predictions and labels, both label maps."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep_first)
            engine.add_event_handler(Events.COMPLETED, self)

    def _keep_first(self, engine: Engine) -> None:
        if self._picture is None:
            output = state_of(engine).output[0]
            self._picture = overlay(output["image"], output["label"], output["pred"], self.num_classes)

    def __call__(self, engine: Engine) -> None:
        """Write the picture under the validation's epoch."""
        self.events.add_image("truth and prediction", self._picture, engine.state.epoch)
        self.events.flush()
        self._picture = None


def overlay(
    image: torch.Tensor,
    label: torch.Tensor,
    prediction: torch.Tensor,
    num_classes: int,
    cmap: str | Colormap = COLOURS,
) -> torch.Tensor:
    """Truth (left) and prediction (right) in colours over the image.

    Args:
        image: (channels, X, Y) or (channels, X, Y, Z), of which the first channel is drawn; the label's grid.
        label: truth by class number (1, ...).
        prediction: the same of the prediction.
        num_classes: number of classes with background.
        cmap: matplotlib's, from the background's colour, which is not drawn, to the last class's.

    Returns:
        (3, Y, 2 X) RGB in 0..1; of a volume, its :func:`fullest_slice`.
    """
    grey, truth, found = image[:1], label, prediction
    if grey.ndim == 4:
        truth, grey, found = fullest_slice(truth, grey, found)
    return torch.cat([label_overlay(grey, part, num_classes, cmap) for part in (truth, found)], dim=2)


def label_overlay(
    image: torch.Tensor, label: torch.Tensor, classes: int, cmap: str | Colormap = COLOURS, opacity: float = 0.5
) -> torch.Tensor:
    """Class numbers in colours, evenly spaced over the classes, over a grey or RGB image.

    Args:
        image: (1 or 3, X, Y).
        label: (1, X, Y).
        classes: number of classes with background, which is left as it is.
        cmap: as for :func:`overlay`.
        opacity: of the colours, from 0 to 1.

    Returns:
        (3, Y, X) RGB in 0..1.
    """
    # blend_images stretches the colours over the values that occur; a column that is cut off again pins the range
    image, label = (torch.cat([x, x[..., -1:]], dim=-1) for x in map(torch.as_tensor, (image, label)))
    label[0, :, -1], label[0, 0, -1] = 0, classes - 1
    # MONAI's annotation asks for the name only; matplotlib, which gets it, takes either
    blended = blend_images(image, label, alpha=opacity, cmap=cmap, transparent_background=True)  # type: ignore[arg-type]
    return torch.as_tensor(blended)[..., :-1].transpose(1, 2).clamp(0, 1)


def fullest_slice(label: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    """The axial slice in which a volume has most foreground, of its label map and of others on its grid.

    Args:
        label: class numbers (1, X, Y, Z).
        *others: (channels, X, Y, Z).

    Returns:
        (channels, X, Y) each, with the second axis downwards as in pictures.
    """
    z = int((label > 0).sum(dim=(0, 1, 2)).argmax())
    return [volume[..., z].flip(2) for volume in (label, *others)]


def class_means(details: torch.Tensor) -> list[float]:
    """Mean over the cases (cases, classes) of each class, NaN left out."""
    return torch.nanmean(details.float(), dim=0).tolist()


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows under the union of their keys, whole or not at all."""
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
