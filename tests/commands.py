"""Command lines in processes of their own, which start at once: MONAI alone takes seconds to import."""

import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import IO

import monai.bundle  # noqa: F401  what most command lines import
import pytest


class Command:
    """``python -m MODULE ...`` in a child of this process, which has the libraries in memory.

    What an interpreter does at its end, it does not: where that matters, a test starts one.

    Args:
        words: the arguments of ``python``, of which the first is ``-m``.
        environment: variables beside this process's.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        assert words[0] == "-m"
        self._out, self._err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115  closed with the object
        arguments = (list(words[1:]), (self._out.fileno(), self._err.fileno()), environment or {})
        self._process = get_context("fork").Process(target=_main, args=arguments)
        self._process.start()

    @property
    def out(self) -> str:
        """What it has printed."""
        return _content(self._out)

    @property
    def err(self) -> str:
        """What it has said on standard error."""
        return _content(self._err)

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal's number, or None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """By SIGKILL."""
        self._process.kill()

    def wait(self, timeout: float = 300) -> int:
        """The exit code; a process that takes longer is killed and fails the test."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            pytest.fail(f"no end within {timeout} seconds: {self.err[-3000:]}")
        return self._process.exitcode


def run_command(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Command:
    """The command after its end."""
    command = Command(words, environment)
    command.wait()
    return command


def _content(file: IO[bytes]) -> str:
    # the process shares the file's position
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


def _main(words: list[str], descriptors: Sequence[int], environment: Mapping[str, str]) -> None:
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
    # pytest has put objects of its own in their places
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.argv = words
    sys.path.insert(0, str(Path.cwd()))
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
