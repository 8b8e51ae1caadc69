"""Command line: ``python -m scripts.datasets <name> --source ... --output_dir ...``."""

from collections.abc import Mapping, Sequence
from typing import Any

from networks.errors import UserError
from scripts import command_line

UNFINISHED = "No data set appeared, and what was converted so far is removed; the same command starts anew."


def phantom(
    kind: str,
    output_dir: str,
    num_training: int = 12,
    num_validation: int = 4,
    num_test: int = 4,
    size: Sequence[int] | None = None,
    seed: int = 0,
) -> None:
    """Write a phantom data set: ``ct`` (abdomens with eight organs) or ``precipitate`` (micrographs).

    Args:
        kind: ct or precipitate.
        output_dir: folder to create.
        num_training: volumes or pictures for training.
        num_validation: the same for validation.
        num_test: the same for the test.
        size: of one of them in voxels or pixels; 112,112,28 or 256,256 by default.
        seed: of the random numbers.
    """
    if kind not in ("ct", "precipitate"):
        raise UserError(f"The phantom {kind!r} is unknown; choose ct or precipitate.")

    from networks.phantom import write_ct_phantom, write_precipitate_phantom

    write = write_ct_phantom if kind == "ct" else write_precipitate_phantom
    options = {} if size is None else {"size": size}
    print(f"Wrote {write(output_dir, num_training, num_validation, num_test, seed=seed, **options)}.")


@command_line.when_stopped(UNFINISHED)
def synapse(
    source: str, output_dir: str, organs: int | str | Mapping[str, Any] = 8, validation: float | str = 3, seed: int = 0
) -> None:
    """Convert BTCV scans, or the TransUNet line's files, to NIfTI volumes with the papers' 18/12 split.

    Test cases are never used for validation. The slices of one preprocessed case become one volume, whose spacing and
    orientation are unknown (the affine is the identity), so that distances on it are in voxels.

    Args:
        source: folder, zip or uncompressed tar that holds either form, at any depth.
        output_dir: folder to create.
        organs: 8 (the papers', in the order of their tables), 13 (all, in BTCV's order), or a JSON object or file
            ``{name: id or [ids]}`` of the ids in the source.
        validation: cases taken out of the 18 for training: a number, names such as "0005,0030", or a text file; 0 for
            none, as the papers train.
        seed: which cases a number chooses.
    """
    from scripts.datasets.synapse import convert_synapse

    convert_synapse(source, output_dir, organs, validation, seed)


@command_line.when_stopped(UNFINISHED)
def acdc(
    source: str,
    output_dir: str,
    validation: float | str | None = None,
    test: float | str | None = None,
    training: float | str | None = None,
    seed: int = 0,
) -> None:
    """Convert both phases of every patient to NIfTI, split by patient.

    Without options the patients of ``training`` are split 70/10/20, the proportions of the TransUNet line of papers: of
    every ten patients of a diagnosis, in the order of their numbers, seven are for training, one for validation and two
    for testing. Which patients a paper took is in its list files; give those to repeat it.

    Args:
        source: folder, zip or uncompressed tar that holds ``training`` (and ``testing``).
        output_dir: folder to create.
        validation: patients for validation: a number, a share, names, or a text file with a patient or case per line.
        test: the same for the test; "testing" takes the challenge's test patients.
        training: names or a text file; by default the patients of ``training`` that are in no other list.
        seed: which patients a number or share chooses.
    """
    from scripts.datasets.acdc import convert_acdc

    convert_acdc(source, output_dir, validation, test, training, seed)


@command_line.when_stopped(UNFINISHED)
def msd(
    source: str,
    output_dir: str,
    channel: int | str | None = None,
    validation: float | str = 0.1,
    test: float | str = 0.2,
    seed: int = 0,
    download: str | None = None,
) -> None:
    """Convert a task: the labelled cases, voxel for voxel, in training, validation and test.

    Args:
        source: folder or ``.tar`` of a task; with ``download`` the folder where the ``.tar`` is kept.
        output_dir: folder to create.
        channel: number or name (as in the task's ``modality``) of the one channel to keep of images with several,
            such as 0 or FLAIR for Task01_BrainTumour; by default all are kept, as the last axis of the NIfTI file.
        validation: cases for validation: a number, a share, names such as "spleen_2,spleen_3", or a text file.
        test: the same for the test.
        seed: which cases a number or share chooses.
        download: task to fetch with MONAI's downloader first, such as Task09_Spleen.
    """
    from scripts.datasets.msd import convert_msd

    convert_msd(source, output_dir, channel, validation, test, seed, download)


@command_line.when_stopped(UNFINISHED)
def nasa(source: str, output_dir: str, sets: str | Sequence[str] = "all", ebc_labels: str = "oxide_crack") -> None:
    """Convert sets to 8-bit RGB PNG images and indexed PNG labels, one list per split of the original.

    ``different_test`` (other alloys and voltages) becomes a list of its own. A set that is at its place already is
    left alone, so that an interrupted conversion of several goes on.

    Args:
        source: folder of one set, such as ``benchmark_segmentation_data/Super1``, which becomes ``output_dir`` itself;
            or a folder or zip with several, which become ``output_dir/Super1`` and so on.
        output_dir: folder to create.
        sets: names of the sets to take, separated by commas, or "all".
        ebc_labels: "oxide_crack" (two classes), "oxide" (cracks belong to the oxide) or "oxide_without_crack" (cracks
            belong to the background).
    """
    from scripts.datasets.nasa import convert_nasa

    convert_nasa(source, output_dir, sets, ebc_labels)


@command_line.when_stopped(UNFINISHED)
def totalsegmentator(
    source: str,
    output_dir: str,
    modality: str = "ct",
    labels: str | None = None,
    organs: Sequence[str] | str | None = None,
    pairs: str | None = None,
    allow_same_patient: bool = False,
) -> None:
    """Convert scans with multi-label files to NIfTI with the classes ``organs``; every other label becomes background.

    Image and label come out in the image's own grid and orientation; a label that is stored in another orientation is
    turned to it.

    Args:
        source: folder with the files.
        output_dir: folder to create.
        modality: "ct" (label ids of the task ``total``) or "mr" (``total_mr``; the one patient of the test files goes
            to training, and the other lists stay empty).
        labels: JSON file with ``{"label_ids": {task: {id: name}}}``; ``labels.json`` in the source by default.
        organs: names in ``labels`` that become the classes 1, 2, ... in this order; by default the eight organs of the
            Synapse papers, in the order of their tables.
        pairs: JSON file with a list of ``{"image", "label", "list"}``, paths relative to the source, ``list`` one of
            training, validation and test; by default the test files of TotalSegmentator.
        allow_same_patient: put the scans of training into the lists that stay empty, too, and say so in
            ``dataset.json``. Only for trying the software with a single scan.
    """
    from scripts.datasets.totalsegmentator import convert_totalsegmentator

    convert_totalsegmentator(source, output_dir, modality, labels, organs, pairs, allow_same_patient)


@command_line.when_stopped(UNFINISHED)
def folder(
    source: str,
    output_dir: str,
    images: str,
    masks: str,
    labels: str | Sequence[str],
    colours: str | Mapping[str, int] | None = None,
    validation: float | str = 0.15,
    test: float | str = 0.15,
    seed: int = 0,
    channels: int = 3,
    window: tuple[float, float] | None = None,
    unit: str = "unknown units",
    training: float | str | None = None,
) -> None:
    """Convert pictures (PNG, TIFF, JPEG, BMP; 8 or 16 bit) to 8-bit PNG, or NIfTI volumes as they are.

    A pattern is a path below the source with placeholders: ``{case}`` stands for any text within a name, and an image
    and a mask belong together when all their placeholders agree. ``{group}`` marks what belongs to one patient or
    specimen, which then stays in one list. With ``{split}`` the folders (train, val, test, ...) are the lists.
    ``*`` is any text that the other pattern need not repeat, ``**`` any folders.

    Args:
        source: folder, zip or uncompressed tar.
        output_dir: folder to create.
        images: pattern of the images, such as ``images/{case}.png`` or ``{split}/img/{group}_{case}.tif``.
        masks: pattern of the masks, such as ``masks/{case}_mask.png``, with the same placeholders.
        labels: names of the classes 0, 1, ... with background first, separated by commas.
        colours: JSON object or file with the class by colour, ``{"255,0,0": 1}``, or by grey value, ``{"255": 1}``;
            black is background unless it is listed, and so is what is transparent. Of palettes and one bit, the colours
            count that a viewer shows. By default masks hold the class numbers themselves.
        validation: images, or groups where there are any, for validation: a number, a share, names, or a text file.
        test: the same for the test.
        seed: which of them a number or share chooses.
        channels: 3 or 1, of the pictures that are written: grey is repeated, or colours are averaged by luminance.
        window: two values of 16-bit pictures that become 0 and 255; 0 and 65535 by default.
        unit: what the values of NIfTI images are, such as HU.
        training: how many of those that are left are trained on, or which, to see what fewer labels do: a smaller
            number's are among a larger one's of the same seed. All by default.
    """
    from scripts.datasets.folder import convert_folder

    convert_folder(
        source, output_dir, images, masks, labels, colours, validation, test, seed, channels, window, unit, training
    )


@command_line.when_stopped(UNFINISHED)
def dicom(source: str, output_dir: str) -> None:
    """Convert every series below a folder to a NIfTI volume in the list ``test``, ready for inference.

    CT numbers come out in HU; orientation, spacing and origin are those of the slices. Nothing about the patient is
    taken over but the names of the folders.

    Args:
        source: folder with the slices of one or more series, in any folders below it.
        output_dir: folder to create.
    """
    from scripts.datasets.dicom import convert_dicom

    convert_dicom(source, output_dir)


def dicom_seg(
    segmentation: str, source: str, labels: str, output: str, algorithm: str = "segmentation network"
) -> None:
    """Write a label map as DICOM SEG that refers to the slices of its series, and read it back to compare.

    Classes that the label map does not hold get no segment.

    Args:
        segmentation: NIfTI file with class numbers, as inference writes it.
        source: folder with the series; among several, below it too, the one on the label map's grid is taken.
        labels: JSON file with the class names: a ``dataset.json`` or a bundle's ``metadata.json``.
        output: SEG file to write.
        algorithm: name that the SEG gives for what made the segmentation.
    """
    from scripts.datasets.dicom_seg import write_dicom_seg

    write_dicom_seg(segmentation, source, labels, output, algorithm)


@command_line.when_stopped("The data set is as it was; the same command starts anew.")
def check(
    dataset_dir: str,
    in_channels: int | None = None,
    out_channels: int | None = None,
    cases: int = 6,
    output_dir: str | None = None,
    allow_overlap: bool = False,
) -> None:
    """Read every image and label of a data set, name those that cannot be trained on, and draw the others.

    Writes ``contact_sheet.png`` (per list some cases with their labels over them: pictures, or the axial slice of a
    volume with most foreground) and ``class_histogram.png`` (share of every class and in how many cases it is).

    Args:
        dataset_dir: folder with ``dataset.json``.
        in_channels: channels that the images must have; not checked by default.
        out_channels: number of classes with background; by default the number of ``labels`` in ``dataset.json``.
        cases: pictures per list on the contact sheet.
        output_dir: where the two pictures go; ``dataset_dir`` by default.
        allow_overlap: accept a case, an image or a patient in two lists.
    """
    from scripts.datasets.check import check as run

    run(dataset_dir, in_channels, out_channels, cases, output_dir, allow_overlap)


COMMANDS = {
    "phantom": phantom,
    "synapse": synapse,
    "acdc": acdc,
    "msd": msd,
    "nasa": nasa,
    "totalsegmentator": totalsegmentator,
    "folder": folder,
    "dicom": dicom,
    "dicom_seg": dicom_seg,
    "check": check,
}


if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.datasets")
