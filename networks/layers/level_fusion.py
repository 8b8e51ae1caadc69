"""HiFormer's double-level fusion: a fine and a coarse token map that learn of each other through class tokens.

Paper: Heidari et al., https://arxiv.org/abs/2207.08518; the cross-attention is that of CrossViT, Chen et al.,
https://arxiv.org/abs/2103.14899. Written from the papers; the ViT blocks are timm's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from networks.layers.hybrid import resize_positions
from networks.layers.swin import init_weights


class PositionEmbedding(nn.Module):
    """A learned vector per token, interpolated where the token map has another size.

    Args:
        dim: channels of a token.
        grid: token map for which there are vectors.
    """

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.empty(1, grid[0], grid[1], dim))
        trunc_normal_(self.position_embeddings, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Sum of tokens (B, H, W, dim) and their positions."""
        embeddings: Tensor = self.position_embeddings
        if x.shape[1] != embeddings.shape[1] or x.shape[2] != embeddings.shape[2]:
            embeddings = resize_positions(embeddings, x.shape[1], x.shape[2])
        return x + embeddings


class NoFusion(nn.Module):
    """What the authors' code does between encoder and decoder: add positions and normalise, each level by itself.

    Args:
        dims: channels of the large and of the small level.
        grids: their token maps.
    """

    def __init__(self, dims: Sequence[int], grids: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.position = nn.ModuleList(map(PositionEmbedding, dims, grids))
        self.norm = nn.ModuleList(map(nn.LayerNorm, dims))

    def forward(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, H, W, C) of the large and of the small level to tokens of the same shapes."""
        return self.norm[0](self.position[0](large)), self.norm[1](self.position[1](small))


class CrossLevel(nn.Module):
    """One level's class token asks the other level's tokens.

    Args:
        dim: channels of the class token.
        other_dim: channels of the other level.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, other_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project = nn.Sequential(nn.LayerNorm(dim), nn.GELU(), nn.Linear(dim, other_dim))
        self.norm = nn.LayerNorm(other_dim)
        self.wq = nn.Linear(other_dim, other_dim)
        self.wk = nn.Linear(other_dim, other_dim)
        self.wv = nn.Linear(other_dim, other_dim)
        self.proj = nn.Linear(other_dim, other_dim)
        self.revert = nn.Sequential(nn.LayerNorm(other_dim), nn.GELU(), nn.Linear(other_dim, dim))

    def forward(self, token: Tensor, others: Tensor) -> Tensor:
        """Class token (B, 1, dim) and the other level's patch tokens (B, N, other_dim) to a class token (B, 1, dim)."""
        token = self.project(token)
        x = self.norm(torch.cat([token, others], 1))
        batch, count, dim = x.shape
        q = self.wq(x[:, :1]).view(batch, 1, self.num_heads, dim // self.num_heads).transpose(1, 2)
        k = self.wk(x).view(batch, count, self.num_heads, dim // self.num_heads).transpose(1, 2)
        v = self.wv(x).view(batch, count, self.num_heads, dim // self.num_heads).transpose(1, 2)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, 1, dim)
        return self.revert(token + self.proj(x))


class DoubleLevelFusion(NoFusion):
    """The paper's fusion of two levels through their class tokens.

    A level's class token is the mean of its normalised patch tokens. Class and patch tokens get positions, and each
    class token attends to the patch tokens of the other level. Then class and patch tokens of a level pass ViT blocks,
    and the patch tokens go on.

    The paper has the ViT blocks first. After that order the class tokens would be the only ones that know of the other
    level, and the decoder, which takes maps, has no use for them. The authors' code has the order used here, but
    continues with what entered the ViT blocks. Continuing with what leaves them needs nothing new, and is the least
    that lets every part reach the decoder.

    Args:
        dims: channels of the large and of the small level.
        grids: their token maps.
        depths: ViT blocks per level.
        num_heads: attention heads per level.
        mlp_ratio: hidden channels of the MLPs relative to the level's channels.
    """

    def __init__(
        self,
        dims: Sequence[int],
        grids: Sequence[tuple[int, int]],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: float,
    ) -> None:
        super().__init__(dims, grids)
        self.class_norm = nn.ModuleList(map(nn.LayerNorm, dims))
        self.class_position = nn.ModuleList(PositionEmbedding(dim, (1, 1)) for dim in dims)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(dim, heads, mlp_ratio, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(depth)))
            for dim, heads, depth in zip(dims, num_heads, depths, strict=True)
        )
        self.cross = nn.ModuleList(
            CrossLevel(dim, other_dim, heads)
            for dim, other_dim, heads in zip(dims, reversed(dims), reversed(num_heads), strict=True)
        )
        for module in (self.blocks, self.cross):
            module.apply(init_weights)

    def embed(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, H, W, C) per level to sequences (B, 1 + H * W, C) of the class token and them, with positions."""
        first = self.class_position[0](self.class_norm[0](large).mean((1, 2), keepdim=True))
        second = self.class_position[1](self.class_norm[1](small).mean((1, 2), keepdim=True))
        first = torch.cat([first.flatten(1, 2), self.position[0](large).flatten(1, 2)], 1)
        return first, torch.cat([second.flatten(1, 2), self.position[1](small).flatten(1, 2)], 1)

    def exchange(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences (B, 1 + N, C) per level to class tokens (B, 1, C) that know of the other level."""
        first = self.cross[0](large[:, :1], small[:, 1:])
        return first, self.cross[1](small[:, :1], large[:, 1:])

    def forward(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, H, W, C) of the large and of the small level to tokens of the same shapes."""
        first, second = self.embed(large, small)
        first_class, second_class = self.exchange(first, second)
        first = self.blocks[0](torch.cat([first_class, first[:, 1:]], 1))[:, 1:]
        second = self.blocks[1](torch.cat([second_class, second[:, 1:]], 1))[:, 1:]
        return self.norm[0](first).view_as(large), self.norm[1](second).view_as(small)
