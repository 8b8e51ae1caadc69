"""Pictures of the best, the median and the worst case: image, truth, and what each network makes of it."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import ListedColormap, to_rgb
from PIL import Image

from networks.workflow import class_names, load_datalist
from networks.workflow.data import Pair, case_name, read_dataset_json
from networks.workflow.evaluation import overlay
from networks.workflow.statistics import class_mean, nanmean
from scripts.experiments.runs import PREDICT
from scripts.metrics.predictions import find_predictions
from scripts.report.drawing import read_case
from scripts.report.results import DataSet, Results, case_means
from scripts.report.sheets import KEY_METRIC, number

# Okabe and Ito's palette again, here in the order in which neighbouring classes differ most
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#F0E442", "#0072B2", "#999999")
ERRORS = {"missed": "#0072B2", "false": "#D55E00", "wrong class": "#000000"}
BUDGET = 1_500_000  # bytes of all pictures of a page
SIDES = (320, 256, 208, 168, 132)  # pixels of the longer side of a picture; the largest within the budget
BYTES_PER_PIXEL = 0.45  # of a JPEG of this quality with a noisy micrograph in it
QUALITY = 82


@dataclass(frozen=True)
class Column:
    """Two pictures above each other: image and truth, or prediction and errors.

    Attributes:
        title: above them.
        detail: such as the case's score.
        pictures: data URI and description of each.
    """

    title: str
    detail: str
    pictures: list[tuple[str, str]]


@dataclass(frozen=True)
class CasePanel:
    """Everything of one case.

    Attributes:
        title: which case it is.
        columns: the image's, then one per network.
    """

    title: str
    columns: list[Column]


@dataclass(frozen=True)
class Panels:
    """The cases of one data set.

    Attributes:
        cases: best, median, worst.
        classes: colour and name of each class that is drawn.
        errors: the same of the errors.
        about: what ``dataset.json`` says of the images' source and licence.
    """

    cases: list[CasePanel]
    classes: list[tuple[str, str]]
    errors: list[tuple[str, str]]
    about: str


@dataclass(frozen=True)
class Source:
    """Where the pictures of one data set come from.

    Attributes:
        data_set: with the scores.
        dataset_dir: its folder.
        pairs: images and labels of its split by the records' names of the cases.
        predictions: folder of each variant that is drawn.
    """

    data_set: DataSet
    dataset_dir: str
    pairs: dict[str, Pair]
    predictions: dict[str, str]


def find_sources(results: Results, runs_dir: str | Path) -> tuple[dict[str, Source], list[str]]:
    """What can be drawn, by title of the data set, and a sentence for each data set that cannot.

    Of every network the variant with the best mean Dice is drawn, and of its seeds the first.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        return {}, ["Pictures of cases are left out: the folder of the runs is not there."]
    folders: dict[tuple, Path] = {}
    dataset_dirs: dict[str, str] = {}
    for path in sorted(p for suite in results.suites for p in (root / suite).glob("*/run.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        spec = record["spec"]
        key = spec["data_set"], spec["network"], spec["pretraining"], spec["recipe"]
        if PREDICT in record["done"] and (path.parent / "predictions").is_dir():
            folders.setdefault(key, path.parent / "predictions")
            dataset_dirs.setdefault(spec["data_set"], spec["dataset_dir"])
    names = {
        (run["data_set"], run["network"], run["pretraining"], run["recipe"]): run["variant"] for run in results.runs
    }
    sources, sentences = {}, []
    for data_set in results.data_sets:
        if data_set.split != "test":  # inference predicts the list "test"
            continue
        there = {names[key]: str(folder) for key, folder in folders.items() if key[0] == data_set.name and key in names}
        drawn = _best_of_each_network(results, data_set, there)
        dataset_dir = dataset_dirs.get(data_set.name, "")
        if not drawn:
            sentences.append(f"Pictures of {data_set.title} are left out: the folder of the runs has none of it.")
        elif not (Path(dataset_dir) / "dataset.json").is_file():
            sentences.append(f"Pictures of {data_set.title} are left out: the data set ({dataset_dir}) is not there.")
        else:
            pairs = {case_name(p["image"], dataset_dir): p for p in load_datalist(dataset_dir)["test"]}
            sources[data_set.title] = Source(data_set, dataset_dir, pairs, drawn)
    return sources, sentences


def choose_side(sources: Sequence[Source]) -> int:
    """Pixels of the longer side of each picture, so that the page stays small."""
    number_of_pictures = sum(3 * 2 * (1 + len(source.predictions)) for source in sources)
    sizes = {side: number_of_pictures * side**2 * BYTES_PER_PIXEL for side in SIDES}
    return next((side for side, size in sizes.items() if size <= BUDGET), SIDES[-1])


def panels(source: Source, side: int) -> Panels:
    """Draw the best, median and worst case by the variants' mean Dice of the strict protocol."""
    classes = class_names(source.dataset_dir)
    colours = [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(classes) - 1)]
    cases = [_case_panel(source, title, case, colours, side) for title, case in _chosen(source)]
    described = read_dataset_json(source.dataset_dir)
    named = {"Images": described.get("description"), "Licence": described.get("licence")}
    about = " ".join(f"{key}: {str(value).rstrip('.')}." for key, value in named.items() if value)
    return Panels(cases, list(zip(colours, classes[1:], strict=True)), [(c, e) for e, c in ERRORS.items()], about)


def _best_of_each_network(results: Results, data_set: DataSet, there: dict[str, str]) -> dict[str, str]:
    best: dict[str, tuple[float, str]] = {}
    for table, _ in data_set.of("strict", KEY_METRIC):
        if table.model in there:
            candidate = float(class_mean(table.values)), table.model
            network = results.variants[table.model].network
            best[network] = max(best.get(network, candidate), candidate)
    return {name: there[name] for _, name in best.values()}


def _chosen(source: Source) -> Iterator[tuple[str, str]]:
    """Titles and names of the cases."""
    found = [table for table, _ in source.data_set.of("strict", KEY_METRIC)]
    cases = [case for case in found[0].cases if case in source.pairs]
    means = nanmean(np.array([[case_means(t)[t.cases.index(case)] for case in cases] for t in found]), axis=0)
    order = [i for i in np.argsort(-means, kind="stable") if np.isfinite(means[i])]
    if not order:
        return
    ranks = {"Best case": 0, "Median case": len(order) // 2, "Worst case": len(order) - 1}
    if len(order) < 3:
        ranks = dict(list(zip(("Best case", "Worst case"), range(len(order)), strict=False)))
    for title, rank in ranks.items():
        i = order[rank]
        yield f"{title}: {cases[i]}, mean Dice of all networks {number(float(means[i]), '')} %", cases[i]


def _case_panel(source: Source, title: str, case: str, colours: Sequence[str], side: int) -> CasePanel:
    pair = source.pairs[case]
    classes = ListedColormap(["black", *colours])
    columns = []
    for name, folder in source.predictions.items():
        (path,) = find_predictions(folder, [pair], source.dataset_dir)
        grey, truth, found = read_case(pair, path)
        both = overlay(grey, *(x.clamp(max=len(colours)) for x in (truth, found)), len(colours) + 1, classes)
        width = both.shape[2] // 2
        if not columns:
            pictures = [(grey.transpose(1, 2).expand(3, -1, -1), "the image"), (both[..., :width], "the truth over it")]
            columns.append(Column("Image, truth", "", [_uri(*p, case, side) for p in pictures]))
        pictures = [(both[..., width:], f"prediction of {name}"), (_errors(grey, truth, found), f"errors of {name}")]
        table = next(t for t, _ in source.data_set.of("strict", KEY_METRIC) if t.model == name)
        score = number(float(case_means(table)[table.cases.index(case)]), "")
        seeds = f", mean of {len(table.seeds)} seeds" if len(table.seeds) > 1 else ""
        columns.append(Column(name, f"Dice {score} %{seeds}", [_uri(*p, case, side) for p in pictures]))
    return CasePanel(title, columns)


def _errors(grey: torch.Tensor, truth: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """The errors in their colours (3, Y, X) over the image, which is pale."""
    wrong = truth != found
    missed, false = wrong & (found == 0), wrong & (truth == 0)
    picture = (0.6 + 0.4 * grey).repeat(3, 1, 1)
    for mask, colour in zip((missed, false, wrong & ~missed & ~false), ERRORS.values(), strict=True):
        picture = torch.where(mask, torch.tensor(to_rgb(colour))[:, None, None], picture)
    return picture.transpose(1, 2)


def _uri(picture: torch.Tensor, what: str, case: str, side: int) -> tuple[str, str]:
    """Data URI of a picture (3, Y, X), not larger than so many pixels, and its description."""
    image = Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", f"{case}: {what}"
