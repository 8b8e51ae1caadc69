"""The baselines' arguments, and the normalisation of a single value."""

import copy

import pytest
import torch
from torch import nn

from networks.baselines import PooledBatchNorm2d
from tests.small import build


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("Unet", {"encoder_name": "resnet17"}, r"encoder_name='resnet17' .* is unknown"),
        ("Unet", {"out_channels": 0}, r"out_channels=0 .* at least 1"),
        ("AttentionUnet", {"strides": (2,)}, r"strides=\(2,\) do not fit"),
        ("AttentionUnet", {"channels": (8, 12, 0)}, r"channels=\(8, 12, 0\) .* not possible"),
    ],
)
def test_baseline_arguments(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(name, **kwargs)


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
