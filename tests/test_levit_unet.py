"""LeViT-UNet: its arguments, and its attention biases at other sizes."""

import pytest
import torch
from timm.models import levit
from torch import nn

from networks import LevitUnet
from networks.layers.levit import Attention, SubsamplingAttention, bias_index
from tests.small import build, image


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"variant": "256"}, r"variant='256' is unknown: choose one of '128s', '192', '384'"),
        ({"depths": (2, 2, 2)}, r"depths=\(2, 2, 2\), num_heads=\(2, 3\) do not describe the same stages"),
        ({"num_heads": (2, 0)}, r"num_heads=\(2, 0\) .* at least 1"),
        ({"embed_dim": (20, 24)}, r"first stage's 20, give that a multiple of 8"),
        ({"key_dim": 12}, r"key_dim=12 does not divide .* choose a divisor"),
        ({"key_dim": 0}, r"key_dim=0 .* at least 1"),
        ({"decoder_channels": (8, 8)}, r"decoder_channels=\(8, 8\) .* three numbers"),
        ({"decoder_channels": ()}, r"decoder_channels=\(\) .* three numbers"),
        ({"out_channels": 0}, r"out_channels=0 .* at least 1"),
        ({"drop_path_rate": -0.1}, r"drop_path_rate=-0.1 .* from 0"),
    ],
)
def test_levit_unet_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build("LevitUnet", **kwargs)


def small_levit(img_size: int | tuple[int, int], **kwargs) -> LevitUnet:
    """Three stages, with biases that are all different."""
    torch.manual_seed(0)
    sizes = {"embed_dim": (16, 24, 32), "key_dim": 8, "depths": (1, 1, 1), "num_heads": (2, 3, 4)}
    network = LevitUnet(1, 3, img_size, decoder_channels=(16, 12, 8), **sizes, **kwargs)
    for key, parameter in network.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=3.0 if key.endswith("attention_biases") else 1.0)
    return network


@torch.no_grad()
@pytest.mark.parametrize("img_size", [48, 224, (97, 130), (250, 60)], ids=str)
def test_levit_unet_bias_is_that_of_the_longest_known_distance(img_size):
    network, other = small_levit(96).eval(), small_levit(img_size).eval()
    state = other.state_dict()
    for key, tensor in network.state_dict().items():
        if key.endswith("attention_biases"):
            rows, cols = (torch.arange(side).clamp(max=tensor.shape[1] - 1) for side in state[key].shape[1:])
            tensor = tensor[:, rows][:, :, cols]
        state[key] = tensor
    other.load_state_dict(state)
    x = image(2, 1, *((img_size, img_size) if isinstance(img_size, int) else img_size))
    torch.testing.assert_close(network(x), other(x))


def test_levit_unet_trains_on_a_single_token():
    network = small_levit(48).train()
    logits = network(image(1, 1, 48, 48))
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_levit_unet_uses_weights_loaded_after_eval():
    network = small_levit(64).eval()
    x = image(1, 1)
    before = network(x)
    network.load_state_dict({key: 2 * value for key, value in network.state_dict().items()})
    expected = small_levit(64)
    expected.load_state_dict(network.state_dict())
    assert torch.equal(network(x), expected.eval()(x))
    assert not torch.equal(network(x), before)


def test_levit_attention_equals_timm():
    torch.manual_seed(0)
    grid = (5, 4)
    ours, theirs = Attention(16, 8, 3, grid), levit.Attention(16, 8, 3, 2, grid, act_layer=nn.Hardswish)
    halving = SubsamplingAttention(16, 24, 8, grid)
    timm_halving = levit.AttentionDownsample(16, 24, 8, 2, 4, resolution=grid, act_layer=nn.Hardswish)
    x = torch.randn(2, 20, 16)
    for stride, module, reference in ((1, ours, theirs), (2, halving, timm_halving)):
        state = {key: torch.rand_like(value) for key, value in reference.state_dict().items() if value.ndim}
        reference.load_state_dict(state, strict=False)
        renamed = {key.replace(".ln.", "."): value for key, value in state.items()}
        renamed["attention_biases"] = renamed["attention_biases"].unflatten(1, grid)
        module.load_state_dict(renamed)
        index = bias_index(grid, grid, stride, x.device)
        wanted = [x.requires_grad_(), module.attention_biases]
        out = module(x if stride == 1 else x.view(2, *grid, 16), index)
        expected = reference(x)
        torch.testing.assert_close(out, expected)
        gradients = torch.autograd.grad(out.square().sum(), wanted)
        expected = torch.autograd.grad(expected.square().sum(), [x, reference.attention_biases])
        torch.testing.assert_close(gradients[0], expected[0])
        torch.testing.assert_close(gradients[1].flatten(1), expected[1])
