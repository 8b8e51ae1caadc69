"""Convolutional encoders of segmentation-models-pytorch (smp) as parts of other networks.

smp (MIT licence) gives its families, and through them timm's networks, one interface. What is added here: agreement
with the older versions that published networks were built with, features on given grids, and clear mistakes.
"""

import re
from collections.abc import Collection, Iterable, Mapping

import torch.nn.functional as F
from segmentation_models_pytorch.encoders import encoders, get_encoder
from timm.layers import Conv2dSame
from torch import Tensor, nn

from networks.errors import UserError
from networks.layers.conv import quicken_convs

NAMES = "https://smp.readthedocs.io/en/latest/encoders.html"


def cnn_encoder(name: str, in_channels: int = 3, weights: str | None = None) -> nn.Module:
    """An encoder of smp whose last four features are at strides 4, 8, 16 and 32.

    Parameters that no feature depends on are removed. EfficientNets are padded as in the efficientnet-pytorch 0.6.3 of
    smp 0.2.1: for the nominal size of the image in every layer, where smp 0.6 halves that size from layer to layer.

    Args:
        name: smp's name, such as "resnet50", or "tu-" and a name of timm.
        in_channels: channels of the image.
        weights: smp's name of pretrained weights, such as "imagenet", which are downloaded; None for none. With a name
            of timm, which includes the weights' name, any string.

    Raises:
        UserError: there are no such encoder or weights, or the encoder lacks one of the features.
    """
    check_encoder(name, weights)
    # timm's names include those of the weights
    source = weights if name in encoders or weights is None else True
    try:
        encoder = get_encoder(name, in_channels, depth=5, weights=source)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"encoder_name={name!r} cannot be used: {error}") from error
    if len(encoder.out_channels) != 6:
        raise UserError(f"encoder_name={name!r} has no features at strides 4, 8, 16 and 32: choose another.")

    for layer in unused_layers(encoder):
        delattr(encoder, layer)
    for module in encoder.modules():
        if hasattr(module, "static_padding"):
            total = module.kernel_size[0] - module.stride[0]  # for an even size
            if total % 2:
                module.static_padding = nn.ZeroPad2d((total // 2, total - total // 2) * 2)
            else:
                module.static_padding = nn.Identity()
                module.padding = (total // 2, total // 2)
    quicken_convs(encoder)
    return encoder


def unused_layers(encoder: nn.Module) -> list[str]:
    """Names of what smp leaves of an EfficientNet's classifier in its encoder, though no feature depends on it."""
    pairs = (("_conv_head", "_bn1"), ("conv_head", "bn2"))
    return [name for pair in pairs if hasattr(encoder, pair[0]) for name in pair]


def check_encoder(name: str, weights: str | None) -> None:
    """Raise UserError where smp has no encoder of a name, or not these weights of it."""
    if name in encoders:
        choices = [*encoders[name]["pretrained_settings"], None]
        if weights not in choices:
            raise UserError(f"encoder_weights={weights!r} do not exist for {name}: choose one of {choices}.")
    elif not name.startswith(("tu-", "timm-")):
        raise UserError(f"encoder_name={name!r} is unknown: choose a name from {NAMES}, or 'tu-' and a name of timm.")


def convert_cnn_names(encoder: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names of a classifier's tensors and what the encoder calls them; those that it lacks are left out.

    Known are the names of torchvision, of timm, of pretrainedmodels and efficientnet-pytorch, as NASA's MicroNet files
    have them, and of smp's older versions: the first DenseNets had a dot in "norm.1", and timm's networks are one level
    deeper since smp takes them from timm, which writes "stages.0" as "stages_0" there. The names of
    efficientnet-pytorch also go into timm's EfficientNets (see `check_padding`).
    """
    own = encoder.state_dict().keys()
    found = (re.match(r"(?:model\.)?(blocks\.\d+\.\d+)\.", name) for name in own)
    blocks = dict(enumerate(dict.fromkeys(match[1] for match in found if match)))
    flat = {_flat(name): name for name in own}
    converted = {}
    for given in names:
        name = _timm_efficientnet_name(given, blocks, own) if given.startswith("_") and blocks else given
        deeper = f"model.{name}"
        dense = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)
        for candidate in (name, dense, deeper, flat.get(_flat(name))):
            if candidate in own:
                converted[given] = candidate
                break
    return converted


def check_padding(encoder: nn.Module, names: Iterable[str], source: object) -> None:
    """Refuse weights of efficientnet-pytorch in a network of timm that pads in another way than they were trained with.

    In the deeper features of EfficientNet-Lite0 the difference is about as large as the features.

    Args:
        encoder: of timm, or smp's encoder around it.
        names: of the weights.
        source: where they are from, for the message.

    Raises:
        UserError: says which network pads as these weights need it: timm calls it "tf_...".
    """
    inner = getattr(encoder, "model", encoder)
    name = (getattr(inner, "pretrained_cfg", None) or {}).get("architecture", "")
    is_timm = hasattr(inner, "conv_stem")
    if not is_timm or not any(given.startswith("_blocks.") for given in names):
        return
    if not any(isinstance(module, Conv2dSame) for module in inner.modules()):
        prefix = "" if inner is encoder else "tu-"
        raise UserError(
            f"{source} has the weights of efficientnet-pytorch, which pads as TensorFlow does, and {prefix}{name} pads "
            f"in another way and would compute other features; choose {prefix}tf_{name} instead."
        )


def _flat(name: str) -> str:
    """A name in timm's networks, the same where they give features and the outer modules of their lists are flat."""
    return name.removeprefix("model.").replace("_", ".")


def cnn_module(name: str) -> str:
    """The outermost module of a tensor, the same in timm's networks and in smp's encoders that are made of them."""
    return re.sub(r"[._]\d+$", "", re.match(r"(?:model\.)?([^.]*)", name)[1])  # type: ignore[index]


def _timm_efficientnet_name(name: str, blocks: Mapping[int, str], own: Collection[str]) -> str:
    """A name of efficientnet-pytorch, which counts blocks over all stages, as timm writes it.

    Args:
        name: of a tensor, such as "_blocks.3._expand_conv.weight".
        blocks: timm's name of every block.
        own: names of the encoder, to see which blocks expand.
    """
    match = re.match(r"_blocks\.(\d+)\._?(\w+)\.(.+)", name)
    if match is None:
        outer = {
            "_conv_stem": "conv_stem",
            "_bn0": "bn1",
            "_conv_head": "conv_head",
            "_bn1": "bn2",
            "_fc": "classifier",
        }
        module, _, rest = name.partition(".")
        return f"{outer.get(module, module)}.{rest}"
    block = blocks.get(int(match[1]), "")
    expands = any(key.endswith(f"{block}.conv_pwl.weight") for key in own)
    modules = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand", "depthwise_conv": "conv_dw"}
    if expands:
        modules |= {"expand_conv": "conv_pw", "bn0": "bn1", "bn1": "bn2", "project_conv": "conv_pwl", "bn2": "bn3"}
    else:
        modules |= {"bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    return f"{block}.{modules.get(match[2], match[2])}.{match[3]}"


def pad_image(x: Tensor, multiple: int) -> Tensor:
    """Image (B, C, H, W), zero-padded at the bottom and right."""
    pad_rows, pad_cols = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, pad_cols, 0, pad_rows)) if pad_rows or pad_cols else x


def to_tokens(x: Tensor, height: int, width: int, like: Tensor) -> Tensor:
    """Feature (B, C, h, w) as tokens on another token map's grid, (B, H, W, C).

    Args:
        x: the feature.
        height: rows that the feature should have, by its stride; it is interpolated where an encoder has others.
        width: columns likewise.
        like: tokens (B, H, W, any); what the feature has beyond their grid is padding of the image and cropped.
    """
    if x.shape[2] != height or x.shape[3] != width:
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)[:, : like.shape[1], : like.shape[2]]
