"""What only HiFormer has: its fusion against the authors' stored values, its weights, its arguments."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from networks import HiFormer
from networks.pretrained import load
from tests.test_reference import golden_value

REFERENCE = Path(__file__).parent / "reference"
SMALL = {"img_size": 64, "encoder_name": "test_resnet", "embed_dim": 12, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
SMALL |= {"window_size": 4, "fusion_heads": (2, 4)}
SWIN = {"img_size": 64, "embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 4), "window_size": 4}


def small(**kwargs) -> HiFormer:
    torch.manual_seed(0)
    return HiFormer(**(SMALL | kwargs)).eval()


def golden(variant: str) -> tuple[dict, dict[str, Tensor]]:
    """Facts and generated weights of a stored case."""
    facts = json.loads((REFERENCE / f"hiformer_{variant.lower()}.json").read_text())
    shapes = [(key, shape) for key, shape in facts["weights"] if key not in facts["aliases"]]
    return facts, {key: torch.from_numpy(np.asarray(golden_value(key, shape))) for key, shape in shapes}


@torch.no_grad()
@pytest.mark.parametrize("variant", ["S", "B", "L"])
def test_fusion_computes_what_the_authors_drop(variant):
    facts, weights = golden(variant)
    network = HiFormer(3, 9, variant=variant, fusion="paper")
    network.load_state_dict(HiFormer.convert_authors(weights, "paper"), strict=True)
    network.eval().double()
    image = np.random.RandomState(0).uniform(-1, 1, size=facts["input"]["shape"]).astype(np.float32)
    maps = network.encoder(*network.cnn_encoder(torch.from_numpy(image).double()))
    sequences = network.fusion.embed(*maps)
    tokens = network.fusion.exchange(*sequences)
    for level, token in enumerate(tokens):
        blocks = network.fusion.blocks[level](torch.cat([token, sequences[level][:, 1:]], 1))
        probe = facts["probes_float64"][f"All2Cross.blocks.0.blocks.{level}"]
        assert list(blocks.shape) == probe["shape"]
        assert blocks.flatten()[:8].tolist() == pytest.approx(probe["first8"], abs=1e-12)
        assert blocks.mean().item() == pytest.approx(probe["mean"], abs=1e-12)
        assert blocks.std(correction=0).item() == pytest.approx(probe["std"], abs=1e-12)
        probe = facts["probes_float64"][f"All2Cross.norm.{level}"]
        assert network.fusion.norm[level](token).flatten()[:8].tolist() == pytest.approx(probe["first8"], abs=1e-12)


@torch.no_grad()
def test_both_levels_reach_the_logits_everywhere():
    network = small(fusion="paper").double()
    for parameter in network.fusion.parameters():  # the initial attention is too even for a single token to matter
        nn.init.normal_(parameter, std=0.3)
    large, small_map = torch.randn(1, 16, 16, 12).double(), torch.randn(1, 4, 4, 48).double()
    before = network.fusion(large, small_map)
    for changed in (0, 1):
        maps = [large.clone(), small_map.clone()]
        maps[changed][:, 0, 0] = torch.randn(maps[changed].shape[-1]).double()
        for old, new in zip(before, network.fusion(*maps), strict=True):
            assert ((old - new).abs().amax(-1) > 0).all()


def test_authors_and_paper_share_their_names():
    authors, paper = small().state_dict(), small(fusion="paper").state_dict()
    assert authors.keys() < paper.keys()
    assert all(key.startswith("fusion.") for key in paper.keys() - authors.keys())


@pytest.mark.parametrize("fusion", ["authors", "paper"])
def test_authors_checkpoint(tmp_path, fusion):
    facts, weights = golden("S")
    torch.save(weights | {key: weights[alias] for key, alias in facts["aliases"].items()}, tmp_path / "epoch_400.pth")
    network = HiFormer(3, 9, variant="S", fusion=fusion)
    before = network.state_dict().keys()
    # The stored case lacks the batch counters that a real file has.
    counters = {key: torch.tensor(7) for key in before if key.endswith("num_batches_tracked")}
    names = {"bn1": "resnet_layers.1", "layer1": "resnet_layers.4", "layer2": "p2", "layer3": "p3"}
    state = torch.load(tmp_path / "epoch_400.pth")
    for key, value in counters.items():
        part, _, rest = key.removeprefix("cnn_encoder.").partition(".")
        state[f"All2Cross.pyramid.{names[part]}.{rest}"] = value
    torch.save(state, tmp_path / "epoch_400.pth")
    report = load(network, tmp_path / "epoch_400.pth")
    assert not report.left and not report.resized and set(report.loaded) == before

    report = load(HiFormer(3, 4, 256, variant="S", fusion=fusion), tmp_path / "epoch_400.pth")
    assert report.left == ["decoder.head.weight", "decoder.head.bias"]
    resized = "(1, 14, 14, 384) in the file, (1, 16, 16, 384) in the network"
    assert report.resized["fusion.position.1.position_embeddings"] == resized

    torch.save(state | {"All2Cross.mixture.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"mixture\.weight.* is not a tensor of the authors' HiFormer"):
        load(network, tmp_path / "odd.pth")


def test_tables_of_windows_that_the_authors_shrank():
    """On an image of 64 pixels windows of 8 tokens become one of 4 in the deepest stage."""
    name = "All2Cross.pyramid.swin_transformer.layers.{}.blocks.0.attn.relative_position_bias_table"
    full, shrunk = torch.randn(225, 1), torch.randn(49, 4)
    converted = [*HiFormer.convert_authors({name.format(0): full, name.format(2): shrunk}).values()]
    expected = torch.zeros(15, 15, 4)
    expected[4:11, 4:11] = shrunk.view(7, 7, 4)
    assert torch.equal(converted[0], full) and torch.equal(converted[1], expected.view(225, 4))


def test_loaded_positions_equal_interpolated_ones(tmp_path):
    trained = small()
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    network = small(img_size=(96, 128))
    load(network, tmp_path / "model.pt")
    image = torch.randn(1, 3, 96, 128)
    torch.testing.assert_close(network(image), trained(image))


@pytest.mark.parametrize(("name", "old"), [("resnet18", False), ("resnet50", True)])
def test_resnet_checkpoint(tmp_path, name, old):
    resnet = timm.create_model(name)
    state = {key: value for key, value in resnet.state_dict().items() if not (old and "tracked" in key)}
    torch.save(state, tmp_path / "resnet.pth")
    network = small(encoder_name=name, in_channels=5)
    report = load(network, tmp_path / "resnet.pth")
    tensors = {key: value for key, value in state.items() if not key.startswith(("layer4", "fc"))}
    assert set(report.loaded) | set(report.resized) == {f"cnn_encoder.{key}" for key in tensors}
    assert list(report.resized) == ["cnn_encoder.conv1.weight"]
    assert all(reason == "no counterpart in the network" for reason in report.skipped.values())
    for key, tensor in tensors.items():
        if key != "conv1.weight":
            assert torch.equal(network.state_dict()[f"cnn_encoder.{key}"], tensor)

    network = small(encoder_name=name)
    load(network, tmp_path / "resnet.pth")
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = resnet.eval().forward_intermediates(image, indices=[1, 2, 3], intermediates_only=True)
        torch.testing.assert_close(list(network.cnn_encoder(image)), expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_another_resnet_is_refused(tmp_path, name):
    torch.save(timm.create_model(name).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"\d+ tensors of its cnn_encoder are not filled"):
        load(small(encoder_name="resnet34"), tmp_path / "resnet.pth")


def test_swin_checkpoint_fills_stages_and_mergings(tmp_path):
    swin = SwinTransformer(num_classes=5, **SWIN)
    for parameter in swin.parameters():
        nn.init.normal_(parameter)
    torch.save(swin.state_dict(), tmp_path / "swin.pth")
    network = small()
    report = load(network, tmp_path / "swin.pth")
    assert report.loaded == [key for key in network.state_dict() if key.startswith("encoder.layers.")]
    source = swin.state_dict()
    for key in report.loaded:
        # timm merges at the beginning of a stage.
        name = re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key[len("encoder.") :]
        )
        assert torch.equal(network.state_dict()[key], source[name])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"variant": "XL"}, r"'XL' is unknown: choose one of 'S', 'B', 'L'"),
        ({"fusion": "none"}, r"'none' is unknown: choose one of 'authors', 'paper'"),
        ({"encoder_name": "vgg16"}, r"encoder_name='vgg16' is not a ResNet of timm"),
        ({"embed_dim": 0}, r"embed_dim=0 .* at least 1"),
        ({"img_size": (64, 0)}, r"img_size=\(64, 0\) .* at least 1"),
        ({"depths": (2, 2)}, r"depths=\(2, 2\) and num_heads=\(1, 2, 4\) .* 3 numbers"),
        ({"depths": (2, 0, 2)}, r"depths=\(2, 0, 2\) has a stage without blocks"),
        ({"num_heads": (1, 2, 5)}, r"5 heads do not divide the 48 channels"),
        ({"fusion_mlp_ratio": 0}, r"embed_dim \* fusion_mlp_ratio=0 .* at least 1"),
        ({"fusion_heads": (5, 4)}, r"fusion_heads=\(5, 4\) does not fit: 5 heads"),
        ({"fusion_depths": (1, 2, 3)}, r"fusion_depths=\(1, 2, 3\) and .* 2 numbers"),
        ({"drop_path_rate": -0.1}, r"drop_path_rate=-0.1 .* below 1"),
    ],
)
def test_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


@torch.no_grad()
def test_another_layer_that_reduces_is_called():
    decoder, large, small_map = small().decoder, torch.randn(1, 128, 8, 8), torch.randn(1, 128, 4, 4)
    decoder.reduce = nn.Conv2d(128, 16, 3, padding=1)
    enlarged = nn.functional.interpolate(small_map, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(decoder.reduced_sum(large, small_map), decoder.reduce(enlarged + large))
