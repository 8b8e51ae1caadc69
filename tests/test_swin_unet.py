"""Swin-Unet, and the Swin blocks and the head that other networks share with it."""

import pytest
import torch
from torch import nn

from networks.layers.expand import ExpandHead
from networks.layers.swin import SwinBlock, SwinStage
from tests.small import build, image


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_skips": 7}, r"num_skips=7 .* choose 0 to 3"),
        ({"upsample": "nearest"}, r"'nearest' is unknown: choose one of 'expand', 'bilinear', 'transpose'"),
        ({"upsample": "transpose", "patch_size": 3}, r"patch_size=3 is odd"),
        ({"depths": (2, 2)}, r"depths=\(2, 2\) and num_heads=\(1, 2, 2, 4\)"),
        ({"depths": (2, 0, 2, 2)}, r"depths=\(2, 0, 2, 2\) has a stage without blocks"),
        ({"num_heads": (1, 2, 5, 4)}, r"5 heads do not divide the 96 channels of stage 2"),
        ({"embed_dim": 0}, r"embed_dim=0 .* at least 1"),
        ({"in_channels": 0}, r"in_channels=0 .* at least 1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1.0 .* below 1"),
        ({"mlp_ratio": 0}, r"embed_dim \* mlp_ratio=0 .* at least 1"),
    ],
)
def test_swin_unet_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build("SwinUnet", **kwargs)


@pytest.mark.parametrize("upsample", ["expand", "bilinear", "transpose"])
@pytest.mark.parametrize("num_skips", range(4))
def test_swin_unet_ablations(upsample, num_skips):
    network = build("SwinUnet", upsample=upsample, num_skips=num_skips).eval()
    logits = network(image(1, 3, 53, 70))
    assert logits.shape == (1, 2, 53, 70)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert sum("reduce.weight" in key for key in network.state_dict()) == num_skips


def reference_block(block: SwinBlock, x: torch.Tensor) -> torch.Tensor:
    """A block token by token, from the definition: which tokens share a shifted window, and their relative position."""
    height, width = x.shape[1:3]
    size, heads = block.window_size, block.attn.num_heads
    window = (min(size, height), min(size, width))
    shift = [block.shift_size if side > size else 0 for side in (height, width)]
    padded = [-(-side // w) * w for side, w in zip((height, width), window, strict=True)]
    table = block.attn.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, heads)

    def place(row: int, col: int) -> tuple:
        """Window and position in it after the roll; tokens that were wrapped around form a window of their own."""
        moved = [(p - s) % full for p, s, full in zip((row, col), shift, padded, strict=True)]
        wrapped = [p < s for p, s in zip((row, col), shift, strict=True)]
        return tuple(m // w for m, w in zip(moved, window, strict=True)), tuple(wrapped), moved

    tokens = [(row, col) for row in range(height) for col in range(width)]
    places = [place(*token) for token in tokens]
    flat = x.flatten(1, 2)
    q, k, v = block.attn.qkv(block.norm1(flat)).view(len(x), len(tokens), 3, heads, -1).unbind(2)
    out = torch.zeros_like(flat)
    for i, (cell, wrapped, (row, col)) in enumerate(places):
        keys = [j for j, other in enumerate(places) if other[:2] == (cell, wrapped)]
        bias = torch.stack([table[row - places[j][2][0] + size - 1, col - places[j][2][1] + size - 1] for j in keys])
        scores = torch.einsum("bhd,bkhd->bkh", q[:, i], k[:, keys]) * block.attn.scale + bias
        out[:, i] = torch.einsum("bkh,bkhd->bhd", scores.softmax(1), v[:, keys]).flatten(1)
    flat = flat + block.attn.proj(out)
    return (flat + block.mlp(block.norm2(flat))).view_as(x)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(8, 8), (9, 6), (3, 11), (4, 13), (2, 3)])
def test_swin_block_equals_its_definition(grid, shifted, training):
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, shifted, (8, 8)).double().train(training)
    nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference_block(block, x), atol=1e-10, rtol=0)


def test_expand_head_equals_its_definition():
    torch.manual_seed(0)
    head = ExpandHead(8, 3).double()
    nn.init.normal_(head.norm.weight)
    nn.init.normal_(head.norm.bias)
    x = torch.randn(2, 5, 4, 8, dtype=torch.float64, requires_grad=True)
    features = head.expand(x).view(2, 5, 4, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(2, 20, 16, 8)
    expected = head.output(head.norm(features).permute(0, 3, 1, 2))
    wanted = [x, *head.parameters()]
    gradients = torch.autograd.grad(expected.square().sum(), wanted)
    for training in (True, False):
        logits = head.train(training)(x)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(torch.autograd.grad(logits.square().sum(), wanted), gradients)


def test_expand_head_in_half_precision_does_not_overflow():
    torch.manual_seed(0)
    head, x = ExpandHead(8, 3).eval(), 3000 * torch.randn(1, 4, 4, 8)
    expected = head(x).detach()
    with torch.autocast("cpu", dtype=torch.float16):
        mixed = head(x)
    torch.testing.assert_close(mixed.float(), expected, atol=5e-3, rtol=5e-3)
    logits = head.half()(x.half())
    assert logits.dtype == torch.float16
    torch.testing.assert_close(logits.float(), expected, atol=5e-3, rtol=5e-3)


def test_dropped_residuals_are_not_computed_but_expectation_holds():
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, True, (8, 8), drop_path=0.5).train()
    nn.init.constant_(block.attn.proj.weight, 0)
    nn.init.constant_(block.attn.proj.bias, 1)
    nn.init.constant_(block.mlp.fc2.weight, 0)
    nn.init.constant_(block.mlp.fc2.bias, 0)
    x = torch.zeros(400, 8, 8, 8)
    out = block(x).mean((1, 2, 3))
    assert set(out.tolist()) == {0.0, 2.0}
    assert abs(out.mean().item() - 1) < 0.2


@pytest.mark.parametrize("autocast", [False, True])
def test_dropping_every_residual_leaves_zero_gradients(autocast):
    block = SwinBlock(8, 2, 4, True, (8, 8), drop_path=1 - 1e-9).train()
    x = torch.randn(2, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = block(x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_large_maps_by_image_equal_the_batch(training):
    torch.manual_seed(0)
    stage = SwinStage(96, 3, 7, (56, 56), (0.0, 0.0)).train(training)
    x = torch.randn(2, 56, 56, 96)
    torch.testing.assert_close(stage(x), stage.blocks(x))
