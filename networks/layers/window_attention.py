"""Self-attention inside windows of a token map, its position bias and its masks.

Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
https://arxiv.org/abs/2103.14030. Authors' code: https://github.com/microsoft/Swin-Transformer (MIT licence). Written
from the paper and from timm's API, not copied.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from networks.errors import UserError
from networks.layers.eager import apply, eager_cpu_training


def relative_position_index(height: int, width: int, window_size: int, device: torch.device) -> Tensor:
    """Rows of a bias table for every (query, key) pair of a height x width window, flattened to (N * N,).

    The table has (2 * window_size - 1)^2 rows whatever the window's actual size: smaller windows use its centre.
    """
    rows = torch.arange(height, device=device).repeat_interleave(width)
    cols = torch.arange(width, device=device).repeat(height)
    rows = rows[:, None] - rows[None, :] + (window_size - 1)
    cols = cols[:, None] - cols[None, :] + (window_size - 1)
    return (rows * (2 * window_size - 1) + cols).flatten()


def window_mask(
    height: int, width: int, window: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> Tensor:
    """Additive attention mask (windows, N, N) for a height x width grid that is padded to whole windows, then rolled.

    A query sees a key unless the roll brought them together from opposite borders or the key is padding.
    """
    wh, ww = window
    nh, nw = (height + wh - 1) // wh, (width + ww - 1) // ww
    rows, cols = torch.arange(nh * wh, device=device), torch.arange(nw * ww, device=device)
    wrapped = 2 * (rows >= nh * wh - shift[0]).int()[:, None] + (cols >= nw * ww - shift[1]).int()[None, :]
    real = ((rows + shift[0]) % (nh * wh) < height)[:, None] & ((cols + shift[1]) % (nw * ww) < width)[None, :]
    wrapped = wrapped.view(nh, wh, nw, ww).transpose(1, 2).reshape(nh * nw, wh * ww)
    real = real.view(nh, wh, nw, ww).transpose(1, 2).reshape(nh * nw, wh * ww)
    visible = (wrapped[:, :, None] == wrapped[:, None, :]) & real[:, None, :]
    return (~visible).float() * -100.0  # the authors' value; finite, so that fully hidden windows stay free of NaN


class _BiasedAttention(torch.autograd.Function):
    """softmax(scale * q k' + bias) v for qkv (B, windows, N, 3, heads, d) and bias (windows or 1, heads, N, N).

    The fused CPU kernels give no gradient to a bias. Autograd over plain operators gives one, but spends a third more
    passes over the scores and the packed qkv. Without it a training step of Swin-Unet takes 8 to 14 % longer
    (float32, 224 x 224, batch 4, one thread of an AMD EPYC with AVX2), and attention itself 1.3 to 1.7 times as long
    under autocast (two threads of a Xeon with AVX512-BF16).

    All is computed in qkv's type, which under autocast the linear layer before has chosen; so it runs without autocast.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, bias: Tensor, scale: float) -> Tensor:
        batch, windows, tokens, _, heads, dim = qkv.shape
        packed = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, batch * windows * heads, tokens, dim)
        scores = torch.bmm(packed[0], packed[1].transpose(1, 2)).view(batch, windows, heads, tokens, tokens)
        attention = torch.add(bias, scores, alpha=scale, out=scores).softmax(-1).view(-1, tokens, tokens)
        ctx.save_for_backward(packed, attention)
        ctx.shape, ctx.bias_shape, ctx.scale = qkv.shape, bias.shape, scale
        out = torch.bmm(attention, packed[2]).view(batch, windows, heads, tokens, dim)
        return out.transpose(2, 3).reshape(batch, windows, tokens, heads * dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        packed, attention = ctx.saved_tensors
        batch, windows, tokens, _, heads, dim = ctx.shape
        q, k, v = packed.unbind(0)
        grad = grad.view(batch, windows, tokens, heads, dim).transpose(2, 3).reshape(-1, tokens, dim)
        grad_packed = torch.empty_like(packed)
        grad_q, grad_k, grad_v = grad_packed.unbind(0)
        torch.bmm(attention.transpose(1, 2), grad, out=grad_v)
        grad_scores = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_scores, attention, -1, attention.dtype)
        grad_q.baddbmm_(grad_scores, k, beta=0, alpha=ctx.scale)
        grad_k.baddbmm_(grad_scores.transpose(1, 2), q, beta=0, alpha=ctx.scale)
        grad_bias = grad_scores.view(batch, windows, heads, tokens, tokens).sum_to_size(ctx.bias_shape)
        grad_packed = grad_packed.view(3, batch, windows, heads, tokens, dim)
        return grad_packed.permute(1, 2, 4, 0, 3, 5), grad_bias, None


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a relative position bias.

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide `dim`.
        window_size: largest window side, which sets the size of the bias table.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(f"num_heads={num_heads} does not divide {dim} channels: choose heads that do.")
        self.num_heads, self.head_dim = num_heads, dim // num_heads  # heads may be pruned, each keeps its channels
        self.scale = (dim // num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within windows.

        Args:
            x: tokens (B, windows, N, C).
            index: rows of the bias table, (N * N,).
            mask: additive mask (windows, N, N).
        """
        batch, windows, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, windows, tokens, 3, self.num_heads, self.head_dim)
        bias = self.relative_position_bias_table.index_select(0, index).t().reshape(-1, tokens, tokens).unsqueeze(0)
        if mask is not None:
            bias = bias + mask.to(bias.dtype).unsqueeze(1)
        if not torch.jit.is_scripting() and self.attn_drop == 0.0 and eager_cpu_training(qkv, autocast=True):
            with torch.autocast("cpu", enabled=False):
                x = apply(_BiasedAttention, qkv, bias, self.scale)
            return self.proj_drop(self.proj(x))
        q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)
        if mask is not None:
            bias = bias.expand(batch, windows, self.num_heads, tokens, tokens).flatten(0, 1)
        dropout = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
        if batch == 0:  # all samples were dropped; distributed training waits for the gradient of every parameter
            x = x + bias.sum()
        x = x.transpose(1, 2).reshape(batch, windows, tokens, self.num_heads * self.head_dim)
        return self.proj_drop(self.proj(x))


def centre_tables(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose bias tables all have the size of its largest: smaller ones at the centre of zeros."""
    tables = {name: tensor for name, tensor in state.items() if name.endswith("position_bias_table")}
    size = max((math.isqrt(len(table)) for table in tables.values()), default=0)
    centred = dict(state)
    for name, table in tables.items():
        side = math.isqrt(len(table))
        border = (size - side) // 2
        square = table.view(side, side, -1)
        centred[name] = F.pad(square, (0, 0, border, border, border, border)).reshape(size * size, -1)
    return centred
