"""Pictures of predictions beside the truth: ``python -m scripts.report.pictures DATASET PREDICTIONS OUTPUT.jpg``."""

from scripts import command_line


@command_line.when_stopped("No picture was written or replaced; the same command starts anew.")
def pictures(
    dataset_dir: str,
    predictions: str,
    output: str,
    split: str = "test",
    cases: int = 4,
    window: tuple[float, float] | None = None,
) -> None:
    """One row per case: the image, the truth over it, the prediction over it.

    Args:
        dataset_dir: data set in the contract.
        predictions: folder that inference wrote for ``split``.
        output: PNG or JPEG file to write.
        split: list of ``dataset.json``.
        cases: rows at most.
        window: image values to draw as black and white, such as -160,240 for CT; the image's own range by default.
    """
    from scripts.report.drawing import panel

    panel(dataset_dir, predictions, output, split, cases, window)


COMMANDS = pictures

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.report.pictures")
