"""Command line: ``python -m scripts.compress quantize|int8|prune|slim|distill|compare|draw``."""

from collections.abc import Sequence
from typing import Any

from scripts import command_line

STOPPED = "OUTPUT is whole or not there; trainings are kept beside it, and the same command goes on with them."


@command_line.when_stopped(STOPPED)
def quantize(
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    bits: int = 4,
    group_size: int = 64,
    layers: str = "all",
    edge_bits: int = 8,
    epochs: int = 0,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Round the weights of a trained network to few bits, packed in the file and in memory.

    With ``epochs`` the network is then trained with the rounded weights, by the bundle's own training; further options
    are ids of its config, such as learning_rate and batch_size. OUTPUT is a bundle of its own, which scripts.predict,
    MONAI and scripts.zoo pack take like any other.

    Args:
        output: folder of the compressed bundle, whose name is the bundle's.
        bundle: name of a bundle, or the folder of a compressed one.
        trained: name of weights that come with the bundles, instead of ``bundle``.
        ckpt_path: weights of ``bundle`` with their record beside them; its ``models/model.pt`` by default.
        bits: of a weight: 8, 4, 2 or 1.
        group_size: largest number of weights that share a scale; every row is cut into equal groups.
        layers: all, attention, or a regular expression of the layers' names.
        edge_bits: with ``layers all``, bits of the first layer and of the head, if that is more.
        epochs: of the training with rounded weights; none by default.
        dataset_dir: data set to train on.
    """
    from scripts.compress import quantize

    quantize.quantize(
        output, bundle, trained, ckpt_path, bits, group_size, layers, edge_bits, epochs, dataset_dir, **options
    )


@command_line.when_stopped("No model was written or replaced; the same command starts anew.")
def int8(
    output_dir: str,
    format: str = "openvino",
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    dataset_dir: str | None = None,
    samples: int = 300,
    keep: str | None = None,
    cases: int = 2,
) -> None:
    """Export a trained network with weights and activations of 8 bits, calibrated on training images.

    The manifest beside the model names the products that are not computed in 8 bits, and how far the logits are from
    PyTorch's; scripts.predict --model runs it.

    Args:
        output_dir: folder of the model and its manifest.
        format: openvino or onnx.
        bundle: name of a bundle, or the folder of a compressed one.
        trained: name of weights that come with the bundles, instead of ``bundle``.
        ckpt_path: weights of ``bundle`` with their record beside them; its ``models/model.pt`` by default.
        dataset_dir: data set of the training.
        samples: training slices or windows to calibrate on.
        keep: regular expression of the operators that stay in floating point.
        cases: how many test images to compare on.
    """
    from scripts.compress import int8

    int8.int8(output_dir, format, bundle, trained, ckpt_path, dataset_dir, samples, keep, cases)


@command_line.when_stopped(STOPPED)
def prune(
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    sparsity: Sequence[float] | float = 0.5,
    scope: str = "global",
    method: str = "magnitude",
    rewind: str | None = None,
    epochs: int = 0,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Make the smallest weights of a trained network zero, step by step, with trainings in between.

    The first layer and the head are left whole. Further options are ids of the training's config.

    Args:
        output: folder of the compressed bundle, whose name is the bundle's.
        bundle: name of a bundle, or the folder of a compressed one.
        trained: name of weights that come with the bundles, instead of ``bundle``.
        ckpt_path: weights of ``bundle`` with their record beside them; its ``models/model.pt`` by default.
        sparsity: shares of zeros after each step, such as 0.2,0.4,0.5.
        scope: global, over all layers together, or layer, the same share in each.
        method: magnitude, or random for a control with as many zeros in every layer.
        rewind: checkpoint, such as an early one of the same training, whose values the remaining weights take again
            before each training.
        epochs: of the training after each step; none by default.
        dataset_dir: data set to train on.
    """
    from scripts.compress import prune

    prune.prune(output, bundle, trained, ckpt_path, sparsity, scope, method, rewind, epochs, dataset_dir, **options)


@command_line.when_stopped(STOPPED)
def slim(
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    parts: str = "mlp",
    share: float = 0.25,
    epochs: int = 0,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Take whole hidden units, attention heads or channels out of a trained network, which is then smaller and faster.

    Further options are ids of the training's config.

    Args:
        output: folder of the compressed bundle, whose name is the bundle's.
        bundle: name of a bundle, or the folder of a compressed one.
        trained: name of weights that come with the bundles, instead of ``bundle``.
        ckpt_path: weights of ``bundle`` with their record beside them; its ``models/model.pt`` by default.
        parts: mlp, heads (of window attention), or channels (of convolutions, with torch-pruning).
        share: of them to take out.
        epochs: of the training afterwards; none by default.
        dataset_dir: data set to train on.
    """
    from scripts.compress import structured

    structured.slim(output, bundle, trained, ckpt_path, parts, share, epochs, dataset_dir, **options)


@command_line.when_stopped(STOPPED)
def distill(
    output: str,
    student: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    preset: str | None = None,
    temperature: float = 2.0,
    weight: float = 0.5,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Train a small network on the labels and on what a trained one says of every pixel.

    Further options are ids of the student's training config, such as epochs, and its network's own.

    Args:
        output: folder of the student's bundle, whose name is the bundle's.
        student: bundle of the network to train, such as levit_unet.
        bundle: name of the teacher's bundle, or the folder of a compressed one.
        trained: name of weights that come with the bundles, for the teacher.
        ckpt_path: weights of ``bundle`` with their record beside them; its ``models/model.pt`` by default.
        preset: of the student's training; that of the teacher's by default.
        temperature: that both networks' logits are divided by: the higher, the more the unlikely classes count.
        weight: of the teacher's word, from 0 to 1; the labels have the rest.
        dataset_dir: data set to train on.
    """
    from scripts.compress import distill

    distill.distill(output, student, bundle, trained, ckpt_path, preset, temperature, weight, dataset_dir, **options)


@command_line.when_stopped("What was measured is in the file of results; the same command measures it anew.")
def compare(
    *variants: str,
    dataset_dir: str | None = None,
    output: str = "results/compression.jsonl",
    figure: str | None = None,
    split: str = "test",
    cases: int | None = None,
    batch_size: int = 8,
    threads: int = 2,
    repeats: int = 9,
) -> None:
    """Score and time networks in one run: the first is the one before compression.

    Each is measured in a process of its own, in the runtime that it is for, its forward passes in turn with the first
    one's. Scores of whole test lists become part of compressed bundles.

    Args:
        *variants: names of weights that come with the bundles, folders of bundles, or exported models.
        dataset_dir: data set to score on.
        output: file of results (JSON Lines) to add to; what it has of the same networks is replaced.
        figure: picture to draw of them.
        split: list of ``dataset.json``.
        cases: how many of its cases; all by default.
        batch_size: images at once when timing.
        threads: of the processor.
        repeats: forward passes to time.
    """
    from scripts.compress import compare

    compare.compare(
        *variants,
        dataset_dir=dataset_dir,
        output=output,
        figure=figure,
        split=split,
        cases=cases,
        batch_size=batch_size,
        threads=threads,
        repeats=repeats,
    )


@command_line.when_stopped("The picture is whole, old or new.")
def draw(output: str, *results: str) -> None:
    """Draw accuracy against bytes and against time.

    Args:
        output: picture to write (.svg, .png or .pdf).
        *results: files that ``compare`` wrote.
    """
    from scripts.compress.compare import read_lines
    from scripts.compress.drawing import draw

    draw(read_lines(results), output)


COMMANDS = {
    "quantize": quantize,
    "int8": int8,
    "prune": prune,
    "slim": slim,
    "distill": distill,
    "compare": compare,
    "draw": draw,
}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.compress")
