"""What a run is asked for: config files and ids, checked before MONAI merges them.

MONAI takes a misspelled key for a new one, lets the second of two equal keys win and wraps what goes wrong in pages.
Here every such mistake is one sentence.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from networks.errors import UserError, did_you_mean
from networks.workflow.files import parse_json

SUFFIXES = (".json", ".yaml", ".yml")
# ids that MONAI itself looks for, whether or not another id refers to them
MONAI_IDS = {"imports", "initialize", "run", "training", "finalize", "_meta_"}
# settings that MONAI's experiment tracking reads beside the config's own ids
TRACKING_IDS = {"tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0"}


def read_config(path: str | Path) -> dict[str, Any]:
    """One config file, JSON or YAML, as MONAI reads it.

    Raises:
        UserError: no such file, a syntax error with its line, a key that is there twice, or no object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The config file {path} does not exist{_like(path)}.")
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(f"The config file {path} ends in neither {', '.join(SUFFIXES[:2])} nor {SUFFIXES[2]}.")
    try:
        is_json = path.suffix.lower() == ".json"
        content = parse_json(path.read_text(encoding="utf-8"), path) if is_json else _read_yaml(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"The config file {path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # of the json or the yaml library
        raise UserError(f"The config file {path} has a syntax error: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UserError(f"The config file {path} holds a {type(content).__name__}; expected an object of ids.")
    return content


def _read_yaml(path: Path) -> Any:
    from monai.bundle import ConfigParser  # slow to import, and only it knows MONAI's YAML

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = ConfigParser.load_config_file(path)
    found = [re.search(r"Duplicate key:? `?(.+?)`?$", str(warning.message)) for warning in caught]
    for match in filter(None, found):
        raise UserError(f"{path} has the key {match[1]!r} twice in one object; take one of them out.")
    return content


def config_ids(files: Iterable[str | Path]) -> set[str]:
    """The top-level ids that config files define or change.

    Raises:
        UserError: as :func:`read_config`.
    """
    return {top_level(key) for file in files for key in read_config(file)}


def check_ids(keys: Iterable[str], known: set[str]) -> None:
    """Raise UserError for an option whose top-level id is not known, naming the closest ones that are."""
    for key in keys:
        if top_level(key) not in known:
            raise UserError(
                f"--{key} is not an id of the given config files; "
                + did_you_mean(top_level(key), known, "see the id table in the bundle's docs/README.md")
            )


def check_configs(files: Sequence[str | Path], options: Mapping[str, Any], run_id: str = "run") -> None:
    """Check what MONAI is about to merge.

    Args:
        files: config files in their order.
        options: ids and their values from the command line.
        run_id: what is to be run.

    Raises:
        UserError: as :func:`read_config`; an overlay before the config that it changes; an id of an overlay or of the
            command line that nothing uses; or there is no such ``run_id``.
    """
    contents = [read_config(file) for file in files]
    used = set(re.findall(r"[@%]([A-Za-z_]\w*)", repr(contents) + repr(dict(options))))
    known: set[str] = set()
    for number, (file, content) in enumerate(zip(files, contents, strict=True)):
        own = {key for key in content if "::" not in key.replace("#", "::")}
        for key in content:
            name = top_level(key)
            if name in known or name.startswith("_") or (number == 0 and key in own):
                continue
            if key not in own:
                raise UserError(
                    f"{file} changes {key!r}, but no config before it has {name!r}; give the config that it is an "
                    "overlay of first, such as \"['.../train.json','.../presets/NAME.json']\"."
                )
            if name not in used | MONAI_IDS | TRACKING_IDS:
                raise UserError(
                    f"{file} sets {name!r}, which is no id of the configs before it and which nothing refers to"
                    f"{_end(did_you_mean(name, known))}"
                )
        known |= {top_level(key) for key in content}
    check_ids(options, known | TRACKING_IDS)
    _check_nested(files, options)
    if run_id not in known:
        raise UserError(
            f"The configs have no id {run_id!r} to run"
            f"{_end(did_you_mean(run_id, known, 'choose run, or training to train'))}"
        )


def _check_nested(files: Sequence[str | Path], options: Mapping[str, Any]) -> None:
    """Options such as ``train::trainer::max_epochs`` replace what is there, or add an argument to a component."""
    from monai.bundle import ConfigParser

    nested = {key.replace("#", "::") for key in options} - set(options)
    nested |= {key for key in options if "::" in key}
    if not nested:
        return
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    for key in sorted(nested):
        parent, _, name = key.rpartition("::")
        try:
            inside = parser[parent]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise UserError(f"--{key}: the configs have no {parent!r}.") from error
        if isinstance(inside, dict) and (name in inside or "_target_" in inside):
            continue
        if isinstance(inside, list) and name.isdecimal() and int(name) < len(inside):
            continue
        keys = set(inside) if isinstance(inside, dict) else set()
        raise UserError(f"--{key}: {parent!r} has no {name!r}{_end(did_you_mean(name, keys))}")


def top_level(key: str) -> str:
    """``train`` of ``train::trainer::max_epochs``, ``+train::handlers`` and ``train#handlers``."""
    return key.lstrip("+").replace("#", "::").split("::")[0]


def _end(hint: str) -> str:
    return f"; {hint}" if hint else "."


def _like(path: Path) -> str:
    """The file in the same place, or with the same name below it, that was probably meant."""
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    found = [file for file in sorted(folder.rglob("*")) if file.suffix in SUFFIXES][:1000]
    close = get_close_matches(path.name, [file.name for file in found], n=1)
    same = [file for file in found if close and file.name == close[0]]
    return f"; did you mean {same[0]}" if same else ""
