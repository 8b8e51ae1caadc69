"""Command lines of the tools."""

from collections.abc import Iterator
from importlib import import_module

from scripts.command_line import check_arguments
from tests.malformed.case import Case

WRONG = {
    "datasets check": {
        "misspelled": (["DIR", "--in_chanels", "3"], "did you mean --in_channels"),
        "nothing": ([], "DATASET_DIR is missing"),
        "too many": (["DIR", "3", "3", "6", "out", "True", "more"], "'more' is one argument too many"),
        "no value": (["DIR", "--cases"], "--cases needs a value"),
    },
    "datasets nasa": {
        "misspelled": (["--source", "a", "--output_dri", "b"], "did you mean --output_dir?"),
        "half": (["--source", "a"], "OUTPUT_DIR is missing"),
    },
    "datasets folder": {
        "unknown": (["--source", "a", "--output_dir", "b", "--zoom", "2"], "--zoom is not an option"),
        "no masks": (["--source", "a", "--output_dir", "b", "--images", "c", "--labels", "d"], "MASKS is missing"),
    },
    "experiments run": {
        "misspelled": (["suite.json", "--run_dir", "x"], "did you mean --runs_dir?"),
        "nothing": ([], "SUITE is missing"),
    },
    "experiments collect": {"misspelled": (["suite.json", "--result_dir", "x"], "did you mean --results_dir")},
    "metrics score": {
        "misspelled": (["a", "b", "--protocoll", "paper"], "did you mean --protocol?"),
        "half": (["a"], "DATASET_DIR is missing"),
    },
    "metrics compare": {"unknown": (["a.jsonl", "--per_class", "True"], "--per_class is not an option")},
    "report": {"misspelled": (["a.jsonl", "--outptu", "x"], "did you mean --output?")},
    "benchmark networks": {"misspelled": (["--batchsize", "4"], "did you mean --batch_size?")},
    "label start": {"misspelled": (["--studys", "x"], "did you mean --studies?")},
    "label app": {"nothing": ([], "BUNDLES is missing")},
    "zoo verify": {"misspelled": (["a.zip", "--shcema", "x"], "did you mean --schema?")},
    "render": {"unknown": (["--force", "True"], "--force is not an option")},
    "predict": {"half": (["a"], "OUTPUT is missing"), "nothing": ([], "INPUT, OUTPUT is missing")},
    "export": {"half": (["swin_unet"], "FORMAT is missing")},
}


def cases() -> Iterator[Case]:
    """For every tool, as far as its command line takes no ids of a config."""
    for program, lines in WRONG.items():
        tool, *rest = program.split()
        command = import_module(f"scripts.{tool}.__main__").COMMANDS
        command = command[rest[0]] if rest else command
        for name, (words, said) in lines.items():
            yield Case(
                f"{program} {name}",
                lambda folder, command=command, words=words: lambda: check_arguments(command, words, "tool"),
                (said,),
            )
