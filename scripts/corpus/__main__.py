"""From a folder of micrographs to a corpus for classification: ``python -m scripts.corpus STEP SOURCE OUTPUT_DIR``."""

from collections.abc import Sequence

from scripts import command_line

STOPPED = "What is done is kept; the same command goes on with the rest."
LAYOUT = "auto"


@command_line.when_stopped(STOPPED)
def clean(
    source: str,
    output_dir: str,
    layout: str = LAYOUT,
    drawn: str = "crop",
    ocr: str = "auto",
    window: Sequence[float] | None = None,
) -> None:
    """Write copies without information banners, scale bars and texts, and read the side of a pixel where it is written.

    The originals stay as they are. A banner at the top or bottom is cut off. The side of a pixel comes from the
    file (FEI and Thermo Fisher, Zeiss, JEOL, OME, ImageJ, resolution), else by OCR from the width of the field or the
    scale bar and its label; a picture whose scale contradicts itself gets none. Look at
    ``sheet_removed_*.png``, where what was cut off is framed.

    Args:
        source: folder with pictures, a CSV file (image,class,split), or the folder of another step.
        output_dir: folder to create: ``images``, ``labels.csv`` and sheets.
        layout: auto, table (a CSV file), dataset (a data set with dataset.json), uhcs (the ultrahigh carbon steel
            database), classes (a folder per class, in folders of splits or not) or plain (pictures without classes).
        drawn: what becomes of scale bars and texts in the micrograph itself: crop (cut off the side that loses least),
            inpaint (paint over) or keep.
        ocr: true, false, or auto: where pytesseract and tesseract are installed.
        window: two values of 16-bit pictures that become 0 and 255; 0 and 65535 by default.
    """
    from scripts.corpus.cleaning import clean as run

    run(source, output_dir, layout, drawn, ocr, window)


@command_line.when_stopped(STOPPED)
def join(*sources: str, output_dir: str, layout: str = LAYOUT) -> None:
    """Make one corpus of several, such as all the micrographs that there are, to learn from without labels.

    A picture that is for test in one of them is for test. Pictures of sources without splits are for training if others
    are split. Follow with ``duplicates --drop true``, so that no copy of a picture for test is learned from.

    Args:
        *sources: what ``clean`` takes, or data sets with ``dataset.json``, whose test lists are for test.
        output_dir: folder to create: ``labels.csv`` and a sheet. The pictures stay where they are.
        layout: as for ``clean``, of all of them.
    """
    from scripts.corpus.joining import join as run

    run(*sources, output_dir=output_dir, layout=layout)


@command_line.when_stopped(STOPPED)
def duplicates(
    source: str,
    output_dir: str,
    distance: int = 10,
    correlation: float = 0.9,
    turned: bool = False,
    drop: bool = False,
    layout: str = LAYOUT,
) -> None:
    """Find pictures that show the same, also saved again, resized or brightened, and list them in ``duplicates.csv``.

    Candidates have close perceptual hashes; their details, without the shading, have to correlate. Groups stay
    together when ``split`` follows.

    Args:
        source: folder with pictures, a CSV file (image,class,split), or the folder of another step.
        output_dir: folder to create: ``labels.csv``, ``duplicates.csv`` and sheets of the groups.
        distance: bits of 64 by which the hashes may differ.
        correlation: of the details, from which two pictures are the same.
        turned: also compare quarter turns and mirror images.
        drop: leave all but the first of a group out of ``labels.csv``.
        layout: as for ``clean``.
    """
    from scripts.corpus.duplicates import duplicates as run

    run(source, output_dir, distance, correlation, turned, drop, layout)


@command_line.when_stopped(STOPPED)
def split(
    source: str,
    output_dir: str,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    again: bool = False,
    layout: str = LAYOUT,
) -> None:
    """Divide into training, validation and test: by source, never by tile, in the same shares of every class.

    What has one source, one ``group`` (a column of yours, such as the specimen) or is a duplicate stays in one split.

    Args:
        source: folder with pictures, a CSV file (image,class,split), or the folder of another step.
        output_dir: folder to create: ``labels.csv`` and a sheet.
        validation: share of the sources of every class.
        test: the same for the test.
        seed: which of them.
        again: forget splits that are there.
        layout: as for ``clean``.
    """
    from scripts.corpus.splitting import split as run

    run(source, output_dir, validation, test, seed, again, layout)


@command_line.when_stopped(STOPPED)
def tile(
    source: str, output_dir: str, size: int = 512, min_overlap: int = 0, small: str = "keep", layout: str = LAYOUT
) -> None:
    """Cut into square tiles that together show all of a picture: as few as possible, overlapping as much as it takes.

    Args:
        source: folder with pictures, a CSV file (image,class,split), or the folder of another step.
        output_dir: folder to create: ``images``, ``labels.csv`` and a sheet.
        size: of a tile in pixels.
        min_overlap: of neighbouring tiles in pixels.
        small: what becomes of pictures with a side below the size: keep (tiles of what there is), pad (mirrored) or
            leave_out.
        layout: as for ``clean``.
    """
    from scripts.corpus.tiling import tile as run

    run(source, output_dir, size, min_overlap, small, layout)


@command_line.when_stopped(STOPPED)
def augment(source: str, output_dir: str, copies: int = 3, seed: int = 0, layout: str = LAYOUT) -> None:
    """Write changed copies of the training pictures: flips, contrast, brightness, colours, noise.

    Only for programs that do not augment while they train, as the bundles do.

    Args:
        source: folder of ``split`` or ``tile``, or another source with splits.
        output_dir: folder to create: ``images``, ``labels.csv`` with the originals too, and a sheet.
        copies: of every training picture.
        seed: of the random numbers.
        layout: as for ``clean``.
    """
    from scripts.corpus.augmenting import augment as run

    run(source, output_dir, copies, seed, layout)


@command_line.when_stopped(STOPPED)
def cluster(
    source: str,
    output_dir: str,
    network: str | None = None,
    weights: str | None = None,
    bundle: str | None = None,
    ckpt_path: str | None = None,
    trained: str | None = None,
    size: int | None = None,
    clusters: int | None = None,
    max_clusters: int = 30,
    components: int = 50,
    seed: int = 0,
    device: str = "cpu",
    layout: str = LAYOUT,
) -> None:
    """Sort pictures into classes by a network's features: principal components, k-means, a sheet per cluster.

    Pictures without a class get their cluster as class. With classes given, ``clusters.json`` says how far the clusters
    agree with them (adjusted Rand index, purity), also for as many clusters as classes.

    Args:
        source: folder with pictures, a CSV file (image,class,split), or the folder of another step.
        output_dir: folder to create: ``labels.csv``, ``clusters.json`` and sheets.
        network: name of a network of timm, such as vgg16 (that of CS-UNet's paper).
        weights: file with its weights, in the names of timm or torchvision; by default timm's are downloaded.
        bundle: instead of ``network``, a bundle whose trained encoder is used.
        ckpt_path: its checkpoint; by default ``models/model.pt`` of the bundle.
        trained: instead of both, the name of weights that come with the bundles.
        size: side in pixels to which pictures are resized for the network; by default the ``img_size`` that one of this
            project's classifiers was trained with, else 224.
        clusters: how many; by default the number up to ``max_clusters`` with the best silhouette.
        max_clusters: see above.
        components: principal components of the features that count.
        seed: of k-means.
        device: cpu, cuda or cuda:1.
        layout: as for ``clean``.
    """
    from scripts.corpus.clustering import cluster as run

    run(
        source,
        output_dir,
        network,
        weights,
        bundle,
        ckpt_path,
        trained,
        size,
        clusters,
        max_clusters,
        components,
        seed,
        device,
        layout,
    )


COMMANDS = {
    "clean": clean,
    "join": join,
    "duplicates": duplicates,
    "split": split,
    "tile": tile,
    "augment": augment,
    "cluster": cluster,
}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.corpus")
