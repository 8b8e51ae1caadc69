"""Layouts of checkpoints: how to recognise one, and how its names become a network's.

A format is one line of `FORMATS`. Swin checkpoints go into every network whose `encoder` is a `SwinEncoder`. A network
that wants them elsewhere defines `pretrained_targets(name)`, which gets a name in Microsoft's layout and returns the
network's own names that start from this tensor. LeViT checkpoints go into every network whose `encoder` is a
`LevitEncoder`, Google's .npz files into networks with a `convert_google` (see `TransUnet`), and those of torchvision,
timm, efficientnet-pytorch and NASA's MicroNet into every network with a convolutional encoder that has their names.
Where `convert_authors` depends on the network's arguments, the attribute `converter_options` holds its further
arguments. By convention the part that is usually pretrained is called `encoder` and the module in front of the logits
`head`; a convolutional encoder beside a Swin encoder is called `cnn_encoder`.

Sources: layout of Microsoft's checkpoints, https://github.com/microsoft/Swin-Transformer (MIT licence); where the
authors of Swin-Unet put them, https://github.com/HuCaoFighting/Swin-Unet, from a description, not from the code; layout
of https://github.com/facebookresearch/LeViT (Apache-2.0), likewise; MicroNet's files,
https://github.com/nasa/pretrained-microscopy-models.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from networks.layers.cnn import convert_cnn_names
from networks.layers.levit import LevitEncoder, convert_levit, square_biases
from networks.layers.swin import SwinEncoder

Conversion = Iterator[tuple[str, str, Tensor]]


@dataclass(frozen=True)
class Format:
    """A layout of checkpoints.

    Attributes:
        name: for reports and error messages.
        whole: whether its files hold the whole network, so that anything missing but the head means a wrong file.
        fits: whether the network has a place for such weights.
        detect: whether a file's tensors, for such a network, are in this format.
        convert: yields (name in the file, name in the network, tensor); a tensor may have several names in the network,
            and names that the network does not have are ignored.
        part: name of the network's module that its files are made for.
        exact: whether its files hold that module with all its blocks and no others, beside a classifier.
    """

    name: str
    whole: bool
    fits: Callable[[nn.Module], bool]
    detect: Callable[[nn.Module, Mapping[str, Tensor]], bool]
    convert: Callable[[nn.Module, Mapping[str, Tensor]], Conversion]
    part: Callable[[nn.Module], str] = lambda network: "encoder"
    exact: bool = False


def _is_ours(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = network.state_dict().keys()
    return 2 * len(own & state.keys()) > len(own)


def _convert_ours(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    return ((name, name, tensor) for name, tensor in state.items())


def _has_authors(network: nn.Module) -> bool:
    return hasattr(network, "convert_authors")


def _is_authors(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    # One name decides, so that a file with a foreign tensor among the authors' gets the converter's own message.
    name = next(iter(state))
    try:
        return bool(network.convert_authors({name: state[name]}))
    except ValueError:
        return False


def _convert_authors(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    converted = network.convert_authors(state, **getattr(network, "converter_options", {}))
    return ((name, name, tensor) for name, tensor in converted.items())


def _has_swin(network: nn.Module) -> bool:
    return hasattr(network, "pretrained_targets") or isinstance(getattr(network, "encoder", None), SwinEncoder)


def _is_microsoft(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return _is_swin(state) and "layers.0.downsample.reduction.weight" in state


def _convert_microsoft(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    for name, tensor in state.items():
        for target in _targets(network, name):
            yield name, target, tensor


def _is_timm(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return _is_swin(state) and "layers.1.downsample.reduction.weight" in state


def _convert_timm(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    """As Microsoft's, but a merging belongs to the stage that it opens."""
    for name, tensor in state.items():
        stage = re.match(r"layers\.(\d+)\.downsample\.", name)
        renamed = f"layers.{int(stage[1]) - 1}.downsample.{name[stage.end() :]}" if stage else name
        for target in _targets(network, renamed):
            yield name, target, tensor


def _is_swin(state: Mapping[str, Tensor]) -> bool:
    # The table excludes Swin V2, whose other tensors have the same names and another meaning.
    return "layers.0.blocks.0.attn.relative_position_bias_table" in state


def _targets(network: nn.Module, name: str) -> Iterable[str]:
    """Where a tensor of a Swin checkpoint goes, from its name in Microsoft's layout."""
    if hasattr(network, "pretrained_targets"):
        return network.pretrained_targets(name)
    targets = [f"encoder.{name}"]
    stage = re.match(r"layers\.(\d+)\.blocks\.", name)
    if stage:
        # Decoder stages start at the deepest but one encoder resolution.
        mirrored = len(network.encoder.layers) - 2 - int(stage[1])
        targets.append(f"decoder.layers.{mirrored}.blocks.{name[stage.end() :]}")
    return targets


def _has_levit(network: nn.Module) -> bool:
    return isinstance(getattr(network, "encoder", None), LevitEncoder)


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


def _cnn_part(network: nn.Module) -> str:
    return "cnn_encoder" if hasattr(network, "cnn_encoder") else "encoder"


def _has_cnn(network: nn.Module) -> bool:
    other = _has_swin(network) or _has_levit(network) or _has_google(network)
    # Attention U-Net's encoder is a view of layers that are MONAI's, in no layout that others' files have.
    return hasattr(network, "cnn_encoder") or ("encoder" in dict(network.named_children()) and not other)


def _is_cnn(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    encoder = getattr(network, _cnn_part(network))
    # Few names suffice: what is missing is said when the file is checked.
    own = encoder.state_dict().keys()
    return 10 * len(own & set(convert_cnn_names(encoder, state).values())) > len(own)


def _convert_cnn(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    part = _cnn_part(network)
    for name, target in convert_cnn_names(getattr(network, part), state).items():
        yield name, f"{part}.{target}", state[name]


def _has_google(network: nn.Module) -> bool:
    return hasattr(network, "convert_google")


def _is_google(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return "Transformer/encoder_norm/scale" in state


def _convert_google(network: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    return network.convert_google(state)


OURS = Format("our own model.pt or last.pt", True, lambda network: True, _is_ours, _convert_ours)
FORMATS = (
    OURS,
    # Before the authors', whose LeViT-UNet 192 has blocks of the same names.
    Format("LeViT's checkpoints", False, _has_levit, _is_meta_levit, _convert_meta_levit),
    Format("timm's LeViT models", False, _has_levit, _is_timm_levit, _convert_timm_levit),
    Format("the authors' checkpoints of this network", True, _has_authors, _is_authors, _convert_authors),
    Format("Microsoft's Swin checkpoints", False, _has_swin, _is_microsoft, _convert_microsoft),
    Format("timm's Swin models", False, _has_swin, _is_timm, _convert_timm),
    Format("Google's ViT .npz files", False, _has_google, _is_google, _convert_google),
    Format("convolutional encoders such as MicroNet's", False, _has_cnn, _is_cnn, _convert_cnn, _cnn_part, exact=True),
)
