"""The fastest way on a processor: the labels of float32, whatever the way, and no case lost by a change."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from networks import Unet
from networks.workflow.training import has_fast_bfloat16
from scripts.benchmark.predictions import benchmark_predictions
from scripts.predict import fastest
from scripts.predict.fastest import DifferentLabelsError, Fastest
from scripts.predict.segmenter import Segmenter
from tests.predicting import VOLUMES, call, labels_of, write_weights


class Rounded(nn.Module):
    """Two classes whose difference bfloat16 keeps, or loses."""

    def __init__(self, difference: float) -> None:
        super().__init__()
        self.difference = difference
        self.unit = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.unit.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.unit(x)
        return torch.cat([x, x.new_ones(x.shape) + self.difference * (x - 1).sign().detach()], dim=1)


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that is faster with it; others compute it as well."""
    monkeypatch.setattr(fastest, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr("networks.workflow.training.has_fast_bfloat16", lambda: True)


def test_bfloat16_where_labels_stay(bfloat16: None) -> None:
    torch.manual_seed(0)
    network, said = nn.Conv2d(1, 2, 1), []
    with torch.no_grad():
        network.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        network.bias.zero_()
    run = Fastest(network.eval(), said.append)
    x = torch.randn(2, 1, 4, 4).sign().repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)
    x += 0.1 * torch.randn(x.shape)
    with torch.inference_mode():
        logits, precise = run(x), network(x)
    assert logits.dtype == torch.float32 and not torch.equal(logits, precise)
    torch.testing.assert_close(logits, precise, rtol=0.01, atol=0.01)
    assert len(said) == 1 and "bfloat16" in said[0]


def test_float32_where_labels_would_change(bfloat16: None) -> None:
    network, said = Rounded(0.001), []
    run = Fastest(network, said.append)
    x = 1 + 0.002 * torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(run(torch.ones(1, 1, 8, 8)).argmax(dim=1), torch.zeros(1, 8, 8, dtype=torch.long))
        with pytest.raises(DifferentLabelsError):
            run(x)
        assert torch.equal(run(x), network(x))
        run.start_case()
        assert torch.equal(run(x), network(x))
    assert len(said) == 2 and "float32" in said[1]


def test_openvino_where_cases_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(fastest, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(fastest, "FASTER", 0.0)
    torch.manual_seed(0)
    network, said = Unet(1, 3, encoder_name="resnet18", decoder_channels=(32, 16, 16, 8, 8)).eval(), []
    run = Fastest(network, said.append)
    x = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(run(x), network(x))
        run.look_ahead(1)  # not worth it
        assert len(said) == 1
        monkeypatch.setattr(fastest, "LONG", 0.0)
        run.look_ahead(1)
        assert "OpenVINO in f32" in said[1]
        run.start_case()
        logits = run(torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(1)))
        precise = network(torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(logits, precise, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_converted_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(fastest, "LONG", 0.0)

    def refuse(*arguments: Any) -> None:
        raise RuntimeError

    monkeypatch.setitem(fastest.FORMATS, "openvino", fastest.FORMATS["openvino"].__class__(("m",), (), refuse, refuse))
    network, said = nn.Conv2d(1, 2, 1), []
    run = Fastest(network, said.append)
    x = torch.randn(1, 1, 8, 8)
    with torch.inference_mode():
        run(x)
        run.look_ahead(3)
        assert torch.equal(run(x), network(x))
    assert "cannot be converted" in said[1]


def test_predictions_are_those_of_float32(
    ct_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture, bfloat16: None
) -> None:
    """Random weights tell classes apart by little, so that bfloat16 changes labels: the case is computed anew."""
    weights, source = write_weights(VOLUMES, tmp_path), ct_dir / "imagesTs"
    call(source, tmp_path / "plain", bundle="unet", **weights)
    call(source, tmp_path / "auto", bundle="unet", runtime="auto", times=True, **weights)
    plain, auto = labels_of(tmp_path / "plain"), labels_of(tmp_path / "auto")
    assert plain == auto and "float32, since only" in capfd.readouterr().err
    assert json.loads((tmp_path / "auto" / "predictions.json").read_text())["runtime"] == "auto"
    times = json.loads((tmp_path / "auto" / "times.json").read_text())
    assert len(times) == len(auto)
    for phases in times.values():
        assert phases.keys() == {"reading", "network", "writing"} and all(x > 0 for x in phases.values())


def test_openvino_takes_over_between_cases(
    ct_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(fastest, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(fastest, "LONG", 0.0)
    monkeypatch.setattr(fastest, "FASTER", 0.0)
    weights, source = write_weights(VOLUMES, tmp_path), ct_dir / "imagesTs"
    call(source, tmp_path / "plain", bundle="unet", **weights)
    call(source, tmp_path / "auto", bundle="unet", runtime="auto", **weights)
    assert "OpenVINO in f32" in capfd.readouterr().err
    names = labels_of(tmp_path / "plain").keys()
    assert len(names) > 1 and names == labels_of(tmp_path / "auto").keys()
    for name in names:
        plain, auto = (np.asarray(nib.load(tmp_path / folder / name).dataobj) for folder in ("plain", "auto"))
        assert len(np.unique(plain)) > 1 and np.mean(plain == auto) > 0.999


def test_case_after_one_that_failed_in_the_network(ct_dir: Path, tmp_path: Path, monkeypatch) -> None:
    weights, source = write_weights(VOLUMES, tmp_path), ct_dir / "imagesTs"
    assert len(list(source.iterdir())) > 1
    run, calls = Segmenter._run, []

    def fails_once(self: Segmenter, image: Path) -> tuple[Any, Any]:
        calls.append(image)
        if len(calls) > 1:
            return run(self, image)
        with monkeypatch.context() as patch:
            patch.setattr(Unet, "forward", lambda *_: torch.empty(10**15))  # there is no such memory
            return run(self, image)

    monkeypatch.setattr(Segmenter, "_run", fails_once)
    call(source, tmp_path / "out", 1, bundle="unet", **weights)
    assert len(labels_of(tmp_path / "out")) == len(calls) - 1 > 0


def test_predictions_are_measured_from_the_shell(ct_dir: Path, tmp_path: Path) -> None:
    weights, output = write_weights(VOLUMES, tmp_path), tmp_path / "results" / "predictions.jsonl"
    source = next((ct_dir / "imagesTs").iterdir())
    options = {"bundle": "unet", **{key: json.dumps(value) for key, value in weights.items() if key != "ckpt_path"}}
    for _ in range(2):
        benchmark_predictions(
            str(source), "torch", 1, 1, str(output), "a volume", {**options, "ckpt_path": weights["ckpt_path"]}
        )
    (record,) = map(json.loads, output.read_text().splitlines())
    assert (record["name"], record["runtime"], record["same_labels"]) == ("a volume", "torch", 1)
    phases = sum(record[phase] for phase in ("start_up", "reading", "network", "writing"))
    assert record["wall"] == pytest.approx(phases) and record["peak_memory"] > 1e8


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor is not faster with bfloat16")
def test_real_bfloat16_is_taken() -> None:
    said: list[str] = []
    Fastest(nn.Identity(), said.append)
    assert "bfloat16" in said[0]
