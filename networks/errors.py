"""What a person did wrong, told apart from this project's own bugs."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A person's mistake: a missing file, a malformed value, options that exclude each other.

    Its text is one sentence that names the file or value, what was expected and what to do. Command lines print that
    sentence alone and end with exit code 1; any other exception is a bug and keeps its traceback.
    """


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "", dashes: str = "") -> str:
    """The end of a sentence about an unknown name.

    Args:
        name: what was given.
        known: the names that exist.
        otherwise: what to say where none of them is close, without a full stop.
        dashes: what stands before the names.
    """
    spelt = {choice.lower(): choice for choice in sorted(known)}
    close = [dashes + spelt[match] for match in get_close_matches(str(name).lower(), spelt, n=3)]
    return f"did you mean {' or '.join(close)}?" if close else otherwise and f"{otherwise}."
