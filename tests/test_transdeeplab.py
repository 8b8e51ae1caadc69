"""What only TransDeepLab has: its levels, its attention, its weights, its arguments."""

import json
from pathlib import Path

import pytest
import torch
from timm.models import create_model
from torch import Tensor, nn

from networks import TransDeepLab
from networks.layers.pyramid_pooling import PointwiseBlock, TokenCBAM
from networks.layers.swin import SwinBlock
from networks.pretrained import load

REFERENCE = Path(__file__).parent / "reference" / "transdeeplab_3level.json"
TABLE = "attn.relative_position_bias_table"
SMALL = {"img_size": 64, "embed_dim": 12, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "window_size": 4}


def small(**kwargs) -> TransDeepLab:
    torch.manual_seed(0)
    return TransDeepLab(**(SMALL | kwargs)).eval()


@pytest.mark.parametrize(
    ("img_size", "levels", "windows"),
    [
        (224, 1, [14]),
        (224, 2, [7, 14]),
        (224, 3, [2, 7, 14]),
        (224, 4, [1, 2, 7, 14]),
        (384, 5, [4, 6, 8, 12, 24]),
        ((224, 448), 2, [7, 14]),
        (208, 3, [2, 7, 14]),  # 13 x 13 tokens, as if they were 14 x 14
        ((208, 305), 3, [1, 2, 4]),  # 13 x 20 tokens, as if they were 16 x 20
        (64, 4, [1, 2, 3, 6]),  # 4 x 4 tokens, as if they were 6 x 6
    ],
)
def test_levels_are_the_largest_divisors(img_size, levels, windows):
    network = TransDeepLab(img_size=img_size, levels=levels, embed_dim=12, num_heads=(1, 1, 1), depths=(1, 1, 1))
    stages = network.aspp.stages
    assert [stage[0].window_size if isinstance(stage[0], SwinBlock) else 1 for stage in stages] == windows
    covered = img_size in (224, 384, 208, 64)
    assert [len(stage) for stage in stages] == [2] * (levels - 1) + [1 if covered else 2]


@torch.no_grad()
@pytest.mark.parametrize("img_size", [1, 72, (97, 130)], ids=str)
def test_any_size_has_any_number_of_levels(img_size):
    network = small(img_size=img_size, levels=5, depths=(1, 1, 1))
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    x = torch.randn(1, 3, height, width)
    assert network(x).shape == (1, 2, height, width) and network(x).isfinite().all()


def test_pointwise_block_equals_windows_of_one_token():
    torch.manual_seed(0)
    swin, block = SwinBlock(12, 3, 1, False, (5, 4)).double(), PointwiseBlock(12).double()
    for parameter in swin.parameters():
        nn.init.normal_(parameter)
    names = {f"aspp.layers.0.blocks.0.{key}": tensor for key, tensor in swin.state_dict().items()}
    converted = TransDeepLab.convert_authors(names)
    block.load_state_dict({key.removeprefix("aspp.stages.0.0."): tensor for key, tensor in converted.items()})
    x = torch.randn(2, 5, 4, 12, dtype=torch.float64)
    torch.testing.assert_close(block(x), swin(x))


@torch.no_grad()
def test_attention_equals_its_definition():
    torch.manual_seed(0)
    module, x = TokenCBAM(24, 12).double(), torch.randn(2, 5, 4, 24, dtype=torch.float64)
    gates = [module.excite(module.squeeze(pooled).relu()) for pooled in (x.amax((1, 2)), x.mean((1, 2)))]
    gated = x * sum(gates).sigmoid()[:, None, None]
    spatial = module.spatial(torch.stack([gated.max(-1).values, gated.mean(-1)], -1)).sigmoid()
    torch.testing.assert_close(module(x), gated * spatial + x)


def test_linear_layers_keep_their_default_initialisation():
    network = TransDeepLab()
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            assert module.weight.abs().max() <= bound, name
            assert 0.5 * bound < module.weight.std() < 0.6 * bound or module.weight.numel() < 100, name
        if hasattr(module, "relative_position_bias_table"):
            assert 0.01 < module.relative_position_bias_table.std() < 0.03, name


def microsoft() -> dict[str, Tensor]:
    """A Swin-T under Microsoft's names, without the head."""
    state = create_model("swin_tiny_patch4_window7_224", pretrained=False).state_dict()
    renamed = {}
    for name, tensor in state.items():
        if ".downsample." in name:
            name = f"layers.{int(name[7]) - 1}{name[8:]}"
        renamed[name] = tensor
    return renamed


def test_swin_t_fills_what_the_authors_code_fills(tmp_path):
    source = microsoft()
    torch.save({"model": source}, tmp_path / "swin.pth")
    network = TransDeepLab(out_channels=9)
    report = load(network, tmp_path / "swin.pth")
    after = network.state_dict()
    encoder = {key for key in after if key.startswith("encoder.") and "low_norm" not in key}
    second = {key for key in after if key.startswith("decoder.layers.1.blocks.")}
    last = {key for key in after if key.startswith(("decoder.last.blocks.0.", "decoder.last.blocks.1."))}
    tables = {key for key in last if key.endswith(TABLE)}
    assert set(report.loaded) == encoder | second | last - tables and len(tables) == 2
    assert not report.resized
    for key in report.loaded:
        name = key.removeprefix("encoder.")
        name = name.replace("decoder.layers.1.", "layers.0.").replace("decoder.last.", "layers.1.")
        assert torch.equal(after[key], source[name]), key


def test_authors_checkpoint(tmp_path):
    facts = json.loads(REFERENCE.read_text())
    state = {key: torch.randn(shape) for key, shape in facts["weights"]}
    index = {f"encoder.layers.0.blocks.0.attn.{name}": torch.zeros(4) for name in ("relative_position_index", "mask")}
    index["encoder.layers.0.blocks.1.attn_mask"] = index.pop("encoder.layers.0.blocks.0.attn.mask")
    torch.save(state | index, tmp_path / "epoch_199.pth")
    report = load(TransDeepLab(out_channels=9), tmp_path / "epoch_199.pth")
    assert len(report.loaded) == len(state) and not report.left and not report.resized
    assert set(report.skipped) == index.keys()

    report = load(TransDeepLab(out_channels=4), tmp_path / "epoch_199.pth")
    assert report.left == ["decoder.head.output.weight"]
    with pytest.raises(ValueError, match=r"epoch_199\.pth .* is of another TransDeepLab"):
        load(TransDeepLab(out_channels=9, levels=2), tmp_path / "epoch_199.pth")
    torch.save(state | {"encoder.mixture.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"mixture\.weight.* is not a tensor of the authors' TransDeepLab"):
        load(TransDeepLab(out_channels=9), tmp_path / "odd.pth")


def test_tables_of_windows_that_the_authors_shrank():
    """On an image of 64 pixels windows of 8 tokens become one of 4 in the deepest stage."""
    sizes = {"encoder.layers.0": (225, 1), "encoder.layers.2": (49, 4), "aspp.layers.0": (9, 3)}
    state = {f"{stage}.blocks.0.{TABLE}": torch.randn(shape) for stage, shape in sizes.items()}
    (full, shrunk, pyramid), converted = state.values(), [*TransDeepLab.convert_authors(state).values()]
    assert torch.equal(converted[0], full) and torch.equal(converted[2], pyramid)
    expected = torch.zeros(15, 15, 4)
    expected[4:11, 4:11] = shrunk.view(7, 7, 4)
    assert torch.equal(converted[1], expected.view(225, 4))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"levels": 0}, r"levels=0 .* at least 1"),
        ({"windows": ()}, r"windows=\(\) is not possible"),
        ({"windows": (2, 4), "aspp_depths": (2,)}, r"aspp_depths=\(2,\) does not fit windows=\(2, 4\)"),
        ({"patch_size": 3}, r"patch_size=3 .* even number"),
        ({"embed_dim": 0}, r"embed_dim=0 .* at least 1"),
        ({"depths": (2, 2)}, r"give three, three and two numbers"),
        ({"decoder_depths": (0, 2)}, r"decoder_depths=\(0, 2\) has a stage without blocks"),
        ({"aspp_heads": 5}, r"aspp_heads=5 does not divide the 48 channels"),
        ({"num_heads": (1, 5, 4)}, r"num_heads\[1\]=5 does not divide the 24 channels"),
        ({"aspp_drop_rate": 1.0}, r"aspp_drop_rate=1.0 .* below 1"),
    ],
)
def test_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(**kwargs)
