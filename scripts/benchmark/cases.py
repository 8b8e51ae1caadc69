"""The networks that are compared: each family's published variants, and the baselines as this package builds them."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

import networks
from networks.models import model_class, variant_options


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


def published(name: str, title: str, model: str, variant: str | None = None, **channels: int) -> Case:
    """A model, by its name in `networks.list_models`, as one of its published variants."""
    options = variant_options(model, variant) if variant else {}
    return Case(name, title, model_class(model).__name__, options, **channels)


CASES = (
    published("swin_unet_tiny", "Swin-Unet", "swin_unet", "tiny"),
    published("levit_unet_128s", "LeViT-UNet-128s", "levit_unet", "128s", in_channels=1),
    published("levit_unet_192", "LeViT-UNet-192", "levit_unet", "192", in_channels=1),
    published("levit_unet_384", "LeViT-UNet-384", "levit_unet", "384", in_channels=1),
    published("cs_unet_resnet50", "CS-UNet, ResNet-50", "cs_unet", "resnet50", out_channels=3),
    published("cs_unet_efficientnet-b4", "CS-UNet, EfficientNet-B4", "cs_unet", "efficientnet-b4", out_channels=3),
    published(
        "cs_unet_vgg16_bn_2222", "CS-UNet, VGG-16, depths 2, 2, 2, 2", "cs_unet", "vgg16_bn_2222", out_channels=3
    ),
    published("hiformer_s", "HiFormer-S", "hiformer", "S"),
    published("hiformer_b", "HiFormer-B", "hiformer", "B"),
    published("hiformer_l", "HiFormer-L", "hiformer", "L"),
    published("transdeeplab_3level", "TransDeepLab, 3 levels", "transdeeplab", "3level"),
    published("transunet_r50_b16", "TransUNet, R50-ViT-B/16", "transunet", "r50_b16"),
    published("unet", "U-Net, ResNet-50", "unet"),
    published("unet_plusplus", "U-Net++, ResNet-50", "unet_plusplus"),
    published("deeplabv3_plus", "DeepLabV3+, ResNet-50", "deeplabv3_plus"),
    published("attention_unet", "Attention U-Net", "attention_unet"),
)
