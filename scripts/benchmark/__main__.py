"""Command line: ``python -m scripts.benchmark networks [--device cuda] ...`` or ``predictions INPUT ...``."""

from collections.abc import Sequence
from typing import Any

from scripts import command_line


@command_line.when_stopped("What was measured is in the file; the same command goes on with the other networks.")
def networks(
    names: str | Sequence[str] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    channels_last: bool = False,
    compile: bool = False,
    batch_size: int = 4,
    img_size: int = 224,
    threads: int | None = None,
    repeats: int = 9,
    output: str | None = None,
    fresh: bool = False,
) -> None:
    """Measure time, memory, parameters and multiply-accumulates of the networks beside timm's resnet50.

    Every network has a process of its own. What a file already has for the same settings and machine is not measured
    again, so a run that was stopped goes on where it was. An error in one network is recorded and the others follow;
    the exit code is then 1, and the next run tries it again.

    Args:
        names: networks, separated by commas; all by default.
        device: cpu or cuda.
        dtype: float32, or bfloat16 for autocast.
        channels_last: use PyTorch's channels-last memory format.
        compile: use torch.compile.
        batch_size: images at once.
        img_size: height and width of the images.
        threads: CPU threads; by default as many as PyTorch takes.
        repeats: measurements of each time.
        output: JSON Lines file; by default one below results that is named after the settings.
        fresh: measure again what the file already has.
    """
    from scripts.benchmark.series import benchmark

    benchmark(names, device, dtype, channels_last, compile, batch_size, img_size, threads, repeats, output, fresh)


@command_line.when_stopped("Nothing was written; the same command starts anew.")
def predictions(
    input: str,
    runtimes: str | Sequence[str] = ("torch", "auto"),
    repeats: int = 3,
    threads: int | None = None,
    output: str = "results/predictions_cpu.jsonl",
    name: str | None = None,
    **options: Any,
) -> None:
    """Measure scripts.predict as its users meet it: from the shell to the label maps, in several runtimes in turn.

    Every prediction is a process of its own, whose wall time, peak memory and seconds of start-up, reading, network and
    writing are kept, as medians, and how many voxels have the label that the first runtime gives them. The lines are
    added to the file; those of the same name, runtime and machine are replaced.

    Further options are those of scripts.predict, such as trained, bundle and ckpt_path.

    Args:
        input: an image or a folder of images.
        runtimes: of scripts.predict, separated by commas.
        repeats: predictions with each.
        threads: CPU threads; by default as many as PyTorch takes.
        output: JSON Lines file.
        name: of the measurement; by default that of the input.
    """
    from scripts.benchmark.predictions import benchmark_predictions

    benchmark_predictions(input, runtimes, repeats, threads, output, name, options)


COMMANDS = {"networks": networks, "predictions": predictions}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.benchmark")
