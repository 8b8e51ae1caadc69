"""What all the tools' command lines have in common."""

import inspect
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from networks.errors import UserError
from scripts import command_line
from tests.workflows import ROOT

TOOLS = (
    "benchmark",
    "compress",
    "corpus",
    "datasets",
    "demo",
    "experiments",
    "export",
    "label",
    "measure",
    "metrics",
    "predict",
    "render",
    "report",
    "report.pictures",
    "zoo",
)
# the function that does a command's work, where it takes the command's own arguments
WORK = {
    "benchmark networks": "benchmark.series:benchmark",
    "compress quantize": "compress.quantize:quantize",
    "compress int8": "compress.int8:int8",
    "compress prune": "compress.prune:prune",
    "compress slim": "compress.structured:slim",
    "compress distill": "compress.distill:distill",
    "compress compare": "compress.compare:compare",
    "corpus clean": "corpus.cleaning:clean",
    "corpus join": "corpus.joining:join",
    "corpus duplicates": "corpus.duplicates:duplicates",
    "corpus split": "corpus.splitting:split",
    "corpus tile": "corpus.tiling:tile",
    "corpus augment": "corpus.augmenting:augment",
    "corpus cluster": "corpus.clustering:cluster",
    "datasets synapse": "datasets.synapse:convert_synapse",
    "datasets acdc": "datasets.acdc:convert_acdc",
    "datasets msd": "datasets.msd:convert_msd",
    "datasets nasa": "datasets.nasa:convert_nasa",
    "datasets totalsegmentator": "datasets.totalsegmentator:convert_totalsegmentator",
    "datasets folder": "datasets.folder:convert_folder",
    "datasets dicom": "datasets.dicom:convert_dicom",
    "datasets dicom_seg": "datasets.dicom_seg:write_dicom_seg",
    "datasets check": "datasets.check:check",
    "demo": "demo.server:start",
    "experiments run": "experiments.commands:run",
    "experiments show": "experiments.commands:show",
    "experiments collect": "experiments.commands:collect",
    "export": "export.exporting:export",
    "label app": "label.prepare:app",
    "label start": "label.server:start",
    "measure": "measure.measuring:measure",
    "metrics score": "metrics.score:score",
    "metrics compare": "metrics.comparisons:compare",
    "predict": "predict.predicting:predict",
    "report": "report.page:report",
    "report.pictures": "report.drawing:panel",
    "zoo pack": "zoo.pack:pack",
    "zoo verify": "zoo.verify:verify",
    "zoo push": "zoo.push:push",
}


def commands_of(tool: str) -> command_line.Commands:
    module = f"scripts.{tool}" if "." in tool else f"scripts.{tool}.__main__"
    return import_module(module).COMMANDS


def tool(first: str, second: int = 2, *, third: bool = False, ratio: float = 0.5) -> None:
    """Do something."""


def call(monkeypatch: pytest.MonkeyPatch, commands: command_line.Commands, *arguments: str) -> str | int | None:
    """The exit code or sentence of a command line."""
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    try:
        command_line.run(commands, "tool")
    except SystemExit as ended:
        return ended.code
    return None


def test_help_needs_no_pytorch() -> None:
    """One process for all: what ``--help`` of every command imports, and what it prints."""
    code = """
import contextlib, io, json, sys
from importlib import import_module
from scripts import command_line
said = {}
for module in json.loads(sys.argv[1]):
    commands = import_module(module).COMMANDS
    for path in [[], *([name] for name in commands)] if isinstance(commands, dict) else [[]]:
        sys.argv = ["tool", *path, "--help"]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            command_line.run(commands, "tool")
        said[" ".join([module, *path])] = out.getvalue()
slow = [name for name in ("torch", "monai", "numpy", "timm", "itk", "PIL") if name in sys.modules]
print(json.dumps([said, slow]))
"""
    modules = [f"scripts.{tool}" if "." in tool else f"scripts.{tool}.__main__" for tool in TOOLS]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(modules)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said, slow = json.loads(done.stdout)
    assert slow == []
    assert len(said) == 55
    assert all("SYNOPSIS" in text and "NAME\n    tool" in text for text in said.values())
    assert "folder to create" in said["scripts.datasets.__main__ acdc"]


@pytest.mark.parametrize(("command", "work"), WORK.items(), ids=WORK)
def test_commands_take_what_their_work_takes(command: str, work: str) -> None:
    name, *rest = command.split()
    shown = commands_of(name)
    for part in rest:
        shown = shown[part]
    module, function = work.split(":")
    done = getattr(import_module(f"scripts.{module}"), function)
    found, expected = (inspect.signature(f).parameters for f in (shown, done))
    assert [(p.name, p.default, p.kind) for p in found.values()] == [
        (p.name, p.default, p.kind) for p in expected.values()
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--secnd", "3"], "--secnd is not an option of 'tool'; did you mean --second?"),
        (["a", "--zzz"], "--zzz is not an option of 'tool'; see 'tool --help'."),
        (["a", "1", "b"], "'b' is one argument too many"),
        (["--first=a", "1", "b"], "'b' is one argument too many"),
        ([], "FIRST is missing; see 'tool --help'."),
        (["--second", "3"], "FIRST is missing"),
        (["a", "--second"], "--second needs a value after it"),
        (["--first", "--third", "true"], "--first needs a value after it"),
        (["a", "--second", "three"], "--second is 'three'; expected a whole number."),
        (["a", "--second", "3.5"], "--second is '3.5'; expected a whole number."),
        (["a", "--ratio", "half"], "--ratio is 'half'; expected a number."),
        (["--third", "a"], "FIRST is missing"),
        (["a", "--third", "perhaps"], "--third is 'perhaps'; expected true or false."),
        (["a", "--nothird", "x"], "--nothird takes no value"),
    ],
)
def test_mistakes_are_found_before_anything_runs(arguments: list[str], said: str, monkeypatch) -> None:
    called = []

    def tool(first: str, second: int = 2, *, third: bool = False, ratio: float = 0.5) -> None:
        called.append(first)

    code = call(monkeypatch, tool, *arguments)
    assert said in str(code) and str(code).startswith("Error: ")
    assert not called
    with pytest.raises(UserError):
        command_line.check_arguments(tool, ["--nonsense"], "tool")


def test_unknown_commands(monkeypatch) -> None:
    commands = {"score": tool, "dicom_seg": tool}
    assert call(monkeypatch, commands, "scroe", "a") == "Error: scroe is not a command of 'tool'; did you mean score?"
    assert call(monkeypatch, commands) == "Error: Give a command after 'tool': score, dicom_seg; --help says more."
    assert "--first comes before the command" in call(monkeypatch, commands, "--first", "a")
    assert call(monkeypatch, commands, "dicom-seg", "a") is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["7", "3"], ("7", 3, False, ())),
        (["--first", "true", "-s", "4", "--third"], ("true", 4, True, ())),
        (["--second=-1", "a", "--third", "yes"], ("a", -1, True, ())),
        (["a", "--nothird"], ("a", 2, False, ())),
        (["a", "--more", "1,2"], ("a", 2, False, (1, 2))),
        (["--", "--completion"], None),
    ],
)
def test_values_are_what_the_annotations_say(arguments, expected, monkeypatch) -> None:
    seen = []

    def tool(first: str, second: int = 2, third: bool = False, more: Sequence[int] = ()) -> None:
        seen.append((first, second, third, more))

    assert call(monkeypatch, tool, *arguments) in (None, 0)
    assert seen == ([] if expected is None else [expected])


@pytest.mark.parametrize(("given", "meant"), [("true", True), ("false", False), ("False", False), ("trued", "trued")])
@pytest.mark.parametrize("joined", [True, False])
def test_truth_values_in_jsons_spelling(given: str, meant: object, joined: bool, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(sys, "argv", ["tool", *([f"--value={given}"] if joined else ["--value", given])])
    command_line.run(lambda value: seen.append(value), "tool")
    command_line.run(lambda **options: seen.append(options["value"]), "tool")
    assert seen == [meant, meant]


@pytest.mark.parametrize("command", ["export", "predict"])
def test_ids_of_the_config_are_checked_before_anything_is_imported(command: str, tmp_path: Path) -> None:
    arguments = {"export": ["unet", "onnx"], "predict": [str(tmp_path), str(tmp_path / "out"), "--bundle", "unet"]}
    code = f"""
import sys
from scripts import command_line
from scripts.{command}.__main__ import COMMANDS
sys.argv = ["tool", *{[*arguments[command], "--img_sizes", "[32,32]"]!r}]
try:
    command_line.run(COMMANDS, "tool")
except SystemExit as ended:
    print(ended.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "did you mean" in done.stdout and "img_size" in done.stdout and done.stdout.endswith("False\n")
    assert not (tmp_path / "out").exists()


def test_error_is_one_sentence(monkeypatch) -> None:
    def tool() -> None:
        raise UserError("The file a.txt is empty; give another.")

    assert call(monkeypatch, tool) == "Error: The file a.txt is empty; give another."


def test_what_the_disk_or_the_rights_forbid_is_one_sentence(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")

    def tool() -> None:
        (tmp_path / "a" / "b").write_text("")

    assert f"{tmp_path / 'a' / 'b'}: Not a directory" in call(monkeypatch, tool)


def test_a_bug_keeps_its_traceback_and_asks_for_a_report(monkeypatch, capsys) -> None:
    exec(compile("def tool():\n    raise KeyError('x')", "elsewhere.py", "exec"), namespace := {})
    assert call(monkeypatch, namespace["tool"]) == 1
    said = capsys.readouterr().err
    assert "KeyError: 'x'" in said and "report it" in said.splitlines()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_is_one_sentence_and_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    program = f"""
import tempfile, time
from scripts import command_line

@command_line.when_stopped("The rest is safe.")
def tool():
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        print("started", flush=True)
        time.sleep(60)

command_line.run(tool, "tool")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (code, "\nStopped. The rest is safe.\n")
    assert not list(tmp_path.iterdir())
