"""Starting the page and keeping it until it is stopped."""

import importlib.util
import os
import tempfile
import time
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from networks.errors import UserError
from scripts.label.server import check_address
from scripts.measure.measuring import require_skimage
from scripts.opened_bundle import shipped_weights

HOST = "127.0.0.1"  # there is no password


def start(
    bundle: str | None = None,
    runtime: str | None = None,
    model: str | None = None,
    preset: str | None = None,
    labels: str | None = None,
    port: int = 7860,
    max_mb: int = 1000,
    browser: bool = False,
    **options: Any,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: Gradio is not installed, the port is taken, or as ``scripts.predict`` for the model.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("The page needs Gradio: python -m pip install 'segmentation-bundles[demo]'.")
    require_skimage()
    if max_mb <= 0:
        raise UserError(f"--max_mb is {max_mb}; expected more than 0.")
    check_address(HOST, port)
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder:
        page = serve(find_choices(bundle, runtime, model, preset, labels, options), Path(folder), port, max_mb * 10**6)
        print(f"Open {page.local_url} in a browser of this computer; Ctrl-C ends it.", flush=True)
        try:
            if browser:
                webbrowser.open(page.local_url)
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)


def find_choices(
    bundle: str | None,
    runtime: str | None,
    model: str | None,
    preset: str | None,
    labels: str | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The models of the page by their names, the one that was asked for first; arguments as of the command line."""
    from scripts.demo.workbench import Choice
    from scripts.predict.models import choose_model

    for name in ("dataset_dir", "output_dir"):
        if name in options:
            raise UserError(f"--{name} is of scripts.predict; images are dropped on the page.")
    choices = {}
    if bundle is not None or model is not None:
        chosen = choose_model(bundle, None, runtime, model, preset, options)
        chosen.check_weights()
        choices[f"{chosen.config.name} ({chosen.weights.name})"] = Choice(chosen, labels)
        options = {key: value for key, value in options.items() if key == "device"}
    else:
        given = {"runtime": runtime, "preset": preset, "labels": labels, "ckpt_path": options.get("ckpt_path")}
        wrong = next((name for name, value in given.items() if value is not None), None)
        if wrong is not None:
            raise UserError(f"--{wrong} says nothing without --bundle or --model; name the bundle.")
    for weights in shipped_weights():
        choices[weights.stem] = Choice(choose_model(None, weights.stem, None, None, None, options))
    if not choices:
        raise UserError("No weights come with the bundles here; give --bundle NAME with trained weights.")
    return choices


def serve(choices: Mapping[str, Any], folder: Path, port: int, limit: int) -> Any:
    """Start the page without waiting for its end.

    Args:
        choices: models by their names.
        folder: for all that is uploaded and made of it.
        port: to listen on.
        limit: bytes that an upload, or an image in memory, may have.

    Returns:
        The page (``gradio.Blocks``), with its address as ``local_url``.
    """
    uploads, sessions = folder / "uploads", folder / "sessions"
    sessions.mkdir()
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(uploads)}
    import gradio as gr

    from scripts.demo.page import CSS, THEME, build
    from scripts.demo.workbench import Workbench

    gr.set_static_paths([sessions])  # downloads come from there, not from copies that outlive the session
    page = build(Workbench(choices, sessions, limit))
    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        max_file_size=limit,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        footer_links=[],
        allowed_paths=[],
        theme=THEME,
        css=CSS,
    )
    return page
