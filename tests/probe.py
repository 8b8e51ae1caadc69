"""Trainings in two processes, with a handler that writes down what its process saw and ended with."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite import distributed as idist
from ignite.engine import Engine, Events

from networks.state_dicts import unwrap
from tests.workflows import command_line


def train_in_two(files: Sequence[str], folder: Path, network: str, **options: Any) -> list[dict[str, Any]]:
    """Train in two processes and give back what the probe of each wrote.

    Args:
        files: the training's configs, the one for several processes among them.
        network: the config's name of the network whose weights are compared.
        options: ids of the config.
    """
    probe = {"_target_": "tests.probe.Probe", "folder": str(folder), "network": network}
    overlay = folder / "probe.json"
    overlay.write_text(json.dumps({"+train::handlers": [probe | {"evaluator": "@validate::evaluator"}]}))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [sys.executable, *torchrun, *command_line([*files, str(overlay)], "training", **options)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


class Probe:
    """Write ``<folder>/rank<R>.json``: digests of the samples, of the final weights, and the last metrics."""

    def __init__(self, folder: str, network, evaluator: Engine) -> None:
        self.folder, self.network, self.evaluator = Path(folder), network, evaluator
        self.samples: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._see)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _see(self, engine: Engine) -> None:
        images = engine.state.batch["image"].numpy()
        self.samples += [hashlib.sha256(image.tobytes()).hexdigest() for image in images]

    def _write(self, engine: Engine) -> None:
        state = unwrap(self.network).state_dict()
        weights = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()
        content = {"samples": self.samples, "weights": weights, "metrics": self.evaluator.state.metrics}
        (self.folder / f"rank{idist.get_rank()}.json").write_text(json.dumps(content))
