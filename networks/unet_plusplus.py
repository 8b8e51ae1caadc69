"""UNet++ on an encoder of choice: a U-Net with nested skip connections.

Paper: Zhou et al., https://arxiv.org/abs/1807.10165. Built with
https://github.com/qubvel-org/segmentation_models.pytorch (MIT licence), which puts it on many encoders.
"""

from collections.abc import Sequence
from typing import ClassVar

import segmentation_models_pytorch as smp

from networks.unet import SmpNetwork


class UnetPlusPlus(SmpNetwork):
    """UNet++ on an encoder of choice, for images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: accepted for uniformity; nothing depends on it.
        encoder_name: one of smp's encoders, such as "resnet50", or "tu-" and the name of a timm model.
        encoder_weights: weights that smp downloads while it builds the network, such as "imagenet"; None for none.
        **kwargs: further arguments of `segmentation_models_pytorch.UnetPlusPlus`.

    Raises:
        UserError: as `SmpNetwork`.
    """

    paper = "https://arxiv.org/abs/1807.10165"
    small: ClassVar[dict] = {"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 8, 8)}
    scriptable = False  # smp's decoder looks its blocks up by computed names

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        encoder_name: str = "resnet50",
        encoder_weights: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(smp.UnetPlusPlus, in_channels, out_channels, encoder_name, encoder_weights, **kwargs)
