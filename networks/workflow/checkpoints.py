"""Checkpoints that survive a kill at any moment, and strict loading of them."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from torch import nn

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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file without executing anything in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, truncated, or it holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist; train first or give --ckpt_path another file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint of tensors and plain values ({type(error).__name__}); "
            "it may be truncated or written by another program."
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dictionary of named tensors.")
    return dict(content)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load one of our own checkpoints (``model.pt`` or ``last.pt``) into the network it was trained with, strictly.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_checkpoint`; or the file belongs to another network, and then
            the message says whether the class count, the channels or the architecture differs.
    """
    content = read_checkpoint(path)
    state = content.get("network", content)
    target = unwrap(network)
    problem = _mismatch(target, state)
    if problem:
        raise ValueError(f"The checkpoint {path} does not fit {type(target).__name__}: {problem}")
    target.load_state_dict(state)
    logger.info("Loaded %d tensors from %s.", len(state), path)


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and ``torch.compile`` wrappers."""
    while isinstance(network, nn.parallel.DistributedDataParallel) or hasattr(network, "_orig_mod"):
        network = getattr(network, "_orig_mod", None) or network.module
    return network


def _mismatch(network: nn.Module, state: Mapping[str, Any]) -> str:
    own = network.state_dict()
    missing, foreign = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or foreign:
        example = min(missing or foreign)
        return (
            f"{len(missing)} of its {len(own)} tensors are not in the file and {len(foreign)} of the file are "
            f"unknown (such as '{example}'), so it is of another architecture; give the checkpoint of this bundle."
        )
    different = [key for key in own if own[key].shape != state[key].shape]
    if not different:
        return ""
    key = different[-1]
    return (
        f"{len(different)} tensors have another shape (such as '{key}': {tuple(state[key].shape)} in the file, "
        f"{tuple(own[key].shape)} in the network); check that --out_channels, --in_channels and the network's "
        "options are those of the training."
    )


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
            ValueError: the file is of another network or lacks a part.
        """
        if not Path(self.path).is_file():
            logger.info("No checkpoint at %s yet: the training starts from the beginning.", self.path)
            return
        load_weights(self.network, self.path)
        content = read_checkpoint(self.path)
        for name, part in self._stateful(engine).items():
            if name not in content:
                raise ValueError(f"{self.path} has no state of '{name}'; it was not written by this training.")
            part.load_state_dict(content[name])
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


class FinalCheckpoint:
    """Write the weights of a training's last epoch when it ends, where MONAI's federated learning looks for them.

    Args:
        path: file to write, a plain state dict; ``monai.fl`` takes ``models/model_final.pt`` for the final model.
        network: the network, also if wrapped.
    """

    def __init__(self, path: str, network: nn.Module) -> None:
        self.path, self.network = path, network

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            save_atomically(unwrap(self.network).state_dict(), self.path)
