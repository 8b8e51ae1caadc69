"""The processes that ``torchrun`` starts, sharing a plan and their results through its key-value store.

There is no process group: nothing here computes together, and a group would fail as a whole when one process dies.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch.distributed import rendezvous

POLL = 0.1  # seconds; waiting inside the store would keep signals from being handled


class Processes:
    """This process and its siblings; one alone where ``torchrun`` did not start it.

    Attributes:
        rank: number of this process.
        count: of all processes.
        restarts: how often ``torchrun`` (``--max-restarts``) has started them anew.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        self._store = next(rendezvous("env://"))[0] if self.count > 1 else None

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """The items that are this process's."""
        return items[self.rank :: self.count]

    def from_first(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives in the first process, as JSON, in all of them.

        Raises:
            SystemExit: in the others, if it failed in the first.
        """
        if self._store is None:
            return make()
        if self.rank == 0:
            try:
                value = make()
            except BaseException:
                self._set(name, {"failed": True})
                raise
            self._set(name, {"value": value})
            return value
        content = self._wait(name)
        if "failed" in content:
            raise SystemExit(1)
        return content["value"]

    def to_first(self, name: str, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, in the first; in the others nothing."""
        if self._store is None:
            return [value]
        self._set(f"{name}/{self.rank}", value)
        return [self._wait(f"{name}/{rank}") for rank in range(self.count)] if self.rank == 0 else []

    def _set(self, name: str, value: Any) -> None:
        self._store.set(name, json.dumps(value))

    def _wait(self, name: str) -> Any:
        while not self._store.check([name]):
            time.sleep(POLL)
        return json.loads(self._store.get(name))
