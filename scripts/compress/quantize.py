"""Weights of few bits after the training: each group of weights gets the scale that rounds it best."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from networks.compressed import compressed
from networks.errors import UserError
from networks.layers.packed import BITS, GROUP_SIZE, group_counts, offset, pack, packed_layers
from scripts.compress import qat
from scripts.compress.bundles import Source, check_output, open_source, write_bundle
from scripts.compress.training import trained_for, training_of
from scripts.zoo.weights import halved

ATTENTION = r"(^|\.)(attn|attention\w*|cross_attn\w*|self_attn)(\.|$)"
SHARES = (0.45, 0.55, 0.65, 0.72, 0.79, 0.86, 0.93, 1.0)  # of the largest weight, at which scales cut off
SCALE_LIMITS = (6.2e-5, 6e4)  # within which half precision has all of its digits


def quantize(
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    bits: int = 4,
    group_size: int = GROUP_SIZE,
    layers: str = "all",
    edge_bits: int = 8,
    epochs: int = 0,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: as :func:`scripts.compress.bundles.open_source`, or :func:`plan`.
    """
    folder = check_output(output)
    source = open_source(bundle, trained, ckpt_path)
    chosen = plan(source.network, bits, layers, edge_bits)
    how = {"compression": "quantize", "bits": bits, "group_size": group_size, "layers": layers, "edge_bits": edge_bits}
    training = training_of(source, folder, epochs, dataset_dir, options, how)
    found, record = None, {}
    if training is not None:
        qat.prepare(source.network, chosen, group_size, quantise_weight)
        record = training.run(f"{bits}_bits", source.network)
        found = qat.finish(source.network, chosen)
    state = quantised_state(source.network, chosen, group_size, found)
    network = {"packed": {str(b): names for b, names in chosen.items()}, "group_size": group_size}
    step = report(source, chosen, group_size, layers)
    if training is not None:
        step["summary"] += trained_for(epochs)
        step["training"] = training.described(record)
    write_bundle(source, folder, halved(state), network, step)


def plan(network: nn.Module, bits: int, layers: str = "all", edge_bits: int = 8) -> dict[int, list[str]]:
    """Which layers get how many bits.

    The edges are the first layer and those of the head: few weights that images and classes go through, which as usual
    keep more bits. ``layers`` other than "all" names exactly what is meant, edges or not.

    Args:
        network: with plain layers.
        bits: of a weight.
        layers: "all", "attention" for the layers of attention modules, or a regular expression of names.
        edge_bits: of the edges' weights, if that is more.

    Returns:
        Names of layers by bits.

    Raises:
        UserError: a number of bits that there is not, an expression that is none or matches nothing, or a network
            whose weights are packed already.
    """
    for count in (bits, edge_bits):
        if count not in BITS:
            raise UserError(f"Weights of {count} bits are not possible: choose from {', '.join(map(str, BITS))}.")
    if packed_layers(network):
        raise UserError("These weights are packed already: quantize what they were made of.")
    names = weighted_layers(network)
    if layers != "all":
        try:
            pattern = re.compile(ATTENTION if layers == "attention" else layers)
        except re.error as error:
            raise UserError(f"layers={layers!r} is no regular expression: {error}.") from error
        chosen = [name for name in names if pattern.search(name)]
        if not chosen:
            raise UserError(f"layers={layers!r} matches no layer; there are such as {', '.join(names[:3])}.")
        return {bits: chosen}
    found: dict[int, list[str]] = {}
    for name in names:
        found.setdefault(max(bits, edge_bits) if is_edge(network, name) else bits, []).append(name)
    return found


def is_edge(network: nn.Module, name: str) -> bool:
    """Whether a layer is the network's first, or in its head."""
    return name == weighted_layers(network)[0] or "head" in name.split(".")


def weighted_layers(network: nn.Module) -> list[str]:
    """Names of the linear layers and convolutions of any kind, in the order of the network."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return [name for name, layer in network.named_modules() if isinstance(layer, kinds)]


def quantised_state(
    network: nn.Module,
    layers: Mapping[int, Sequence[str]],
    group_size: int,
    found: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Pack layers of a network.

    Args:
        network: changed in place.
        layers: names by bits.
        group_size: of the scales.
        found: levels and scales by the layers' names; by default those that :func:`quantise_weight` finds.

    Returns:
        The network's state dict.
    """
    weights = {name: network.get_submodule(name).weight.detach().clone() for names in layers.values() for name in names}
    compressed(network, packed={str(bits): names for bits, names in layers.items()}, group_size=group_size)
    missing = sorted(weights.keys() ^ set(packed_layers(network)))
    if missing:  # what is not packed would be in no error, only in the size
        raise RuntimeError(f"{missing} were to be packed and are not.")
    for bits, names in layers.items():
        for name in names:
            stored = network.get_submodule(name).parametrizations.weight
            levels, scales = found[name] if found else quantise_weight(weights[name], bits, group_size)
            stored.original0.copy_(pack(levels, bits))
            stored.original1.copy_(scales)
    return network.state_dict()


def quantise_weight(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Levels (rows, row) and scales (rows, groups) with the least squared error that the search finds.

    For every group it tries where to cut off, on both sides where the levels have one more on one of them, and then
    fits the scale to the levels. Scales are rounded to half precision before the levels are chosen.

    Args:
        weight: (rows, ...).
        bits: of a level.
        group_size: see ``networks.layers.packed``.
    """
    rows = weight.shape[0]
    flat = weight.reshape(rows, -1).float()
    groups, size = group_counts(flat.shape[1], group_size)
    padding = groups * size - flat.shape[1]
    parts = nn.functional.pad(flat, (0, padding)).view(rows, groups, size)
    real = nn.functional.pad(torch.ones_like(flat), (0, padding)).view(rows, groups, size)
    top = 2.0 ** (bits - 1) if bits > 2 else offset(bits)  # the level that is farthest from zero
    largest = parts.abs().amax(-1, keepdim=True)
    best = torch.full_like(largest, torch.inf)
    scale = torch.zeros_like(largest)
    shares = SHARES if bits in (2, 4) else SHARES[-1:]  # one bit is fitted below, with eight there is little to gain
    for share in shares:
        for sign in (-1.0, 1.0) if bits > 2 else (1.0,):
            tried = _half(sign * share * largest / top)
            error = _error(parts, tried, bits, real)
            scale = torch.where(error < best, tried, scale)
            best = torch.minimum(error, best)
    for _ in range(2):
        levels = (_levels(parts, scale, bits) - offset(bits)) * real
        length = levels.square().sum(-1, keepdim=True)
        fitted = _half(torch.where(length > 0, (levels * parts).sum(-1, keepdim=True) / length.clamp_min(1e-12), scale))
        error = _error(parts, fitted, bits, real)
        scale = torch.where(error < best, fitted, scale)
        best = torch.minimum(error, best)
    levels = _levels(parts, scale, bits).view(rows, -1)[:, : flat.shape[1]]
    return levels.to(torch.uint8), scale.squeeze(-1)


@torch.no_grad()
def report(source: Source, layers: Mapping[int, Sequence[str]], group_size: int, what: str) -> dict[str, Any]:
    """The step's record: what was changed, how far the weights moved, and what has kept its precision."""
    plain = source.build()
    moved, rest = {}, plain.state_dict()
    for bits, names in layers.items():
        old = torch.cat([plain.get_submodule(name).weight.flatten() for name in names])
        new = torch.cat([source.network.get_submodule(name).weight.flatten() for name in names])
        moved[str(bits)] = {
            "layers": len(names),
            "weights": old.numel(),
            "relative_error": round(float((new - old).norm() / old.norm()), 4),
        }
        for name in names:
            rest.pop(f"{name}.weight")
    least, changed = min(layers), sum(part["weights"] for part in moved.values())
    left = sum(tensor.numel() for tensor in rest.values())
    print(f"Packed {changed:,} weights: " + "; ".join(_line(bits, part) for bits, part in moved.items()))
    print(f"{left:,} other values ({left / (left + changed):.2%}) keep their precision or are halved.")
    scope = "" if what == "all" else f" in {'attention' if what == 'attention' else 'some layers'}"
    return {
        "method": "quantize",
        "summary": f"rounded to {least} bit{'s' * (least > 1)}{scope}",
        "bits": moved,
        "group_size": group_size,
        "layers": what,
        "other_values": left,
    }


def _line(bits: str, part: Mapping[str, Any]) -> str:
    return f"{part['layers']} layers of {bits} bits (error {part['relative_error']:.1%} of their norm)"


def _levels(parts: Tensor, scale: Tensor, bits: int) -> Tensor:
    safe = torch.where(scale == 0, 1.0, scale)
    return (parts / safe + offset(bits)).round_().clamp_(0, 2**bits - 1)


def _error(parts: Tensor, scale: Tensor, bits: int, real: Tensor) -> Tensor:
    rounded = (_levels(parts, scale, bits) - offset(bits)) * scale
    return ((rounded - parts) * real).square().sum(-1, keepdim=True)


def _half(scale: Tensor) -> Tensor:
    """In half precision where that has all of its digits; a layer of tiny weights before a norm needs them."""
    low, high = SCALE_LIMITS
    fits = (scale.abs() >= low) & (scale.abs() <= high)
    return torch.where(fits, scale.half().float(), scale)
