"""Loading weights where MONAI's bundles do: by the first handler of an evaluator."""

from collections.abc import Mapping
from pathlib import Path

from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from torch import nn

from networks.workflow.checkpoints import load_weights


class StrictCheckpointLoader(CheckpointLoader):
    """MONAI's ``CheckpointLoader`` with the checks of :func:`networks.workflow.load_weights`, when a run starts.

    Programs that bring weights of their own find it by its name and switch it off, as MONAI's federated learning does,
    and so does a person with ``--handlers#0#_disabled_ true``. ``engine.state.checkpoint`` is the file once it is
    loaded.

    Args:
        load_path: one of our own checkpoints.
        load_dict: the network, under any name.

    Raises:
        FileNotFoundError, ValueError: when the run starts, as :func:`networks.workflow.load_weights`.
    """

    def __init__(self, load_path: str | Path, load_dict: Mapping[str, nn.Module]) -> None:
        super().__init__(str(load_path), dict(load_dict))

    def __call__(self, engine: Engine) -> None:
        """Load the weights; the engine's counters stay."""
        for network in self.load_dict.values():
            load_weights(network, self.load_path)
        engine.state.checkpoint = self.load_path
