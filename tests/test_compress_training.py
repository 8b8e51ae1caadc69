"""Pruning, training with few bits, distillation, slimming: what comes of each runs, and is what was asked for."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import SEModule
from torch import nn
from torch.nn.utils import parametrize

from networks.compressed import compressed
from networks.errors import UserError
from networks.state_dicts import read_weights
from networks.workflow import own_weights
from networks.workflow.files import file_hash
from scripts.compress import qat
from scripts.compress.compare import find_variant
from scripts.compress.distill import distill, soft_loss
from scripts.compress.prune import apply_masks, layer_sparsity, prune
from scripts.compress.quantize import plan, quantise_weight, quantised_state, quantize, weighted_layers
from scripts.compress.structured import mlps, slim, slim_heads, slim_mlps
from scripts.compress.training import Training
from scripts.zoo.card import model_card
from tests.packing import NAME
from tests.small import build, image
from tests.workflows import run, same_state

QUICK = {"epochs": 1, "num_workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def source(trained: Path) -> dict[str, str]:
    return {"bundle": NAME, "ckpt_path": str(trained / "bundles" / NAME / "models" / "model.pt")}


class Opened:
    """What slimming takes of a source."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network


def step_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "models" / "model.json").read_text())["compression"]["steps"][-1]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_smallest_weights_go_and_stay_away(scope: str) -> None:
    network = build("SwinUnet")
    layers = weighted_layers(network)
    before = {name: network.get_submodule(name).weight.detach().clone() for name in layers}
    generator = torch.Generator().manual_seed(0)
    gone: dict[str, torch.Tensor] = {}
    for sparsity in (0.3, 0.6):
        apply_masks(network, layers, sparsity, scope, "magnitude", generator)
        zeros = {name: network.get_submodule(name).weight == 0 for name in layers}
        share = sum(int(z.sum()) for z in zeros.values()) / sum(z.numel() for z in zeros.values())
        assert share == pytest.approx(sparsity, abs=0.01)
        assert all(bool(zeros[name][mask].all()) for name, mask in gone.items())
        gone = zeros
    if scope == "layer":
        assert all(s == pytest.approx(0.6, abs=0.02) for s in layer_sparsity(network, layers).values())
    kept, lost = (torch.cat([before[n][z if k else ~z].abs() for n, z in gone.items()]) for k in (False, True))
    assert scope == "layer" or lost.max() <= kept.min()
    # the control takes as many of every layer
    other = build("SwinUnet")
    for sparsity in (0.3, 0.6):
        apply_masks(other, layers, sparsity, scope, "random", torch.Generator().manual_seed(1))
    if scope == "layer":
        assert layer_sparsity(other, layers) == layer_sparsity(network, layers)
    assert not torch.equal(other.get_submodule(layers[1]).weight, network.get_submodule(layers[1]).weight)


def test_pruning_trains_between_its_steps_and_goes_on(source: dict, ct_dir: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "pruned"
    options = {**source, "sparsity": [0.3, 0.5], "dataset_dir": str(ct_dir), "rewind": source["ckpt_path"], **QUICK}
    handlers = list(logging.getLogger().handlers)
    prune(str(output), **options)
    assert capsys.readouterr().out.count("Epoch 1 of 1: loss") == 2  # a line per epoch, where there is no progress bar
    assert logging.getLogger().handlers == handlers
    step = step_of(output)
    assert [item["sparsity"] for item in step["steps"]] == [0.3, 0.5] and step["rewound"]
    state, full = read_weights(output / "models" / "model.pt"), read_weights(source["ckpt_path"])
    assert state.keys() == full.keys()
    zeros = [(state[f"{name}.weight"] == 0).sum().item() for name in step["layer_sparsity"]]
    assert sum(zeros) == pytest.approx(0.5 * sum(state[f"{n}.weight"].numel() for n in step["layer_sparsity"]), abs=2)
    log = tmp_path / "pruned_training" / "step_0.3_0.5" / "eval" / "metrics.csv"
    trained = log.stat().st_mtime_ns
    shutil.rmtree(output)
    prune(str(output), **options)  # what was trained is kept
    assert log.stat().st_mtime_ns == trained and step_of(output) == step
    shutil.rmtree(output)
    for name, other in {"learning_rate": 1e-5, "method": "random", "scope": "layer", "rewind": None}.items():
        with pytest.raises(UserError, match=f"is of a training with another {name}; remove it"):
            prune(str(output), **{**options, name: other})
    for message, wrong in {
        "no schedule": {"sparsity": [0.5, 0.3]},
        "option of the training": {"epochs": 0, "rewind": None},
        "give --epochs": {"epochs": 0},
        "not an id": {"nothing": 1},
        "--img_size is .* in the compressed bundle too; leave it out": {"img_size": [64, 64]},
        "--pretrained would replace the weights": {"pretrained": "other.pt"},
        "dataset.json": {"dataset_dir": None},
        "nowhere.pt does not exist": {"rewind": "nowhere.pt"},
    }.items():
        with pytest.raises(UserError, match=message):
            prune(str(tmp_path / "new"), **{**options, **wrong})


@pytest.mark.parametrize("bits", [1, 4])
def test_training_sees_the_weights_that_are_packed(bits: int) -> None:
    network, x = build("SwinUnet").eval(), image(1)
    chosen = plan(network, bits, "attention")
    assert chosen[bits] and all("attn" in name for name in chosen[bits])
    qat.prepare(network, chosen, 64, quantise_weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(x).square().mean().backward()
    latent = network.get_submodule(chosen[bits][0]).parametrizations.weight
    assert latent.original.grad.abs().sum() > 0
    assert bits == 1 or latent[0].scales.grad.abs().sum() > 0
    optimizer.step()
    with torch.no_grad():
        expected = network(x)
        levels = latent[0](latent.original)[0].view(-1, latent[0].size)[0].unique()
        assert len(levels) <= 2**bits
        found = qat.finish(network, chosen)
        assert not parametrize.is_parametrized(network.get_submodule(chosen[bits][0]))
        quantised_state(network, chosen, 64, found)
        torch.testing.assert_close(network(x), expected, rtol=1e-3, atol=1e-4)


def test_bits_can_be_trained(source: dict, ct_dir: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "binary", tmp_path / "other"
    shutil.copytree(ct_dir, other)
    content = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, "name": "Other", "licence": "CC BY-NC 4.0"}))
    quantize(str(output), **source, bits=1, dataset_dir=str(other), **QUICK)
    step = step_of(output)
    # the record keeps what the weights were trained on before, and says what the training of the bits has added
    record = json.loads((output / "models" / "model.json").read_text())
    before = json.loads(Path(source["ckpt_path"]).with_suffix(".json").read_text())
    assert record["data_set"] == before["data_set"] and not {"epoch", "val_mean_dice"} & record.keys()
    added = step["training"]
    assert (added["data_set"]["name"], added["data_set"]["licence"]) == ("Other", "CC BY-NC 4.0")
    assert (added["seed"], added["epoch"]) == (0, 1) and "val_mean_dice" in added
    metadata, text = (output / name for name in ("configs/metadata.json", "docs/README.md"))
    metadata = json.loads(metadata.read_text())
    number = added["data_set"]["training"]
    assert f"trained for 1 epoch on Other ({number} training and" in metadata["data_source"]
    assert "Licences of the data: Other: CC BY-NC 4.0." in metadata["data_source"]
    assert f"{number} cases of {record['data_set']['name']} and {number} cases of Other" in text.read_text()
    assert (output / "docs" / "data_license.txt").read_text() == "Other: CC BY-NC 4.0\n"
    assert "license_name: CC BY-NC 4.0" in model_card(output.name, metadata, "")
    assert step["summary"] == "rounded to 1 bit and trained for 1 epoch" and step["bits"].keys() == {"1", "8"}
    assert find_variant(str(output)).network()(torch.zeros(1, 1, 48, 48)).isfinite().all()


def test_soft_labels_ask_for_what_the_teacher_says() -> None:
    taught = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert soft_loss(taught, taught, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert soft_loss(taught + 5, taught, 2.0).item() == pytest.approx(0, abs=1e-5)  # logits count by their differences
    logits = torch.zeros_like(taught, requires_grad=True)
    soft_loss(logits, taught, 1.0).backward()
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - taught.softmax(1)).detach() / 32)


def test_a_student_is_a_bundle(source: dict, ct_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "student"
    with pytest.raises(UserError, match="trained with out_channels"):
        distill(str(output), NAME, **source, dataset_dir=str(ct_dir), out_channels=3)
    distill(str(output), NAME, **source, dataset_dir=str(ct_dir), channels=[2, 4, 4, 4, 4], **QUICK)
    step = step_of(output)
    assert step["teacher"]["bundle"] == NAME and step["temperature"] == 2.0
    before = json.loads(Path(source["ckpt_path"]).with_suffix(".json").read_text())
    assert step["teacher"]["data_sets"] == [before["data_set"]] == [step["training"]["data_set"]]
    document = (output / "docs" / "README.md").read_text()
    assert f"taught by a trained {NAME}, which had learned from {before['data_set']['name']}." in document
    network = find_variant(str(output)).network()
    assert sum(p.numel() for p in network.parameters()) < 3000
    shutil.rmtree(output)
    with pytest.raises(UserError, match="is of a training with another temperature; remove it"):
        options = {**source, "dataset_dir": str(ct_dir), "channels": [2, 4, 4, 4, 4], **QUICK}
        distill(str(output), NAME, temperature=4.0, **options)


def test_a_student_starts_from_weights_of_the_seed(
    source: dict, ct_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[nn.Module] = []

    def run(training: Training, name: str, network: nn.Module, lesson: Any = None) -> None:
        found.append(network)
        raise InterruptedError

    monkeypatch.setattr(Training, "run", run)
    for number, seed in enumerate(({}, {"seed": 0}, {"seed": 1})):
        torch.manual_seed(number)
        with pytest.raises(InterruptedError):
            distill(str(tmp_path / "student"), NAME, **source, dataset_dir=str(ct_dir), **QUICK, **seed)
    first, same, other = (network.state_dict() for network in found)
    assert same_state(first, same) and not same_state(first, other)


def test_mistakes_are_told_before_a_training(source: dict, ct_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no bundle 'bundles/"):
        distill(str(tmp_path / "student"), f"bundles/{NAME}", **source, dataset_dir=str(ct_dir), **QUICK)
    for sparsity in ("half", [0.5, 0.3], 1.0):
        with pytest.raises(UserError, match="is no schedule"):
            prune(str(tmp_path / "pruned"), **source, sparsity=sparsity)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["SwinUnet", "LevitUnet", "TransUnet"])
def test_hidden_units_go(name: str) -> None:
    network, x = build(name).eval(), image(1)
    with torch.no_grad():
        # units that do nothing: taking them out changes nothing but the size
        for first, second in mlps(network):
            rows, reads = (layer if isinstance(layer, nn.Linear) else layer.linear for layer in (first, second))
            half = len(rows.weight) // 2
            reads.weight[:, ::2] = 0
            rows.weight[::2] *= 1e-3
            assert half > 0
        expected, before = network(x), sum(p.numel() for p in network.parameters())
        slim_mlps(Opened(network), 0.5)
        torch.testing.assert_close(network(x), expected, rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in network.parameters()) < before


def test_other_parts_called_so_are_no_mlps() -> None:
    assert not list(mlps(SEModule(16)))


def test_heads_go() -> None:
    network, x = build("SwinUnet", num_heads=(2, 2, 4, 4)).eval(), image(1)
    before = network(x)
    found = slim_heads(Opened(network), 0.5)
    assert found and set(found.values()) == {1, 2}
    after = network(x)
    assert after.shape == before.shape and not torch.allclose(after, before)


def test_a_slimmed_bundle_is_smaller_and_can_be_slimmed_again(source: dict, tmp_path: Path) -> None:
    output = tmp_path / "slim"
    slim(str(output), **source, parts="channels", share=0.5)
    before, after = step_of(output)["parameters"]
    assert after < before
    assert find_variant(str(output)).network()(torch.zeros(1, 1, 48, 48)).isfinite().all()
    quantize(str(tmp_path / "both"), bundle=str(output))
    assert find_variant(str(tmp_path / "both")).network()(torch.zeros(1, 1, 48, 48)).isfinite().all()
    with pytest.raises(UserError, match="no heads"):
        slim(str(tmp_path / "none"), **source, parts="heads")


def test_a_slimmed_bundle_is_trained_from_its_own_weights(source: dict, ct_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "slimmed"  # a name of its own: Python keeps the code of a bundle by it
    slim(str(output), **source, parts="channels", share=0.5)
    models, checksum = output / "models", file_hash(output / "models" / "model.pt")
    before = read_weights(models / "model.pt")
    assert "`train.json` goes on from these weights" in (output / "docs" / "README.md").read_text()
    options = {"bundle_root": str(output), "dataset_dir": str(ct_dir), "learning_rate": 1e-12, **QUICK}
    run([str(output / "configs" / "train.json")], "train", "training", **options)
    after = read_weights(models / "model.pt")
    weights = [name for name in before if name.endswith(".weight")]
    assert all(torch.allclose(after[name], before[name].float(), atol=1e-6) for name in weights)
    record = json.loads((models / "model.json").read_text())
    assert record["pretrained"] == [{"name": "model.pt", "sha256": checksum}]
    (moved,) = models.glob("earlier/*/model.pt")
    assert own_weights(models) == str(models / "model.pt") and own_weights(models, resume=True) == str(moved)
    (models / "model.pt").unlink()  # as in a training that has not validated yet
    assert own_weights(models) == str(moved)


def test_a_slimmed_network_without_its_weights_can_learn() -> None:
    whole, small = build("SwinUnet"), build("SwinUnet")
    name = next(key for key in whole.state_dict() if key.endswith("fc1.weight"))
    first = whole.get_parameter(name).detach()[:3]
    compressed(small, {name: list(first.shape)})
    assert small.get_parameter(name).shape == first.shape and small.get_parameter(name).abs().sum() > 0
    with pytest.raises(UserError, match="has no such tensor"):
        compressed(small, {name: [4, *first.shape[1:]]})
