"""Summaries and comparisons of recorded scores: means, intervals, paired tests, and what is said of mistakes."""

import json
import math
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.stats import wilcoxon

from networks.errors import UserError
from networks.workflow.records import KEYS, make_records, number, read_records, write_records
from networks.workflow.scores import Score
from networks.workflow.statistics import ALL_CLASSES, class_mean, markdown, summarise, tables
from scripts import command_line
from scripts.metrics import __main__ as metrics
from scripts.metrics import comparisons
from tests.workflows import ROOT


def write_results(path: Path, model: str, table: dict[str, list[float]], seed: int = 0, metric: str = "dice") -> str:
    """One record per case and class of ``table``: case to the values of the classes a, b, ..."""
    records = []
    for case, row in table.items():
        made = [Score(metric, "mm" if metric == "hd95" else "", i + 1, value) for i, value in enumerate(row)]
        names = ["background", *"abcdefgh"[: len(row)]]
        ids = {"dataset": "d", "split": "test", "protocol": "strict", "prediction": "labels", "checkpoint": None}
        records += make_records(made, names, case=case, model=model, seed=seed, **ids)
    write_records(path, records)
    return str(path)


def test_records_round_trip(tmp_path: Path) -> None:
    path = write_results(tmp_path / "r.jsonl", "m", {"x": [0.1, math.nan, math.inf]})
    assert [record["value"] for record in read_records(path)] == [0.1, None, "inf"]
    np.testing.assert_equal([number(record) for record in read_records(path)], [0.1, math.nan, math.inf])
    assert all(list(record) == list(KEYS) for record in read_records(path))
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]
    good = Path(path).read_text()
    for bad, message in (
        ("{", "Line 4 of .* is not a record"),
        ("[]", "expected an object"),
        ('{"schema": 1}', "it has no model"),
        (good.splitlines()[0].replace("0.1", '"many"'), "its value is 'many'"),
        (good.splitlines()[0].replace('"schema": 1', '"schema": 9'), "its schema is 9"),
    ):
        Path(path).write_text(good + bad + "\n")
        with pytest.raises(ValueError, match=message):
            read_records(path)


def test_summaries_count_what_they_leave_out(tmp_path: Path) -> None:
    table = {"x": [0.5, math.nan], "y": [1.0, 4.0], "z": [0.6, math.inf]}
    a, b, whole = summarise(tables(read_records(write_results(tmp_path / "r", "m", table, metric="hd95")))[0])
    assert (a.mean, a.scored, a.missing, a.infinite) == (pytest.approx(0.7), 3, 0, 0)
    assert 0.5 <= a.low < a.mean < a.high <= 1.0
    assert (b.mean, b.scored, b.missing, b.infinite, b.median) == (4, 1, 1, 1, math.inf)
    assert math.isnan(b.low)
    assert (whole.name, whole.mean) == (ALL_CLASSES, pytest.approx((0.7 + 4) / 2))
    text = markdown(tables(read_records(str(tmp_path / "r"))))
    assert "| m | b | 4.00 n=1, 1 missing, 1 infinite, median inf |" in text


def test_interval_covers_the_true_mean_about_as_often_as_it_says(tmp_path: Path) -> None:
    """Percentile intervals of 20 normal values cover the mean in about 92 of 100 draws."""
    rng, covered = np.random.default_rng(0), 0
    for i in range(40):
        table = {str(case): [value] for case, value in enumerate(rng.normal(0.5, 0.1, 20))}
        summary = summarise(tables(read_records(write_results(tmp_path / str(i), "m", table)))[0])[0]
        covered += summary.low <= 0.5 <= summary.high
    assert covered >= 33


def test_means_are_over_cases_then_classes() -> None:
    table = np.array([[0.2, np.nan], [0.4, 1.0], [0.6, np.inf]])
    assert class_mean(table) == pytest.approx((0.4 + 1.0) / 2)


def test_cases_of_one_patient_are_not_independent(tmp_path: Path, capsys) -> None:
    """Two volumes of each of eight patients that hardly differ: intervals and tests are those of eight numbers."""
    rng = np.random.default_rng(0)
    people, other = rng.random((2, 8, 2))
    twice = {f"imagesTr/patient{i:03d}_frame{f:02d}.nii.gz": list(row) for i, row in enumerate(people) for f in (1, 9)}
    (table,) = tables(read_records(write_results(tmp_path / "twice", "first", twice)))
    (once,) = tables(
        read_records(write_results(tmp_path / "once", "first", dict(zip("abcdefgh", people, strict=True))))
    )
    assert table.size == "16 cases of 8 patients" and once.size == "8 cases"
    for found, expected in zip(summarise(table), summarise(once), strict=True):
        assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    worse = {case: list(other[i // 2]) for i, case in enumerate(twice)}
    metrics.compare(str(tmp_path / "twice"), write_results(tmp_path / "worse", "second", worse))
    (found,) = rows(capsys.readouterr().out)
    assert found[6] == "8" and float(found[10]) == pytest.approx(
        wilcoxon(people.mean(1), other.mean(1)).pvalue, rel=1e-2
    )


def test_seeds_are_averaged_and_duplicates_refused(tmp_path: Path) -> None:
    first = read_records(write_results(tmp_path / "0", "m", {"x": [0.2], "y": [0.4]}, seed=0))
    second = read_records(write_results(tmp_path / "1", "m", {"x": [0.4], "y": [0.8]}, seed=1))
    (table,) = tables(first + second)
    assert table.seeds == [0, 1]
    np.testing.assert_allclose(table.values[:, 0], [0.3, 0.6])
    with pytest.raises(ValueError, match="is there twice"):
        tables(first + first)
    with pytest.raises(ValueError, match="is not there for the model m and the seed 1"):
        tables(first + second[:1])


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_comparison_is_scipys_on_paired_cases(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((9, 2)), rng.random((9, 2))
    b[0, 1] = np.nan
    files = [
        write_results(tmp_path / name, name, {str(i): list(row) for i, row in enumerate(table)})
        for name, table in (("first", a), ("second", b), ("third", a + 1))
    ]
    metrics.compare(*files)
    found = rows(capsys.readouterr().out)
    x, y = a.mean(1), b.mean(1)
    x[0], y[0] = a[0, 0], b[0, 0]
    p = wilcoxon(x, y).pvalue
    assert found[0][4:9] == ["first", "second", "9", str((x > y).sum()), str((x < y).sum())]
    assert float(found[0][10]) == pytest.approx(p, rel=1e-2)
    smallest = 2 / 2**9  # nine of nine in one direction
    assert [float(row[10]) for row in found[1:]] == pytest.approx([smallest] * 2, rel=1e-2)
    assert float(found[1][11]) == pytest.approx(3 * smallest, rel=1e-2)
    metrics.compare(*files, by_class=True)
    assert [row[3] for row in rows(capsys.readouterr().out)] == ["a", "b"] * 3


def test_infinite_distances_are_the_worst(tmp_path: Path, capsys) -> None:
    tame = {str(i): [10.0 + i] for i in range(6)}
    wild = {str(i): [math.inf if i % 2 else 11.0 + i] for i in range(6)}
    files = [write_results(tmp_path / n, n, t, metric="hd95") for n, t in (("tame", tame), ("wild", wild))]
    metrics.compare(*files)
    (row,) = rows(capsys.readouterr().out)
    assert row[7:9] == ["6", "0"]
    assert float(row[10]) == pytest.approx(2 / 2**6, rel=1e-2)
    assert comparisons.signed_rank_test(np.zeros(5)) == 1


def test_holm() -> None:
    np.testing.assert_allclose(comparisons.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(comparisons.holm([0.5, 0.9]), [1, 1])


def test_mistakes_get_one_sentence(ct_dir: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    items = json.loads((ct_dir / "dataset.json").read_text())["test"]

    def fails(message: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["metrics", *map(str, arguments)])
        with pytest.raises(SystemExit, match=message):
            command_line.run(metrics.COMMANDS, "metrics")

    score = ("score", predictions, ct_dir)
    fails("holds 0 label maps for .*expected one file named", *score)
    fails("choose strict or paper", *score, "--protocol", "both")
    fails('The list "nowhere" of dataset.json is missing', *score, "--split", "nowhere")
    fails("does not exist; give a folder of saved label maps", "score", tmp_path / "none", ct_dir)
    labels = [nib.load(ct_dir / item["label"]) for item in items]
    for item, label in zip(items, labels, strict=True):
        nib.save(label, predictions / Path(item["label"]).name)
    array, affine = np.asarray(labels[0].dataobj), labels[0].affine
    first = predictions / Path(items[0]["label"]).name
    for wrong, message in (
        (nib.Nifti1Image(array, affine + np.eye(4)), "do not lie on the same grid"),
        (nib.Nifti1Image(array[:-1], affine), "has shape"),
        (nib.Nifti1Image(array + 50, affine), r"holds the label values 50.*expected whole numbers in 0\.\.8"),
    ):
        nib.save(wrong, first)
        fails(message, *score)
    assert not list(predictions.glob("*.jsonl"))

    a = write_results(tmp_path / "a", "a", {"x": [0.1], "y": [0.2]})
    fails("no two models", "compare", a)
    fails(
        "was not scored on 1 of the cases of a .such as y",
        "compare",
        a,
        write_results(tmp_path / "b", "b", {"x": [0.1]}),
    )
    fails(
        "a was scored on the classes a and c on a, b",
        "compare",
        a,
        write_results(tmp_path / "c", "c", {"x": [0, 1], "y": [0, 1]}),
    )
    measured = tmp_path / "measurements.jsonl"
    write_records(measured, [{**record, "protocol": "measure"} for record in read_records(a)])
    fails("measurements.jsonl: .*neither large nor small ones are better", "compare", measured)
    fails("does not exist; give a file of results", "summarise", tmp_path / "none")
    fails("No file was given", "summarise")


def test_runs_with_flips_are_no_seeds_of_those_without(tmp_path: Path, capsys) -> None:
    plain = write_results(tmp_path / "a", "m", {"x": [0.5], "y": [0.7]}, seed=0)
    flipped = write_results(tmp_path / "b", "m", {"x": [0.6], "y": [0.8]}, seed=1)
    write_records(flipped, [record | {"tta": True} for record in read_records(flipped)])
    with pytest.raises(UserError, match=r"model m was scored as trained and with --tta true .*; give different runs"):
        metrics.summarise(plain, flipped)
    write_records(flipped, [record | {"model": "f"} for record in read_records(flipped)])
    metrics.summarise(plain, flipped)
    metrics.compare(plain, flipped)
    said = capsys.readouterr().out
    assert "| m | a | 0.6000" in said and "| f with --tta true | a | 0.7000" in said
    assert "| m | f with --tta true | 2 |" in said


def test_results_of_a_suite_are_told_apart(capsys: pytest.CaptureFixture) -> None:
    """Same network and seed, other weights and recipes."""
    path = str(ROOT / "results" / "microstructure_cpu.jsonl")
    metrics.summarise(path)
    summary = capsys.readouterr().out
    metrics.compare(path)
    comparison = capsys.readouterr().out
    for name in ("U-Net++ (from scratch, short)", "U-Net++ (ImageNet, short)", "Swin-Unet (from scratch, long)"):
        assert f"| {name} |" in summary and f"| {name} |" in comparison
    assert "Super3, different_test" in comparison
