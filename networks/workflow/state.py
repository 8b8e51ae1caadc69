"""The state of an engine, with what Ignite's own types do not know of it."""

from typing import Any, cast

from ignite.engine import Engine, State

MEASURES = {"val_mean_dice": "mean Dice", "val_top1": "top-1 accuracy", "val_l1": "error of the hidden pixels"}
"""What the key metrics of the bundles are called for people; a config may put another in their place."""


class RunState(State):
    """What MONAI and this package add, for type checkers; an engine's state is Ignite's.

    Attributes:
        batch: items of the iteration, and likewise `output`.
        key_metric_name: MONAI's, of evaluators; the next three likewise.
        best_metric: its best value so far.
        best_metric_epoch: when that was; -1 before the first validation.
        metric_details: by the metric's name, per case and class.
        checkpoint: file of weights that ``StrictCheckpointLoader`` has loaded.
    """

    batch: Any
    output: Any
    key_metric_name: str
    best_metric: float
    best_metric_epoch: int
    metric_details: dict[str, Any]
    checkpoint: str


def state_of(engine: Engine) -> RunState:
    """The engine's state."""
    return cast(RunState, engine.state)
