"""Arguments that make each network small: for the common tester, and for runs of the bundles in tests."""

import torch
from torch import nn

import networks

SMALL = {
    "LevitUnet": {
        "embed_dim": (16, 24),
        "key_dim": 8,
        "depths": (1, 1),
        "num_heads": (2, 3),
        "decoder_channels": (32, 16, 8),
        "drop_path_rate": 0.1,
    },
    "CSUnet": {
        "encoder_name": "resnet18",
        "embed_dim": 24,
        "depths": (2, 1, 1, 1),
        "num_heads": (1, 2, 2, 4),
        "window_size": 4,
    },
    "SwinUnet": {"embed_dim": 24, "num_heads": (1, 2, 2, 4), "window_size": 4},
    "HiFormer": {
        "encoder_name": "test_resnet",
        "embed_dim": 12,
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 4),
        "window_size": 4,
        "fusion_depths": (1, 1),
        "fusion_heads": (2, 4),
    },
    "TransDeepLab": {
        "windows": (1, 4),
        "aspp_depths": (1, 1),
        "depths": (1, 2, 1),
        "decoder_depths": (1, 1),
        "embed_dim": 12,
        "num_heads": (1, 2, 4),
        "window_size": 4,
        "aspp_drop_rate": 0.0,
    },
    "TransUnet": {
        "width": 32,
        "depths": (1, 1, 1),
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 48,
        "decoder_channels": (32, 32, 16, 16, 8),
    },
    "Unet": {"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 8, 8)},
    "UnetPlusPlus": {"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 8, 8)},
    "DeepLabV3Plus": {"encoder_name": "resnet18", "decoder_channels": 16},
    "AttentionUnet": {"channels": (8, 12, 16), "strides": (2, 2)},
}

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
