"""Pruning single weights: the smallest become zero, step by step, with the bundle's training in between."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from networks.errors import UserError
from networks.layers.packed import packed_layers
from networks.state_dicts import fill, read_weights, unwrap_state
from networks.workflow.files import file_hash
from scripts.compress.bundles import check_output, open_source, write_bundle
from scripts.compress.quantize import is_edge, weighted_layers
from scripts.compress.training import trained_for, training_of
from scripts.zoo.weights import halved

METHODS = ("magnitude", "random")
SCOPES = ("global", "layer")


class Masked(nn.Module):
    """A parametrisation that makes some weights zero.

    Unlike the hooks of `torch.nn.utils.prune` it lets a network be copied, as averages of its weights are.

    Args:
        mask: of the weight's shape; zero where it is pruned.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def prune(
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    sparsity: Sequence[float] | float = 0.5,
    scope: str = "global",
    method: str = "magnitude",
    rewind: str | None = None,
    epochs: int = 0,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: as :func:`scripts.compress.bundles.open_source`, :func:`scripts.compress.training.training_of`, or an
            argument is out of range.
    """
    schedule = _schedule(sparsity)
    if scope not in SCOPES or method not in METHODS:
        raise UserError(f"scope is one of {', '.join(SCOPES)}, and method one of {', '.join(METHODS)}.")
    if rewind is not None and not epochs:
        raise UserError("--rewind only makes sense with a training after it: give --epochs.")
    folder = check_output(output)
    source = open_source(bundle, trained, ckpt_path)
    network = source.network
    if packed_layers(network):
        raise UserError("Packed weights cannot be pruned: prune first, and quantize what comes of it.")
    start = unwrap_state(read_weights(rewind)) if rewind else None
    how = {"compression": "prune", "scope": scope, "method": method, "rewind": rewind and file_hash(rewind)}
    training = training_of(source, folder, epochs, dataset_dir, options, how)
    if start is not None:
        fill(source.build(), start, rewind)  # only to see that it fits
    layers = [name for name in weighted_layers(network) if not is_edge(network, name)]
    steps: list[dict[str, Any]] = []
    record: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)
    for number, share in enumerate(schedule, start=1):
        apply_masks(network, layers, share, scope, method, generator)
        if start is not None:
            _rewind(network, start)
        step: dict[str, Any] = {"sparsity": share}
        if training is not None:
            record = training.run("_".join(["step", *(f"{s:g}" for s in schedule[:number])]), network)
            step |= {"epochs": epochs, "val_mean_dice": record.get("val_mean_dice")}
        print(f"Step {number} of {len(schedule)}: {share:.1%} of the weights are zero.", flush=True)
        steps.append(step)
    for name in layers:
        parametrize.remove_parametrizations(network.get_submodule(name), "weight", leave_parametrized=True)
    found = layer_sparsity(network, layers)
    step = {
        "method": "prune",
        "summary": f"pruned to {schedule[-1]:.0%} zeros ({method}, {scope}){trained_for(epochs * len(schedule))}",
        "scope": scope,
        "weights": method,
        "rewound": rewind is not None,
        "steps": steps,
        "training": training.described(record) if training is not None else {},
        "layer_sparsity": found,
    }
    write_bundle(source, folder, halved(network.state_dict()), {}, step)


def apply_masks(
    network: nn.Module, layers: Sequence[str], sparsity: float, scope: str, method: str, generator: torch.Generator
) -> None:
    """Prune layers to a sparsity; what was pruned before stays so.

    Random pruning takes as many weights of every layer as pruning by magnitude would, so that only the choice differs.

    Args:
        network: changed in place; its layers get masks.
        layers: their names.
        sparsity: share of zeros afterwards, of all weights together or in every layer, as ``scope`` says.
        scope: "global" or "layer".
        method: "magnitude" or "random".
        generator: of the random choice.
    """
    weights, before = {}, {}
    for name in layers:
        layer = network.get_submodule(name)
        weights[name] = layer.weight.detach()
        if not parametrize.is_parametrized(layer, "weight"):
            parametrize.register_parametrization(layer, "weight", Masked(torch.ones_like(layer.weight)))
        before[name] = layer.parametrizations.weight[0].mask
    keep = {name: round((1 - sparsity) * weight.numel()) for name, weight in weights.items()}
    if scope == "global":
        keep = _kept_globally(weights, before, round((1 - sparsity) * sum(w.numel() for w in weights.values())))
    for name in layers:
        values = weights[name].abs() if method == "magnitude" else torch.rand(weights[name].shape, generator=generator)
        mask = torch.zeros(values.numel())
        scores = torch.where(before[name] > 0, values, -1.0).flatten()
        mask[scores.topk(keep[name]).indices] = 1
        before[name].mul_(mask.view_as(values))


def layer_sparsity(network: nn.Module, layers: Sequence[str]) -> dict[str, float]:
    """Share of zeros in every layer's weight."""
    return {name: round(float((network.get_submodule(name).weight == 0).float().mean()), 4) for name in layers}


def _kept_globally(weights: Mapping[str, Tensor], before: Mapping[str, Tensor], count: int) -> dict[str, int]:
    """How many weights of every layer are among the largest of all."""
    scores = torch.cat([torch.where(before[n] > 0, w.abs(), -1.0).flatten() for n, w in weights.items()])
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.topk(count).indices] = True
    parts = chosen.split([weight.numel() for weight in weights.values()])
    return {name: int(part.sum()) for name, part in zip(weights, parts, strict=True)}


def _rewind(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give everything the values of a state dict, under the masks."""
    own = network.state_dict()
    for name, value in state.items():
        masked = f"{name.removesuffix('weight')}parametrizations.weight.original"
        own[masked if masked in own else name] = value
    network.load_state_dict(own)


def _schedule(sparsity: Sequence[float] | float) -> list[float]:
    try:
        steps = [float(share) for share in ([sparsity] if isinstance(sparsity, int | float) else sparsity)]
    except ValueError:
        steps = []
    if not steps or steps != sorted(set(steps)) or not steps[0] > 0 or not steps[-1] < 1:
        raise UserError(f"sparsity={sparsity} is no schedule: give rising shares between 0 and 1, such as 0.3,0.5,0.7.")
    return steps
