"""The network of a compressed bundle: one of this package's with fewer channels, fewer heads or packed weights.

`scripts.compress` makes such bundles. Their configs say what was changed, layer by layer, and build the network as it
was before through `compressed`; its state dict then has exactly the tensors of the bundle's weights.
"""

import operator
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from networks.errors import UserError
from networks.layers.packed import GROUP_SIZE, pack_layers


def compressed(
    network: nn.Module,
    shapes: Mapping[str, Sequence[int]] | None = None,
    heads: Mapping[str, int] | None = None,
    packed: Mapping[str, Sequence[str]] | None = None,
    group_size: int = GROUP_SIZE,
) -> nn.Module:
    """Change a network in place so that it takes compressed weights.

    Args:
        network: as its class builds it.
        shapes: of the tensors that pruning has made smaller, by their names.
        heads: attention heads that are left, by the names of the attention modules.
        packed: names of layers with packed weights, by their bits; see `networks.layers.packed.pack_layers`.
        group_size: largest number of packed weights that share a scale.

    Returns:
        The same network; packed weights are zero, and smaller tensors the first values of those that its class made.

    Raises:
        UserError: a name that the network does not have.
    """
    for name, count in (heads or {}).items():
        _find(network, name).num_heads = count  # type: ignore[assignment]
    for name, shape in (shapes or {}).items():
        owner, _, key = name.rpartition(".")
        _resize(_find(network, owner), key, tuple(shape), name)
    for name in {name.rpartition(".")[0] for name in shapes or {}}:
        _fit_attributes(_find(network, name))
    if packed:
        pack_layers(network, packed, group_size)
        network.scriptable = False  # type: ignore[assignment]  # TorchScript knows no parametrisations
    return network


def _find(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise UserError(
            f"{type(network).__name__} has no part {name!r}, which the compressed weights change; build it with the "
            "options that it was trained with."
        ) from None


def _resize(module: nn.Module, key: str, shape: tuple[int, ...], name: str) -> None:
    tensor = getattr(module, key, None)
    if not isinstance(tensor, Tensor) or tensor.ndim != len(shape) or any(map(operator.gt, shape, tensor.shape)):
        raise UserError(f"The compressed weights have {name!r} as {shape}, but the network has no such tensor.")
    # not zeros: a training without the weights would never leave them
    small = tensor.detach()[tuple(map(slice, shape))].clone()
    if isinstance(tensor, nn.Parameter):
        setattr(module, key, nn.Parameter(small, tensor.requires_grad))
    else:
        setattr(module, key, small)


def _fit_attributes(module: nn.Module) -> None:
    """The sizes that a layer keeps beside its tensors, and that its forward pass or whoever prints it reads."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        if module.groups == module.in_channels and module.groups > 1:  # depthwise
            module.groups = module.weight.shape[0]
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.ConvTranspose2d):
        module.in_channels, module.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = len(module.weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
