"""Swin Transformer stages over token maps of any height and width.

Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
https://arxiv.org/abs/2103.14030. Authors' code: https://github.com/microsoft/Swin-Transformer (MIT licence); parameter
names follow it so that its checkpoints map by prefix. Written from the paper and from timm's API, not copied.

Token maps are (B, H, W, C) throughout. The authors accept only grids that are multiples of the window; here a block
pads the grid up to one and hides the padded tokens from the attention. For grids the authors accept nothing changes.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import Mlp, drop_path, trunc_normal_
from torch import Tensor, nn

from networks.layers.eager import eager_cpu, is_hooked, transformed
from networks.layers.tables import Tables
from networks.layers.window_attention import WindowAttention, relative_position_index, window_mask


class ResidualDrop(nn.Module):
    """Stochastic depth that does not compute what it drops.

    The distribution is that of timm's `DropPath`: per sample, the branch is dropped at a rate or scaled up. Usage:
    `kept = drop.draw(x)`, then `drop.add(x, branch(drop.take(x, kept)), kept)`.

    Args:
        rate: probability of dropping a sample's branch.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    @torch.jit.unused
    def fixed(self) -> bool:
        """Whether sizes must not depend on what was drawn, so that all is computed, then dropped."""
        return torch.compiler.is_compiling() or transformed()

    def draw(self, x: Tensor) -> Tensor | None:
        """Indices of the samples of (B, ...) whose branch counts this time, None for all."""
        if not self.training or self.rate == 0.0:
            return None
        if not torch.jit.is_scripting() and self.fixed():
            return None
        # Drawn on the CPU whatever the device: the indices' number is needed here, and waiting for a GPU is slow.
        kept = (torch.rand(x.shape[0], device="cpu") >= self.rate).nonzero().squeeze(1)
        return None if kept.shape[0] == x.shape[0] else kept.to(x.device, non_blocking=True)

    def take(self, x: Tensor, kept: Tensor | None) -> Tensor:
        return x if kept is None else x.index_select(0, kept)

    def add(self, x: Tensor, branch: Tensor, kept: Tensor | None) -> Tensor:
        """Sum of (B, ...) and the branch of the kept samples."""
        if not self.training or self.rate == 0.0:
            return x + branch
        if not torch.jit.is_scripting() and self.fixed():
            return x + drop_path(branch, self.rate, self.training)
        scale = 1.0 / (1.0 - self.rate)
        if kept is None:
            return torch.add(x, branch, alpha=scale)
        return x.index_add(0, kept, branch.to(x.dtype), alpha=scale)  # under autocast only one may be in bfloat16


class SwinBlock(Tables):
    """Window attention and an MLP, each pre-normalised and residual.

    Args:
        dim: channels of a token.
        num_heads: attention heads.
        window_size: window side; an axis no longer than it becomes one unshifted window.
        shifted: whether the windows are moved by half a window.
        grid: token map for which masks are prepared in advance; others work too.
        mlp_ratio: hidden channels of the MLP relative to `dim`.
        qkv_bias: whether queries, keys and values have a bias.
        drop: dropout rate after the projections.
        attn_drop: dropout rate of the attention weights.
        drop_path: rate of dropping a whole residual branch of a sample.
        mlp: builds the MLP from (dim, hidden, drop=drop).
    """

    index: Tensor
    mask: Tensor | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shifted: bool,
        grid: tuple[int, int],
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        mlp: Callable[..., nn.Module] = Mlp,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift_size = window_size // 2 if shifted else 0
        self.grid = grid
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, qkv_bias, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = ResidualDrop(drop_path)
        self.register_tables()

    def windows(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Window height, window width, row shift and column shift on a grid."""
        row_shift = self.shift_size if height > self.window_size else 0
        col_shift = self.shift_size if width > self.window_size else 0
        return min(self.window_size, height), min(self.window_size, width), row_shift, col_shift

    def own_tables(self) -> dict[str, Tensor | None]:
        """Bias index and mask of the grid that they are prepared for."""
        index, mask = self.tables(self.grid[0], self.grid[1], torch.device("cpu"))
        return {"index": index, "mask": mask}

    def tables(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Bias index and, where shift or padding call for one, mask of a grid."""
        wh, ww, row_shift, col_shift = self.windows(height, width)
        index = relative_position_index(wh, ww, self.window_size, device)
        if row_shift == 0 and col_shift == 0 and height % wh == 0 and width % ww == 0:
            return index, None
        return index, window_mask(height, width, (wh, ww), (row_shift, col_shift), device)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        wh, ww, row_shift, col_shift = self.windows(height, width)
        if height == self.grid[0] and width == self.grid[1]:
            index, mask = self.index, self.mask
        else:
            index, mask = self.tables(height, width, x.device)

        # Attention and MLP both run in window order: one reordering in, one out.
        pad_rows, pad_cols = -height % wh, -width % ww
        if pad_rows or pad_cols:
            x = F.pad(x, (0, 0, 0, pad_cols, 0, pad_rows))
        if row_shift or col_shift:
            x = torch.roll(x, (-row_shift, -col_shift), (1, 2))
        nh, nw = x.shape[1] // wh, x.shape[2] // ww
        x = x.view(batch, nh, wh, nw, ww, dim).transpose(2, 3).reshape(batch, nh * nw, wh * ww, dim)

        kept = self.drop_path.draw(x)
        x = self.drop_path.add(x, self.attn(self.norm1(self.drop_path.take(x, kept)), index, mask), kept)
        kept = self.drop_path.draw(x)
        x = self.drop_path.add(x, self.mlp(self.norm2(self.drop_path.take(x, kept))), kept)

        x = x.view(batch, nh, nw, wh, ww, dim).transpose(2, 3).reshape(batch, nh * wh, nw * ww, dim)
        if row_shift or col_shift:
            x = torch.roll(x, (row_shift, col_shift), (1, 2))
        return x[:, :height, :width]


class PatchEmbed(nn.Module):
    """Non-overlapping patches of an image to normalised tokens.

    Args:
        in_channels: channels of the image.
        dim: channels of a token.
        patch_size: side of a patch in pixels; images are zero-padded at the bottom and right to a multiple of it.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int = 4) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, ceil(H / patch_size), ceil(W / patch_size), dim)."""
        pad_rows, pad_cols = -x.shape[2] % self.patch_size, -x.shape[3] % self.patch_size
        if pad_rows or pad_cols:
            x = F.pad(x, (0, pad_cols, 0, pad_rows))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Halve a token map, double its channels: norm and linear layer over 2 x 2 neighbours.

    Args:
        dim: channels of the input tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, ceil(H / 2), ceil(W / 2), 2 * dim)."""
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, dim = x.shape
        # The authors' channel order: column offset outermost, then row offset.
        x = x.view(batch, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * dim)))


class SwinStage(nn.Sequential):
    """Blocks of one resolution, alternately unshifted and shifted, as `SwinStage.{j}`.

    Args:
        dim: channels of a token.
        num_heads: attention heads.
        window_size: window side in tokens.
        grid: token map for which masks are prepared in advance.
        drop_path: one rate per block; their number is the depth.
        **kwargs: further arguments of `SwinBlock`.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, grid: tuple[int, int], drop_path: Sequence[float], **kwargs
    ) -> None:
        super().__init__(
            *(
                SwinBlock(dim, num_heads, window_size, bool(j % 2), grid, drop_path=rate, **kwargs)
                for j, rate in enumerate(drop_path)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to the same shape."""
        # Large maps go image by image, so that the blocks' tensors stay in the cache and below the 32 MB from which on
        # the C library maps fresh pages for every tensor. 2^18 values are 56 x 56 tokens with 84 channels.
        if (
            not torch.jit.is_scripting()
            and eager_cpu(x)
            and x.shape[0] > 1
            and x[0].numel() > 2**18
            and not self.hooked()
        ):
            return torch.cat([self.blocks(image) for image in x.split(1)])
        return self.blocks(x)

    @torch.jit.unused
    def hooked(self) -> bool:
        """Whether a hook within is to see the whole batch."""
        return any(is_hooked(module) for module in self.modules())

    def blocks(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)
        return x


class SwinEncoderStage(nn.Module):
    """Blocks of one resolution and the merging that follows them.

    Args:
        blocks: the blocks.
        downsample: what follows them, `nn.Identity()` after the last stage.
    """

    def __init__(self, blocks: SwinStage, downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class SwinEncoder(nn.Module):
    """Patch embedding, Swin stages with merging between them, and a final norm.

    Args:
        in_channels: channels of the image.
        grid: (height, width) of the token map for which masks are prepared in advance.
        patch_size: side of a patch in pixels.
        embed_dim: channels of the first stage; each later stage doubles them.
        num_heads: attention heads per stage.
        window_size: window side in tokens.
        drop_paths: per stage one stochastic depth rate per block; their numbers are the depths.
        drop_rate: dropout rate after the patch embedding and in the blocks.
        **kwargs: further arguments of `SwinBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        patch_size: int,
        embed_dim: int,
        num_heads: Sequence[int],
        window_size: int,
        drop_paths: Sequence[Sequence[float]],
        drop_rate: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        self.pos_drop = nn.Dropout(drop_rate)
        stages = []
        for i, (heads, rates) in enumerate(zip(num_heads, drop_paths, strict=True)):
            dim = embed_dim * 2**i
            blocks = SwinStage(dim, heads, window_size, scaled_grid(grid, i), rates, drop=drop_rate, **kwargs)
            stages.append(SwinEncoderStage(blocks, PatchMerging(dim) if i + 1 < len(num_heads) else nn.Identity()))
        self.layers = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dim * 2 ** (len(num_heads) - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) to the input of every stage, finest first, and last the normalised deepest tokens."""
        return self.stages(self.patch_embed(x))

    def stages(self, x: Tensor) -> list[Tensor]:
        """What `forward` makes of embedded patches (B, H, W, embed_dim)."""
        x = self.pos_drop(x)
        features: list[Tensor] = []
        for layer in self.layers:
            features.append(x)
            x = layer(x)
        features.append(self.norm(x))
        return features


def scaled_grid(grid: tuple[int, int], level: int) -> tuple[int, int]:
    """Token map after `level` mergings, each rounding up."""
    return -(-grid[0] // 2**level), -(-grid[1] // 2**level)


def stage_drop_paths(drop_path_rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth rates, rising linearly from zero over all blocks, split by stage."""
    # On the CPU, so that networks can be built on PyTorch's meta device.
    rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
    return [stage.tolist() for stage in rates]


def init_weights(module: nn.Module) -> None:
    """The authors' initialisation, for `nn.Module.apply`: linear layers truncated normal, convolutions as built."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
