"""Zero-padded 3 x 3 convolutions that take fewer multiplications than a library's.

Winograd's algorithm F(2x2, 3x3): Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
https://arxiv.org/abs/1509.09308. It computes 2 x 2 outputs with 16 multiplications instead of 36. In this size its
rounding errors are those of a direct convolution; larger tiles save more but lose digits. Enlarged maps are convolved
before they are enlarged.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.layers.eager import apply, eager_cpu, is_plain

BLOCK = 2**21  # values of transformed tiles at a time, so that they stay in the cache
# With fewer channels or tiles, transforming takes as long as the multiplications that it saves; where there will be a
# gradient it saves three times as many.
MIN_CHANNELS, MIN_TILES = 256, 196
MIN_CHANNELS_TRAINING, MIN_TILES_TRAINING = 128, 98


def _sum_tiles(tiles: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """What four rows (or columns) of products mean for the two rows of the output."""
    first, second, third, fourth = tiles.unbind(dim)
    return (second + third).add_(first), (second - third).sub_(fourth)


def _split_output(even: Tensor, odd: Tensor, out: Tensor) -> None:
    """The adjoint of `_sum_tiles`, into the first axis of `out`."""
    out[0].copy_(even)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.neg(odd, out=out[3])


def _split_input(x: Tensor, dim: int, out: Tensor) -> None:
    """Overlapping fours of rows (or columns), two apart, into the first axis of `out`."""
    count = x.shape[dim] // 2 - 1
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    first, third = even.narrow(dim, 0, count), even.narrow(dim, 1, count)
    second, fourth = odd.narrow(dim, 0, count), odd.narrow(dim, 1, count)
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def _sum_input(tiles: Tensor, dim: int, out: Tensor) -> None:
    """The adjoint of `_split_input`, from the first axis of `tiles`; `dim` counts the axes of `out`."""
    count = out.shape[dim] // 2 - 1
    even, odd = out.unflatten(dim, (-1, 2)).unbind(dim + 1)
    even.narrow(dim, 0, count).copy_(tiles[0])
    even.narrow(dim, count, 1).zero_()
    even.narrow(dim, 1, count).add_(tiles[1]).add_(tiles[2]).sub_(tiles[0])
    torch.sub(tiles[1], tiles[2], out=odd.narrow(dim, 0, count)).add_(tiles[3])
    odd.narrow(dim, count, 1).zero_()
    odd.narrow(dim, 1, count).sub_(tiles[3])


def _transformed_kernels(like: Tensor) -> Tensor:
    """Matrix (16, 9) from a kernel to what multiplies the 16 values of a tile."""
    matrix = like.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.kron(matrix, matrix)


class _Winograd(torch.autograd.Function):
    """Convolution of (B, H, W, C) with (O, C, 3, 3), zero-padded, to (B, H, W, O), block by block of rows or images."""

    @staticmethod
    def blocks(x: Tensor, width: int) -> Iterator[tuple[slice, int, int]]:
        """Images and first and last but one rows of 2 x 2 tiles; `width` is the larger number of channels."""
        rows, row_size = (x.shape[1] + 1) // 2, 16 * ((x.shape[2] + 1) // 2) * width
        step = max(1, BLOCK // row_size)
        images = max(1, step // rows)
        for image in range(0, x.shape[0], images):
            for row in range(0, rows, step):
                yield slice(image, image + images), row, min(rows, row + step)

    @staticmethod
    def tiles(x: Tensor, row: int, end: int) -> Tensor:
        """Transformed tiles (4, 4, B, rows, columns, C) of some rows of tiles."""
        batch, height, width, dim = x.shape
        cols = (width + 1) // 2
        top, bottom = max(0, 2 * row - 1), min(height, 2 * end + 1)
        padded = x.new_empty(batch, 2 * (end - row) + 2, 2 * cols + 2, dim)
        start = top - (2 * row - 1)
        stop = start + bottom - top
        padded[:, start:stop, 1 : width + 1] = x[:, top:bottom]
        padded[:, :start].zero_()
        padded[:, stop:].zero_()
        padded[:, :, :1].zero_()
        padded[:, :, width + 1 :].zero_()
        halves = x.new_empty(4, batch, padded.shape[1], cols, dim)
        _split_input(padded, 2, halves)
        tiles = x.new_empty(4, 4, batch, end - row, cols, dim)
        _split_input(halves, 2, tiles)
        return tiles

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        batch, height, width, dim = x.shape
        out_dim = weight.shape[0]
        kernels = (_transformed_kernels(weight) @ weight.reshape(-1, 9).t()).view(16, out_dim, dim)
        out = x.new_empty(batch, height, width, out_dim)
        for images, row, end in _Winograd.blocks(x, max(dim, out_dim)):
            tiles = _Winograd.tiles(x[images], row, end)
            products = torch.bmm(tiles.view(16, -1, dim), kernels.transpose(1, 2))
            part = out[images, 2 * row : 2 * end]
            for i, half in enumerate(_sum_tiles(products.view(4, *tiles.shape[1:-1], out_dim), 0)):
                for j, quarter in enumerate(_sum_tiles(half, 0)):
                    place = part[:, i::2, j::2]
                    quarter = quarter[:, : place.shape[1], : place.shape[2]]
                    if bias is None:
                        place.copy_(quarter)
                    else:
                        torch.add(quarter, bias, out=place)
        ctx.save_for_backward(x, kernels)
        ctx.weight_shape = weight.shape
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, kernels = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        _, height, width, dim = x.shape
        out_dim = grad.shape[3]
        grad_bias = grad.sum((0, 1, 2)) if needs_bias else None
        if height % 2 or width % 2:
            grad = F.pad(grad, (0, 0, 0, width % 2, 0, height % 2))
        cols = grad.shape[2] // 2
        grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format) if needs_x else None
        grad_kernels = torch.zeros_like(kernels)
        for images, row, end in _Winograd.blocks(x, max(dim, out_dim)):
            part = grad[images, 2 * row : 2 * end]
            halves = grad.new_empty(4, part.shape[0], part.shape[1], cols, out_dim)
            _split_output(part[:, :, ::2], part[:, :, 1::2], halves)
            products = grad.new_empty(4, 4, part.shape[0], end - row, cols, out_dim)
            _split_output(halves[:, :, ::2], halves[:, :, 1::2], products)
            products = products.view(16, -1, out_dim)
            if needs_weight:
                tiles = _Winograd.tiles(x[images], row, end)
                grad_kernels.baddbmm_(products.transpose(1, 2), tiles.view(16, -1, dim))
            if grad_x is not None:
                tiles = torch.bmm(products, kernels).view(4, 4, part.shape[0], end - row, cols, dim)
                halves = grad.new_empty(4, part.shape[0], part.shape[1] + 2, cols, dim)
                _sum_input(tiles, 2, halves)
                padded = grad.new_empty(part.shape[0], part.shape[1] + 2, 2 * cols + 2, dim)
                _sum_input(halves, 2, padded)
                top, bottom = max(0, 2 * row - 1), min(height, 2 * end + 1)
                start = top - (2 * row - 1)
                grad_x[images, top:bottom].add_(padded[:, start : start + bottom - top, 1 : width + 1])
        grad_weight = None
        if needs_weight:
            grad_weight = _transformed_kernels(kernels).t() @ grad_kernels.view(16, -1)
            grad_weight = grad_weight.t().reshape(ctx.weight_shape)
        return grad_x, grad_weight, grad_bias


@torch.jit.unused
def _winograd_pays(x: Tensor, weight: Tensor) -> bool:
    if not eager_cpu(x) or torch.is_autocast_enabled("cpu") or x.dtype not in (torch.float32, torch.float64):
        return False
    if x.dtype != weight.dtype or not eager_cpu(weight):
        return False
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    channels = MIN_CHANNELS_TRAINING if training else MIN_CHANNELS
    tiles = x.shape[0] * ((x.shape[2] + 1) // 2) * ((x.shape[3] + 1) // 2)
    return min(weight.shape[:2]) >= channels and tiles >= (MIN_TILES_TRAINING if training else MIN_TILES)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Zero-padded 3 x 3 convolution, on CPUs by Winograd's algorithm where that is faster.

    Args:
        x: maps (B, C, H, W), best in channels-last memory.
        weight: kernels (O, C, 3, 3).
        bias: (O,).

    Returns:
        Maps (B, O, H, W).
    """
    if not torch.jit.is_scripting() and _winograd_pays(x, weight):
        return apply(_Winograd, x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, padding=1)


def upsampled_conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """Zero-padded 3 x 3 convolution of a map enlarged twofold by bilinear interpolation.

    The nine taps of the kernel are 1 x 1 convolutions, and those commute with the interpolation. So they act on the
    small map, with a quarter of the multiplications and nothing enlarged to keep for the gradient; interpolating,
    shifting and adding the taps is one small matrix per axis. The corners of the interpolation's grid are those of the
    small one (`align_corners=True`). The matrices grow with the square of the side: `taps_pay` says up to where.

    Args:
        x: maps (B, C, H, W).
        weight: kernels (O, C, 3, 3).

    Returns:
        Maps (B, O, 2H, 2W), in channels-last memory.
    """
    batch, channels, height, width = x.shape
    out_channels = weight.shape[0]
    taps = weight.permute(3, 2, 0, 1).reshape(9 * out_channels, channels)
    x = F.linear(x.permute(0, 2, 3, 1), taps)
    # Columns: pixels and the kernel's columns (W * 3) become pixels (2W).
    x = x.view(batch * height, width * 3, 3 * out_channels)
    x = torch.bmm(interpolated_taps(width, x).expand(batch * height, -1, -1), x)
    # Rows alike, once the kernel's rows are beside the map's.
    x = x.view(batch, height, 2 * width, 3, out_channels).transpose(2, 3)
    x = x.reshape(batch, height * 3, 2 * width * out_channels)
    x = torch.bmm(interpolated_taps(height, x).expand(batch, -1, -1), x)
    return x.view(batch, 2 * height, 2 * width, out_channels).permute(0, 3, 1, 2)


def taps_pay(x: Tensor) -> bool:
    """Whether `upsampled_conv3x3` of maps (B, C, H, W) is faster than enlarging and convolving them.

    Of the multiplications for a pixel of `x` and an output channel, 9 C are those of the taps and about 30 max(H, W)
    those of the interpolation's matrices, where enlarging first takes 36 C in one well-kept loop.
    """
    return x.shape[1] >= 2 * max(x.shape[2], x.shape[3])


def interpolated_taps(size: int, like: Tensor) -> Tensor:
    """Matrix (2 * size, size * 3) from every pixel's three taps to the sums of neighbouring ones on a twofold grid."""
    fine = torch.arange(2 * size, device=like.device)[:, None] * (size - 1)
    coarse = torch.arange(size, device=like.device) * (2 * size - 1)
    # Positions are whole numbers in units of 1 / (2 * size - 1), so only the weights are rounded, and those once:
    # bfloat16, which has no odd numbers from 257 on, would round both sides of the division as well.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    weights = (2 * size - 1 - (fine - coarse).abs()).clamp(min=0).to(dtype) / (2 * size - 1)
    weights = weights.to(like.dtype)
    padded = F.pad(weights, (0, 0, 1, 1))
    return torch.stack([padded[:-2], padded[1:-1], padded[2:]], -1).flatten(1)


class Conv3x3(nn.Conv2d):
    """PyTorch's convolution, by `conv3x3` where it is a zero-padded one of 3 x 3 pixels and stride 1.

    Adapters build their own convolutions, such as 1 x 1 ones, from the class of the one that they adapt.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H', W')."""
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:
            return conv3x3(x, self.weight, self.bias) if is_conv(self, 3) else super().forward(x)


def is_conv(layer: nn.Conv2d, size: int) -> bool:
    """Whether a convolution is of size x size pixels, stride 1 and all channels, zero-padded by half its size."""
    plain = {"kernel_size": (size, size), "padding": (size // 2, size // 2), "stride": (1, 1), "groups": 1}
    plain |= {"dilation": (1, 1), "padding_mode": "zeros"}
    return all(getattr(layer, name) == value for name, value in plain.items())


class UpBlock(nn.Module):
    """Double a map, join a skip, and convolve twice, with batch norm and ReLU.

    Args:
        in_channels: channels of the map.
        skip_channels: channels of the skip, 0 for none.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels + skip_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, H, W) and skip (B, skip_channels, 2H, 2W) to (B, out_channels, 2H, 2W)."""
        x = F.relu(self.norm1(self.first(x, skip)), inplace=True)
        return F.relu(self.norm2(self.conv2(x)), inplace=True)

    def first(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """`conv1` of the enlarged map and the skip."""
        if torch.jit.is_scripting():
            # `is_conv` in what TorchScript knows; padding may also be a text
            layer = self.conv1
            plain = layer.bias is None and layer.kernel_size == (3, 3) and str(layer.padding) == "(1, 1)"
            plain = plain and layer.stride == (1, 1) and layer.dilation == (1, 1)
            plain = plain and layer.groups == 1 and layer.padding_mode == "zeros"
            taps = plain and taps_pay(x)
        else:
            # it has a bias where the norm was fused into it
            plain = is_plain(self.conv1) and is_conv(self.conv1, 3) and self.conv1.bias is None
            # An exported graph may be for all sizes, which a question about the size would restrict.
            taps = plain and not torch.compiler.is_exporting() and taps_pay(x)
        if not taps:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = x if skip is None else torch.cat([x, skip], 1)
            return conv3x3(x, self.conv1.weight) if plain else self.conv1(x)
        if skip is None:
            return upsampled_conv3x3(x, self.conv1.weight)
        # A convolution of both together is the sum of one of the enlarged map and one of the skip.
        weight, skip_weight = self.conv1.weight.split([x.shape[1], skip.shape[1]], 1)
        return upsampled_conv3x3(x, weight).add_(conv3x3(skip, skip_weight))


def quicken_convs(module: nn.Module) -> None:
    """Let every convolution in a module that `Conv3x3` can compute be one."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and is_conv(layer, 3):
            layer.__class__ = Conv3x3
