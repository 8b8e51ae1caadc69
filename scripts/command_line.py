"""Running a tool's commands with Fire so that a user's mistake is one sentence and exit code 1."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping

import fire

from networks.workflow.errors import REPORT, user_error


def run(commands: Callable | Mapping[str, Callable], name: str) -> None:
    """Run the command line; errors for people end it with their sentence.

    ``NETWORKS_TRACEBACK=1`` keeps the traceback.
    """
    # MONAI says so for every reader that it makes, and no reader here needs it
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    # Fire takes JSON's spelling for texts, of which "false" would count as true
    arguments = [re.sub(r"^(--\w+=)?(true|false)$", lambda m: (m[1] or "") + m[2].title(), a) for a in sys.argv[1:]]
    try:
        fire.Fire(commands, command=arguments, name=name)
    except Exception as error:
        if os.environ.get("NETWORKS_TRACEBACK"):
            raise
        mistake = user_error(error)
        if mistake is None:
            print(REPORT, file=sys.stderr)
            raise
        sys.exit(f"Error: {mistake}")


def reason(error: BaseException) -> str:
    """Why something failed, in one line: a sentence of this package, or the first cause's message."""
    shown = user_error(error) or error
    if not isinstance(shown, OSError | ValueError):
        # MONAI wraps errors of transforms and configs in pages of advice
        while shown.__cause__ or shown.__context__:
            shown = shown.__cause__ or shown.__context__
    lines = str(shown).strip().splitlines()
    return lines[0][:500] if lines else type(shown).__name__
