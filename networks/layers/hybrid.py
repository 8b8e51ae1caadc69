"""A ResNet with standardised filters followed by a Vision Transformer, the hybrid that Google pretrained.

Papers: Dosovitskiy et al., "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929; Kolesnikov et al., "Big
Transfer (BiT)", https://arxiv.org/abs/1912.11370. Authors' code of the hybrid as it is here, with its deviations from
both papers: https://github.com/Beckschen/TransUNet (Apache-2.0). Written from the papers and from measured outputs of
that code, not from the code itself.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, StdConv2d
from timm.models.vision_transformer import Block
from torch import Tensor, nn

NORM: Any = partial(nn.LayerNorm, eps=1e-6)  # timm's annotations ask for a class, and it calls what it is given


def std_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> StdConv2d:
    """Convolution without bias and with standardised filters, zero-padded by half a filter."""
    return StdConv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, eps=1e-5)


class Bottleneck(nn.Module):
    """Residual unit of three standardised convolutions, each group-normalised.

    Args:
        in_channels: channels of the input.
        width: channels in between; four times as many come out.
        stride: of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = std_conv(in_channels, width, 1)
        self.norm1 = nn.GroupNorm(32, width, eps=1e-6)
        self.conv2 = std_conv(width, width, 3, stride)
        self.norm2 = nn.GroupNorm(32, width, eps=1e-6)
        self.conv3 = std_conv(width, out_channels, 1)
        self.norm3 = nn.GroupNorm(32, out_channels, eps=1e-6)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            # The authors give each channel its own group here, and another epsilon.
            self.downsample = nn.Sequential(
                std_conv(in_channels, out_channels, 1, stride), nn.GroupNorm(out_channels, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)
        return F.relu(self.norm3(self.conv3(x)).add_(shortcut), inplace=True)


def transformer_block(dim: int, num_heads: int, mlp_dim: int, drop: float, attn_drop: float) -> Block:
    """timm's block: attention and an MLP, each pre-normalised and residual.

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide `dim`.
        mlp_dim: hidden channels of the MLP.
        drop: dropout rate in the MLP.
        attn_drop: dropout rate of the attention weights.
    """
    block = Block(dim, num_heads, qkv_bias=True, attn_drop=attn_drop, norm_layer=NORM)
    # Built here because the block takes its width as a ratio, and would drop behind the attention at the same rate,
    # where the authors don't.
    block.mlp = Mlp(dim, mlp_dim, drop=drop)
    return block


def resize_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings (1, H, W, C) for another grid, bilinearly with the corners fixed, as the authors resize."""
    resized = F.interpolate(positions.permute(0, 3, 1, 2), size=(height, width), mode="bilinear", align_corners=True)
    return resized.permute(0, 2, 3, 1)


class HybridEncoder(nn.Module):
    """Three stages of a ResNet and transformer blocks on its last map.

    Args:
        in_channels: channels of the image.
        grid: (height, width) of the position embeddings.
        width: channels of the stem.
        depths: residual units per stage.
        embed_dim: channels of a token.
        depth: transformer blocks.
        num_heads: attention heads.
        mlp_dim: hidden channels of the MLPs.
        drop_rate: dropout rate of the embeddings and MLPs.
        attn_drop_rate: dropout rate of the attention weights.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        width: int,
        depths: Sequence[int],
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        drop_rate: float,
        attn_drop_rate: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv", std_conv(in_channels, width, 7, 2))
        self.stem.add_module("norm", nn.GroupNorm(32, width, eps=1e-6))
        channels = width
        stages = []
        for i, units in enumerate(depths):
            stage = nn.Sequential()
            for j in range(units):
                stage.append(Bottleneck(channels, width * 2**i, 2 if i > 0 and j == 0 else 1))
                channels = 4 * width * 2**i
            stages.append(stage)
        self.stages = nn.ModuleList(stages)
        self.patch_embed = nn.Conv2d(channels, embed_dim, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid[0], grid[1], embed_dim))
        self.drop = nn.Dropout(drop_rate)
        self.blocks = nn.Sequential(
            *(transformer_block(embed_dim, num_heads, mlp_dim, drop_rate, attn_drop_rate) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        for mlp in self.blocks.modules():
            if isinstance(mlp, Mlp):
                for layer in (mlp.fc1, mlp.fc2):
                    nn.init.xavier_uniform_(layer.weight)
                    if layer.bias is not None:
                        nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W), sides multiples of 16, to maps at 1/2, 1/4, 1/8 and, of tokens, 1/16."""
        x = F.relu(self.stem(x), inplace=True)
        features = [x]
        x = F.max_pool2d(x, 3, 2)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i == 0:
                # The pooling without padding loses a row and a column, which the authors give back to the skip alone.
                features.append(F.pad(x, (0, 1, 0, 1)))
            elif i == 1:
                features.append(x)
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        height, width = x.shape[1], x.shape[2]
        positions: Tensor = self.position_embeddings
        if height != positions.shape[1] or width != positions.shape[2]:
            positions = resize_positions(positions, height, width)
        x = self.drop(x + positions).flatten(1, 2)
        x = self.norm(self.blocks(x))
        features.append(x.view(-1, height, width, x.shape[2]).permute(0, 3, 1, 2))
        return features
