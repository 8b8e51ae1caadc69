"""Scoring saved label maps against a data set's labels."""

from pathlib import Path

from monai.data import MetaTensor
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.checks import count_classes, loader, read_image, reader_of
from networks.workflow.data import case_name, class_names, dataset_name, has_spacing, labelled_list, load_datalist
from networks.workflow.evaluation import score_records
from networks.workflow.geometry import brought_onto
from networks.workflow.protocols import TOLERANCE, check_protocol
from networks.workflow.records import write_records
from networks.workflow.statistics import markdown, tables
from scripts.metrics.predictions import find_predictions


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
    """Do what the command ``score`` of this tool describes, with the same arguments."""
    check_protocol(protocol)
    folder, dataset_dir = str(predictions), str(dataset_dir)
    pairs = labelled_list(load_datalist(dataset_dir), split)
    files = find_predictions(folder, pairs, dataset_dir)
    names = class_names(dataset_dir)
    if len(names) < 2:
        raise UserError(f'dataset.json of {dataset_dir} names no classes; add them to its "labels".')
    ids = {
        "model": str(model or Path(folder).resolve().name),
        "dataset": dataset_name(dataset_dir),
        "split": split,
        "seed": seed,
        "checkpoint": None,
    }
    records, known = [], has_spacing(dataset_dir)
    for pair, file in tqdm(list(zip(pairs, files, strict=True)), desc="Scoring", unit="case"):
        prediction, truth = _read(file, pair["label"], len(names))
        case = case_name(pair["image"], dataset_dir)
        records += score_records(prediction, truth, names, protocol, tolerance, known, case=case, **ids)
    path = Path(output or Path(folder) / f"results_{protocol}.jsonl")
    write_records(path, sorted(records, key=lambda record: record["case"]))
    print(f"Wrote {path}.\n\n{markdown(tables(records))}")


def _read(prediction: Path, label: str, num_classes: int) -> tuple[MetaTensor, MetaTensor]:
    """Both label maps (1, X, Y[, Z]) on the label's grid.

    Raises:
        UserError: they do not go together, or hold other values than class numbers.
    """
    found, truth = (read_image(loader(reader_of(path, is_label=True)), path) for path in (str(prediction), label))
    for path, values in ((str(prediction), found), (label, truth)):
        if values.shape[0] != 1 or values.ndim != truth.ndim:
            raise UserError(
                f"{path} has shape {tuple(values.shape)}, channels first; expected one channel of class numbers on "
                "the label's grid."
            )
        count_classes(path, values, num_classes, 'they are the numbers of the classes in "labels" of dataset.json')
    return brought_onto(found, truth, (prediction, label)), truth
