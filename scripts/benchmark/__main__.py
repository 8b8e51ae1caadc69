"""Command line: ``python -m scripts.benchmark networks [--device cuda] [--dtype bfloat16] ...``."""

from collections.abc import Sequence

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


COMMANDS = {"networks": networks}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.benchmark")
