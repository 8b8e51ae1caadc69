"""Segmentation networks of medical imaging and microscopy, one family per module."""

from networks.baselines import AttentionUnet, DeepLabV3Plus, Unet, UnetPlusPlus
from networks.cs_unet import CSUnet
from networks.hiformer import HiFormer
from networks.levit_unet import LevitUnet
from networks.swin_unet import SwinUnet
from networks.transdeeplab import TransDeepLab
from networks.transunet import TransUnet

__all__ = [
    "AttentionUnet",
    "CSUnet",
    "DeepLabV3Plus",
    "HiFormer",
    "LevitUnet",
    "SwinUnet",
    "TransDeepLab",
    "TransUnet",
    "Unet",
    "UnetPlusPlus",
]
