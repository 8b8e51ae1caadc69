"""An orderly end at any time: what SIGTERM and Ctrl-C do."""

import contextlib
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

GRACE = 3.0  # seconds in which a second signal is taken for the first: torchrun sends what the terminal has sent
REPEAT = 0.1  # seconds after which a signal is sent again where Python could not raise it
_says: list[Callable[[], str]] = []


@contextlib.contextmanager
def stoppable(say: Callable[[], str]) -> Iterator[None]:
    """End on SIGTERM and Ctrl-C by a line of what is safe and how to go on, and the exit code 143 or 130.

    Both raise SystemExit where the program is, so that temporary files and folders are removed on the way. Data
    loaders' workers end with their process. In other threads than the main one, which get no signals, nothing changes.

    Args:
        say: makes the sentence, in the moment of the signal.
    """
    handlers = stop_orderly()
    try:
        with saying(say):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def saying(say: Callable[[], str]) -> Iterator[None]:
    """What :func:`stop_orderly` says meanwhile."""
    _says.append(say)
    try:
        yield
    finally:
        _says.remove(say)


def stop_orderly() -> dict[int, Any]:
    """End on SIGTERM and Ctrl-C as :func:`stoppable` says, from now on.

    Returns:
        The handlers before; none in another thread than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    # workers that end at once leave theirs behind; they share that of this process if it has one before them
    multiprocessing.util.get_temp_dir()
    process, main_thread = os.getpid(), threading.get_ident()
    first: list[float] = []
    again = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a worker of a data loader, which the terminal has told as well
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if again.is_set():
            again.clear()
            raise SystemExit(128 + number)
        if first:
            if time.monotonic() - first[0] > GRACE:
                os._exit(128 + number)
            return
        first.append(time.monotonic())
        # PyTorch's handler would raise an error over every worker that ends now; over one that has just ended, Python
        # would complain that nothing handles the signal any more
        if hasattr(signal, "SIGCHLD"):  # Windows has none
            signal.signal(signal.SIGCHLD, lambda number, frame: None)

        # Python ignores what is raised in a __del__, as that of a data loader's iterator between epochs, and tells it
        # here; what else is told after a stop, as of a loader that was half made, helps nobody
        def unraisable(args: Any) -> None:
            if isinstance(args.exc_value, SystemExit):
                again.set()
                threading.Timer(REPEAT, _signal, [main_thread, number]).start()

        sys.unraisablehook = unraisable
        if int(os.environ.get("RANK", 0)) == 0:
            what = _says[-1]() if _says else "Nothing was written; start again."
            print(f"\nStopped. {what}", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    return {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}


def _signal(thread: int, number: int) -> None:
    if hasattr(signal, "pthread_kill"):  # Windows has none; it ends what a thread waits for
        signal.pthread_kill(thread, number)
    else:
        signal.raise_signal(number)
