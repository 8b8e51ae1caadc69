"""Segmentation networks of medical imaging and microscopy, one family per module."""

from networks.baselines import AttentionUnet, DeepLabV3Plus, Unet, UnetPlusPlus
from networks.swin_unet import SwinUnet
from networks.transunet import TransUnet

__all__ = ["AttentionUnet", "DeepLabV3Plus", "SwinUnet", "TransUnet", "Unet", "UnetPlusPlus"]
