"""Segmenting cases, one after the other, and telling what became of them."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.evaluation import write_csv
from networks.workflow.files import file_hash, files_below, json_text, locked, parse_json, write_json
from networks.workflow.pixel_size import parse_pixel_size
from networks.workflow.saving import write_label_names
from networks.workflow.stopping import saying
from networks.workflow.training import cores_of_a_process
from scripts import command_line
from scripts.datasets.dicom_seg import require_highdicom
from scripts.measure.measuring import measure_cases, require_skimage
from scripts.opened_bundle import LOCATIONS
from scripts.predict.cases import Case, find_cases
from scripts.predict.memory import keep_freed_memory
from scripts.predict.models import choose_model
from scripts.predict.processes import Processes
from scripts.predict.segmenter import Computed, Segmenter

RECORD, FAILED, TIMES = "predictions.json", "failed.csv", "times.json"


@dataclass
class Outcome:
    """What became of the cases of one process, by their names: failed ones with the reason, others with a notice, and
    seconds of each phase of those that were done.
    """

    done: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notices: dict[str, str] = field(default_factory=dict)
    times: dict[str, dict[str, float]] = field(default_factory=dict)


def predict(
    input: str,
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    runtime: str | None = None,
    model: str | None = None,
    format: str | None = None,
    preset: str | None = None,
    labels: str | None = None,
    overlays: bool = False,
    overwrite: bool = False,
    measure: bool = False,
    pixel_size: str | None = None,
    times: bool = False,
    **options: Any,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no such input, bundle, checkpoint or model, a mistake in the options, results of another model or
            input in the output folder, or an output file that exists.
        SystemExit: always, with code 1 if a case failed.
    """
    for name in ("dataset_dir", "output_dir"):
        if name in options:
            raise UserError(f"--{name} is the {'first' if name == 'dataset_dir' else 'second'} argument here.")
    size = None if pixel_size is None else parse_pixel_size(pixel_size)
    if measure:
        require_skimage()
    processes = Processes()
    if torch.cuda.is_available() and processes.count > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    chosen = choose_model(bundle, trained, runtime, model, preset, options)
    config = chosen.config
    is_volumes = config["spatial_dims"] == 3
    if is_volumes and size is not None:
        raise UserError("--pixel_size is of pictures; a volume has its voxels' size in its file.")
    names = chosen.labels(labels)
    target = Path(str(output))

    with contextlib.ExitStack() as lock:

        def plan() -> list[dict[str, Any]]:
            cases = find_cases(Path(str(input)), target, format, is_volumes, bool(overlays))
            if measure and any(case.is_seg for case in cases):
                raise UserError("--measure reads no DICOM SEG; give --format nifti beside it.")
            chosen.check_weights()
            record = {
                "bundle": config.name,
                "bundle_version": config.metadata["version"],
                "preset": config.preset,
                "runtime": chosen.runtime,
                "options": {key: value for key, value in config.options.items() if key not in LOCATIONS},
                **({"pixel_size": str(pixel_size)} if size is not None else {}),
                "weights": {
                    "file": chosen.weights.name,
                    "sha256": file_hash(chosen.weights),
                    **({"files": chosen.manifest["files"]} if chosen.manifest is not None else {}),
                },
            }
            if not _is_one_file(target, cases):
                lock.enter_context(locked(target, "prediction"))
            if times and _is_one_file(target, cases):
                raise UserError(f"--times writes {TIMES} beside the label maps; give a folder as OUTPUT.")
            _prepare(target, cases, record, bool(overwrite) and processes.restarts == 0)
            has_maps = not all(case.is_seg for case in cases)  # SEG has the names in it
            if has_maps and not _is_one_file(target, cases):
                write_label_names(target, names)
            return [asdict(case) for case in cases]

        cases = [Case(**{**item, "files": tuple(item["files"])}) for item in processes.from_first("plan", plan)]
        if any(case.is_seg for case in cases):
            require_highdicom()
        pending = processes.from_first("pending", lambda: [i for i, case in enumerate(cases) if not case.is_done])
        share = processes.share([cases[i] for i in pending])
        outcome = Outcome()
        try:
            with saying(lambda: _safe(cases, outcome)):
                if share:
                    if torch.device(config["device"]).type == "cpu":
                        keep_freed_memory()
                    say = _say_runtime if processes.rank == 0 else _say_nothing
                    segment = Segmenter(config, names, chosen.network(), size, say=say if chosen.fastest else None)
                    set_determinism(0)
                    _segment_all(share, segment, processes, outcome, _has_spare_core(config["device"]))
                results = processes.to_first("outcome", asdict(outcome))
        except (KeyboardInterrupt, SystemExit):
            _report_stop(target, cases, outcome, processes.rank)
            raise

        def finish() -> int:
            code = _report(target, cases, pending, results)
            if times:
                file = target / TIMES
                earlier = parse_json(file.read_text(encoding="utf-8"), file) if file.is_file() else {}
                found = {name: value for result in results for name, value in result["times"].items()}
                write_json(file, {**earlier, **found})
            if measure:
                measure_cases(Path(str(input)), target, [case for case in cases if case.is_done], names, pixel_size)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return code

        if processes.rank > 0:  # torchrun ends the others as soon as one process ends with code 1
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = processes.from_first("code", finish)
        processes.to_first("end", None)  # the first one keeps the store, so it goes last
        sys.exit(code)


def _is_one_file(output: Path, cases: Sequence[Case]) -> bool:
    """Whether the output is the one label map itself, and no folder."""
    return len(cases) == 1 and str(output) == cases[0].label


def _prepare(output: Path, cases: Sequence[Case], record: dict[str, Any], overwrite: bool) -> None:
    """Make sure that the results in the output folder are, and stay, those of one model and of these inputs."""
    is_file, file = _is_one_file(output, cases), output / RECORD
    if is_file and output.exists() and not overwrite:  # nothing beside it says of which image and model it is
        raise UserError(f"{output} exists; give another name, or --overwrite true to replace it.")
    known = {} if is_file else _known_inputs(file, cases, parse_json(json_text(record), file), overwrite)
    if overwrite:
        for path in (path for case in cases for path in case.outputs):
            path.unlink(missing_ok=True)
    if is_file:
        return
    inputs = dict(known)
    for case in cases:
        source = case.source
        for path in case.outputs:
            name = path.relative_to(output).as_posix()
            if not path.exists():
                inputs[name] = source
            elif known.get(name, source) != source:  # earlier versions did not record it
                raise UserError(
                    f"{path} is the result of another input than {source['file']} as it is now ({RECORD} tells of "
                    "which); give another folder, or --overwrite true to replace it."
                )
    write_json(file, {**record, "inputs": inputs})


def _known_inputs(file: Path, cases: Sequence[Case], record: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """What the record in the output folder says of which input each result is, if it is of the same model."""
    if not file.is_file():
        return {}
    try:
        earlier = parse_json(file.read_text(encoding="utf-8"), file)
        inputs = dict(earlier.pop("inputs", {}))
        # earlier versions recorded the first file only
        earlier["weights"] = {**record["weights"], **earlier["weights"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not the record of a prediction; give another folder.") from error
    if earlier == record:
        return inputs
    found = [path for path in files_below(file.parent) if path.match("*_seg.*") or path.match("*_overlay.png")]
    outputs = {path for case in cases for path in case.outputs}
    remaining = next((path for path in found if path not in outputs), None)
    if remaining is not None:  # it would stand under the record of the new model
        raise UserError(
            f"{remaining} is the result of another model or other options ({RECORD} tells which), and this run would "
            "not replace it; give another folder."
        )
    if found and not overwrite:
        raise UserError(
            f"{file.parent} holds results of another model or other options ({RECORD} tells which); give another "
            "folder, or --overwrite true to replace them."
        )
    return {}


def _has_spare_core(device: torch.device | str) -> bool:
    """Whether something can be done beside the network: on cores that it uses all, that makes both slower."""
    return torch.device(device).type != "cpu" or cores_of_a_process() > torch.get_num_threads()


def _segment_all(
    share: Sequence[Case], segment: Segmenter, processes: Processes, outcome: Outcome, overlapped: bool
) -> None:
    """Segment one case after the other; ``overlapped`` writes each while the next is computed."""
    name = "Cases" if processes.count == 1 else f"Cases of 1 of {processes.count} processes"
    with tqdm(total=len(share), desc=name, unit="case", disable=processes.rank > 0) as bar:

        @contextlib.contextmanager
        def accounted(case: Case) -> Iterator[None]:
            try:
                yield
            except Exception as error:
                outcome.failed[case.name] = command_line.reason(error)
                tqdm.write(f"Failed: {case.name}: {outcome.failed[case.name]}", file=sys.stderr)
                bar.update()

        def finish(computed: Computed, writing: Future[bool]) -> None:
            case = computed.case
            with accounted(case):
                found = writing.result()
                (outcome.done if found else outcome.empty).append(case.name)
                outcome.times[case.name] = computed.times
                if found and segment.notice:
                    outcome.notices[case.name] = segment.notice
                    tqdm.write(f"Note: {case.name}: {segment.notice}", file=sys.stderr)
                bar.update()

        # one case at most waits to be written, so that the memory is that of two
        with ThreadPoolExecutor(1) as writer:
            before: tuple[Computed, Future[bool]] | None = None
            for number, case in enumerate(share, start=1):
                # another machine's process may have done it before, in a folder that the first process does not see
                if case.is_done:
                    outcome.done.append(case.name)
                    bar.update()
                    continue
                computed = None
                with accounted(case):
                    computed = segment.compute(case)
                if before is not None:
                    finish(*before)
                before = None if computed is None else (computed, writer.submit(segment.write, computed))
                if before is not None and not overlapped:
                    finish(*before)
                    before = None
                if computed is not None:
                    segment.look_ahead(len(share) - number)
            if before is not None:
                finish(*before)


def _say_runtime(text: str) -> None:
    tqdm.write(f"Runtime: {text}", file=sys.stderr)


def _say_nothing(text: str) -> None:
    """In the processes beside the first, which speaks for all."""


def _report(output: Path, cases: Sequence[Case], pending: Sequence[int], results: Sequence[dict[str, Any]]) -> int:
    """Tell and list what became of the cases; the exit code."""
    done = {name for result in results for name in result["done"]}
    empty = sorted(name for result in results for name in result["empty"])
    failed = {name: text for result in results for name, text in result["failed"].items()}
    for case in (cases[i] for i in pending):
        if case.name not in done and case.name not in empty:
            failed.setdefault(case.name, "not done: no process has taken it")
    notices = {name: text for result in results for name, text in result["notices"].items()}
    for text in sorted(set(notices.values())):
        print(f"Note: {', '.join(sorted(name for name in notices if notices[name] == text))}: {text}")
    for name in empty:
        print(f"{name}: nothing but background was found, so there is no DICOM SEG of it.")
    print(
        f"{len(done)} of {len(cases)} cases segmented, {len(cases) - len(pending)} were there already, "
        f"{len(empty)} without findings, {len(failed)} failed: {output}"
    )
    _list_failed(output, cases, failed)
    if failed and not _is_one_file(output, cases):
        print(f"See {output / FAILED}.", file=sys.stderr)
    return 1 if failed else 0


def _report_stop(output: Path, cases: Sequence[Case], outcome: Outcome, rank: int) -> None:
    rows = outcome.failed | dict.fromkeys(_undone(cases, outcome), "not done: the run was stopped")
    _list_failed(output, cases, rows, f"{FAILED}-{rank}")


def _undone(cases: Sequence[Case], outcome: Outcome) -> list[str]:
    known = {*outcome.failed, *outcome.empty}
    return [case.name for case in cases if not case.is_done and case.name not in known]


def _safe(cases: Sequence[Case], outcome: Outcome) -> str:
    """What a stop says."""
    count = len(_undone(cases, outcome))
    return f"{count} of {len(cases)} cases are not done, the others are whole; the same command goes on with them."


def _list_failed(output: Path, cases: Sequence[Case], rows: dict[str, str], temporary: str = FAILED) -> None:
    if _is_one_file(output, cases):
        return
    if not rows:
        (output / FAILED).unlink(missing_ok=True)
        return
    # several processes that are stopped write the same list, each under a name of its own first
    file = output / f".{temporary}"
    write_csv(file, [{"case": name, "error": rows[name]} for name in sorted(rows)])
    file.replace(output / FAILED)
