"""Compressed bundles: weights of few bits are packed, complete, and run wherever the bundle does."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

import networks
from networks.compressed import compressed
from networks.errors import UserError
from networks.layers.eager import is_plain
from networks.layers.packed import BITS, group_counts, pack, pack_layers, packed_layers, unpack, unpack_layers
from networks.state_dicts import read_weights
from networks.workflow.files import file_hash
from scripts.compress.bundles import refresh
from scripts.compress.quantize import plan, quantise_weight, quantised_state, quantize, weighted_layers
from scripts.zoo.loading import innermost
from scripts.zoo.manifest import MANIFEST
from scripts.zoo.verify import check
from scripts.zoo.weights import halved
from tests.packing import NAME
from tests.predicting import call, labels_of
from tests.small import NETWORKS, build, image
from tests.workflows import run


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> str:
    return str(trained / "bundles" / NAME / "models" / "model.pt")


@pytest.fixture(scope="session")
def four_bit(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compressed") / "attention_unet_4bit"
    quantize(str(folder), bundle=NAME, ckpt_path=checkpoint)
    return folder


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [1, 7, 64])
def test_packing_loses_nothing(bits: int, count: int) -> None:
    levels = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    packed = pack(levels, bits)
    assert len(packed) == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count), levels)


def test_every_row_is_cut_into_equal_groups() -> None:
    # the widths of Swin-T, which a group size of 128 or 256 does not divide
    assert [group_counts(row, 64) for row in (96, 192, 384, 768)] == [(2, 48), (3, 64), (6, 64), (12, 64)]
    assert group_counts(9, 64) == (1, 9) and group_counts(67, 64) == (2, 34)


def test_groups_hold_a_weight_at_least(tmp_path: Path) -> None:
    """Told before the training of the bits as well."""
    (tmp_path / "dataset.json").write_text("{}")
    training = {"epochs": 1, "dataset_dir": str(tmp_path)}
    for options in ({}, training):
        with pytest.raises(UserError, match="group_size=0 is not possible"):
            quantize(str(tmp_path / "new"), trained="hippocampus", group_size=0, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_levels_are_where_they_are_best() -> None:
    weight = torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.0, 0.0, 0.0, 0.0]])
    levels, scales = quantise_weight(weight, 1, 64)
    assert levels[0].tolist() == [1, 0, 1, 0] and scales.tolist() == [[1.0], [0.0]]
    # of one sign and its mean, what is far away counts with the rest
    _, scales = quantise_weight(torch.tensor([[1.0, -3.0]]), 1, 64)
    assert scales.item() == 4.0
    exact = torch.arange(-8, 8).view(1, 16) * 0.25
    levels, scales = quantise_weight(exact, 4, 64)
    assert torch.equal((levels - 8.0) * scales, exact)
    zeros = torch.tensor([[0.0, 0.3, 0.0, -0.9, 0.0, 0.2]])  # as pruning leaves them
    levels, scales = quantise_weight(zeros, 4, 64)
    assert (levels[0, ::2] == 8).all()


@pytest.mark.parametrize("bits", BITS)
def test_more_bits_are_closer(bits: int) -> None:
    weight = torch.randn(16, 67, generator=torch.Generator().manual_seed(0))  # whose last groups are shorter
    layer = torch.nn.Linear(67, 16)
    pack_layers(network := torch.nn.Sequential(layer), {str(bits): ["0"]}, 64)
    levels, scales = quantise_weight(weight, bits, 64)
    layer.parametrizations.weight.original0.copy_(pack(levels, bits))
    layer.parametrizations.weight.original1.copy_(scales)
    assert (layer.weight - weight).norm() / weight.norm() < {8: 0.01, 4: 0.1, 2: 0.4, 1: 0.65}[bits]
    assert not is_plain(layer) and packed_layers(network) == ["0"]
    assert not list(layer.parameters()) or all(p.is_floating_point() for p in layer.parameters())


def test_a_tiny_scale_keeps_its_digits() -> None:
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 1e-7
    levels, scales = quantise_weight(weight, 8, 64)
    assert ((levels - 128.0) * scales - weight).norm() / weight.norm() < 0.01
    assert halved({"scales": scales})["scales"].dtype == torch.float32
    assert halved({"scales": scales * 1e6})["scales"].dtype == torch.float16
    assert halved({"weight": torch.tensor([1.0, 1e-7, 0.5])})["weight"].dtype == torch.float16


@pytest.mark.parametrize("name", NETWORKS)
def test_all_layers_are_packed_and_used(name: str) -> None:
    network, x = build(name).eval(), image(1)
    weighted = weighted_layers(network)
    chosen = plan(network, 4)
    assert sorted(chosen[4] + chosen[8]) == sorted(weighted) and weighted[0] in chosen[8]
    others = [p for key, p in network.named_parameters() if key.removesuffix(".weight") not in weighted]
    values = sum(p.numel() for p in network.parameters())
    assert sum(p.numel() for p in others) < 0.2 * values  # tables of positions, norms, biases
    state = quantised_state(network, chosen, 64)
    assert packed_layers(network) == weighted
    with torch.no_grad():
        expected = network(x)
        fresh = compressed(build(name).eval(), packed={str(b): names for b, names in chosen.items()})
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh(x), expected)
        unpack_layers(fresh)
        assert fresh.state_dict().keys() == build(name).state_dict().keys() and "scriptable" not in vars(fresh)
        torch.testing.assert_close(fresh(x), expected, rtol=1e-4, atol=1e-5)  # by the fast paths
        # a weight that a fast path reads elsewhere would not be missed
        read = set()
        for layer in weighted:
            stored = network.get_submodule(layer).parametrizations.weight
            stored.register_forward_hook(lambda *_, layer=layer: read.add(layer))
        network(x)
    assert read == set(weighted)


def test_four_bits_make_swin_unet_seven_times_smaller(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = networks.SwinUnet(1, 9)
    full = sum(p.numel() * 4 for p in network.parameters())
    network = network.to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.data.zero_()
    chosen = plan(network, 4)
    compressed(network, packed={str(b): names for b, names in chosen.items()})
    torch.save(halved(network.state_dict()), tmp_path / "model.pt")
    assert full / (tmp_path / "model.pt").stat().st_size > 7


def test_a_compressed_bundle_is_a_bundle(four_bit: Path, checkpoint: str, ct_dir: Path, tmp_path: Path) -> None:
    assert not [result for result in check(str(four_bit), load=False) if result[1] is False]
    record = json.loads((four_bit / "models" / "model.json").read_text())
    (step,) = record["compression"]["steps"]
    assert record["bundle"] == NAME and record["checkpoint"] == file_hash(four_bit / "models" / "model.pt")
    assert step["made_of"]["checkpoint"] == file_hash(checkpoint) and step["bits"].keys() == {"4", "8"}
    metadata = json.loads((four_bit / "configs" / "metadata.json").read_text())
    assert metadata["trained_weights"] == record and "then rounded to 4 bits" in metadata["intended_use"]
    call(ct_dir, tmp_path / "a", bundle=str(four_bit), device="cpu")
    # the record beside the weights says what the catalog's bundle must be changed to
    call(ct_dir, tmp_path / "b", bundle=NAME, ckpt_path=str(four_bit / "models" / "model.pt"), device="cpu")
    assert labels_of(tmp_path / "a") and labels_of(tmp_path / "a") == labels_of(tmp_path / "b")


def test_packed_weights_are_not_trained(four_bit: Path, ct_dir: Path, tmp_path: Path) -> None:
    options = {"bundle_root": str(four_bit), "ckpt_dir": str(tmp_path), "dataset_dir": str(ct_dir), "epochs": 1}
    with pytest.raises(Exception) as raised:
        run([str(four_bit / "configs" / "train.json")], "train", "training", **options, device="cpu")
    assert "31 layers of this network have packed weights" in innermost(raised.value)
    assert not list(tmp_path.glob("*.pt"))
    assert "no training changes them" in (four_bit / "docs" / "README.md").read_text()


def test_new_files_replace_the_code_of_an_earlier_version(four_bit: Path, tmp_path: Path) -> None:
    folder = tmp_path / four_bit.name
    shutil.copytree(four_bit, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    package = manifest["code"]["package"]
    earlier = folder / f"{package[:-8]}01234567"
    (folder / package).rename(earlier)
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(package, earlier.name))
    refresh(folder)
    assert (folder / package).is_dir() and not earlier.exists()
    assert not [result for result in check(str(folder), load=False) if result[1] is False]


def test_mistakes_are_told_before_anything_is_written(
    four_bit: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "new"
    with monkeypatch.context() as patched, pytest.raises(UserError, match="Packing needs black; run"):
        patched.setattr(importlib.util, "find_spec", lambda name: None if name == "black" else name)
        quantize(str(output), bundle=NAME, ckpt_path="none.pt")
    for message, options in {
        "--bundle NAME": {},
        "choose from 8, 4, 2, 1": {"bits": 3},
        "matches no layer": {"layers": "nothing"},
        "no regular expression": {"layers": "("},
    }.items():
        given = {"bundle": NAME, "ckpt_path": checkpoint, **options} if options else {}
        with pytest.raises(UserError, match=message):
            quantize(str(output), **given)
    with pytest.raises(UserError, match="packed already"):
        quantize(str(output), bundle=str(four_bit))
    with pytest.raises(UserError, match="letters, digits"):
        quantize(str(tmp_path / "a-b"), bundle=NAME, ckpt_path=checkpoint)
    with pytest.raises(UserError, match="is there already"):
        quantize(str(four_bit), bundle=NAME, ckpt_path=checkpoint)
    shutil.copy(checkpoint, tmp_path / "model.pt")
    with pytest.raises(UserError, match="not both there"):
        quantize(str(output), bundle=NAME, ckpt_path=str(tmp_path / "model.pt"))
    with pytest.raises(UserError, match="no layer 'x'"):
        compressed(build("SwinUnet"), packed={"4": ["x"]})
    assert not output.exists() and read_weights(four_bit / "models" / "model.pt")
