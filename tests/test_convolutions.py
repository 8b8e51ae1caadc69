"""The convolutions that take fewer multiplications, against the library's."""

import pytest
import torch
from torch import nn

from networks.layers import conv


@pytest.mark.parametrize("grid", [(7, 7), (1, 5), (6, 2)])
def test_upsampled_convolution_equals_its_definition(grid):
    torch.manual_seed(0)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, *grid, dtype=torch.float64, requires_grad=True)
    enlarged = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    expected = nn.functional.conv2d(enlarged, weight, padding=1)
    out = conv.upsampled_conv3x3(x, weight)
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad(out.square().sum(), [x, weight])
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), [x, weight]))


@pytest.mark.parametrize("skip_channels", [0, 3])
@pytest.mark.parametrize("grid", [(4, 3), (7, 5)], ids=["taps", "enlarged"])
def test_up_block_is_the_same_whichever_way_it_takes(grid, skip_channels):
    block = conv.UpBlock(8, skip_channels, 5).double()
    x = torch.randn(2, 8, *grid, dtype=torch.float64)
    skip = torch.randn(2, skip_channels, *(2 * n for n in grid), dtype=torch.float64) if skip_channels else None
    assert conv.taps_pay(x) == (grid == (4, 3))
    enlarged = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    expected = block.conv1(enlarged if skip is None else torch.cat([enlarged, skip], 1))
    torch.testing.assert_close(block.first(x, skip), expected)
    torch.testing.assert_close(torch.jit.script(block)(x, skip), block(x, skip))
    block.eval()
    expected = block(x, skip)
    fused = torch.ao.quantization.fuse_modules(block, [["conv1", "norm1"]])  # gives the convolution a bias
    torch.testing.assert_close(fused(x, skip), expected)
    torch.testing.assert_close(torch.jit.script(fused)(x, skip), expected)


OPTIONS = [{"padding_mode": "circular"}, {"dilation": 2, "padding": 2}, {"padding": "same"}]


@pytest.mark.parametrize("grid", [(4, 3), (7, 5)], ids=["taps", "enlarged"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_another_convolution_in_an_up_block_is_called(grid, options):
    block, x = conv.UpBlock(8, 0, 5), torch.randn(2, 8, *grid)
    block.conv1 = nn.Conv2d(8, 5, 3, bias=False, **{"padding": 1, **options})
    enlarged = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(block.first(x, None), block.conv1(enlarged))
    torch.testing.assert_close(torch.jit.script(block.eval())(x), block(x))


@pytest.mark.parametrize("block", [1, 2000, 2**21], ids=["rows", "images", "all"])
@pytest.mark.parametrize("grid", [(8, 8), (5, 9), (1, 1), (7, 2)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_convolution_with_fewer_multiplications_equals_its_definition(monkeypatch, bias, grid, block):
    monkeypatch.setattr(conv, "BLOCK", block)
    monkeypatch.setattr(conv, "MIN_TILES_TRAINING", 1)
    layers = nn.Sequential(
        nn.Conv2d(128, 132, 3, padding=1, bias=bias), nn.Conv2d(132, 130, 3, 2, 1), nn.Conv2d(130, 3, 1)
    )
    layers.double().to(memory_format=torch.channels_last)
    x = torch.randn(3, 128, *grid, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layers.parameters()]
    expected = layers(x)
    expected_gradients = torch.autograd.grad(expected.square().sum(), wanted)
    conv.quicken_convs(layers)
    assert [type(layer) for layer in layers] == [conv.Conv3x3, nn.Conv2d, nn.Conv2d]
    out = layers(x)
    assert "_Winograd" in str(layers[0](x).grad_fn.next_functions)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), wanted), expected_gradients)
    layers[0].requires_grad_(False)
    frozen = torch.autograd.grad(layers(x).square().sum(), x)[0]
    torch.testing.assert_close(frozen, expected_gradients[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [7, 128, 129, 200, 512])
def test_interpolation_is_as_exact_as_its_precision(size, dtype):
    expected = conv.interpolated_taps(size, torch.zeros(1, dtype=torch.float64))
    found = conv.interpolated_taps(size, torch.zeros(1, dtype=dtype))
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=0.51 * torch.finfo(dtype).eps)
