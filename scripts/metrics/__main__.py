"""Score saved label maps, summarise results and compare models: ``python -m scripts.metrics <command>``."""

from networks.workflow.protocols import TOLERANCE
from scripts import command_line


@command_line.when_stopped("No file of scores was written or replaced; the same command starts anew.")
def score(
    predictions: str,
    dataset_dir: str,
    split: str = "test",
    protocol: str = "strict",
    model: str | None = None,
    output: str | None = None,
    seed: int | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Score saved label maps of any origin against the labels of a data set.

    The ``paper`` protocol scores pictures by probabilities, which label maps do not have: their results are marked
    "from label maps". Of volumes it takes the label maps as they are: the papers' own inference, slice by slice, is
    part of a bundle's evaluation (``presets/<data set>_paper.json``).

    Args:
        predictions: folder of label maps, on the grids of the labels and named as the images or the labels.
        dataset_dir: data set in the contract.
        split: list of ``dataset.json``.
        protocol: strict or paper.
        model: what the results are to be called; the folder's name by default.
        output: file to write; ``results_<protocol>.jsonl`` among the predictions by default.
        seed: of the run that made the predictions.
        tolerance: distance within which nsd takes two surfaces for the same, in mm or pixels.
    """
    from scripts.metrics import score

    score.score(predictions, dataset_dir, split, protocol, model, output, seed, tolerance)


@command_line.when_stopped("Nothing was changed.")
def summarise(*results: str) -> None:
    """Print the means of result files as Markdown, with 95 % intervals (bootstrap over the patients) and case counts.

    Args:
        *results: files that evaluations wrote.
    """
    from networks.workflow.statistics import markdown, tables
    from scripts.metrics.variants import read_named

    print(markdown(tables(read_named(results))))


@command_line.when_stopped("Nothing was changed.")
def compare(*results: str, by_class: bool = False) -> None:
    """Compare models on the same cases, each with each, by Wilcoxon's signed-rank test with Holm's correction.

    A case counts with its mean over the classes that neither model misses; p is corrected over all lines of the table.

    Args:
        *results: files that evaluations wrote.
        by_class: compare every class on its own.
    """
    from scripts.metrics import comparisons

    comparisons.compare(*results, by_class=by_class)


COMMANDS = {"score": score, "summarise": summarise, "compare": compare}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.metrics")
