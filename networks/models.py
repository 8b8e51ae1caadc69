"""Building a network by the name of its bundle, as timm and segmentation-models-pytorch do it by theirs.

network = networks.create_model("swin_unet", variant="base", in_channels=1, out_channels=9, pretrained="swin.pth")
"""

import importlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from networks import NETWORKS
from networks.base import SegmentationNetwork
from networks.errors import UserError, did_you_mean

CLASSES = {module: name for name, module in NETWORKS.items()}


def list_models() -> list[str]:
    """The names that `create_model` takes."""
    return sorted(CLASSES)


def list_variants(name: str) -> list[str]:
    """The published variants of a model, the usual one first; empty where its encoder is a free choice.

    Raises:
        UserError: there is no such model.
    """
    return list(model_class(name).variants)


def create_model(
    name: str,
    variant: str | None = None,
    in_channels: int = 3,
    out_channels: int = 2,
    pretrained: str | Path | Sequence[str | Path] | None = None,
    **kwargs: Any,
) -> SegmentationNetwork:
    """Build a network and load weights into it.

    Args:
        name: one of `list_models`.
        variant: one of `list_variants`; None for the defaults of the class.
        in_channels: channels of the image.
        out_channels: classes.
        pretrained: a file or a timm name, or one for each encoder, as `networks.pretrained.load_all` takes them; None
            for random weights.
        **kwargs: further arguments of the class, such as `img_size`, before those of the variant.

    Raises:
        UserError: there is no such model or variant, an argument is out of range, or the weights do not fit.
        TypeError: the class has no such argument.
    """
    network_class = model_class(name)
    if variant is not None:
        kwargs = {**variant_options(name, variant), **kwargs}
    network = network_class(in_channels, out_channels, **kwargs)
    if pretrained:
        from networks.pretrained import load_all  # brings timm and Hugging Face's client, for weights only

        load_all(network, pretrained)
    return network


def model_class(name: str) -> type[SegmentationNetwork]:
    """The class of a model; raises UserError for an unknown name."""
    _check_known("model", name, CLASSES)
    return getattr(importlib.import_module(f"networks.{name}"), CLASSES[name])


def variant_options(name: str, variant: str) -> dict[str, Any]:
    """The arguments of a model's variant; raises UserError for an unknown one."""
    variants = model_class(name).variants
    _check_known(f"variant of {name}", variant, variants)
    return dict(variants[variant])


def _check_known(kind: str, name: str, known: Collection[str]) -> None:
    if name in known:
        return
    hint = did_you_mean(name, known, f"choose from {', '.join(sorted(known)) or 'none'}")
    raise UserError(f"There is no {kind} {name!r}; {hint}")
