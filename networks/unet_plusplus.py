"""UNet++ on an encoder of choice: a U-Net with nested skip connections.

Paper: Zhou et al., https://arxiv.org/abs/1807.10165. Built with
https://github.com/qubvel-org/segmentation_models.pytorch (MIT licence), which puts it on many encoders.
"""

from typing import ClassVar

import segmentation_models_pytorch as smp

from networks.unet import SmpNetwork


class UnetPlusPlus(SmpNetwork):
    """UNet++; arguments and errors as `SmpNetwork`, further arguments as `segmentation_models_pytorch.UnetPlusPlus`."""

    architecture = smp.UnetPlusPlus
    paper = "https://arxiv.org/abs/1807.10165"
    small: ClassVar[dict] = {"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 8, 8)}
    scriptable = False  # smp's decoder looks its blocks up by computed names
