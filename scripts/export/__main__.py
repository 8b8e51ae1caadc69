"""Export a bundle's network: ``python -m scripts.export NAME --format FORMAT``."""

from typing import Any

from scripts import command_line


@command_line.when_stopped("No model was written or replaced; the same command starts anew.")
def export(
    name: str,
    format: str,
    output_dir: str | None = None,
    preset: str | None = None,
    labels: str | None = None,
    untrained: bool = False,
    tolerance: float = 1e-4,
    cases: int = 2,
    **options: Any,
) -> None:
    """Write a bundle's network for another runtime, with a manifest, after comparing it with PyTorch there.

    The model is run in its own runtime on random images (batches of 1, 2 and 3) and on test images of the data set,
    prepared and cut as the bundle's inference does it. If its logits differ too much, nothing is written.

    Further options are ids of the inference config, such as ckpt_path, dataset_dir, out_channels, img_size; those that
    the training was given are in its record beside the weights.

    Args:
        name: bundle, by name or by folder.
        format: torchscript, onnx, torch_export, openvino or tensorrt.
        output_dir: where ``model.<suffix>`` and ``model.<suffix>.json`` go; the bundle's ``models`` by default.
        preset: data set whose preset of the inference config is used; by default that of the training.
        labels: ``dataset.json`` with the class names, where they are not the bundle's own.
        untrained: export random weights, for trying the way to a runtime before there is a training.
        tolerance: largest accepted difference of the logits, relative to the largest logit of a batch.
        cases: how many test images to compare on.
    """
    from scripts.opened_bundle import check_options

    check_options(name, preset, options)
    from scripts.export import exporting

    exporting.export(name, format, output_dir, preset, labels, untrained, tolerance, cases, **options)


COMMANDS = export

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.export")
