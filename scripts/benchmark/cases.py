"""The networks that are compared: each family's published variants, and the baselines as this package builds them."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

import networks


@dataclass(frozen=True)
class Case:
    """A network with the arguments of one published variant.

    Attributes:
        name: for files and command lines; that of the stored outputs in `tests/reference`, where there are any.
        title: as people write it.
        network: class in `networks`.
        options: its arguments beside channels and size.
        in_channels: channels of the image, as the authors have them.
        out_channels: classes.
    """

    name: str
    title: str
    network: str
    options: dict[str, Any] = field(default_factory=dict)
    in_channels: int = 3
    out_channels: int = 9

    def build(self, img_size: int = 224) -> nn.Module:
        """The network, freshly initialised."""
        return getattr(networks, self.network)(self.in_channels, self.out_channels, img_size, **self.options)


INTERMEDIATE = {"encoder_name": "vgg16_bn", "depths": (2, 2, 2, 2)}

CASES = (
    Case("swin_unet_tiny", "Swin-Unet", "SwinUnet"),
    Case("levit_unet_128s", "LeViT-UNet-128s", "LevitUnet", {"variant": "128s"}, in_channels=1),
    Case("levit_unet_192", "LeViT-UNet-192", "LevitUnet", {"variant": "192"}, in_channels=1),
    Case("levit_unet_384", "LeViT-UNet-384", "LevitUnet", {"variant": "384"}, in_channels=1),
    Case("cs_unet_resnet50", "CS-UNet, ResNet-50", "CSUnet", {"encoder_name": "resnet50"}, out_channels=3),
    Case(
        "cs_unet_efficientnet-b4",
        "CS-UNet, EfficientNet-B4",
        "CSUnet",
        {"encoder_name": "efficientnet-b4"},
        out_channels=3,
    ),
    Case("cs_unet_vgg16_bn_2222", "CS-UNet, VGG-16, depths 2, 2, 2, 2", "CSUnet", INTERMEDIATE, out_channels=3),
    Case("hiformer_s", "HiFormer-S", "HiFormer", {"variant": "S"}),
    Case("hiformer_b", "HiFormer-B", "HiFormer", {"variant": "B"}),
    Case("hiformer_l", "HiFormer-L", "HiFormer", {"variant": "L"}),
    Case("transdeeplab_3level", "TransDeepLab, 3 levels", "TransDeepLab", {"levels": 3}),
    Case("transunet_r50_b16", "TransUNet, R50-ViT-B/16", "TransUnet"),
    Case("unet", "U-Net, ResNet-50", "Unet"),
    Case("unet_plusplus", "U-Net++, ResNet-50", "UnetPlusPlus"),
    Case("deeplabv3_plus", "DeepLabV3+, ResNet-50", "DeepLabV3Plus"),
    Case("attention_unet", "Attention U-Net", "AttentionUnet"),
)
