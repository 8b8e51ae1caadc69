"""An average of the weights over the steps, which is validated and kept in place of the weights of the last step."""

from collections.abc import Mapping
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

from networks.state_dicts import unwrap

NAME = "ema_momentum"  # in the trainer's state
FIRST_STEPS = 10


class WeightAverage:
    """Ignite's ``EMAHandler`` over a training of any length, whose state a checkpoint can keep.

    After step t the average moves towards the network by the larger of ``momentum`` and 10 / (10 + t): it reaches over
    the last tenth of the steps, until that are ``1 / momentum`` of them, so that short trainings average as well and
    nothing is left of the initial weights. It follows from the step, so that a resumed training goes on as it was. If
    other weights were loaded between two runs of one trainer, as in the rounds of federated learning, it begins anew.

    Buffers are averaged too: the running statistics of batch normalisation belong to the weights that made them. Whole
    numbers among the buffers are copied.

    Attach it before the validation. The average is ``network``, in evaluation mode.

    Args:
        network: what is trained, also if wrapped.
        momentum: the smallest share of a step, below 1; 0 averages nothing, and ``network`` is what is trained.
    """

    def __init__(self, network: nn.Module, momentum: float = 0.001) -> None:
        self.trained, self.momentum = network, momentum
        self._ema = EMAHandler(unwrap(network), momentum, handle_buffers="update") if momentum > 0 else None
        self._begun = 0  # the iteration before the average's first
        self._left: list[int] | None = None  # the weights' versions when a run ended

    @property
    def network(self) -> nn.Module:
        """What is to be validated and kept."""
        return self.trained if self._ema is None else self._ema.ema_model

    def handler(self) -> "WeightAverage":
        """Itself: MONAI's check of a bundle's properties wants objects with a ``_target_`` in the list of handlers."""
        return self

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self._ema is None:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._set_momentum)
        self._ema.attach(engine, NAME, warn_if_exists=False)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._share)
        engine.add_event_handler(Events.COMPLETED, self._leave)

    def state_dict(self) -> dict[str, Any]:
        """That of the average; empty if there is none."""
        return {} if self._ema is None else self._ema.ema_model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an average; where none was kept, it begins with the network as it is."""
        if self._ema is not None:
            self._ema.ema_model.load_state_dict(state or unwrap(self.trained).state_dict())

    def _start(self, engine: Engine) -> None:
        # weights may have been loaded since this was made, or since the last run
        if engine.state.iteration == 0 or (self._left is not None and self._left != self._versions()):
            self._begun = engine.state.iteration
            self.load_state_dict({})

    def _leave(self) -> None:
        self._left = self._versions()

    def _versions(self) -> list[int]:
        """How often every tensor of the network was written to."""
        return [tensor._version for tensor in unwrap(self.trained).state_dict().values()]

    def _set_momentum(self, engine: Engine) -> None:
        step = engine.state.iteration - self._begun
        setattr(engine.state, NAME, max(self.momentum, FIRST_STEPS / (FIRST_STEPS + step)))

    def _share(self) -> None:
        # without synchronised batch normalisation every process has statistics of its own samples
        if idist.get_world_size() > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)
