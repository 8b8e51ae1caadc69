"""Weights of 8, 4, 2 or 1 bit: packed into bytes in memory and in files, unpacked whenever a layer is called.

A weight's rows (its first axis) are cut into groups of equal size; a row that no such size divides ends in a shorter
group. Every group has a scale, and a weight is (level - offset) * scale. With 8 and 4 bits a level means zero, with 2
and 1 the levels lie on either side of it, so that one bit is a sign.

The layers keep their classes: the weight is a parametrisation of PyTorch (`torch.nn.utils.parametrize`), so that
`networks.layers.eager.is_plain` says of them what they are, and code that asks it calls them. In a state dict,
``<layer>.parametrizations.weight.original0`` holds the bytes and ``...original1`` the scales.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from networks.errors import UserError

BITS = (8, 4, 2, 1)
GROUP_SIZE = 64


def offset(bits: int) -> float:
    """What is taken from a level before it is scaled."""
    return 2.0 ** (bits - 1) if bits > 2 else (2**bits - 1) / 2


def group_counts(row: int, group_size: int) -> tuple[int, int]:
    """How many groups a row of so many weights has, at most `group_size` in each, and how many all but the last have.

    The fewest groups that are small enough, as equal as can be: 96 in groups of 64 are two of 48.

    Raises:
        UserError: groups of less than one weight.
    """
    if group_size < 1:
        raise UserError(f"group_size={group_size} is not possible: give a number of at least 1.")
    groups = -(-row // group_size)
    return groups, -(-row // groups)


def pack(levels: Tensor, bits: int) -> Tensor:
    """Levels below 2^bits, of any shape, as bytes (N,); the first level is in the lowest bits of the first byte."""
    per_byte = 8 // bits
    flat = nn.functional.pad(levels.flatten().to(torch.uint8), (0, -levels.numel() % per_byte)).view(-1, per_byte)
    packed = torch.zeros(len(flat), dtype=torch.uint8, device=levels.device)
    for i in range(per_byte):
        packed |= flat[:, i] << (i * bits)
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` levels of `pack`'s bytes, as uint8 (count,)."""
    if bits == 8:
        return packed[:count]
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(1) >> shifts) & (2**bits - 1)).flatten()[:count]


class Unpacked(nn.Module):
    """The parametrisation: a weight from its bytes and scales.

    Args:
        shape: of the weight.
        bits: of a level; one of `BITS`.
        group_size: largest number of weights that share a scale.
    """

    def __init__(self, shape: Sequence[int], bits: int, group_size: int = GROUP_SIZE) -> None:
        super().__init__()
        self.shape, self.bits = tuple(shape), bits
        self.row = 1
        for size in self.shape[1:]:
            self.row *= size
        self.groups, self.size = group_counts(self.row, group_size)

    def forward(self, packed: Tensor, scales: Tensor) -> Tensor:
        """Bytes (N,) and scales (rows, groups) to the weight, in the type of the scales."""
        rows = self.shape[0]
        levels = unpack(packed, self.bits, rows * self.row).to(scales.dtype) - offset(self.bits)
        if self.groups * self.size == self.row:
            weight = levels.view(rows, self.groups, self.size) * scales.unsqueeze(-1)
        else:
            weight = levels.view(rows, self.row) * scales.repeat_interleave(self.size, 1)[:, : self.row]
        return weight.reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Room for bytes and scales; PyTorch asks for them when the parametrisation begins."""
        count = -(-weight.numel() * self.bits // 8)
        packed = torch.zeros(count, dtype=torch.uint8, device=weight.device)
        return packed, weight.new_zeros(self.shape[0], self.groups)


def pack_layers(network: nn.Module, layers: Mapping[str, Sequence[str]], group_size: int = GROUP_SIZE) -> None:
    """Give layers packed weights, all zero until a state dict fills them.

    Args:
        network: changed in place.
        layers: names of layers by the bits of their weights, which are texts because JSON's keys are.
        group_size: largest number of weights that share a scale.

    Raises:
        UserError: a number of bits that there is not, groups of less than one weight, or a name of no layer with a
            weight.
    """
    for bits, names in layers.items():
        if not str(bits).isdecimal() or int(bits) not in BITS:
            raise UserError(f"Weights of {bits} bits cannot be packed: choose from {', '.join(map(str, BITS))}.")
        for name in names:
            pack_layer(_layer(network, name), int(bits), group_size)


def pack_layer(layer: nn.Module, bits: int, group_size: int = GROUP_SIZE) -> None:
    """Give one layer a packed weight of zeros."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    # buffers: nothing trains bytes, and who asks for the type of a network's parameters means real numbers
    del layer.weight
    layer.register_buffer("weight", weight)
    parametrize.register_parametrization(layer, "weight", Unpacked(weight.shape, bits, group_size))


def packed_layers(network: nn.Module) -> list[str]:
    """Names of the layers whose weights are packed, or computed from others in another way."""
    return [name for name, layer in network.named_modules() if parametrize.is_parametrized(layer, "weight")]


def check_trainable(network: nn.Module) -> None:
    """Refuse to train a network with packed weights, of which only biases and norms would change.

    Raises:
        UserError: a layer's weight is packed.
    """
    count = sum(isinstance(module, Unpacked) for module in network.modules())
    if count:
        raise UserError(
            f"{count} layers of this network have packed weights, which a training cannot change; train the network "
            "that they were made of, and compress that."
        )


def unpack_layers(network: nn.Module) -> None:
    """Turn these layers into plain ones with the same values, for runtimes that know no other."""
    for name in packed_layers(network):
        layer = network.get_submodule(name)
        weight: Tensor = layer.weight.detach().clone()  # type: ignore[operator]
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        del layer.weight  # a buffer, where it was made of several
        layer.weight = nn.Parameter(weight)
    network.__dict__.pop("scriptable", None)


def _layer(network: nn.Module, name: str) -> nn.Module:
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        layer = nn.Module()
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        raise UserError(f"{type(network).__name__} has no layer {name!r} with a matrix of weights to pack.")
    return layer
