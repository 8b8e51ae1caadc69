"""Ways back up from a token map to a finer one, and to logits.

Patch expanding is Swin-Unet's (Cao et al., https://arxiv.org/abs/2105.05537); bilinear interpolation and transposed
convolution are the alternatives of that paper's ablation, whose details it leaves open. Written from the paper.

Token maps are (B, H, W, C); heads return (B, out_channels, scale * H, scale * W).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.layers.conv import is_conv
from networks.layers.eager import apply, eager_cpu_training, is_plain


class PatchExpand(nn.Module):
    """A linear layer whose outputs become a scale x scale cell of tokens, then a norm.

    Args:
        dim: channels of the input tokens.
        out_dim: channels of the output tokens.
        scale: enlargement of the map.
    """

    def __init__(self, dim: int, out_dim: int, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, scale * H, scale * W, out_dim)."""
        batch, height, width, _ = x.shape
        x = self.expand(x).view(batch, height, width, self.scale, self.scale, -1).transpose(2, 3)
        return self.norm(x.reshape(batch, height * self.scale, width * self.scale, -1))


class BilinearUpsample(nn.Module):
    """A linear layer to the new width, bilinear interpolation (half-pixel centres) and a norm.

    The linear layer comes first because it commutes with the interpolation and is cheaper on the small map.

    Args:
        dim: channels of the input tokens.
        out_dim: channels of the output tokens.
        scale: enlargement of the map.
    """

    def __init__(self, dim: int, out_dim: int, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.reduction = nn.Linear(dim, out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, scale * H, scale * W, out_dim)."""
        x = self.reduction(x).permute(0, 3, 1, 2)
        x = F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return self.norm(x.permute(0, 2, 3, 1))


class TransposedUpsample(nn.Module):
    """An overlapping transposed convolution and a norm.

    The kernel is twice the stride: with kernel and stride equal this would be patch expanding.

    Args:
        dim: channels of the input tokens.
        out_dim: channels of the output tokens.
        scale: enlargement of the map; even.
    """

    def __init__(self, dim: int, out_dim: int, scale: int = 2) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(dim, out_dim, 2 * scale, stride=scale, padding=scale // 2, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, scale * H, scale * W, out_dim)."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class _QuadraticForms(torch.autograd.Function):
    """x' S x for tokens x (T, C) and symmetric, positive matrices S (P, C, C), as (T, P).

    Autograd would spend a third matrix product because it does not know of the symmetry, and several passes over
    (T, P, C) where this takes one; working one matrix at a time keeps the intermediate results in the cache.
    """

    @staticmethod
    def forward(ctx, x: Tensor, matrices: Tensor) -> Tensor:
        products = [x @ matrix for matrix in matrices]
        ctx.save_for_backward(x, *products)
        lengths = [torch.linalg.vecdot(x, product) for product in products]
        return torch.stack(lengths, -1).clamp_min_(0)  # rounding must not turn a length negative

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, *products = ctx.saved_tensors
        grad_x = torch.zeros_like(x)
        grad_matrices = []
        for weight, product in zip(grad.unbind(-1), products, strict=True):
            grad_x.addcmul_(product, weight.unsqueeze(-1), value=2.0)
            grad_matrices.append(x.t() @ (x * weight.unsqueeze(-1)))
        return grad_x, torch.stack(grad_matrices)


class _FoldedLayerNorm(nn.LayerNorm):
    """A layer norm that is seldom called: its parameters become part of other layers.

    Converters such as MONAI's ``trt_compile`` replace modules called ``LayerNorm`` by wrappers that hide them.
    """


class ExpandHead(nn.Module):
    """Patch expanding without change of width, then a 1 x 1 convolution to logits.

    Computes what `PatchExpand(dim, dim, scale)` and a convolution would, but on the coarse map and without ever holding
    the dim x (scale * H) x (scale * W) features. The norm's mean is taken out of the expanding weights beforehand. Then
    expanding, norm and convolution are one small linear layer but for the norm's variance, and only that needs the wide
    features, a few sub-positions at a time.

    Args:
        dim: channels of the input tokens.
        out_channels: classes.
        scale: enlargement of the map.
    """

    def __init__(self, dim: int, out_channels: int, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * dim, bias=False)
        self.norm = _FoldedLayerNorm(dim)
        self.output = nn.Conv2d(dim, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, out_channels, scale * H, scale * W)."""
        batch, height, width, dim = x.shape
        if torch.jit.is_scripting():
            # Known while compiling: a layer of PyTorch's dynamic quantisation has no weight to read.
            if hasattr(self.expand, "_packed_params"):
                return self.expanded_logits(x)
            as_built = self.output.bias is None and self.expand.bias is None
        else:
            # Layers that were put in their places may be of another kind, and have biases where these have none.
            as_built = all(is_plain(layer) for layer in (self.expand, self.norm, self.output))
            as_built = as_built and is_conv(self.output, 1) and self.norm.bias is not None
            as_built = as_built and self.output.bias is None and self.expand.bias is None
        if not as_built:
            return self.expanded_logits(x)
        cells = self.scale * self.scale
        expand = self.expand.weight.view(cells, dim, dim)
        expand = expand - expand.mean(1, keepdim=True)
        output = self.output.weight.flatten(1)
        squares = self._squares(x, expand)
        rstd = (squares / dim + self.norm.eps).rsqrt()
        if output.dtype == torch.float16:  # a network that is so throughout stays so
            rstd = rstd.half()
        classes = (output * self.norm.weight) @ expand
        logits = F.linear(x, classes.flatten(0, 1)).view(batch, height, width, cells, -1)
        logits = logits * rstd.unsqueeze(-1) + output @ self.norm.bias
        logits = logits.view(batch, height, width, self.scale, self.scale, -1).permute(0, 5, 1, 3, 2, 4)
        return logits.reshape(batch, -1, height * self.scale, width * self.scale)

    def expanded_logits(self, x: Tensor) -> Tensor:
        """The same by calling layer after layer, for those that must be called (see `is_plain`)."""
        batch, height, width, _ = x.shape
        x = self.expand(x).view(batch, height, width, self.scale, self.scale, -1).transpose(2, 3)
        x = self.norm(x.reshape(batch, height * self.scale, width * self.scale, -1))
        return self.output(x.permute(0, 3, 1, 2))

    def _squares(self, x: Tensor, expand: Tensor) -> Tensor:
        """Squared lengths of the expanded features, (B, H, W, scale^2)."""
        if not torch.jit.is_scripting() and eager_cpu_training(x, autocast=False):
            lengths = apply(_QuadraticForms, x.flatten(0, 2), expand.transpose(1, 2) @ expand)
            return lengths.view(x.shape[0], x.shape[1], x.shape[2], -1)
        squares = []
        for part in expand.unbind(0):
            wide = F.linear(x, part)
            if wide.dtype == torch.float16:  # where squares overflow; a norm computes in float32 as well
                wide = wide.float()
            squares.append(wide.square().sum(-1))
        return torch.stack(squares, -1)


class BilinearHead(nn.Module):
    """A 1 x 1 convolution to logits and bilinear interpolation, in this order because they commute.

    Args:
        dim: channels of the input tokens.
        out_channels: classes.
        scale: enlargement of the map.
    """

    def __init__(self, dim: int, out_channels: int, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.output = nn.Conv2d(dim, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, out_channels, scale * H, scale * W)."""
        x = self.output(x.permute(0, 3, 1, 2))
        return F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)


class TransposedHead(nn.Module):
    """An overlapping transposed convolution straight to logits; a 1 x 1 convolution after it would be redundant.

    Args:
        dim: channels of the input tokens.
        out_channels: classes.
        scale: enlargement of the map; even.
    """

    def __init__(self, dim: int, out_channels: int, scale: int = 4) -> None:
        super().__init__()
        self.output = nn.ConvTranspose2d(dim, out_channels, 2 * scale, stride=scale, padding=scale // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, out_channels, scale * H, scale * W)."""
        return self.output(x.permute(0, 3, 1, 2))


UPSAMPLERS = {
    "expand": (PatchExpand, ExpandHead),
    "bilinear": (BilinearUpsample, BilinearHead),
    "transpose": (TransposedUpsample, TransposedHead),
}
