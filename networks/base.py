"""The base class of all networks: what each declares of itself, and what is done alike around each of them."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from networks.errors import UserError
from networks.state_dicts import Names


class SegmentationNetwork(nn.Module):
    """A network from images (B, in_channels, H, W) to logits (B, out_channels, H, W).

    A subclass writes `logits` and the class attributes that differ from those here. By convention a convolutional
    encoder beside a transformer's is called `cnn_encoder`.

    Attributes:
        paper: address of the publication.
        variants: arguments of the constructor for each published variant; the first is the usual one.
        fixed_img_size: whether only images of the constructor's `img_size` are accepted.
        scriptable: whether `torch.jit.script` can compile the network.
        exportable: whether `torch.export` and the export to ONNX work.
        repeats_grey: whether a single channel is repeated to three, so that stems pretrained on colour images fit.
        encoders: the modules that other people's checkpoints go into, and for each the kind of encoder (`encoder` in
            `networks.checkpoint_formats.FORMATS`) whose formats it takes. A network with a "swin" encoder also has a
            method `pretrained_targets`, from a name in Microsoft's layout to the network's own names that start from
            this tensor.
        stem_names: modules beside those whose first convolution sees the image.
        head_name: of the module that makes the logits, without what it lies in.
        authors_names: the names in the authors' state dict and what becomes of them. A network that has any also has a
            static method `convert_authors`, from that state dict to its own.
        converter_options: further arguments of `convert_authors`; an instance may have its own.
        small: arguments that make the network small enough to try software with; the tests use them.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        multiple: number of pixels that the sides of the image that `logits` gets are multiples of.

    Raises:
        UserError: a number of channels is below 1; or, from `forward`, the image has another number of channels.
    """

    paper: ClassVar[str]
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    fixed_img_size = False
    scriptable = True
    exportable = True
    repeats_grey = False
    encoders: ClassVar[Mapping[str, str]] = {}
    stem_names: ClassVar[Sequence[str]] = ()
    head_name = "head"
    authors_names: ClassVar[Names] = ()
    converter_options: Mapping[str, Any] = {}
    small: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, in_channels: int, out_channels: int, multiple: int = 1) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels)
        self.in_channels = in_channels
        self.stem_channels = 3 if self.repeats_grey and in_channels == 1 else in_channels
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to logits (B, out_channels, H, W)."""
        height, width = x.shape[2], x.shape[3]
        x = stem_image(x, self.in_channels, self.stem_channels)
        if height % self.multiple or width % self.multiple:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        return self.logits(x)[:, :, :height, :width]

    def logits(self, x: Tensor) -> Tensor:
        """Image (B, stem_channels, H, W), zero-padded at the bottom and right to `multiple`, to logits of its size."""
        raise NotImplementedError


def stem_image(x: Tensor, in_channels: int, stem_channels: int) -> Tensor:
    """Image (B, in_channels, H, W) with as many channels as the stem takes, by repeating a single one.

    Raises:
        UserError: the image has another number of channels.
    """
    if x.shape[1] != in_channels:
        raise UserError(
            f"The image has {x.shape[1]} channels but the network expects {in_channels}: "
            "build it with in_channels of the image."
        )
    return x if stem_channels == in_channels else x.expand(-1, stem_channels, -1, -1)


def check_counts(**counts: int) -> None:
    """Raise UserError for a number below 1."""
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name}={value} is not possible: give a number of at least 1.")


def check_rates(**rates: float) -> None:
    """Raise UserError for a rate that is not from 0 to below 1."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{name}={rate} is not a rate: give a number from 0 to below 1.")


def image_sides(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels; raises UserError for what is no whole number of at least 1, or two of them."""
    sides: Any = [img_size] * 2 if isinstance(img_size, Integral) else img_size
    if (
        not isinstance(sides, Sequence)
        or len(sides) != 2
        or not all(isinstance(n, Integral) and int(n) > 0 for n in sides)
    ):
        raise UserError(f"img_size={img_size} is not possible: give a side, or (height, width), of at least 1 pixel.")
    return int(sides[0]), int(sides[1])
