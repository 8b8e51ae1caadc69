"""Segment a file, a folder or DICOM series: ``python -m scripts.predict INPUT OUTPUT --bundle NAME``."""

from typing import Any

from scripts import command_line


@command_line.when_stopped("What is written so far is whole; the same command goes on with the rest.")
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
    """Write a label map for every image, as the bundle's own inference does, and go on after a case that fails.

    Under ``torchrun`` the cases are divided among the processes. Results that exist are kept, so the same command
    goes on after an interruption. Cases that failed are listed in ``failed.csv`` in the output folder, and the exit
    code is then 1.

    Further options are ids of the inference config, such as ckpt_path, out_channels, img_size, sw_batch_size. What the
    record beside the weights (``model.json``) says of preset, sizes and classes need not be said again.

    Args:
        input: an image, a folder of images, a data set (its test list), or a folder with DICOM series.
        output: folder for the results; for one image also the file for its label map.
        bundle: name or folder of a bundle; that of ``model`` by default.
        trained: name of weights that come with the bundles, instead of ``bundle``; ``segbundles list`` names them.
        runtime: torch, torchscript, onnx, torch_export, openvino or tensorrt; that of ``model`` by default, else torch.
            auto: on a processor bfloat16 where that is faster, and OpenVINO where it is installed and minutes of
            computing are left, as long as a batch of every case has 99.9 % of the labels of float32.
        model: file that ``scripts.export`` wrote; by default the bundle's own for that runtime.
        format: nifti, png, tiff or dicom_seg; by default NIfTI for volumes, PNG for pictures, DICOM SEG for DICOM.
        preset: data set whose preset of the inference config is used; by default that of ``model``, or of the training.
        labels: ``dataset.json`` with the class names for DICOM SEG, where they are not the bundle's own.
        overlays: also write ``<name>_overlay.png``: the image, and the label map over it.
        overwrite: remove existing results of these cases and start anew.
        measure: also measure the label maps, as ``scripts.measure`` does by default, into the folder ``measurements``;
            beside the truth where the input is a data set whose test list has labels.
        pixel_size: of pictures, such as 4.2nm, instead of what their files tell; it is written into the label maps.
        times: also write ``times.json``: seconds of reading, network and writing of every case.
    """
    if bundle is not None:
        from scripts.opened_bundle import check_options

        check_options(bundle, preset, options)
    from scripts.predict import predicting

    predicting.predict(
        input,
        output,
        bundle,
        trained,
        runtime,
        model,
        format,
        preset,
        labels,
        overlays,
        overwrite,
        measure,
        pixel_size,
        times,
        **options,
    )


COMMANDS = predict

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.predict")
