"""Errors for people: one sentence instead of a nested traceback, and a traceback for this project's own bugs."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from networks.errors import UserError
from networks.workflow.arguments import check_command_line, is_bundle_run
from networks.workflow.stopping import stop_orderly

REPORT = "This is not a mistake that was expected of you; please report it with the lines above."


def report_errors() -> None:
    """Make an uncaught mistake of a person one sentence on standard error, with exit code 1.

    MONAI wraps whatever goes wrong inside a config in several layers of "Failed to evaluate" and prints all of them.
    A ``UserError`` in there carries a sentence, so that is all that is printed, as are mistakes in a config that MONAI
    finds. Everything else keeps its traceback, as does all with ``NETWORKS_TRACEBACK=1``. Code that runs a workflow
    in-process still gets the exception.

    Raises:
        UserError: the command line of ``python -m monai.bundle run`` has a mistake that MONAI does not see.
    """
    sys.excepthook = _excepthook
    hide_noise()
    if is_bundle_run(sys.argv):
        stop_orderly()
    check_command_line(sys.argv)


def hide_noise() -> None:
    """Leave out the warnings of libraries that nobody who runs this project can do something about."""
    # MONAI says so, in both ways, for every reader that it makes, and no reader here needs it
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    # the preprocessing of pictures has nothing to invert, and what comes after it is the same as for volumes
    warnings.filterwarnings("ignore", message="inverse has been called but no invertible transforms")
    # an enumeration of torchao's, which MONAI imports through transformers
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def user_error(error: BaseException) -> UserError | None:
    """The person's mistake that an error comes from, with its sentence; None for a bug."""
    chain = list(_chain(error))
    mistake = next((e for e in reversed(chain) if isinstance(e, UserError)), None)
    if mistake is None:
        text = next(filter(None, map(_config_mistake, reversed(chain))), None)
        mistake = UserError(text) if text else None
    return mistake


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    mistake = None if os.environ.get("NETWORKS_TRACEBACK") else user_error(error)
    if mistake is not None:
        print(f"Error: {mistake}", file=sys.stderr)
        return
    sys.__excepthook__(kind, error, traceback)
    if issubclass(kind, Exception):
        print(REPORT, file=sys.stderr)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _config_mistake(error: BaseException) -> str | None:
    """The first line of what MONAI says about a config that it cannot make sense of."""
    if isinstance(error, RuntimeError):  # what MONAI wraps every error in, also those of a bug
        return None
    where = _innermost_file(error)
    text = (str(error.args[0]) if error.args else str(error)).strip().splitlines()
    if where.parts[-3:-1] == ("monai", "bundle") or (isinstance(error, ModuleNotFoundError) and "locate" in str(error)):
        return f"The config cannot be used: {text[0] if text else type(error).__name__}"
    if where.parts[-3:] == ("monai", "utils", "module.py") and isinstance(error, TypeError):
        return f"The config cannot be used: {text[0]}"  # arguments that a class of the config does not take
    if where.name == "<string>" or isinstance(error, SyntaxError):
        return f"An expression of the config cannot be evaluated: {type(error).__name__}: {text[0] if text else ''}"
    return None


def _innermost_file(error: BaseException) -> Path:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return Path(traceback.tb_frame.f_code.co_filename) if traceback is not None else Path()
