"""Training with weights of few bits in the forward pass, whose gradients go to the real weights behind them.

Learned step sizes: Esser et al., https://arxiv.org/abs/1902.08153. One bit has the mean size of a group as its step, as
in XNOR-Net, https://arxiv.org/abs/1603.05279.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from networks.layers.packed import group_counts, offset


class FakeQuantised(nn.Module):
    """A parametrisation: the weight as packing will round it, differentiable as if it did not.

    Args:
        scales: (rows, groups) to start from.
        row: weights of a row.
        bits: of a level.
        group_size: as in ``networks.layers.packed``.
    """

    def __init__(self, scales: Tensor, row: int, bits: int, group_size: int) -> None:
        super().__init__()
        self.bits, self.size, self.row = bits, group_counts(row, group_size)[1], row
        self.scales = nn.Parameter(scales.clone()) if bits > 1 else None

    def forward(self, weight: Tensor) -> Tensor:
        flat = weight.reshape(weight.shape[0], self.row)
        levels, scales = self.levels(flat)
        wide = scales.repeat_interleave(self.size, 1)[:, : self.row]
        return (levels * wide).view_as(weight)

    def levels(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Levels without their offset (rows, row) of weights (rows, row), and scales (rows, groups)."""
        scales = self.scales if self.scales is not None else 2 * self._mean_size(flat)
        wide = scales.repeat_interleave(self.size, 1)[:, : self.row]
        values = flat / torch.where(wide == 0, 1.0, wide)
        if self.bits > 1:
            values = values.clamp(-offset(self.bits), 2**self.bits - 1 - offset(self.bits))
        rounded = (values + offset(self.bits)).round().clamp(0, 2**self.bits - 1) - offset(self.bits)
        return values + (rounded - values).detach(), scales

    def _mean_size(self, flat: Tensor) -> Tensor:
        padding = -self.row % self.size
        parts = nn.functional.pad(flat.abs(), (0, padding)).view(len(flat), -1, self.size)
        counts = torch.full((parts.shape[1],), float(self.size), device=flat.device)
        counts[-1] -= padding
        return parts.sum(-1) / counts


def prepare(network: nn.Module, layers: Mapping[int, Sequence[str]], group_size: int, find) -> None:
    """Give layers weights that are rounded in the forward pass.

    Args:
        network: changed in place.
        layers: names by bits.
        group_size: of the scales.
        find: (weight, bits, group size) to levels and scales, which are where the training starts.
    """
    for bits, names in layers.items():
        for name in names:
            layer = network.get_submodule(name)
            weight = layer.weight.detach()
            _, scales = find(weight, bits, group_size)
            row = weight[0].numel()
            parametrize.register_parametrization(layer, "weight", FakeQuantised(scales, row, bits, group_size))


@torch.no_grad()
def finish(network: nn.Module, layers: Mapping[int, Sequence[str]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Take the parametrisations away again; the layers are plain, with the rounded weights.

    Returns:
        Levels and scales by the layers' names.
    """
    found = {}
    for bits, names in layers.items():
        for name in names:
            layer = network.get_submodule(name)
            weights = layer.parametrizations.weight
            levels, scales = weights[0].levels(weights.original.reshape(len(weights.original), -1))
            found[name] = ((levels + offset(bits)).round().to(torch.uint8), scales.clone())
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return found
