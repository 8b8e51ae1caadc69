"""What a training run needs beyond MONAI's and Ignite's handlers."""

import functools
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers.tqdm_logger import ProgressBar
from monai.data import MetaTensor
from monai.data.utils import set_rnd
from monai.engines import IterationEvents
from monai.handlers import from_engine
from monai.inferers import Inferer
from monai.utils import set_determinism
from timm.layers import convert_sync_batchnorm
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader

from networks.errors import UserError
from networks.workflow.ids import truth
from networks.workflow.state import state_of

if TYPE_CHECKING:
    from monai.engines import Evaluator, SupervisedTrainer

logger = logging.getLogger(__name__)
LOSS = from_engine("loss", first=True)
LOWERED, LOWERED_TO = "lowered_in_epoch", "lowered_to"  # kept in the optimizer's groups: when, and to what share
MAX_WORKERS = 8


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than float32 ones, measured once in a process.

    To have the instructions is not enough: AVX512-BF16 was faster than float32 on an AMD EPYC, and half as fast on an
    Intel Xeon whose AMX the virtual machine hides.
    """
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if not any(getattr(torch.cpu, name, lambda: False)() for name in checks):
        return False
    with torch.no_grad():
        float32, bfloat16 = (_seconds_of_products(dtype) for dtype in (torch.float32, torch.bfloat16))
    return bfloat16 < 0.9 * float32


def _seconds_of_products(dtype: torch.dtype) -> float:
    """The least time of a few linear layers as large as Swin-T's in the middle, on the CPU."""
    x, weight = (torch.ones(rows, 384, dtype=dtype, device="cpu") for rows in (784, 1536))
    times = []
    for _ in range(8):
        start = time.perf_counter()
        nn.functional.linear(x, weight)
        times.append(time.perf_counter() - start)
    return min(times)


def default_workers(device: str | torch.device) -> int:
    """How many processes prepare the batches: with a GPU up to 8 of this process's cores, without one none.

    A processor that computes the network has no core to spare.
    """
    return 0 if torch.device(device).type == "cpu" else min(MAX_WORKERS, cores_of_a_process())


def cores_of_a_process() -> int:
    """This process's share of the cores, if ``torchrun`` has started several; it may be none."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def shared_statistics(network: nn.Module) -> nn.Module:
    """The network with batch statistics over the images of all GPUs, where there are several; PyTorch has none else.

    Converted by timm, whose norms bring activations that PyTorch's own conversion drops.
    """
    if not torch.cuda.is_available() or idist.get_world_size() < 2:
        return network
    return convert_sync_batchnorm(network)


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters for an optimizer: biases, norms and Swin's position biases do not decay, all else does.

    As Swin's authors have it.
    """
    tables = [name for name, _ in network.named_parameters() if name.endswith("position_bias_table")]
    return param_groups_weight_decay(network, weight_decay, no_weight_decay_list=tables)


class AutocastInferer(Inferer):
    """The plain forward pass, in bfloat16 autocast where the processor is faster with it.

    MONAI's engines autocast on CUDA only (their ``amp``), and this leaves CUDA tensors to them.

    Args:
        amp: False, or a text that means it, keeps float32.
    """

    def __init__(self, amp: bool | str = True) -> None:
        super().__init__()
        self.amp = truth(amp) and has_fast_bfloat16()
        if idist.get_world_size() > 1 and not torch.cuda.is_available():
            self.amp = bool(idist.broadcast(float(self.amp), src=0))  # processes may measure otherwise than each other
        if idist.get_rank() == 0 and truth(amp):
            logger.info("On this processor the network computes in %s.", "bfloat16" if self.amp else "float32")

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        """Logits (B, classes, H, W) of ``inputs`` (B, channels, H, W); float32 on the CPU."""
        if isinstance(inputs, MetaTensor):  # whose metadata every single operation would carry on
            inputs = inputs.as_tensor()
        if inputs.device.type != "cpu" or not self.amp:
            return network(inputs, *args, **kwargs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(inputs, *args, **kwargs)
        return logits.float()


class EpochSeed:
    """Seed shuffling, augmentation and dropout anew for every epoch.

    A resumed training so sees the very samples that it would have seen without the interruption, and every process
    of a distributed one its own augmentation.

    Args:
        seed: the run's seed.
        dataloader: the training's loader.
    """

    def __init__(self, seed: int, dataloader: DataLoader) -> None:
        self.seed, self.dataloader = seed, dataloader

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = (self.seed + 1) * 1_000_003 + engine.state.epoch * idist.get_world_size() + idist.get_rank()
        set_determinism(seed % 2**32)
        set_rnd(self.dataloader.dataset, seed=seed % 2**32)


class AccumulatedMean:
    """Make the gradient of an epoch's last step the mean over its batches where fewer are left than for the others.

    MONAI's trainer divides every loss by ``accumulation_steps``. Attach it before what else looks at the gradients.

    Args:
        optimizer: whose parameters have the gradients.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def attach(self, engine: Engine) -> None:
        """Attach to MONAI's trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        length = engine.state.epoch_length
        left = length % engine.accumulation_steps if length else 0
        if not left or engine.state.iteration % length:
            return
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(engine.accumulation_steps / left)


class ClipGradients:
    """Scale the gradients of a step down to a norm, over all parameters together, where it is larger.

    Args:
        optimizer: whose parameters have the gradients.
        max_norm: the norm; 0 leaves the gradients as they are.
    """

    def __init__(self, optimizer: Optimizer, max_norm: float) -> None:
        self.optimizer, self.max_norm = optimizer, max_norm

    def attach(self, engine: Engine) -> None:
        """Attach to MONAI's trainer."""
        if self.max_norm > 0:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        length = engine.state.epoch_length or 1
        done = (engine.state.iteration - 1) % length + 1
        if done % engine.accumulation_steps and done < length:
            return  # the optimizer does not step yet, and the scaler can be asked once per step only
        if engine.scaler is not None:  # mixed precision: the norm is that of the gradients without its factor
            engine.scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)


class StopOnNan:
    """End a training whose loss or network is no longer finite, before its weights are validated or kept.

    The loss is looked at after every step, and the network after every epoch: a step whose gradients are not finite
    spoils it behind a loss that was still good. Attach it before the validation.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.check_network)

    def __call__(self, engine: Engine) -> None:
        """Raise UserError if the iteration's loss is NaN or infinite."""
        loss = float(LOSS(engine.state.output))
        if not math.isfinite(loss):
            raise _not_finite(f"The loss became {loss}", engine)

    def check_network(self, engine: "SupervisedTrainer") -> None:
        """Raise UserError if a parameter or buffer holds a NaN or an infinite value."""
        tensors = engine.network.state_dict().items()
        named = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
        finite = torch.stack([tensor.isfinite().all() for _, tensor in named]).tolist()  # one wait for the device
        wrong = [name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite]
        if wrong:
            raise _not_finite(f"{len(wrong)} tensors of the network (such as '{wrong[0]}') became NaN", engine)


def _not_finite(what: str, engine: Engine) -> UserError:
    return UserError(
        f"{what} in epoch {engine.state.epoch}, iteration {engine.state.iteration}; the checkpoints of the epochs "
        "before are kept: lower --learning_rate, then --resume true or start again."
    )


class StartValidation:
    """Validate what a training starts from, so that it stays the best if no epoch makes it better.

    Attach it last: the weights are loaded by then, and the files of an earlier training are moved aside. A resumed
    training has its start behind it; MONAI's ``ValidationHandler(exec_at_start=True)`` asks for neither, and would take
    a network that is yet to be resumed for the best.

    Args:
        evaluator: MONAI's, of the validation.
        wanted: whether to do so. A truth value or a text of one.
    """

    def __init__(self, evaluator: "Evaluator", wanted: bool | str = False) -> None:
        self.evaluator, self.wanted = evaluator, truth(wanted)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.wanted:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch == 0:
            self.evaluator.run(0)


class Plateau:
    """Lower the learning rate when the validation stops improving, and stop when it stops improving again.

    The recipe of the microscopy papers. Attach it to the trainer between the validation and the last checkpoint. When
    the rate was lowered is kept in the optimizer's state, so that a resumed training goes on as it would have.

    Args:
        optimizer: whose rate is lowered.
        lr_scheduler: the rate's schedule; one that sets it anew at every step has no second rate.
        evaluator: the validation's evaluator, which knows the best epoch.
        patience: epochs without a better key metric; 0 switches all of this off.
        second_learning_rate: the lower rate; 0 stops at once instead.

    Raises:
        UserError: a second rate under a schedule that would undo it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        evaluator: Engine,
        patience: int = 0,
        second_learning_rate: float = 0.0,
    ) -> None:
        if patience > 0 and second_learning_rate > 0 and isinstance(lr_scheduler, LambdaLR):
            raise UserError(
                f"{type(lr_scheduler).__name__} sets the learning rate anew at every step, so that "
                f"second_learning_rate={second_learning_rate:g} would be undone; leave it at 0, which stops at once."
            )
        self.optimizer, self.evaluator = optimizer, evaluator
        self.patience, self.second_learning_rate = patience, second_learning_rate

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.patience > 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        group, epoch = self.optimizer.param_groups[0], engine.state.epoch
        since = group.get(LOWERED, 0)
        if epoch - max(state_of(self.evaluator).best_metric_epoch, since) < self.patience:
            return
        if since or self.second_learning_rate <= 0:
            logger.info("No improvement in %d epochs: the training stops.", self.patience)
            engine.terminate()
            return
        logger.info("No improvement in %d epochs: learning rate %g.", self.patience, self.second_learning_rate)
        for group in self.optimizer.param_groups:
            lowered = min(group["lr"], self.second_learning_rate)  # the schedule may be below it
            group |= {LOWERED: epoch, LOWERED_TO: lowered / group["lr"] if group["lr"] else 1.0, "lr": lowered}


class TrainingProgress(ProgressBar):
    """Ignite's progress bar with the loss and the learning rate, in the first process and on a terminal only."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(desc="Training", persist=True, disable=not shows_bars())
        self.optimizer = optimizer

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Attach to the trainer."""
        super().attach(engine, output_transform=self._shown)

    def _shown(self, output: list) -> dict[str, float]:
        return {"loss": float(LOSS(output)), "lr": self.optimizer.param_groups[0]["lr"]}


class EvaluationProgress(ProgressBar):
    """Ignite's progress bar over the cases of an evaluation or inference; a log line at every tenth elsewhere.

    Args:
        what: an iteration of the engine is, in the plural.
    """

    def __init__(self, what: str = "cases") -> None:
        super().__init__(desc=what.capitalize(), persist=True, disable=not shows_bars())
        self.what = what

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Attach to the evaluator."""
        if shows_bars():
            super().attach(engine)
        elif idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._log)

    def _log(self, engine: Engine) -> None:
        done, total = engine.state.iteration, engine.state.epoch_length
        if total and 10 * done // total > 10 * (done - 1) // total:
            logger.info("%d of %d %s", done, total, self.what)


def shows_bars() -> bool:
    """Whether progress bars are of use: in one process, on a terminal, and not in a file of logs."""
    return idist.get_rank() == 0 and sys.stderr.isatty()
