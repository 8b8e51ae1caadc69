"""Checkpoints that survive a kill at any moment, and strict loading of them."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from networks.errors import UserError
from networks.state_dicts import check_training_state, fill, read_weights, unwrap, unwrap_state
from networks.workflow.provenance import write_training_record

logger = logging.getLogger(__name__)


def save_atomically(content: Any, path: str | Path) -> None:
    """``torch.save`` to a temporary name beside ``path``, then rename: ``path`` always holds a whole file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load one of our own checkpoints (``model.pt`` or ``last.pt``) into the network it was trained with, strictly.

    Raises:
        UserError: the file cannot be read, belongs to another network, or holds values that are none.
    """
    state = unwrap_state(read_weights(path))
    fill(unwrap(network), state, path)
    logger.info("Loaded %d tensors from %s.", len(state), path)


class BestCheckpoint:
    """Keep the weights of the best validation so far in one file, for evaluation, inference and hosting.

    Args:
        path: file to write, a plain state dict.
        network: the network, also if wrapped.
        data_set: what it is trained on, as ``describe_cases`` says it; with it and ``ids`` a JSON file of the same
            name beside the weights says where they come from.
        ids: the config's ids that shape the network and its input.
    """

    def __init__(self, path: str, network: nn.Module, data_set: dict | None = None, ids: dict | None = None) -> None:
        self.path, self.network = path, network
        self.data_set, self.ids = data_set, ids or {}

    def attach(self, engine: Engine) -> None:
        """Attach to the validation's evaluator, whose key metric decides."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.best_metric_epoch == engine.state.epoch and idist.get_rank() == 0:
            save_atomically(unwrap(self.network).state_dict(), self.path)
            if self.data_set is not None:
                write_training_record(self.path, engine, self.ids, self.data_set)


class LastCheckpoint:
    """After every epoch write all that training needs to continue; with ``resume`` continue from it.

    Attach it after the validation, so that the best score so far is part of what is saved.

    Args:
        path: file to write and to resume from.
        network: the network, also if wrapped.
        evaluator: the validation's evaluator, whose best score is kept.
        resume: continue from ``path``; a fresh start if there is no such file.
        others: more objects with a ``state_dict``: optimizer, scheduler. The trainer's AMP scaler is added.
    """

    def __init__(
        self, path: str, network: nn.Module, evaluator: Engine, resume: bool = False, others: dict | None = None
    ) -> None:
        self.path, self.network, self.evaluator = path, network, evaluator
        self.resume, self.others = resume, others or {}

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        best = self.evaluator.state
        content = {name: part.state_dict() for name, part in self._stateful(engine).items()}
        content["progress"] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "stopped": bool(engine.should_terminate),
            "best_metric": float(best.best_metric),
            "best_metric_epoch": int(best.best_metric_epoch),
        }
        save_atomically({"network": unwrap(self.network).state_dict(), **content}, self.path)

    def restore(self, engine: Engine) -> None:
        """Load everything and set the trainer's epoch, so that the run goes on with the next one, if any.

        Raises:
            UserError: the file cannot be read, is of another training, or holds values from which none can go on.
        """
        if not Path(self.path).is_file():
            logger.info("No checkpoint at %s yet: the training starts from the beginning.", self.path)
            return
        content = read_weights(self.path)
        parts = self._stateful(engine)
        for name in ("network", *parts, "progress"):
            if name not in content:
                raise UserError(f"{self.path} has no state of '{name}'; it was not written by this training.")
            if name != "network":
                check_training_state(name, content[name], self.path)
        fill(unwrap(self.network), content["network"], self.path)
        for name, part in parts.items():
            try:
                part.load_state_dict(content[name])
            except Exception as error:
                raise UserError(
                    f"The state of '{name}' in {self.path} does not fit this training ({error}); resume with the "
                    "options that it was started with, or start anew."
                ) from error
        progress = content["progress"]
        engine.state.epoch, engine.state.iteration = progress["epoch"], progress["iteration"]
        self.evaluator.state.best_metric = progress["best_metric"]
        self.evaluator.state.best_metric_epoch = progress["best_metric_epoch"]
        if progress["epoch"] >= engine.state.max_epochs or progress["stopped"]:
            logger.info("%s is at the end of its %d epochs: nothing is left to train.", self.path, progress["epoch"])
            engine.terminate()
        else:
            logger.info("Resumed %s after epoch %d.", self.path, progress["epoch"])

    def _stateful(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)
        return {**self.others, **({"scaler": scaler} if scaler is not None else {})}
