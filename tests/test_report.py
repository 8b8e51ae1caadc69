"""The report: right numbers on a page that needs nothing else, pictures of the right cases, sentences for mistakes."""

import base64
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from networks.errors import UserError
from networks.phantom import write_precipitate_phantom
from networks.workflow.data import case_name, load_datalist
from networks.workflow.records import make_records, read_records, write_records
from networks.workflow.scores import score_case
from networks.workflow.statistics import markdown
from scripts import command_line
from scripts.report import __main__ as command
from scripts.report import drawing, figures, panels, published, ran, sheets
from scripts.report.results import load
from tests.small import SMALL

SUITE = "trial"
CLASSES = ("matrix", "secondary precipitate", "tertiary precipitate")
VARIANTS = (("U-Net++", "unet_plusplus", "none", 1), ("CS-UNet", "cs_unet", "none", 2), ("CS-UNet", "cs_unet", "X", 4))
NETWORKS = {"unet_plusplus": "UnetPlusPlus", "cs_unet": "CSUnet"}
PUBLISHED = [
    {
        "network": "CS-UNet",
        "pretraining": "X",
        "data_set": "Super-1",
        "split": "test",
        "protocol": "paper",
        "source": "cs_unet",
        "table": "a table",
        "scores": [
            {"metric": "iou_pooled", "class": None, "value": "77.10"},
            {
                "metric": "iou",
                "class": None,
                "value": "76.00",
                "classes": {"secondary precipitate": "80.00", "tertiary precipitate": "70.00"},
            },
        ],
    }
]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and runs of two networks on two data sets: the truth, shifted the further the worse the network is."""
    root = tmp_path_factory.mktemp("trial")
    records, lines = [], []
    for number, data_set in enumerate(("Super1", "EBC")):
        folder = write_precipitate_phantom(root / data_set, 1, 1, 3, size=(80, 64), seed=number)
        described = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**described, "licence": "CC0"}))
        for network, bundle, pretraining, shift in VARIANTS:
            spec = {
                "suite": SUITE,
                "network": network,
                "data_set": data_set,
                "pretraining": pretraining,
                "recipe": "short",
                "seed": 0,
                "bundle": bundle,
                "preset": "nasa_super",
                "dataset_dir": str(folder),
                "setting": "full",
                "options": {f"network_def::{key}": value for key, value in SMALL[NETWORKS[bundle]].items()},
            }
            run = root / "runs" / SUITE / f"{data_set}__{network}__{pretraining}"
            records += _predict(run / "predictions", folder, shift, spec)
            (run / "run.json").write_text(json.dumps({"spec": spec, "done": {"predict": 1.0}}))
            curve = [
                {"epoch": str(e), "loss": f"{1 / e:.3f}", "val_mean_dice": f"{0.9 - 0.1 / e:.4f}"} for e in (1, 2, 3)
            ]
            lines.append({**spec, "seconds": 100.0 * shift, "curve": curve, "date": f"2026-01-0{shift}"})
    write_records(root / f"{SUITE}.jsonl", records)
    (root / f"{SUITE}_runs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return root


def _predict(folder: Path, dataset_dir: Path, shift: int, spec: dict) -> list[dict]:
    """Write predictions, the further from the truth the later the case, and give their records."""
    folder.mkdir(parents=True)
    records = []
    for i, pair in enumerate(load_datalist(str(dataset_dir))["test"]):
        truth = np.asarray(Image.open(pair["label"]))
        found = np.roll(truth, shift * (i + 1), axis=1)
        if i == 2 and shift == 4:
            found = np.where(found == 2, 0, found)
        Image.fromarray(found.astype(np.uint8)).save(folder / f"{Path(pair['image']).stem}_seg.png")
        labels = {key: spec[key] for key in ("suite", "data_set", "pretraining", "recipe", "bundle", "setting", "seed")}
        ids = {"model": spec["network"], "dataset": "x", "split": "test", "case": case_name(pair["image"], dataset_dir)}
        pictures = [torch.from_numpy(np.ascontiguousarray(x))[None] for x in (found, truth)]
        for protocol in ("strict", "paper"):
            scores = score_case(*pictures, len(CLASSES), protocol)
            kind = {"protocol": protocol, "prediction": "labels", "checkpoint": None}
            records += make_records(scores, CLASSES, **ids, **labels, **kind)
    return records


@pytest.fixture
def contradicting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published mean that is not that of its classes."""
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"results": PUBLISHED}))
    monkeypatch.setattr(published, "PATH", path)


def test_page_and_markdown(trial: Path, tmp_path: Path, contradicting: None) -> None:
    output = tmp_path / "docs" / "trial.html"
    command.report(str(trial / f"{SUITE}.jsonl"), runs_dir=str(trial / "runs"), output=str(output))
    page, text = output.read_text(), output.with_suffix(".md").read_text()
    assert len(page) < 3_000_000
    assert not re.search(r"<script|<link|@import|url\(", page)
    assert all(source.startswith("data:image/") for source in re.findall(r'\bsrc="([^"]*)"', page))
    assert set(re.findall(r'href="(http[^"]*)"', page)) == {"https://arxiv.org/abs/2308.13917"}
    assert all(alt for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page)) and "<img" in page
    for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]*)", page):
        assert not re.search(rb'(href|src)="http', base64.b64decode(svg))

    results = load([trial / f"{SUITE}.jsonl"])
    first = results.data_sets[0]
    for protocol, metric in (("strict", "dice"), ("paper", "iou_pooled")):
        for table, summaries in first.of(protocol, metric):
            values = np.nanmean(table.values, axis=0).mean()
            assert f"{100 * values:.2f}" in page and f"{100 * values:.2f}" in text, table.model
            assert f"[{100 * summaries[-1].low:.2f}, {100 * summaries[-1].high:.2f}]" in text
    for document in (page, text):
        assert "77.10" in document
        assert "76.00†" in document
        assert "† The source states 76.00, but the mean of its own 2 classes is 75.00." in document
        assert "2026-01-01 to 2026-01-04" in document
        assert "With 3 pairs p cannot be below 0.250" in document
        assert "1 infinite" in document
    assert page.count('class="case"') == 2 * 3
    assert page.count("Images: Synthetic micrographs") == page.count("Licence: CC0.") == 2
    assert "prediction of U-Net++ (from scratch)" in page
    assert "prediction of CS-UNet (X)" not in page  # that network is better from scratch
    assert not list(output.parent.glob(".*"))


def test_tables_elsewhere_name_the_command_of_the_page(trial: Path, tmp_path: Path) -> None:
    scores, page, text = str(trial / f"{SUITE}.jsonl"), tmp_path / "trial.html", tmp_path / "docs" / "tables.md"
    command.report(scores, runs_dir=str(tmp_path / "runs"), output=str(page), markdown=str(text))
    assert f"Curves, box plots and pictures: `python -m scripts.report {scores}`." in text.read_text()
    assert "trial.html" not in text.read_text() and page.is_file()


def test_a_mean_over_fewer_cases_says_so(trial: Path, tmp_path: Path) -> None:
    """As of a peer that was scored by another program on what it had."""
    records = read_records(trial / f"{SUITE}.jsonl")
    last = max(r["case"] for r in records)
    left = [r for r in records if not (r["model"] == "U-Net++" and r["data_set"] == "Super1" and r["case"] == last)]
    # the others are easy
    left = [r | {"value": 1.0} if r["model"] == "U-Net++" and r["metric"] == "dice" else r for r in left]
    write_records(tmp_path / f"{SUITE}.jsonl", left)
    shutil.copy(trial / f"{SUITE}_runs.jsonl", tmp_path)
    results = load([tmp_path / f"{SUITE}.jsonl"])
    sheet = sheets.score_sheets(results, results.data_sets[0], "strict")[0]
    assert "3 cases" in sheet.caption
    fewer, other = (next(row[1] for row in sheet.rows if row[0].text == name) for name in ("U-Net++", "CS-UNet"))
    assert "n 4" in fewer.detail and not any(line.startswith("n ") for line in other.detail)
    overview = sheets.overview(results, "strict")
    for row in (sheet.rows, overview.rows):
        cells = {line[0].text: line[1] for line in row}
        assert cells["U-Net++"].text == "100.00" and not cells["U-Net++"].strong
    assert "2 cases or 3 cases" in markdown(results.data_sets[0].tables)


def test_a_picture_of_any_number_of_classes(trial: Path, tmp_path: Path) -> None:
    source = panels.find_sources(load([trial / f"{SUITE}.jsonl"]), trial / "runs")[0]["Super1"]
    drawing.panel(source.dataset_dir, str(next(iter(source.predictions.values()))), str(tmp_path / "all.png"), cases=2)
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.width % 3 == 0 and len(picture.getcolors(1 << 20)) > 3


def test_a_picture_of_an_unknown_list_or_of_small_values(trial: Path, tmp_path: Path) -> None:
    source = panels.find_sources(load([trial / f"{SUITE}.jsonl"]), trial / "runs")[0]["Super1"]
    with pytest.raises(UserError, match=r'The list "nowhere" of dataset\.json'):
        drawing.panel(source.dataset_dir, "anywhere", str(tmp_path / "no.png"), split="nowhere")
    for name, values in (("image", np.linspace(0, 0.01, 16)), ("label", np.zeros(16))):
        nib.save(nib.Nifti1Image(values.astype(np.float32).reshape(4, 4, 1), np.eye(4)), tmp_path / f"{name}.nii")
    pair = {key: str(tmp_path / f"{key}.nii") for key in ("image", "label")}
    assert float(drawing.read_case(pair, pair["label"])[0].max()) == 1


def test_pictures_are_of_the_best_median_and_worst_case(trial: Path) -> None:
    results = load([trial / f"{SUITE}.jsonl"])
    sources, sentences = panels.find_sources(results, trial / "runs")
    assert sentences == []
    source = sources["Super1"]
    found = panels.panels(source, 64)
    found_cases = [case for _, case in panels._chosen(source)]
    means = {
        case: np.mean([np.nanmean(t.values, 1)[t.cases.index(case)] for t, _ in source.data_set.of("strict", "dice")])
        for case in source.pairs
    }
    assert found_cases == sorted(means, key=means.get, reverse=True)
    assert [len(case.columns) for case in found.cases] == [3, 3, 3]
    titles = [column.title for column in found.cases[0].columns[1:]]
    assert titles == ["U-Net++ (from scratch)", "CS-UNet (from scratch)"]


def test_errors_have_their_colours() -> None:
    truth, found = torch.tensor([[[0, 0], [1, 1], [2, 2]]]), torch.tensor([[[0, 1], [0, 1], [1, 2]]])
    picture = panels._errors(torch.zeros(1, 3, 2), truth, found)
    colours = {name: torch.tensor(to_rgb(colour)) for name, colour in panels.ERRORS.items()}
    for name, (x, y) in {"missed": (1, 0), "false": (0, 1), "wrong class": (2, 0)}.items():
        torch.testing.assert_close(picture[:, y, x], colours[name])
    torch.testing.assert_close(picture[:, 1, 1], torch.full((3,), 0.6))


def test_without_runs(trial: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.jsonl").write_bytes((trial / f"{SUITE}.jsonl").read_bytes())
    output = tmp_path / "page.html"
    command.report(str(tmp_path / "alone.jsonl"), runs_dir=str(tmp_path / "none"), output=str(output))
    page = output.read_text()
    assert "Pictures of cases are left out: the folder of the runs" in page
    assert "There is no file of runs beside these scores" in page
    assert "image/jpeg" not in page


def test_a_run_that_is_predicting_has_no_pictures(trial: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(trial / "runs", tmp_path / "runs")
    for path in runs.glob("*/*/run.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "done": {}} if record["spec"]["network"] == "U-Net++" else record))
        if record["spec"]["network"] == "U-Net++":
            next((path.parent / "predictions").iterdir()).unlink()
    command.report(str(trial / f"{SUITE}.jsonl"), runs_dir=str(runs), output=str(tmp_path / "page.html"))
    assert 0 < (tmp_path / "page.html").read_text().count("image/jpeg") < 36


def test_pictures_that_cannot_be_drawn_again_are_not_lost(trial: Path, tmp_path: Path) -> None:
    scores, output = str(trial / f"{SUITE}.jsonl"), tmp_path / "page.html"
    command.report(scores, runs_dir=str(trial / "runs"), output=str(output))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"page\.html has 36 pictures of cases .*--drop_pictures true"):
        command.report(scores, runs_dir=str(tmp_path / "none"), output=str(output))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    command.report(scores, runs_dir=str(tmp_path / "none"), output=str(output), drop_pictures=True)
    assert "image/jpeg" not in output.read_text()


def test_what_was_not_run(trial: Path, tmp_path: Path) -> None:
    suite = {
        "name": SUITE,
        "description": "A trial.",
        "data_sets": {d: {"dataset_dir": d, "preset": "nasa_super"} for d in ("Super1", "EBC", "Super9")},
        "networks": {"U-Net++": {"bundle": "unet_plusplus"}, "CS-UNet": {"bundle": "cs_unet"}},
        "pretraining": {"none": None, "X": {"CS-UNet": "x.pth", "U-Net++": "y.pth"}},
        "recipes": {"short": {}},
    }
    (tmp_path / f"{SUITE}.json").write_text(json.dumps(suite))
    account = ran.account(load([trial / f"{SUITE}.jsonl"]), tmp_path)
    text = " ".join(account.sentences)
    assert text.startswith("6 of the suite's 12 runs are done.")
    assert "Not run: the data set Super9; single runs: U-Net++ on Super1 from X (seed 0), U-Net++ on EBC" in text
    assert account.description == "A trial."


@pytest.mark.parametrize(
    ("mean", "classes", "agrees"),
    [
        ("77.10", ("80.00", "74.21"), True),  # 77.105, rounded down
        ("77.10", ("80.00", "74.24"), False),
        ("77.1", ("80.00", "74.24"), True),
        ("90.0", (), True),
    ],
)
def test_a_mean_is_held_against_its_classes(mean: str, classes: tuple[str, ...], agrees: bool) -> None:
    said = published.contradiction(mean, {str(i): value for i, value in enumerate(classes)})
    assert (said == "") == agrees


def test_published_numbers_of_others_stand_where_there_are_none_of_these(trial: Path, contradicting: None) -> None:
    results = load([trial / f"{SUITE}.jsonl"])
    beside = sheets.overview(results, "paper").markdown()
    for name, variant in results.variants.items():
        results.variants[name] = replace(variant, network="A network of nobody")
    assert "77.10" in beside and "77.10" in sheets.overview(results, "paper").markdown()


def test_published_numbers_are_of_bundles_and_suites() -> None:
    """Every published result is found under the name that a suite gives its network and data set."""
    suites = [json.loads(path.read_text()) for path in Path("suites").glob("*.json")]
    for item in json.loads(published.PATH.read_text())["results"]:
        names = {n for s in suites if item["data_set"] in s["data_sets"] for n in s["networks"]}
        assert published.published(item["data_set"], "test", "paper", names), item
        assert any(n == item["network"] or n.startswith(f"{item['network']},") for n in names), item


def test_a_mean_without_infinite_distances_is_not_the_best(trial: Path) -> None:
    (data_set, _) = load([trial / f"{SUITE}.jsonl"]).data_sets
    found = {table.model: sheets.overall(s) for table, s in data_set.of("strict", "hd95")}
    assert found["CS-UNet (X)"].infinite == 1
    lowest = replace(found["CS-UNet (X)"], mean=0.0)
    others = [found["U-Net++ (from scratch)"], lowest]
    assert sheets._best(others, "pixel") == found["U-Net++ (from scratch)"].mean


def test_curves_of_several_seeds_are_averaged_and_thinned() -> None:
    lines = [[(e, float(e)) for e in range(1, 1001)], [(e, 3.0 * e) for e in range(1, 901)]]
    epochs, values = figures._mean_curve(lines)
    assert len(epochs) == figures.MOST_POINTS
    np.testing.assert_allclose(values, 2 * epochs)


def test_mistakes_get_one_sentence(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(message: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments), "--output", str(tmp_path / "page.html")])
        with pytest.raises(SystemExit, match=message):
            command_line.run(command.report, "report")
        assert not (tmp_path / "page.html").exists()

    fails("No file of scores was given")
    fails("none.jsonl does not exist; give a file of results", tmp_path / "none.jsonl")
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"case": 1}\n')
    fails("Line 1 of .*foreign.jsonl is not a record of results: it has no schema", foreign)
    scores = trial / f"{SUITE}.jsonl"
    other = tmp_path / "other_runs.jsonl"
    other.write_text('{"case": 1}\n')
    fails("Line 1 of .*other_runs.jsonl is not about a run: it has no suite", scores, other)
    fails("is there twice for the model", scores, scores)
