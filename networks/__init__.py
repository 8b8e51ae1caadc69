"""Segmentation networks of medical imaging and microscopy, one per module; each is imported when first asked for."""

from typing import TYPE_CHECKING

from networks.lazy import public_list

if TYPE_CHECKING:  # for editors and type checkers, which do not run what is below
    from networks.attention_unet import AttentionUnet as AttentionUnet
    from networks.cs_unet import CSUnet as CSUnet
    from networks.deeplabv3_plus import DeepLabV3Plus as DeepLabV3Plus
    from networks.hiformer import HiFormer as HiFormer
    from networks.levit_unet import LevitUnet as LevitUnet
    from networks.models import create_model as create_model
    from networks.models import list_models as list_models
    from networks.models import list_variants as list_variants
    from networks.swin_unet import SwinUnet as SwinUnet
    from networks.transdeeplab import TransDeepLab as TransDeepLab
    from networks.transunet import TransUnet as TransUnet
    from networks.unet import Unet as Unet
    from networks.unet_plusplus import UnetPlusPlus as UnetPlusPlus

PUBLIC = {  # name: its module, whose name is for networks also that of the model and of the bundle
    "AttentionUnet": "attention_unet",
    "CSUnet": "cs_unet",
    "DeepLabV3Plus": "deeplabv3_plus",
    "HiFormer": "hiformer",
    "LevitUnet": "levit_unet",
    "SwinUnet": "swin_unet",
    "TransDeepLab": "transdeeplab",
    "TransUnet": "transunet",
    "Unet": "unet",
    "UnetPlusPlus": "unet_plusplus",
    "create_model": "models",
    "list_models": "models",
    "list_variants": "models",
}
NETWORKS = {name: module for name, module in PUBLIC.items() if module != "models"}

__getattr__, __dir__, __all__ = public_list(__name__, PUBLIC)
