"""Measurements: what a record holds, what is counted, and that a run loses nothing and goes on after an error."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.benchmark import series as command
from scripts.benchmark.cases import CASES, Case
from scripts.benchmark.measure import PASSES, Settings, _send, count_macs, in_fresh_process, measure
from scripts.benchmark.records import authors_cost, authors_ratio, default_path, latest, read_records
from scripts.benchmark.tables import architectures_table, faster_table, speed_table

SMALL = {"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 8, 8)}
UNET = Case("unet", "U-Net", "Unet", SMALL)
BROKEN = Case("hiformer_s", "HiFormer", "HiFormer", {"variant": "XXL"})
SETTINGS = {"batch_size": 2, "img_size": 32, "threads": 1, "repeats": 1}


def in_this_process(function: Callable[..., dict], *arguments: Any) -> dict[str, Any]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    _send(sender, function, *arguments)
    return receiver.recv()


@pytest.fixture
def output(tmp_path: Path, monkeypatch) -> Path:
    """A results file for small cases, of which one cannot be built, measured in this process."""
    monkeypatch.setattr(command, "CASES", (BROKEN, UNET))
    monkeypatch.setattr("scripts.benchmark.measure.MATRIX", 256)
    monkeypatch.setattr(command, "in_fresh_process", in_this_process)
    return tmp_path / "results" / "benchmark.jsonl"


def test_record(output: Path, capsys) -> None:
    command.benchmark("unet", **SETTINGS, output=str(output))
    (record,) = map(json.loads, output.read_text().splitlines())
    assert record["case"] == "unet" and record["settings"] == vars(Settings(**SETTINGS))
    assert record["machine"]["torch"] == torch.__version__ and record["machine"]["gpu"] is None
    assert record["parameters"] == sum(p.numel() for p in UNET.build(32).parameters())
    assert record["macs"] > 1e6 and record["matrix_rate"] > 1e9
    for name in PASSES:
        times = record[name]
        assert 0 < times["seconds"]["min"] <= times["seconds"]["median"]
        # of a single measurement, whose yardstick was timed before and after
        expected = times["seconds"]["median"] / times["yardstick_seconds"]["median"]
        assert times["ratio"]["median"] == pytest.approx(expected)
        assert 0 < times["matrix_share"] < 2
        assert times["peak_memory"] is None or times["peak_memory"] > 0
    assert record["forward_backward"]["seconds"]["min"] > record["forward"]["seconds"]["min"]
    assert "| U-Net, ResNet-50 |" in capsys.readouterr().out


def test_bfloat16_channels_last(output: Path) -> None:
    command.benchmark("unet", **SETTINGS, dtype="bfloat16", channels_last=True, output=str(output))
    (record,) = read_records(output)
    assert "error" not in record
    settings = Settings(dtype="bfloat16", channels_last=True, batch_size=24)
    assert default_path(settings).name == "benchmark_cpu_bfloat16_channels_last_batch_size24.jsonl"
    assert default_path(Settings(threads=2)).name == "benchmark_cpu.jsonl"


def test_goes_on_after_an_error_and_where_it_stopped(output: Path, monkeypatch) -> None:
    with pytest.raises(SystemExit, match="hiformer_s could not be measured"):
        command.benchmark(**SETTINGS, output=str(output))
    broken, unet = read_records(output)
    assert broken["error"].startswith("variant='XXL' is unknown") and "error" not in unet
    assert latest([broken, unet]) == {"unet": unet}

    measured = []

    def stand_in(case: Case, settings: Settings) -> dict:
        measured.append(case.name)
        return {key: value for key, value in unet.items() if key not in ("case", "settings", "machine", "date")}

    monkeypatch.setattr(command, "measure", stand_in)
    command.benchmark(**SETTINGS, output=str(output))
    assert measured == ["hiformer_s"], "only the error is tried again"
    assert [record["case"] for record in read_records(output)] == ["unet", "hiformer_s"]
    command.benchmark("unet", **SETTINGS | {"repeats": 2}, output=str(output))
    command.benchmark("unet", **SETTINGS | {"repeats": 2}, output=str(output), fresh=True)
    command.benchmark("unet", **SETTINGS | {"batch_size": 1}, output=str(output))
    assert measured[1:] == ["unet"] * 3
    kept = [(record["case"], record["settings"]["batch_size"]) for record in read_records(output)]
    assert kept == [("hiformer_s", 2), ("unet", 2), ("unet", 1)], "replaced, but by no other settings"


@pytest.mark.slow
def test_a_process_of_its_own_may_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_fresh_process(measure, BROKEN, Settings(**SETTINGS))["error"].startswith("variant='XXL' is unknown")
    # a fork, which imports nothing anew
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr("scripts.benchmark.measure.get_context", lambda method: forking)
    assert "killed" in in_fresh_process(os._exit, 1)["error"]


class ConvolutionAndAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).unflatten(1, (2, 4)).transpose(2, 3)
        return F.scaled_dot_product_attention(x, x, x)


def test_macs() -> None:
    tokens = 16 * 16
    expected = tokens * 8 * 3 * 9 + 2 * 2 * tokens * tokens * 4
    assert count_macs(ConvolutionAndAttention(), torch.rand(1, 3, 16, 16)) == expected


def test_mistakes_are_one_sentence_and_change_nothing(output: Path) -> None:
    with pytest.raises(ValueError, match="'unte' is unknown; choose from hiformer_s, unet"):
        command.benchmark("unet,unte", **SETTINGS, output=str(output))
    with pytest.raises(ValueError, match="--dtype float8 is unknown"):
        command.benchmark(**SETTINGS, dtype="float8", output=str(output))
    with pytest.raises(ValueError, match="--repeats 0 is not possible"):
        command.benchmark(**SETTINGS | {"repeats": 0}, output=str(output))
    assert not output.exists()
    output.parent.mkdir()
    output.write_text('{"case": "unet", "settings": {"batch_size": 2}, "machine": {}}\n{"case": "un')
    content = output.read_bytes()
    with pytest.raises(ValueError, match=r"Line 2 of .*benchmark\.jsonl is no measurement"):
        command.benchmark("unet", **SETTINGS, output=str(output))
    assert output.read_bytes() == content


def test_authors_cost_is_that_of_the_stored_outputs() -> None:
    cost = authors_cost()["cases"]
    for path in (Path(__file__).parent / "reference").glob("*.json"):
        facts, case = json.loads(path.read_text()), next(case for case in CASES if case.name == path.stem)
        assert {key: cost[path.stem][key] for key in ("parameters", "macs")} == {
            key: facts[key] for key in ("parameters", "macs")
        }
        assert (case.in_channels, case.out_channels) == (facts["input"]["shape"][1], facts["output_shape"][1])


def test_authors_ratio_is_of_cases_that_there_are() -> None:
    names = {case.name for case in CASES}
    assert authors_ratio()["cases"].keys() <= names
    table = faster_table()
    assert "AVX-512" in table and "| Swin-Unet | 1.23 | 1.32 |" in table
    assert "| CS-UNet, EfficientNet-B4 |  | 1.27 |" in table


def test_tables(tmp_path: Path, monkeypatch) -> None:
    times = {"seconds": {"median": 1.0}, "yardstick_seconds": {"median": 0.8}, "ratio": {"median": 1.25}}
    times |= {"matrix_share": 0.5, "peak_memory": 1_500_000_000}
    settings = vars(Settings(threads=2))
    record = {"case": "transunet_r50_b16", "settings": settings, "machine": {"cpu": "C", "gpu": None, "torch": "2"}}
    record |= {"forward": times, "forward_backward": times, "matrix_rate": 195e9, "parameters": 1, "macs": 2}
    table = speed_table([record, record | {"case": "unet"}])
    assert "| TransUNet, R50-ViT-B/16 | 1.25 | 1.25 | 50 % | 50 % | 1.50 | 1.50 |" in table
    assert "| U-Net, ResNet-50 | 1.25 | 1.25 |" in table
    assert table.startswith("C, 2 threads, PyTorch 2, float32, batch 4, 224 x 224.")

    monkeypatch.setattr("scripts.benchmark.tables.RESULTS", tmp_path)
    assert speed_table().startswith("Not measured yet") and architectures_table().startswith("Not measured yet")
    (tmp_path / "benchmark_cpu.jsonl").write_text(json.dumps(record))
    assert "| 50 % | 50 % |" in speed_table()
