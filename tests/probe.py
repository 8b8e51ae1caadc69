"""A training handler for the tests of several processes: writes down what its process saw and ended with."""

import hashlib
import json
from pathlib import Path

from ignite import distributed as idist
from ignite.engine import Engine, Events

from networks.state_dicts import unwrap


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
