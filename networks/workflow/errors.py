"""Errors for people: one sentence instead of a nested traceback, and no silently ignored command-line keys."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType

from networks.workflow.stopping import stop_orderly

PACKAGE_DIR = Path(__file__).resolve().parent.parent
RUN_ARGUMENTS = {
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "args_file",
    # settings that MONAI's experiment tracking reads beside the config's own ids
    "tracking_uri",
    "experiment_name",
    "run_name",
    "save_execute_config",
    "is_not_rank0",
}


def report_errors() -> None:
    """Make an uncaught error of this package one sentence on standard error, with exit code 1.

    MONAI wraps whatever goes wrong inside a config in several layers of "Failed to evaluate" and prints all of
    them. Errors that this package raises on purpose (bad data, wrong checkpoint, impossible option) carry a sentence
    for the user, so that sentence is all that is printed. Set ``NETWORKS_TRACEBACK=1`` for the full traceback; errors
    from anywhere else keep theirs. Code that runs a workflow in-process still gets the exception.
    """
    sys.excepthook = _excepthook
    if _is_command_line(sys.argv):
        stop_orderly()
    _check_command_line(sys.argv)


def user_error(error: BaseException) -> BaseException | None:
    """The innermost error in the chain of ``error`` that this package raised itself, if there is one."""
    return next((e for e in reversed(list(_chain(error))) if _raised_here(e.__traceback__)), None)


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    ours = user_error(error)
    if ours is None or not str(ours) or os.environ.get("NETWORKS_TRACEBACK"):
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"Error: {ours}", file=sys.stderr)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _raised_here(traceback: TracebackType | None) -> bool:
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return PACKAGE_DIR in Path(traceback.tb_frame.f_code.co_filename).resolve().parents


def _check_command_line(argv: list[str]) -> None:
    """Refuse ``--key value`` pairs of ``python -m monai.bundle run`` whose key no config file has.

    MONAI adds unknown keys to the config without a word, so that a misspelled option would be ignored.

    Raises:
        ValueError: names the key and the closest ids that exist.
    """
    if not _is_command_line(argv):
        return
    options = _options(argv[1:])
    if "config_file" not in options or "args_file" in options:
        return
    known = config_ids(_config_files(options["config_file"])) | RUN_ARGUMENTS
    check_ids(options, known)


def _is_command_line(argv: list[str]) -> bool:
    """Whether the program is MONAI's ``python -m monai.bundle``."""
    return bool(argv) and Path(argv[0]).parts[-2:] == ("bundle", "__main__.py")


def config_ids(files: Iterable[str | Path]) -> set[str]:
    """The top-level ids that config files define or change."""
    # "+id" merges into an id and "id::sub" replaces a part of one
    return {_top_level(key.lstrip("+")) for file in files for key in json.loads(Path(file).read_text("utf-8"))}


def check_ids(keys: Iterable[str], known: set[str]) -> None:
    """Raise ValueError for a key whose top-level id is not known, naming the closest ones that are."""
    for key in keys:
        if _top_level(key) not in known:
            close = get_close_matches(_top_level(key), sorted(known), n=3)
            hint = (
                f"did you mean {' or '.join(close)}?" if close else "see the id table in the bundle's docs/README.md."
            )
            raise ValueError(f"--{key} is not an id of the given config files; {hint}")


def _options(arguments: list[str]) -> dict[str, str]:
    options, key = {}, None
    for argument in arguments:
        if argument.startswith("--"):
            key, _, value = argument[2:].partition("=")
            options[key] = value
        elif key is not None:
            options[key], key = argument, None
    return options


def _config_files(value: str) -> list[str]:
    value = value.strip()
    if not value.startswith(("[", "(")):
        return [value]
    return [part.strip().strip("'\"") for part in value.strip("[]()").split(",") if part.strip()]


def _top_level(key: str) -> str:
    return key.replace("#", "::").split("::")[0]
