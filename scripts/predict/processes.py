"""The processes that ``torchrun`` starts, sharing a plan and their results through its key-value store.

There is no process group: nothing here computes together, and a group would fail as a whole when one process dies.
"""

import json
import os
import time
import uuid
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
        self._round = self._meet() if self._store is not None else ""

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

    def _meet(self) -> str:
        """Agree on a prefix of keys that no earlier start of the processes has used.

        The store outlives a restart, so a process may find what a dead one has left there. Each shows a fresh name of
        its own; the first answers to the names that it sees until all have read the answer.
        """
        own = uuid.uuid4().hex
        if self.rank > 0:
            self._store.set(f"name/{self.rank}", own)
            while not self._store.check([f"answer/{own}"]):
                time.sleep(POLL)
            prefix = self._store.get(f"answer/{own}").decode()
            self._store.set(f"{prefix}/met/{self.rank}", own)
            return prefix
        missing = set(range(1, self.count))
        while missing:
            for rank in sorted(missing):
                if self._store.check([f"name/{rank}"]):
                    self._store.set(f"answer/{self._store.get(f'name/{rank}').decode()}", own)
                if self._store.check([f"{own}/met/{rank}"]):
                    missing.remove(rank)
            time.sleep(POLL if missing else 0)
        return own

    def _set(self, name: str, value: Any) -> None:
        self._store.set(f"{self._round}/{name}", json.dumps(value))

    def _wait(self, name: str) -> Any:
        while not self._store.check([f"{self._round}/{name}"]):
            time.sleep(POLL)
        return json.loads(self._store.get(f"{self._round}/{name}"))
