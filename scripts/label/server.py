"""Starting MONAI Label's server with an app of this tool."""

import importlib.util
import json
import os
import re
import socket
import sys
from pathlib import Path

from networks.errors import UserError
from networks.workflow.data import IMAGE_SUFFIXES
from scripts.label.prepare import APP_DIR, is_app


def start(
    studies: str,
    app: str = APP_DIR,
    host: str = "127.0.0.1",
    port: int = 8000,
    uncertainty: str = "",
    auto_scoring: bool = True,
) -> None:
    """Do what the command ``start`` of this tool describes, with the same arguments.

    Raises:
        UserError: no such app, folder of studies or bundle, MONAI Label is not installed, or the port is taken.
    """
    folder = Path(str(app)).resolve()
    if not is_app(folder):
        raise UserError(
            f"{app} is no app; make one with: python -m scripts.label app --bundles NAME --output_dir {app}"
        )
    studies = str(studies)
    if not re.match(r"https?://", studies):
        if not Path(studies).is_dir():
            raise UserError(f"The folder of studies {studies} does not exist; give --studies another.")
        if not os.access(studies, os.W_OK):
            raise UserError(
                f"The folder of studies {studies} cannot be written to, and MONAI Label keeps the labels in it; give "
                "--studies a copy."
            )
        studies = str(Path(studies).resolve())
    bundles = sorted(path.name for path in (folder / "model").iterdir() if (path / "configs").is_dir())
    if uncertainty and uncertainty not in bundles:
        raise UserError(f"--uncertainty: the app has no bundle {uncertainty!r}; choose from {', '.join(bundles)}.")
    if importlib.util.find_spec("monailabel") is None:
        raise UserError(
            "MONAI Label is not installed here; it needs older libraries than the rest, so make a virtual environment "
            "for it and run there: python -m pip install -e '.[label]'"
        )
    check_address(host, port)
    os.environ["MONAI_LABEL_AUTO_UPDATE_SCORING"] = json.dumps(bool(auto_scoring))
    os.environ.setdefault("MONAI_LABEL_DATASTORE_FILE_EXT", json.dumps([f"*{suffix}" for suffix in IMAGE_SUFFIXES]))
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(folder), "--studies", studies]
    command += ["--host", str(host), "--port", str(port), "--conf", "uncertainty", uncertainty or "first"]
    # in this process's place, so that signals reach the server; its launcher breaks on folders with spaces
    os.execv(sys.executable, command)


def check_address(host: str, port: int) -> None:
    """Raise UserError where a server could not listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except (OSError, OverflowError) as error:
            raise UserError(f"{host}:{port} cannot be listened on ({error}); give another --port or --host.") from error
