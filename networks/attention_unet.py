"""Attention U-Net: a U-Net whose skip connections pass attention gates.

Paper: Oktay et al., https://arxiv.org/abs/1804.03999. Built with https://github.com/Project-MONAI/MONAI (Apache-2.0).
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import monai.networks.nets
from torch import Tensor, nn

from networks.base import SegmentationNetwork, check_rates
from networks.errors import UserError
from networks.layers.conv import quicken_convs


class AttentionUnet(SegmentationNetwork):
    """Attention U-Net for images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: accepted for uniformity; nothing depends on it.
        channels: channels of every resolution, finest first.
        strides: reduction from each resolution to the next, one fewer.
        dropout: dropout rate after the normalisations.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    paper = "https://arxiv.org/abs/1804.03999"
    stem_names = ("network.model.0",)
    head_name = "network.model.2"
    small: ClassVar[dict] = {"channels": (8, 12, 16), "strides": (2, 2)}
    __jit_unused_properties__ = ("encoder",)  # a list made anew at every call is nothing to compile

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        strides: Sequence[int] = (2, 2, 2, 2),
        dropout: float = 0.0,
    ) -> None:
        if len(channels) < 2 or len(strides) != len(channels) - 1:
            raise UserError(
                f"channels={tuple(channels)} and strides={tuple(strides)} do not fit: give two or more channels and "
                "one stride between any two."
            )
        if min(channels) < 2 or min(strides) < 1:
            raise UserError(
                f"channels={tuple(channels)} and strides={tuple(strides)} are not possible: give channels of at least "
                "2 and strides of at least 1."
            )
        check_rates(dropout=dropout)
        super().__init__(in_channels, out_channels, multiple=math.prod(strides))
        self.network = monai.networks.nets.AttentionUnet(
            2, in_channels, out_channels, channels, strides, dropout=dropout
        )
        quicken_convs(self)

    @property
    def encoder(self) -> nn.ModuleList:
        """The layers that every resolution is reached by, finest first, to be frozen or counted as with other networks.

        MONAI nests each resolution in the next finer one, so they are no module of their own, and the names in the
        state dict stay MONAI's.
        """
        level: Any  # MONAI's types do not know its blocks
        head, level, _ = self.network.model
        blocks = [head]
        while isinstance(level.submodule, nn.Sequential):
            block, level = level.submodule
            blocks.append(block)
        return nn.ModuleList([*blocks, level.submodule])

    def logits(self, x: Tensor) -> Tensor:
        return self.network(x)
