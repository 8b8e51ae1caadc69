"""Run suites of trainings and evaluations: ``python -m scripts.experiments <command> SUITE.json``."""

from collections.abc import Sequence

from scripts import command_line


@command_line.when_stopped(
    "What is done is kept, and a training goes on after its last epoch; the same command goes on."
)
def run(suite: str, runs_dir: str = "runs", gpus: Sequence[int] | int | None = None, only: str = "") -> None:
    """Do every run of a suite that is not done, one at a time per device; what was killed goes on where it was.

    Ctrl-C and SIGTERM end it with everything that it has started; whatever ends it, no more than an epoch is lost.

    Args:
        suite: the suite's file.
        runs_dir: where runs have their folders.
        gpus: numbers of the GPUs to use, one run on each; by default one run at a time, on a GPU if there is one.
        only: text that the names of the runs to do have in them.
    """
    from scripts.experiments import commands

    commands.run(suite, runs_dir, gpus, only)


@command_line.when_stopped("Nothing was changed.")
def show(suite: str, runs_dir: str = "runs") -> None:
    """Say which runs are done, running, failed, stopped or waiting, and about how long the rest will take.

    Args:
        suite: the suite's file.
        runs_dir: as for ``run``.
    """
    from scripts.experiments import commands

    commands.show(suite, runs_dir)


def collect(suite: str, runs_dir: str = "runs", results_dir: str = "results") -> None:
    """Write the results of the runs that are done: ``SUITE.jsonl`` with the scores, ``SUITE_runs.jsonl`` with the runs.

    Runs that these files have and that are not done here are kept: a suite may be shared by several machines.

    Args:
        suite: the suite's file.
        runs_dir: as for ``run``.
        results_dir: folder to write to.
    """
    from scripts.experiments import commands

    commands.collect(suite, runs_dir, results_dir)


COMMANDS = {"run": run, "show": show, "collect": collect}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.experiments")
