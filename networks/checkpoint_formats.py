"""Layouts of checkpoints: how to recognise one, and how its names become a network's.

A format is one line of `FORMATS`. Which of them a network takes, and into which of its modules, the network says in its
class attributes `encoders` and `authors_names` (see `networks.base.SegmentationNetwork`).

Sources: layout of Microsoft's checkpoints, https://github.com/microsoft/Swin-Transformer (MIT licence); where the
authors of Swin-Unet put them, https://github.com/HuCaoFighting/Swin-Unet, from a description, not from the code; layout
of https://github.com/facebookresearch/LeViT (Apache-2.0), likewise; MicroNet's files,
https://github.com/nasa/pretrained-microscopy-models.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from networks.layers.cnn import convert_cnn_names
from networks.layers.levit import convert_levit, square_biases
from networks.state_dicts import recognises

Conversion = Iterator[tuple[str, str, Tensor]]
ENCODER = "encoder."
TRAINING_ONLY = ("head", "mask_token", "painter")  # of `Classifier` and `MaskedImageModel`


@dataclass(frozen=True)
class Format:
    """A layout of checkpoints.

    Attributes:
        name: for reports and error messages.
        detect: whether a file's tensors, for a network that takes the format, are in it.
        convert: yields (name in the file, name in the network, tensor); a tensor may have several names in the network,
            and names that the network does not have are ignored.
        encoder: the kind of encoder that its files are made for, a value of a network's `encoders`; empty if they hold
            the whole network, so that anything missing but the head means a wrong file.
        exact: whether its files hold that encoder with all its blocks and no others, beside a classifier.
    """

    name: str
    detect: Callable[[nn.Module, Mapping[str, Tensor]], bool]
    convert: Callable[[nn.Module, Mapping[str, Tensor]], Conversion]
    encoder: str = ""
    exact: bool = False


def encoder_name(network: nn.Module, kind: str) -> str:
    """Name of the network's module that checkpoints of an encoder of this kind go into; empty if it has none."""
    return next((name for name, found in getattr(network, "encoders", {}).items() if found == kind), "")


def formats(network: nn.Module) -> list[Format]:
    """What a network takes, in the order in which a file is compared with them."""
    return [
        form
        for form in FORMATS
        if form is OURS
        or (form is AUTHORS and bool(getattr(network, "authors_names", ())))
        or (form.encoder and encoder_name(network, form.encoder))
    ]


def _is_ours(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = network.state_dict().keys()
    return 2 * len(own & state.keys()) > len(own)


def _convert_ours(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    return ((name, name, tensor) for name, tensor in state.items())


# `formats` asks for these only a network that declares what they take, which no module's type knows of.


def _is_authors(network: Any, state: Mapping[str, Tensor]) -> bool:
    return recognises(network.authors_names, state)


def _convert_authors(network: Any, state: Mapping[str, Tensor]) -> Conversion:
    converted = network.convert_authors(state, **network.converter_options)
    return ((name, name, tensor) for name, tensor in converted.items())


def _is_microsoft(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return _is_swin(state) and "layers.0.downsample.reduction.weight" in state


def _convert_microsoft(network: Any, state: Mapping[str, Tensor]) -> Conversion:
    for name, tensor in state.items():
        for target in network.pretrained_targets(name):
            yield name, target, tensor


def _is_timm(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return _is_swin(state) and "layers.1.downsample.reduction.weight" in state


def _convert_timm(network: Any, state: Mapping[str, Tensor]) -> Conversion:
    """As Microsoft's, but a merging belongs to the stage that it opens."""
    for name, tensor in state.items():
        stage = re.match(r"layers\.(\d+)\.downsample\.", name)
        renamed = f"layers.{int(stage[1]) - 1}.downsample.{name[stage.end() :]}" if stage else name
        for target in network.pretrained_targets(renamed):
            yield name, target, tensor


def _is_swin(state: Mapping[str, Tensor]) -> bool:
    # The table excludes Swin V2, whose other tensors have the same names and another meaning.
    return "layers.0.blocks.0.attn.relative_position_bias_table" in state


def _is_meta_levit(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return "patch_embed.0.c.weight" in state


def _convert_meta_levit(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    for name, tensor in state.items():
        stem = re.fullmatch(r"patch_embed\.([0246])\.(c|bn)\.(.+)", name)
        if stem:
            layer = "linear" if stem[2] == "c" else "bn"
            yield name, f"encoder.stem.conv{int(stem[1]) // 2 + 1}.{layer}.{stem[3]}", tensor
    blocks = {name.removeprefix("blocks."): tensor for name, tensor in state.items() if name.startswith("blocks.")}
    for name, target, tensor in convert_levit(blocks):
        yield f"blocks.{name}", f"encoder.{target}", tensor


def _is_timm_levit(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return "stem.conv1.linear.weight" in state


def _convert_timm_levit(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    for name, tensor in state.items():
        target = re.sub(r"\.(q|proj)\.ln\.", r".\1.", name.replace(".attn_downsample.", ".attn."))
        if name.endswith("attention_biases"):
            tensor = square_biases(tensor)
        elif name.startswith("stages.") and tensor.ndim == 4:
            tensor = tensor.flatten(1)  # timm's levit_conv models: linear layers as 1 x 1 convolutions
        yield name, f"encoder.{target}", tensor


def _is_cnn(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    encoder = network.get_submodule(encoder_name(network, "cnn"))
    # Few names suffice: what is missing is said when the file is checked.
    own = encoder.state_dict().keys()
    return 10 * len(own & set(convert_cnn_names(encoder, state).values())) > len(own)


def _convert_cnn(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    part = encoder_name(network, "cnn")
    for name, target in convert_cnn_names(network.get_submodule(part), state).items():
        yield name, f"{part}.{target}", state[name]


def _is_pretraining(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a file of ours holds an encoder for others: beside it only what its own training needed."""
    own, parts = ({name.partition(".")[0] for name in names} for names in (network.state_dict(), state))
    return "encoder" in parts <= {"encoder", *TRAINING_ONLY} and parts != own


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(ENCODER): tensor for name, tensor in state.items() if name.startswith(ENCODER)}


def _is_own_swin(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return _is_pretraining(network, state) and _is_microsoft(network, _bare(state))


def _is_own_cnn(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return _is_pretraining(network, state) and _is_cnn(network, _bare(state))


def _convert_own(convert: Callable[[nn.Module, Mapping[str, Tensor]], Conversion]) -> Callable[..., Conversion]:
    def converted(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
        return ((f"{ENCODER}{name}", target, tensor) for name, target, tensor in convert(network, _bare(state)))

    return converted


def _is_google(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return "Transformer/encoder_norm/scale" in state


def _convert_google(network: Any, state: Mapping[str, Tensor]) -> Conversion:
    return network.convert_google(state)


OURS = Format("our own model.pt or last.pt", _is_ours, _convert_ours)
AUTHORS = Format("the authors' checkpoints of this network", _is_authors, _convert_authors)
FORMATS = (
    # Before ours, since most of a small decoder's network is its encoder.
    Format("our pretrained Swin encoders", _is_own_swin, _convert_own(_convert_microsoft), "swin"),
    Format("our classifiers of timm's encoders", _is_own_cnn, _convert_own(_convert_cnn), "cnn", exact=True),
    OURS,
    # Before the authors', whose LeViT-UNet 192 has blocks of the same names.
    Format("LeViT's checkpoints", _is_meta_levit, _convert_meta_levit, "levit"),
    Format("timm's LeViT models", _is_timm_levit, _convert_timm_levit, "levit"),
    AUTHORS,
    Format("Microsoft's Swin checkpoints", _is_microsoft, _convert_microsoft, "swin"),
    Format("timm's Swin models", _is_timm, _convert_timm, "swin"),
    Format("Google's ViT .npz files", _is_google, _convert_google, "vit"),
    Format("convolutional encoders such as MicroNet's", _is_cnn, _convert_cnn, "cnn", exact=True),
)
