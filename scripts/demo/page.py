"""The page itself."""

import traceback
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from matplotlib.figure import Figure

from networks.workflow.errors import user_error
from scripts import command_line
from scripts.demo.views import CLASSES, PLANES, View, draw_slices
from scripts.demo.workbench import Result, Workbench
from scripts.measure.figures import draw_distribution
from scripts.measure.maps import Measured
from scripts.measure.quantities import unit_of

TITLE = "Segmentation bundles"
ABOUT = (
    "Drop a micrograph (PNG, TIFF, JPEG), a volume (NIfTI) or a DICOM series (its files, or a zip of them). Everything "
    "stays on this computer and is removed when the page is closed. Not a medical device."
)
CSS = """
.legend {display: flex; flex-wrap: wrap; gap: .3em 1.4em; align-items: center; padding: .2em 0}
.legend .class {display: inline-flex; align-items: center; gap: .45em}
.legend i {width: 1em; height: 1em; border-radius: 3px; display: inline-block}
.legend i.bar {width: 9em}
.legend small, #files small {opacity: .7}
#files ul {margin: .3em 0 0 1.2em; list-style: disc}
#files a {text-decoration: underline}
#numbers *, #objects * {font-family: inherit}
"""
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
HIDDEN = ("class", "kind")
PLAIN = ("class", "object", "pixels", "at_border", "slice")  # columns without a unit
EPHEMERAL = (60, 300)  # seconds: how often shown slices are removed, and at which age


def build(bench: Workbench) -> gr.Blocks:
    """The page for a workbench."""
    names = list(bench.choices)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=EPHEMERAL, fill_width=True) as page:
        gr.Markdown(f"## {TITLE}\n{ABOUT}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                model = gr.Dropdown(names, value=names[0], label="Trained network", elem_id="model")
                about = gr.Markdown(bench.choices[names[0]].about)
                upload = gr.File(file_count="multiple", label="Image", height=150, elem_id="upload")
                button = gr.Button("Segment", variant="primary", interactive=False, elem_id="segment")
                with gr.Group(visible=False) as options:
                    pixel_size = gr.Textbox(
                        label="Pixel size", placeholder="as the file tells; else such as 4.2nm", elem_id="pixel_size"
                    )
                    split = gr.Checkbox(label="Split particles that touch", elem_id="split")
                files = gr.HTML(visible=False, elem_id="files")
            with gr.Column(scale=5, min_width=480), gr.Column(visible=False) as shown:
                caption = gr.HTML(elem_id="caption")
                picture = gr.Image(
                    format="png",
                    show_label=False,
                    interactive=False,
                    height=560,
                    buttons=["fullscreen", "download"],
                )
                legend = gr.HTML(elem_id="legend")
                with gr.Row():
                    what = gr.Dropdown([CLASSES], value=CLASSES, label="Shown", elem_id="shown")
                    opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity", elem_id="opacity")
                with gr.Row(visible=False) as slicing:
                    plane = gr.Radio(
                        list(PLANES),
                        value="axial",
                        label="Plane (patient's right, or front, on the left)",
                        elem_id="plane",
                    )
                    index = gr.Slider(1, 2, 1, step=1, label="Slice", elem_id="slice")
                with gr.Tabs():
                    with gr.Tab("Measurements"):
                        numbers = gr.Dataframe(interactive=False, show_label=False, wrap=True, elem_id="numbers")
                        note = gr.Markdown(elem_id="note")
                    with gr.Tab("Distribution"):
                        plot = gr.Plot(show_label=False, elem_id="distribution")
                    with gr.Tab("Objects, slices"):
                        objects = gr.Dataframe(interactive=False, show_label=False, max_height=420, elem_id="objects")

        def receive(files: list[str], name: str, request: gr.Request) -> dict:
            _answer(bench, request, lambda: bench.receive(_key(request), files))
            # a size that was given for the image before is not this one's
            return {button: gr.update(interactive=True), model: bench.fitting(_key(request), name), pixel_size: ""}

        def forget(request: gr.Request) -> dict:
            bench.close(_key(request))
            return {button: gr.update(interactive=False)}

        def leave(request: gr.Request) -> None:
            bench.close(_key(request))

        def segment(name: str, request: gr.Request) -> dict:
            result = _answer(bench, request, lambda: bench.segment(_key(request), name))
            view, start = result.view, result.view.fullest("axial")
            return {
                shown: gr.update(visible=True),
                options: gr.update(visible=not view.is_volume),
                slicing: gr.update(visible=view.is_volume),
                caption: _caption(result, name),
                picture: view.draw("axial", start, CLASSES, 0.5),
                legend: view.legend(CLASSES),
                what: gr.update(choices=view.shown, value=CLASSES),
                opacity: 0.5,
                plane: "axial",
                index: _slider(view, "axial", start),
                files: gr.update(visible=True, value=_links(result.files)),
            }

        def measure(size: str, touching: bool, request: gr.Request) -> dict:
            measured, made, text = _answer(bench, request, lambda: bench.measure(_key(request), size or "", touching))
            return {
                numbers: number_table(measured),
                note: text,
                plot: _figure(measured),
                objects: _object_table(measured),
                files: _links([*bench.result(_key(request)).files, *made]),
            }

        def draw(plane: str, index: int, what: str, opacity: float, request: gr.Request) -> np.ndarray:
            view = _answer(bench, request, lambda: bench.result(_key(request))).view
            return view.draw(plane, min(int(index), view.shape[PLANES[plane]]) - 1, what, opacity)

        def turn(plane: str, what: str, opacity: float, request: gr.Request) -> dict:
            view = _answer(bench, request, lambda: bench.result(_key(request))).view
            start = view.fullest(plane)
            return {index: _slider(view, plane, start), picture: view.draw(plane, start, what, opacity)}

        def explain(what: str, request: gr.Request) -> str:
            return _answer(bench, request, lambda: bench.result(_key(request))).view.legend(what)

        hide = {part: gr.update(visible=False) for part in (shown, files, options)}
        looked = [plane, index, what, opacity]
        measures = {
            "fn": measure,
            "inputs": [pixel_size, split],
            "outputs": [numbers, note, plot, objects, files],
            "api_name": "measure",
        }
        model.change(lambda name: bench.choices[name].about, model, about, api_visibility="private", **QUIET)
        gr.on([upload.upload, upload.delete, upload.clear], lambda: hide, outputs=list(hide), api_visibility="private")
        upload.upload(receive, [upload, model], [button, model, pixel_size], api_name="receive")
        upload.clear(forget, None, [button], api_visibility="private")
        segmented = [shown, options, slicing, caption, picture, legend, what, opacity, plane, index, files]
        done = button.click(lambda: hide, outputs=list(hide), api_visibility="private").success(
            segment, model, segmented, api_name="segment", scroll_to_output=True
        )
        done.success(**{**measures, "api_visibility": "private", "api_name": "measured"})
        gr.on([pixel_size.submit, split.input], **measures)
        gr.on([index.input, opacity.input, what.input], draw, looked, picture, api_name="draw", **QUIET)
        what.input(explain, what, legend, api_visibility="private", **QUIET)
        plane.input(turn, [plane, what, opacity], [index, picture], api_visibility="private", **QUIET)
        page.unload(leave)
    return page


def number_table(measured: Measured) -> dict[str, Any]:
    """A row for every quantity, a column for every class, to four digits."""
    classes = measured.found.classes
    quantities = list(dict.fromkeys(key for row in classes for key in row if key not in HIDDEN))
    rows = []
    for quantity in quantities:
        rows.append([_titled(quantity, measured.unit), *(_number(row.get(quantity)) for row in classes)])
    return {"headers": ["", *(str(row["class"]) for row in classes)], "data": rows}


def _object_table(measured: Measured) -> dict[str, Any]:
    rows = measured.found.objects or measured.found.slices
    headers = list(dict.fromkeys(key for row in rows for key in row if key != "kind"))
    named = [_titled(key, measured.unit) for key in headers]
    return {"headers": named, "data": [[_number(row.get(key)) for key in headers] for row in rows]}


def _links(files: Sequence[Path]) -> str:
    """Downloads."""
    items = [
        f'<li><a href="gradio_api/file={quote(str(file))}" download="{escape(file.name)}">{escape(file.name)}</a> '
        f"<small>{file.stat().st_size / 1000:.1f} kB</small></li>"
        for file in files
    ]
    return f"<b>Download</b><ul>{''.join(items)}</ul>"


def _titled(column: str, length: str) -> str:
    unit = "" if column in PLAIN else unit_of(column, length)
    return column.replace("_", " ") + (f", {unit}" if unit else "")


def _slider(view: View, plane: str, index: int) -> dict:
    return gr.update(maximum=max(view.shape[PLANES[plane]], 2), value=index + 1)  # Gradio wants two places at least


def _figure(measured: Measured) -> Figure | None:
    return draw_slices(measured) if measured.found.slices else draw_distribution([measured])


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and 1e-3 <= abs(value) < 1e7:
        return np.format_float_positional(value, precision=4, fractional=False, trim="-")
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _caption(result: Result, name: str) -> str:
    sizes = " x ".join(str(size) for size in result.view.shape[: 3 if result.view.is_volume else 2])
    text = f"<b>{escape(result.case.name)}</b> by {escape(name)}: {sizes}"
    text += " voxels" if result.view.is_volume else " pixels"
    if result.view.is_volume:
        text += f" of {' x '.join(f'{size:.3g}' for size in result.view.spacing)} mm"
    return f"{text}. {escape(result.note)}"


def _key(request: gr.Request) -> str:
    return str(request.session_hash)


def _answer(bench: Workbench, request: gr.Request, work: Callable[[], Any]) -> Any:
    """What some work gives; where it fails, the sentence that the command line would end with."""
    try:
        return work()
    except Exception as error:
        if user_error(error) is None:
            traceback.print_exc()
        raise gr.Error(
            escape(bench.without_folders(command_line.reason(error)), quote=False),
            duration=None,
            print_exception=False,
        ) from error
