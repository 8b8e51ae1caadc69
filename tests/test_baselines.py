"""The baselines' arguments, and the normalisation of a single value."""

import copy

import pytest
import torch
from torch import nn

from networks.checkpoint_formats import formats
from networks.deeplabv3_plus import PooledBatchNorm2d
from tests.small import SIZE, build, image


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("Unet", {"encoder_name": "resnet17"}, r"encoder_name='resnet17' is unknown"),
        ("Unet", {"encoder_weights": "micronet"}, r"encoder_weights='micronet' do not exist for resnet18"),
        (
            "Unet",
            {"encoder_name": "tu-resnt50"},
            r"Unet cannot be built with encoder_name='tu-resnt50'.*: Unknown model",
        ),
        (
            "Unet",
            {"decoder_channels": (9, 9)},
            r"Unet cannot be built with .*decoder_channels=\(9, 9\): Model depth is",
        ),
        ("Unet", {"decoder_chanels": (8, 8)}, r"no argument 'decoder_chanels'.* did you mean decoder_channels"),
        ("UnetPlusPlus", {"aux_params": {"classes": 3}}, r"no argument 'aux_params' here"),
        ("DeepLabV3Plus", {"encoder_name": "tu-resnet18", "rates": 3}, r"cannot .* 'rates'"),
        ("DeepLabV3Plus", {"encoder_name": "densenet121"}, r"DeepLabV3Plus cannot be built with .*densenet121"),
        ("Unet", {"out_channels": 0}, r"out_channels=0 .* at least 1"),
        ("AttentionUnet", {"strides": (2,)}, r"strides=\(2,\) do not fit"),
        ("AttentionUnet", {"channels": (8, 12, 0)}, r"channels=\(8, 12, 0\) .* not possible"),
        ("AttentionUnet", {"dropout": 1.0}, r"dropout=1.0 .* below 1"),
    ],
)
def test_baseline_arguments(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(name, **kwargs)


@pytest.mark.parametrize("encoder", ["efficientnet-b0", "timm-efficientnet-b0", "xception"])
def test_everything_that_is_trained_has_a_gradient(encoder):
    """Several processes wait for each other's gradients of all that is trained."""
    network = build("Unet", encoder_name=encoder)
    network(image()).square().mean().backward()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in trained.values())
    assert ("encoder.bn2.weight" in trained) == (encoder == "xception") and len(trained) > 100


def test_single_value_normalisation():
    norm, usual = PooledBatchNorm2d(3), nn.BatchNorm2d(3)
    for x in (torch.randn(4, 3, 1, 1), torch.randn(1, 3, 2, 2)):
        torch.testing.assert_close(norm(x), usual(x))
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), usual.eval()(x))
    for key, tensor in norm.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert torch.equal(tensor, usual.state_dict()[key])


@torch.no_grad()
def test_averages_without_momentum():
    norm, usual = PooledBatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    for x in (torch.randn(4, 3, 2, 2), torch.randn(2, 3, 1, 1)):
        torch.testing.assert_close(norm(x), usual(x))
    torch.testing.assert_close(norm.state_dict(), usual.state_dict())


def test_attention_unet_encoder_is_the_way_down():
    network = build("AttentionUnet")
    assert not any(key.startswith("encoder.") for key in network.state_dict())
    assert len(network.encoder) == 3
    x = image()
    for block, channels in zip(network.encoder, (8, 12, 16), strict=True):
        x = block(x)
        assert x.shape[1] == channels
    assert x.shape[2:] == (SIZE // 4, SIZE // 4)
    assert not any("MicroNet" in form.name for form in formats(network))
    assert any("MicroNet" in form.name for form in formats(build("Unet")))
