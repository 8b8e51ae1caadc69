"""Running a tool's commands with Fire: arguments are checked first, a mistake or a stop is one sentence.

Nothing here needs more than Fire, so that ``--help`` and a mistyped option are answered at once.
"""

import contextlib
import errno
import functools
import inspect
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire
from fire import decorators, helptext
from fire.parser import DefaultParseValue
from fire.trace import FireTrace

from networks.errors import UserError, did_you_mean
from networks.workflow.errors import REPORT, hide_noise, user_error
from networks.workflow.ids import truth
from networks.workflow.stopping import stoppable

Commands = Callable | Mapping[str, "Commands"]
HELP = {"--help", "-h"}
STOPPED = "Nothing half-written is left; the same command starts anew."
# what the person's disk, rights or path is the reason of, whatever the program does
PERSONS_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def when_stopped(sentence: str) -> Callable[[Callable], Callable]:
    """Give a command the sentence that a stop ends with: what is safe, and how to go on."""

    def give(command: Callable) -> Callable:
        command._stopped = sentence  # the underscore keeps it out of Fire's help
        return command

    return give


def run(commands: Commands, program: str) -> None:
    """Run the command line of ``sys.argv``.

    A mistake of the user ends it with one sentence and exit code 1, SIGTERM and Ctrl-C with one sentence and 143 or
    130; anything else is a bug, with its traceback and exit code 1. ``NETWORKS_TRACEBACK=1`` raises everything.

    Args:
        commands: a function, or functions (or further commands) by name.
        program: how the command line begins, such as "python -m scripts.zoo".
    """
    hide_noise()
    if not sys.stderr.isatty():  # a bar in a file or a log is a line of a hundred states; tqdm reads this when imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    arguments = sys.argv[1:]
    command = None
    try:
        with stoppable(lambda: getattr(command, "_stopped", STOPPED)):
            if "--" in arguments:  # Fire's own flags follow, such as --completion
                fire.Fire(commands, command=arguments, name=program)
                return
            command, program, arguments = _chosen(commands, program, arguments)
            if HELP & set(arguments):
                print(_help(command, program))
                return
            if isinstance(command, Mapping):
                raise UserError(f"Give a command after '{program}': {', '.join(command)}; --help says more.")
            check_arguments(command, arguments, program)
            fire.Fire(_parsing(command), command=arguments, name=program)
    except BrokenPipeError:  # the reader has seen enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("NETWORKS_TRACEBACK"):
            raise
        mistake = _mistake(error)
        if mistake is None:
            traceback.print_exc()
            print(REPORT, file=sys.stderr)
            sys.exit(1)
        sys.exit(f"Error: {_as_called(str(mistake), program)}")


def reason(error: BaseException) -> str:
    """Why something failed, in one line: a sentence for people, or the first cause's message."""
    shown = _mistake(error)
    if shown is None:
        # MONAI wraps errors of transforms and configs in pages of advice
        shown = error
        while shown.__cause__ or shown.__context__:
            shown = shown.__cause__ or shown.__context__
    lines = str(shown).strip().splitlines()
    return lines[0][:500] if lines else type(shown).__name__


def check_arguments(command: Callable, arguments: Sequence[str], program: str) -> None:
    """Hold a command's arguments against its signature, so that nothing runs with others than were meant.

    Raises:
        UserError: an unknown option, one without its value, too many arguments, or one that is missing.
    """
    parameters = inspect.signature(command).parameters
    named = {p.name: p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    by_place = [p.name for p in named.values() if p.kind != p.KEYWORD_ONLY]
    kinds = {p.kind for p in parameters.values()}
    given, places, rest = set(), [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not _is_flag(argument):
            places.append(argument)
            continue
        option, equals, value = argument.partition("=")
        name = _meant(option, named)
        has_value = bool(equals) or bool(rest and not _is_flag(rest[0]))
        if has_value and not equals:
            value = rest.pop(0)
        if name is None:
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                raise UserError(_unknown(option, list(named), program))
        elif option.lstrip("-").startswith("no") and name != _plain(option):
            if has_value:
                raise UserError(
                    f"{option} takes no value, but {value!r} follows; give --{name} a value or put it last."
                )
        elif not has_value and not _takes_truth(named[name]):
            raise UserError(f"{option} needs a value after it; see '{program} --help'.")
        given.add(name)
    # Fire gives places to those arguments that no option has given
    open_places = [name for name in by_place if name not in given]
    if len(places) > len(open_places) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise UserError(f"{places[len(open_places)]!r} is one argument too many; see '{program} --help'.")
    missing = [name for name in open_places[len(places) :] if named[name].default is inspect.Parameter.empty]
    if missing:
        raise UserError(f"{', '.join(name.upper() for name in missing)} is missing; see '{program} --help'.")


def _chosen(commands: Commands, program: str, arguments: list[str]) -> tuple[Commands, str, list[str]]:
    """The command that the first arguments name, with the program's name up to it and the arguments after it."""
    while isinstance(commands, Mapping) and arguments and not _is_flag(arguments[0]):
        name = _plain(arguments[0])
        if name not in commands:
            raise UserError(_unknown(arguments[0], list(commands), program))
        commands, program, arguments = commands[name], f"{program} {name}", arguments[1:]
    if isinstance(commands, Mapping) and arguments and not HELP & set(arguments):
        raise UserError(f"{arguments[0]} comes before the command; give one of {', '.join(commands)} first.")
    return commands, program, arguments


def _as_called(text: str, program: str) -> str:
    """A sentence whose commands are those of the installed package where it was called."""
    return text.replace("python -m scripts.", "segbundles ") if program.startswith("segbundles") else text


def _help(command: Commands, program: str) -> str:
    return helptext.HelpText(command, FireTrace(command, name=program)).replace(f"'{program}'", program)


def _unknown(given: str, known: list[str], program: str) -> str:
    dashes = "--" if _is_flag(given) else ""
    hint = did_you_mean(_plain(given), known, f"see '{program} --help'", dashes)
    return f"{given} is not {'an option' if dashes else 'a command'} of '{program}'; {hint}"


def _meant(option: str, named: Mapping[str, inspect.Parameter]) -> str | None:
    """The parameter that Fire takes an option for: by its name, by "no" before it, by its first letter."""
    name = _plain(option)
    if name in named:
        return name
    if name.startswith("no") and name[2:] in named and _takes_truth(named[name[2:]]):
        return name[2:]
    first = [other for other in named if other[0] == name]
    return first[0] if len(first) == 1 else None


def _plain(text: str) -> str:
    return text.lstrip("-").replace("-", "_")


def _is_flag(argument: str) -> bool:
    """As Fire has it, where a negative number is a value."""
    return argument.startswith("--") or bool(re.match(r"-[A-Za-z]", argument))


def _takes_truth(parameter: inspect.Parameter) -> bool:
    return parameter.annotation in (bool, "bool", inspect.Parameter.empty)


def _parsing(command: Callable) -> Callable:
    """The command, whose arguments Fire turns into what their annotations say; called only when all of them are."""
    hints = typing.get_type_hints(command)
    parsers = {
        name: functools.partial(_value, name, kinds)
        for name, hint in hints.items()
        if (kinds := set(typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)))
        and kinds <= {str, int, float, bool, types.NoneType}
    }
    return decorators.SetParseFn(_literal)(decorators.SetParseFns(**parsers)(command))


def _value(name: str, kinds: set[type], text: str) -> Any:
    if text == "None" and types.NoneType in kinds:
        return None
    if str in kinds and kinds <= {str, types.NoneType}:
        return text
    value = _literal(text)
    if bool in kinds:
        with contextlib.suppress(UserError):
            return truth(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if (int in kinds and number and isinstance(value, int)) or (float in kinds and number) or str in kinds:
        return value if number else text
    expected = "true or false" if bool in kinds else "a number" if float in kinds else "a whole number"
    raise UserError(f"--{name} is {text!r}; expected {expected}.")


def _literal(text: str) -> Any:
    # Fire's spelling is Python's; JSON's would be texts, of which "false" counts as true
    return {"true": True, "false": False}.get(text, DefaultParseValue(text))


def _mistake(error: BaseException) -> BaseException | str | None:
    """What a person did wrong; None where it is a bug."""
    if isinstance(error, OSError) and error.errno in PERSONS_ERRORS:
        return f"{error.filename or 'A file'}: {error.strerror}; give another path, or make room or rights for it."
    return user_error(error)
