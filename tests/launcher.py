"""What ``torchrun --standalone --nproc_per_node=2`` does, with processes that are forks of this one and start at once.

Usage: ``python -m tests.launcher FOLDER RESTARTS MODULE ...``; every process leaves its number in ``FOLDER/rank<R>``.
"""

import os
import runpy
import sys
import uuid
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(folder: str, restarts: str, *words: str) -> None:
    """Start the processes, and start them anew where one dies, so often at most."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=int(restarts),
        start_method="fork",
    )
    elastic_launch(config, _run)(folder, *words)


def _run(folder: str, *words: str) -> None:
    Path(folder, f"rank{os.environ['RANK']}").write_text(str(os.getpid()))
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise


if __name__ == "__main__":
    launch(*sys.argv[1:])
