"""The command line of ``python -m monai.bundle run``, read as Fire does and checked before MONAI acts on it."""

import ast
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow.config_files import SUFFIXES, check_configs, read_config

RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file")


def is_bundle_run(argv: Sequence[str]) -> bool:
    """Whether this is the command line of ``python -m monai.bundle run`` with something to run."""
    if len(argv) < 2 or Path(argv[0]).parts[-2:] != ("bundle", "__main__.py") or argv[1] != "run":
        return False
    return not {"-h", "--help", "--"} & set(argv)


def check_command_line(argv: Sequence[str]) -> None:
    """Refuse what MONAI would silently misread.

    Args:
        argv: as ``sys.argv``; any other program's is left alone.

    Raises:
        UserError: as ``config_files.check_configs``; an option that is there twice or has no value; config files
            outside the quotes; a file that does not exist; tracking without its library.
    """
    if not is_bundle_run(argv):
        return
    positional, options = split_arguments(argv[2:])
    if "args_file" in options:
        options = {**read_config(options["args_file"]), **options}
    loose = [word for word in positional if word.strip("[]'\",").lower().endswith(SUFFIXES)] or positional[1:]
    if loose:
        files = ",".join(f"'{file}'" for file in [*config_files(options.get("config_file", "FILE")), loose[0]])
        raise UserError(
            f'{loose[0]} belongs to no option; several config files are one text in quotes: --config_file "[{files}]".'
        )
    for name in ("meta_file", "logging_file"):
        for file in config_files(options.get(name) or []):
            if file.lower() != "false" and not Path(file).is_file():
                raise UserError(f"The file {file} of --{name} does not exist.")
    if options.get("tracking") == "mlflow" and find_spec("mlflow") is None:
        raise UserError(
            "--tracking mlflow needs mlflow, which is not installed: python -m pip install "
            "'segmentation-bundles[mlflow]'."
        )
    if "config_file" not in options:
        raise UserError("There is no --config_file; give one, such as bundles/swin_unet/configs/train.json.")
    run_id = positional[0] if positional else options.get("run_id", "run")
    ids = {key: value for key, value in options.items() if key not in RUN_ARGUMENTS}
    check_configs(config_files(options["config_file"]), ids, str(run_id))


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Positional arguments, and options by name.

    Raises:
        UserError: an option is there twice or without a value, or its value is None, which MONAI drops.
    """
    positional: list[str] = []
    options: dict[str, str] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and (not words or words[0].startswith("--")):
            raise UserError(f"--{name} has no value; give one, such as --{name} true for what is on or off.")
        value = value if equals else words.pop(0)
        if name in options:
            raise UserError(f"--{name} is there twice; give it once (several config files are one list in quotes).")
        if value == "None":
            raise UserError(f"--{name} None would be ignored; write --{name} '$None' for no value.")
        options[name] = value
    return positional, options


def config_files(value: Any) -> list[str]:
    """The files of ``--config_file``: one, several with commas, or a list, with or without the inner quotes."""
    if not isinstance(value, str):
        return [str(file) for file in value]
    text = value.strip()
    if text.startswith(("[", "(")):
        try:
            return [str(file) for file in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            text = text.strip("[]()")
    elif Path(text).is_file():
        return [text]
    return [part.strip().strip("'\"") for part in text.split(",") if part.strip()]
