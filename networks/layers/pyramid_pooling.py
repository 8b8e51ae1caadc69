"""Swin spatial pyramid pooling: Swin stages of several window sizes over one token map, and attention over them.

Paper: Azad et al., https://arxiv.org/abs/2208.00713; the attention is CBAM, Woo et al.,
https://arxiv.org/abs/1807.06521. Written from the papers and from a description of the authors' code of the former.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from networks.layers.swin import ResidualDrop, SwinStage


class PointwiseBlock(nn.Module):
    """What a Swin block is for windows of a single token, which can only attend to itself.

    The attention weights are then 1 whatever queries, keys and position bias are, so there are none.

    Args:
        dim: channels of a token.
        drop_path: rate of dropping a whole residual branch of a sample.
    """

    def __init__(self, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = ResidualDrop(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to the same shape."""
        kept = self.drop_path.draw(x)
        x = self.drop_path.add(x, self.proj(self.v(self.norm1(self.drop_path.take(x, kept)))), kept)
        kept = self.drop_path.draw(x)
        return self.drop_path.add(x, self.mlp(self.norm2(self.drop_path.take(x, kept))), kept)


class TokenCBAM(nn.Module):
    """Channel attention, then spatial attention, then the input added.

    The authors' spatial attention looks at one token at a time, where CBAM (Woo et al., https://arxiv.org/abs/1807.06521)
    has a 7 x 7 convolution.

    Args:
        dim: channels of a token.
        reduction: of the channels within the channel attention.
    """

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        hidden = max(dim // reduction, 1)
        self.squeeze = nn.Linear(dim, hidden, bias=False)
        self.excite = nn.Linear(hidden, dim, bias=False)
        self.spatial = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to the same shape."""
        pooled = torch.stack([x.amax((1, 2)), x.mean((1, 2))], 1)
        # The second layer has no bias, so that it may act on the sum of both.
        gate = self.excite(F.relu(self.squeeze(pooled)).sum(1)).sigmoid()
        gated = x * gate[:, None, None]
        pooled = torch.stack([gated.amax(3), gated.mean(3)], 3)
        return x + gated * self.spatial(pooled).sigmoid()


def pyramid_windows(grid: tuple[int, int], levels: int) -> list[int]:
    """Window sides of the pyramid's stages: the largest common divisors of a grid's sides, smallest first.

    A grid with fewer divisors than levels, such as 13 x 13, is taken for the smallest larger one that has enough, here
    14 x 14. Blocks pad a map to whole windows and hide the padding from the attention.

    Args:
        grid: height and width of the token map.
        levels: number of the windows, at least 1.
    """
    best: tuple[int, int] | None = None
    divisor = 1
    # Any grid with enough divisors has sides that are multiples of a number with enough, and at least that long.
    while best is None or divisor**2 <= best[0]:
        if len(_divisors(divisor)) >= levels:
            height, width = (-(-side // divisor) * divisor for side in grid)
            if best is None or height * width < best[0]:
                best = (height * width, math.gcd(height, width))
        divisor += 1
    return _divisors(best[1])[-levels:]


def _divisors(number: int) -> list[int]:
    return [side for side in range(1, number + 1) if number % side == 0]


class SwinPyramidPooling(nn.Module):
    """Swin stages of different windows side by side, and a cross-attention of their results.

    Args:
        dim: channels of the input.
        out_dim: channels of the output.
        num_heads: attention heads.
        grid: token map for which masks are prepared in advance.
        windows: window side of each stage.
        depths: blocks of each stage.
        drop_path: stochastic depth rate of every block.
        drop_rate: dropout rate of the output.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        num_heads: int,
        grid: tuple[int, int],
        windows: Sequence[int],
        depths: Sequence[int],
        drop_path: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            SwinStage(dim, num_heads, window, grid, [drop_path] * depth)
            if window > 1
            else nn.Sequential(*(PointwiseBlock(dim, drop_path) for _ in range(depth)))
            for window, depth in zip(windows, depths, strict=True)
        )
        self.attention = TokenCBAM(len(windows) * dim, reduction=12)
        self.proj = nn.Linear(len(windows) * dim, out_dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, H, W, out_dim)."""
        levels: list[Tensor] = []
        for stage in self.stages:
            levels.append(stage(x))
        return self.drop(F.relu(self.proj(self.attention(torch.cat(levels, -1)))))
