"""LeViT as an encoder, for images of any size.

Paper: Graham et al., "LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference",
https://arxiv.org/abs/2104.01136. Authors' code: https://github.com/facebookresearch/LeViT (Apache-2.0). Stem and linear
layers are timm's (Apache-2.0); attention is written from the paper and timm's API, because timm's has a fixed size and
remembers its biases in eval mode, so that weights loaded later would not count.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import levit
from torch import Tensor, nn

from networks.errors import UserError
from networks.layers.eager import channels_last
from networks.layers.tables import Tables


def bias_index(grid: tuple[int, int], table: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """Entries of a flattened bias table for every pair of a query and a key, flattened to (queries * keys,).

    Keys are all tokens of the grid, queries those of every `stride`-th row and column. The table is indexed by the
    absolute differences of their rows and columns; what is farther apart than it reaches gets its last entry.
    """
    rows, cols = torch.arange(grid[0], device=device), torch.arange(grid[1], device=device)
    rows = (rows[::stride, None] - rows).abs().clamp(max=table[0] - 1)
    cols = (cols[::stride, None] - cols).abs().clamp(max=table[1] - 1)
    return (rows[:, None, :, None] * table[1] + cols[None, :, None, :]).flatten()


def attend(q: Tensor, k: Tensor, v: Tensor, biases: Tensor, index: Tensor) -> Tensor:
    """Attention of queries and keys (B, N, heads, D) and values (B, N, heads, D') to (B, queries, heads * D').

    Args:
        q, k, v: queries, keys and values.
        biases: tables (heads, height, width).
        index: entries of a table, as of `bias_index`.
    """
    bias = biases.flatten(1).t().index_select(0, index).t().view(1, -1, q.shape[1], k.shape[1])
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    return x.transpose(1, 2).flatten(2)


class LinearNorm(levit.LinearNorm):
    """A linear layer and a batch norm over all tokens of all images."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, in_features) to (B, N, out_features)."""
        tokens = self.linear(x).flatten(0, 1)
        if self.training and tokens.shape[0] == 1:
            # One small image whose last map is a single token: it has no variance, only the running one helps.
            norm = self.bn
            tokens = F.batch_norm(tokens, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            tokens = self.bn(tokens)
        return tokens.view(x.shape[0], x.shape[1], -1)


class Mlp(nn.Module):
    """Two linear layers of twice the width in between.

    Args:
        dim: channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln1 = LinearNorm(dim, 2 * dim)
        self.ln2 = LinearNorm(2 * dim, dim, bn_weight_init=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln2(F.hardswish(self.ln1(x)))


class Attention(nn.Module):
    """Multi-head attention whose logits have a bias by the distance in rows and columns.

    Args:
        dim: channels of a token.
        key_dim: channels of a head's queries and keys; its values have twice as many.
        num_heads: attention heads.
        table: height and width of the bias table.
    """

    def __init__(self, dim: int, key_dim: int, num_heads: int, table: tuple[int, int]) -> None:
        super().__init__()
        self.split = (key_dim, key_dim, 2 * key_dim)
        self.num_heads = num_heads
        self.qkv = LinearNorm(dim, num_heads * sum(self.split))
        self.proj = LinearNorm(num_heads * self.split[2], dim, bn_weight_init=0)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, *table))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Tokens (B, N, dim) to the same; `index` as of `bias_index`."""
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], self.num_heads, -1).split(self.split, -1)
        return self.proj(F.hardswish(attend(q, k, v, self.attention_biases, index)))


class SubsamplingAttention(nn.Module):
    """Attention as `Attention`, but only the tokens of every second row and column query: the map is halved.

    Args:
        dim: channels of a token.
        out_dim: channels of the resulting tokens.
        key_dim: channels of a head's queries and keys, of which `dim` makes as many heads as fit; its values have four
            times as many.
        table: height and width of the bias table.
    """

    def __init__(self, dim: int, out_dim: int, key_dim: int, table: tuple[int, int]) -> None:
        super().__init__()
        self.split = (key_dim, 4 * key_dim)
        self.num_heads = dim // key_dim
        self.kv = LinearNorm(dim, self.num_heads * sum(self.split))
        self.q = LinearNorm(dim, self.num_heads * key_dim)
        self.proj = LinearNorm(self.num_heads * self.split[1], out_dim)
        self.attention_biases = nn.Parameter(torch.zeros(self.num_heads, *table))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Token map (B, H, W, dim) to (B, ceil(H / 2) * ceil(W / 2), out_dim); `index` as of `bias_index`."""
        batch = x.shape[0]
        k, v = self.kv(x.flatten(1, 2)).view(batch, -1, self.num_heads, sum(self.split)).split(self.split, -1)
        q = self.q(x[:, ::2, ::2].flatten(1, 2)).view(batch, -1, self.num_heads, self.split[0])
        return self.proj(F.hardswish(attend(q, k, v, self.attention_biases, index)))


class LevitBlock(nn.Module):
    """Attention and an MLP, each residual.

    Args:
        dim: channels of a token.
        key_dim: channels of a head's queries and keys.
        num_heads: attention heads.
        table: height and width of the bias table.
        drop_path: rate of dropping a whole residual branch of a sample.
    """

    def __init__(self, dim: int, key_dim: int, num_heads: int, table: tuple[int, int], drop_path: float) -> None:
        super().__init__()
        self.attn = Attention(dim, key_dim, num_heads, table)
        self.mlp = Mlp(dim)
        # Not `ResidualDrop`, which would leave dropped samples out of the batch norms' statistics.
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(x, index))
        return x + self.drop_path(self.mlp(x))


class LevitDownsample(Tables):
    """Subsampling attention, then a residual MLP.

    Args:
        dim: channels of a token.
        out_dim: channels of the resulting tokens.
        key_dim: channels of a head's queries and keys.
        grid: token map for which the bias table and its index are made.
        drop_path: rate of dropping the MLP of a sample.
    """

    def __init__(self, dim: int, out_dim: int, key_dim: int, grid: tuple[int, int], drop_path: float) -> None:
        super().__init__()
        self.grid = grid
        self.attn = SubsamplingAttention(dim, out_dim, key_dim, grid)
        self.mlp = Mlp(out_dim)
        self.drop_path = DropPath(drop_path)
        self.register_tables()

    def own_tables(self) -> dict[str, Tensor | None]:
        """Entries of the bias table of the grid that they are prepared for."""
        return {"index": bias_index(self.grid, self.grid, 2, torch.device("cpu"))}

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, ceil(H / 2), ceil(W / 2), out_dim)."""
        batch, height, width, _ = x.shape
        index = self.index
        if height != self.grid[0] or width != self.grid[1]:
            index = bias_index((height, width), self.grid, 2, x.device)
        x = self.attn(x, index)
        x = x + self.drop_path(self.mlp(x))
        return x.view(batch, (height + 1) // 2, (width + 1) // 2, -1)


class LevitStage(Tables):
    """Blocks of one resolution.

    Args:
        depth: blocks.
        dim: channels of a token.
        key_dim: channels of a head's queries and keys.
        num_heads: attention heads.
        grid: token map for which the bias tables and their index are made; others work too.
        drop_path: stochastic depth rate of every block.
        downsample: what precedes the blocks.
    """

    def __init__(
        self,
        depth: int,
        dim: int,
        key_dim: int,
        num_heads: int,
        grid: tuple[int, int],
        drop_path: float,
        downsample: nn.Module,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.downsample = downsample
        self.blocks = nn.ModuleList(LevitBlock(dim, key_dim, num_heads, grid, drop_path) for _ in range(depth))
        self.register_tables()

    def own_tables(self) -> dict[str, Tensor | None]:
        """Entries of the bias tables of the grid that they are prepared for."""
        return {"index": bias_index(self.grid, self.grid, 1, torch.device("cpu"))}

    def forward(self, x: Tensor) -> Tensor:
        """A token map (B, H, W, C), halved by the downsampling if there is one, to (B, H', W', dim)."""
        x = self.downsample(x)
        batch, height, width, dim = x.shape
        index = self.index
        if height != self.grid[0] or width != self.grid[1]:
            index = bias_index((height, width), self.grid, 1, x.device)
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x, index)
        return x.view(batch, height, width, dim)


class LevitEncoder(nn.Module):
    """LeViT without its classifier, with the maps of every resolution as features.

    Args:
        in_channels: channels of the image.
        embed_dim: channels per stage.
        key_dim: channels of a head's queries and keys.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        grid: token map of the first stage for which the bias tables are made; others work too.
        drop_path: stochastic depth rate of every block.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: Sequence[int],
        key_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        grid: tuple[int, int],
        drop_path: float,
    ) -> None:
        super().__init__()
        # timm adds its layers by name, so that their types are not known
        self.stem: Any = levit.Stem16(in_channels, embed_dim[0], nn.Hardswish)
        stages = []
        for i, dim in enumerate(embed_dim):
            downsample: nn.Module = nn.Identity()
            if i > 0:
                downsample = LevitDownsample(embed_dim[i - 1], dim, key_dim, grid, drop_path)
                grid = (-(-grid[0] // 2), -(-grid[1] // 2))
            stages.append(LevitStage(depths[i], dim, key_dim, num_heads[i], grid, drop_path, downsample))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image (B, in_channels, H, W) to maps of 1/2, 1/4, 1/8, 1/16 (the stem's), 1/16, 1/32 ... (the stages')."""
        features = []
        x = self.stem.act1(self.stem.conv1(x))
        # From here on channels last: token maps and images are then the same memory.
        features.append(channels_last(x))
        features.append(self.stem.act2(self.stem.conv2(features[0])))
        features.append(self.stem.act3(self.stem.conv3(features[1])))
        features.append(self.stem.conv4(features[2]))
        x = features[3].permute(0, 2, 3, 1)
        for stage in self.stages:
            x = stage(x)
            features.append(x.permute(0, 3, 1, 2))
        return features


def convert_levit(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """The blocks of LeViT's authors, one flat list, under the names of `LevitEncoder`.

    Args:
        state: tensors by their names after "blocks.", such as "3.m.qkv.c.weight".

    Yields:
        Name in the state, name in the encoder, tensor.
    """
    # Only a subsampling attention has keys without queries; with it a stage begins.
    starts = [0, *sorted({int(name.split(".")[0]) for name in state if re.match(r"\d+\.kv\.", name)})]
    for name, tensor in state.items():
        number, rest = name.split(".", 1)
        stage = sum(int(number) >= start for start in starts[1:])
        place = int(number) - starts[stage]
        module = ("attn", "mlp")[place % 2]
        if stage > 0:
            place -= 2  # the downsampling's attention and MLP
        parent = "downsample" if place < 0 else f"blocks.{place // 2}"
        rest = rest.removeprefix("m.").replace(".c.", ".linear.")
        rest = re.sub(r"^(q|proj)\.1\.", r"\1.", rest)
        rest = re.sub(r"^([02])\.", lambda match: {"0": "ln1.", "2": "ln2."}[match[1]], rest)
        if rest == "attention_biases":
            tensor = square_biases(tensor)
        yield name, f"stages.{stage}.{parent}.{module}.{rest}", tensor


def square_biases(biases: Tensor) -> Tensor:
    """Bias tables (heads, side * side) of square grids, flat as their authors have them, as (heads, side, side).

    Raises:
        UserError: the grid is not square, which a flat table does not tell the sides of.
    """
    side = math.isqrt(biases.shape[1])
    if side * side != biases.shape[1]:
        raise UserError(f"Bias tables of {biases.shape[1]} entries are not of square images: choose other weights.")
    return biases.unflatten(1, (side, side))


def extend_biases(biases: Tensor, table: tuple[int, int]) -> Tensor:
    """Bias tables (heads, H, W) in another size with which attention computes the same: cut, or extended as needed."""
    rows, cols = (
        torch.arange(new, device=biases.device).clamp(max=old - 1)
        for new, old in zip(table, biases.shape[1:], strict=True)
    )
    return biases[:, rows][:, :, cols]
