"""Measure label maps: ``python -m scripts.measure PREDICTIONS OUT``."""

from scripts import command_line


@command_line.when_stopped("No file was written or replaced; the same command starts anew.")
def measure(
    predictions: str,
    output: str,
    dataset_dir: str | None = None,
    split: str = "test",
    truth: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    kinds: str | None = None,
    pixel_size: str | None = None,
    unit: str | None = None,
    split_touching: bool = False,
    min_pixels: int = 1,
    colours: str | None = None,
    model: str | None = None,
    overwrite: bool = False,
) -> None:
    """Measure label maps: particles, layers and cracks in pictures, millilitres in volumes.

    Writes tables per image and per object (CSV), a figure of the distributions, and a summary with 95 % intervals
    (bootstrap over the patients, over the images where names tell none); with truth the same numbers of the truth
    beside them, bias, limits of agreement and Bland-Altman plots. docs/measure.md says how each quantity is defined.

    Args:
        predictions: a label map (PNG, TIFF, NIfTI, ...) or a folder of them, such as scripts.predict writes.
        output: folder for the results.
        dataset_dir: data set whose images these are of; it gives class names, pixel sizes and, if it has labels, truth.
        split: its list.
        truth: folder of true label maps, named as the images or the label maps.
        images: folder of the images, whose files tell the pixels' size.
        labels: dataset.json or labels.json with the class names; by default the one beside the label maps.
        kinds: what a class is measured as, such as "oxide:layer,crack:crack,pore:none": particles, layer, crack, volume
            or none; "oxide+crack:layer" measures two classes as one. By default volumes are volume; in pictures names
            with crack are cracks, with oxide, layer, coating, film or scale layers, all others particles.
        pixel_size: such as 4.2nm, or width,height; by default what the files tell, else results are in pixels.
        unit: nm, µm (um) or mm for the results; by default what suits the pixels.
        split_touching: cut particles that touch, by watershed.
        min_pixels: smaller particles and cracks are left out.
        colours: class of each colour of label maps that hold colours, such as '{"255,0,0": 1}', or of grey values; of
            palettes and one bit too.
        model: what the results are to be called; the folder's name by default.
        overwrite: replace other measurements in the output folder.
    """
    from scripts.measure import measuring

    measuring.measure(
        predictions,
        output,
        dataset_dir,
        split,
        truth,
        images,
        labels,
        kinds,
        pixel_size,
        unit,
        split_touching,
        min_pixels,
        colours,
        model,
        overwrite,
    )


COMMANDS = measure

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.measure")
