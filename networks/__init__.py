"""Segmentation networks of medical imaging and microscopy, one family per module."""

from networks.baselines import AttentionUnet, DeepLabV3Plus, Unet, UnetPlusPlus
from networks.cs_unet import CSUnet
from networks.levit_unet import LevitUnet
from networks.swin_unet import SwinUnet
from networks.transunet import TransUnet

__all__ = [
    "AttentionUnet",
    "CSUnet",
    "DeepLabV3Plus",
    "LevitUnet",
    "SwinUnet",
    "TransUnet",
    "Unet",
    "UnetPlusPlus",
]
