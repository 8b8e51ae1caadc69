"""Checkpoints that survive a kill at any moment, and strict loading of them."""

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from networks.errors import UserError
from networks.state_dicts import check_training_state, fill, read_weights, unwrap, unwrap_state
from networks.workflow.files import atomic
from networks.workflow.ids import truth
from networks.workflow.provenance import write_training_record
from networks.workflow.state import state_of
from networks.workflow.training import LOWERED, LOWERED_TO

logger = logging.getLogger(__name__)
PLATEAU_SETTINGS = ("factor", "patience", "threshold", "mode", "threshold_mode", "cooldown", "min_lrs", "eps")


def save_atomically(content: Any, path: str | Path) -> None:
    """``torch.save``; ``path`` always holds a whole file.

    Raises:
        UserError: as :func:`networks.workflow.files.atomic`.
    """
    # a file of Python's: PyTorch's own writer does not tell why it fails
    with atomic(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load one of our own checkpoints (``model.pt`` or ``last.pt``) into the network it was trained with, strictly.

    Raises:
        UserError: the file cannot be read, belongs to another network, or holds values that are none.
    """
    state = unwrap_state(read_weights(path))
    fill(unwrap(network), state, path)
    logger.info("Loaded %d tensors from %s.", len(state), path)


class StrictCheckpointLoader(CheckpointLoader):
    """MONAI's ``CheckpointLoader`` with the checks of :func:`load_weights`, when a run starts.

    Programs that bring weights of their own find it by its name and switch it off, as MONAI's federated learning does,
    and so does a person with ``--handlers#0#_disabled_ true``. ``engine.state.checkpoint`` is the file once it is
    loaded.

    Args:
        load_path: one of our own checkpoints.
        load_dict: the network, under any name.

    Raises:
        UserError: when the run starts, as :func:`load_weights`.
    """

    def __init__(self, load_path: str | Path, load_dict: Mapping[str, nn.Module]) -> None:
        super().__init__(str(load_path), dict(load_dict))

    def __call__(self, engine: Engine) -> None:
        """Load the weights; the engine's counters stay."""
        for network in self.load_dict.values():
            load_weights(network, self.load_path)
        state_of(engine).checkpoint = self.load_path


class BestCheckpoint:
    """Keep the weights of the best validation so far in one file, for evaluation, inference and hosting.

    Args:
        path: file to write, a plain state dict.
        network: the network, also if wrapped.
        data_set: what it is trained on, as ``describe_cases`` says it; with it and ``ids`` a JSON file of the same
            name beside the weights says where they come from.
        ids: the config's ids that shape the network and its input.
        start: what it started from, as ``describe_start`` says it.
    """

    def __init__(
        self,
        path: str,
        network: nn.Module,
        data_set: dict | None = None,
        ids: dict | None = None,
        start: dict | None = None,
    ) -> None:
        self.path, self.network = path, network
        self.data_set, self.ids, self.start = data_set, ids or {}, start or {}

    def attach(self, engine: Engine) -> None:
        """Attach to the validation's evaluator, whose key metric decides."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if state_of(engine).best_metric_epoch == engine.state.epoch and idist.get_rank() == 0:
            save_atomically(unwrap(self.network).state_dict(), self.path)
            if self.data_set is not None:
                write_training_record(self.path, engine, self.ids, self.data_set, self.start)


class LastCheckpoint:
    """After every epoch write all that training needs to continue; with ``resume`` continue from it.

    Attach it after the validation, so that the best score so far is part of what is saved.

    What the resuming run asks for counts: where its optimizer or its schedule of the learning rate is another than
    that of the checkpoint (more epochs, another rate), every further step has the rate that a training with the new
    settings from the first step would have there, as with nnU-Net. A log line says so.

    Args:
        path: file to write and to resume from.
        network: the network, also if wrapped.
        evaluator: the validation's evaluator, whose best score is kept.
        resume: continue from ``path``; a fresh start if there is no such file. A truth value or a text of one.
        others: more objects with a ``state_dict``: optimizer, scheduler. The trainer's AMP scaler is added.
        patience: of this run; a training that an earlier patience has stopped goes on with another one.
    """

    def __init__(
        self,
        path: str,
        network: nn.Module,
        evaluator: Engine,
        resume: bool | str = False,
        others: dict | None = None,
        patience: int = 0,
    ) -> None:
        self.path, self.network, self.evaluator = path, network, evaluator
        self.resume, self.others, self.patience = truth(resume), others or {}, patience
        self._settings = {name: settings(part) for name, part in self.others.items()}

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        best = state_of(self.evaluator)
        content = {name: part.state_dict() for name, part in self._stateful(engine).items()}
        content["settings"] = self._settings_of(engine)
        content["progress"] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "stopped": bool(engine.should_terminate),
            "patience": self.patience,
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
        for name in ("network", "progress", *self.others):
            if name not in content:
                raise UserError(
                    f"{self.path} has no state of '{name}', so it was not written by this training; give --ckpt_dir "
                    "the folder of the training that is to go on, or leave --resume out."
                )
        for name in content.keys() - {"network"}:
            check_training_state(name, content[name], self.path)
        fill(unwrap(self.network), content["network"], self.path)
        progress = content["progress"]
        is_done = progress["epoch"] >= engine.state.max_epochs
        is_stopped = progress["stopped"] and self.patience > 0  # an earlier version did not keep the patience
        is_over = is_done or (is_stopped and progress.get("patience", self.patience) == self.patience)
        stateful = self._stateful(engine)
        try:
            if is_over or content.get("settings") == self._settings_of(engine):
                for name in stateful.keys() & content.keys():
                    stateful[name].load_state_dict(content[name])
            else:
                self._restore_under_new_settings(engine, content)
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
            raise UserError(
                f"The training in {self.path} does not fit this one ({type(error).__name__}: {error}); resume with the "
                "options that it was started with, or start anew."
            ) from error
        engine.state.epoch, engine.state.iteration = progress["epoch"], _iteration(engine, progress)
        best = state_of(self.evaluator)
        best.best_metric, best.best_metric_epoch = progress["best_metric"], progress["best_metric_epoch"]
        if is_over:
            why = "" if is_done else " for want of improvement (with another --patience it would go on)"
            logger.info("%s has ended after %d epochs%s: nothing is left to train.", self.path, progress["epoch"], why)
            engine.terminate()
        else:
            logger.info("Resumed %s after epoch %d.", self.path, progress["epoch"])

    def _restore_under_new_settings(self, engine: Engine, content: Mapping[str, Any]) -> None:
        """Load what was learned; rates and other settings are those of this run, at the step that was reached."""
        progress = content["progress"]
        reached = _iteration(engine, progress) / max(progress["iteration"], 1)  # not 1 with another batch size
        by_validation = [part.optimizer for part in self.others.values() if isinstance(part, ReduceLROnPlateau)]
        for name, part in self.others.items():
            if isinstance(part, ReduceLROnPlateau):
                part.load_state_dict({**content[name], **self._settings[name]})
            elif isinstance(part, LRScheduler):
                _step(part, round(_steps(content[name]) * reached))
        for name, part in self._stateful(engine).items():
            if isinstance(part, LRScheduler) or name not in content:
                continue
            own = _groups(part) if isinstance(part, Optimizer) else []
            part.load_state_dict(content[name])
            before = _groups(part) if isinstance(part, Optimizer) else []
            for i, (group, old) in enumerate(zip(own, before, strict=True)):
                if LOWERED in old or part in by_validation:
                    # what the validation has lowered stays so, relative to what it began with
                    begun = content["settings"][name][i] if "settings" in content else group
                    group["lr"] *= old.get(LOWERED_TO, old["lr"] / begun.get("initial_lr", begun["lr"]))
                part.param_groups[i] |= group
            if own and part.param_groups[0]["lr"] != before[0]["lr"]:
                logger.info(
                    "The training's length, optimizer or schedule is another than in %s: after epoch %d of now %d the "
                    "learning rate is %.3g, where it was %.3g.",
                    self.path,
                    progress["epoch"],
                    engine.state.max_epochs,
                    part.param_groups[0]["lr"],
                    before[0]["lr"],
                )

    def _settings_of(self, engine: Engine) -> dict[str, Any]:
        # a schedule of a function does not show the length that is in it
        return {**self._settings, "length": [engine.state.max_epochs, engine.state.epoch_length]}

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


def settings(part: Any) -> Any:
    """What an optimizer or a schedule was made with, before its first step, as plain values that can be compared."""
    if isinstance(part, Optimizer):
        return _groups(part)
    if isinstance(part, ReduceLROnPlateau):
        return {k: v for k, v in part.state_dict().items() if k in PLATEAU_SETTINGS}
    return copy.deepcopy(part.state_dict()) if isinstance(part, LRScheduler) else None


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Settings of the groups of parameters, without the parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def _iteration(engine: Engine, progress: Mapping[str, int]) -> int:
    """The iterations that the epochs so far have in this run, whose batches may be of another size."""
    length = engine.state.epoch_length
    return progress["epoch"] * length if length else progress["iteration"]


def _steps(state: Mapping[str, Any]) -> int:
    """How often a schedule was stepped, from its state; that of several at once has it in its parts."""
    return state["last_epoch"] if "last_epoch" in state else _steps(state["_schedulers"][0])


def _step(schedule: LRScheduler, times: int) -> None:
    """Bring a new schedule, and its optimizer's rates, to where they are after so many steps.

    Stepping is the one way that all schedules have: many know the rate only from the one before.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(times):
            schedule.step()
