"""Arguments that make each network small: for the common tester, and for runs of the bundles in tests."""

import torch
from torch import nn

import networks

SMALL = {name: dict(getattr(networks, name).small) for name in networks.NETWORKS}

# What makes convolutions wide enough for Winograd's algorithm, where the small variants have none of them.
WIDE = {"LevitUnet": {"decoder_channels": (128, 128, 8)}, "TransUnet": {"decoder_channels": (128, 128, 16, 16, 8)}}

SIZE = 64
NETWORKS = {name: (getattr(networks, name), small) for name, small in SMALL.items()}
NETWORKS["HiFormer paper"] = (networks.HiFormer, SMALL["HiFormer"] | {"fusion": "paper"})


def build(name: str, in_channels: int = 3, out_channels: int = 2, **kwargs) -> nn.Module:
    """The small variant, the same at every call."""
    network_class, defaults = NETWORKS[name]
    torch.manual_seed(0)
    return network_class(in_channels, out_channels, SIZE, **(defaults | kwargs))


def image(batch: int = 2, channels: int = 3, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))
