"""Pruning whole channels, hidden units and heads, so that the network really becomes smaller and faster.

Hidden units of MLPs and attention heads are taken out by rules of this module; channels of convolutions by
torch-pruning, which follows them through skips, norms and depthwise convolutions. What is least important goes: the
smallest norm of the weights that make a unit and that read it.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from networks.compressed import compressed
from networks.errors import UserError
from networks.layers.packed import packed_layers
from networks.layers.window_attention import WindowAttention
from scripts.compress.bundles import Source, check_output, open_source, write_bundle
from scripts.compress.training import trained_for, training_of
from scripts.zoo.weights import halved

PARTS = ("mlp", "heads", "channels")


def slim(
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    parts: str = "mlp",
    share: float = 0.25,
    epochs: int = 0,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: as :func:`scripts.compress.bundles.open_source` and
            :func:`scripts.compress.training.training_of`; the network has no such parts; or torch-pruning is not
            installed or cannot follow the network.
    """
    if parts not in PARTS or not 0 < share < 1:
        raise UserError(f"parts is one of {', '.join(PARTS)}, and share between 0 and 1.")
    folder = check_output(output)
    source = open_source(bundle, trained, ckpt_path)
    if packed_layers(source.network):
        raise UserError("Packed weights cannot be pruned: prune first, and quantize what comes of it.")
    how = {"compression": "slim", "parts": parts, "share": share}
    training = training_of(source, folder, epochs, dataset_dir, options, how)
    network, before = source.network, source.build().state_dict()
    heads = REMOVERS[parts](source, share)
    shapes = {n: list(t.shape) for n, t in network.state_dict().items() if t.shape != before[n].shape}
    if not shapes:
        raise UserError(f"{source.bundle} has no {parts} of which a share of {share:g} could go; choose other parts.")
    _check(source, shapes, heads)
    step: dict[str, Any] = {
        "method": "slim",
        "summary": f"slimmed by {share:.0%} of its {'channels' if parts == 'channels' else f'{parts} units'}",
        "parts": parts,
        "share": share,
        "parameters": [sum(t.numel() for t in s.values()) for s in (before, network.state_dict())],
    }
    if training is not None:
        record = training.run(parts, network)
        step["summary"] += trained_for(epochs)
        step["training"] = training.described(record)
    known = source.record.get("compression", {}).get("network", {})
    changed = {"shapes": {**known.get("shapes", {}), **shapes}, "heads": {**known.get("heads", {}), **heads}}
    write_bundle(source, folder, halved(network.state_dict()), {k: v for k, v in changed.items() if v}, step)


@torch.no_grad()
def slim_mlps(source: Source, share: float) -> dict[str, int]:
    """Take hidden units out of every MLP."""
    for first, second in mlps(source.network):
        rows, reads = _linear(first), _linear(second)
        importance = rows.weight.norm(dim=1) * reads.weight.norm(dim=0)
        keep = _largest(importance, share)
        _keep_rows(first, keep)
        reads.weight = nn.Parameter(reads.weight[:, keep].clone())
        reads.in_features = len(keep)
    return {}


@torch.no_grad()
def slim_heads(source: Source, share: float) -> dict[str, int]:
    """Take heads out of every window attention that has several."""
    found = {}
    for name, module in source.network.named_modules():
        if not isinstance(module, WindowAttention) or module.num_heads < 2:
            continue
        heads, dim = module.num_heads, module.head_dim
        projected = module.proj.weight.view(-1, heads, dim)
        made = module.qkv.weight.view(3, heads, dim, -1)
        keep = _largest(projected.norm(dim=(0, 2)) * made[2].norm(dim=(1, 2)), share)
        rows = torch.arange(3 * heads * dim).view(3, heads, dim)[:, keep].flatten()
        _keep_rows(module.qkv, rows)
        module.proj.weight = nn.Parameter(projected[:, keep].flatten(1).clone())
        module.proj.in_features = len(keep) * dim
        table = module.relative_position_bias_table
        module.relative_position_bias_table = nn.Parameter(table[:, keep].clone())
        module.num_heads = found[name] = len(keep)
    return found


def slim_channels(source: Source, share: float) -> dict[str, int]:
    """Take channels out of the convolutions, all but those of the logits."""
    if importlib.util.find_spec("torch_pruning") is None:
        raise UserError("Channels need torch-pruning: python -m pip install 'segmentation-bundles[compress]'.")
    import torch_pruning

    network, config = source.network, source.config
    example = torch.randn(2, config["in_channels"], *config["img_size"])
    others = [m for m in network.modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    convolutions = [m for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    logits = [m for m in convolutions if m.out_channels == config["out_channels"]]
    try:
        torch_pruning.pruner.BasePruner(
            network,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=[*others, *logits],
            # widths that processors like, where there is room for them
            round_to=8 if min(m.out_channels for m in convolutions if m not in logits) >= 16 else None,
        ).step()
        with torch.no_grad():
            network.eval()(example)
    except Exception as error:
        raise UserError(
            f"torch-pruning cannot follow the channels of {source.bundle} ({type(error).__name__}: {error}); choose "
            "other --parts."
        ) from error
    return {}


def mlps(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """First and second layer of every MLP: `fc1` and `fc2` of the transformers, `ln1` and `ln2` of LeViT."""
    for module in network.modules():
        for names in (("fc1", "fc2"), ("ln1", "ln2")):
            first, second = (getattr(module, name, None) for name in names)
            # squeeze-and-excitation calls its convolutions so, too
            if _is_linear(first) and _is_linear(second) and _linear(first).out_features == _linear(second).in_features:
                yield first, second


def _is_linear(layer: nn.Module | None) -> bool:
    return isinstance(getattr(layer, "linear", layer), nn.Linear)


def _linear(layer: nn.Module) -> nn.Linear:
    return layer if isinstance(layer, nn.Linear) else layer.linear


def _keep_rows(layer: nn.Module, rows: Tensor) -> None:
    """Keep some outputs of a linear layer, with or without a batch norm behind it."""
    linear = _linear(layer)
    linear.weight = nn.Parameter(linear.weight[rows].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[rows].clone())
    linear.out_features = len(rows)
    if linear is not layer:
        norm = layer.bn
        for name in ("weight", "bias"):
            setattr(norm, name, nn.Parameter(getattr(norm, name)[rows].clone()))
        for name in ("running_mean", "running_var"):
            setattr(norm, name, getattr(norm, name)[rows].clone())
        norm.num_features = len(rows)


def _largest(importance: Tensor, share: float) -> Tensor:
    count = max(1, round((1 - share) * len(importance)))
    return importance.topk(count).indices.sort().values


@torch.no_grad()
def _check(source: Source, shapes: Mapping[str, list[int]], heads: Mapping[str, int]) -> None:
    """The network that the bundle's configs will build from these shapes is the one that was pruned."""
    config = source.config
    rebuilt = compressed(source.build(), shapes, heads)
    rebuilt.load_state_dict(source.network.state_dict())
    example = torch.randn(2, config["in_channels"], *config["img_size"])
    torch.testing.assert_close(rebuilt.eval()(example), source.network.eval()(example), rtol=1e-3, atol=1e-4)


REMOVERS = {"mlp": slim_mlps, "heads": slim_heads, "channels": slim_channels}
