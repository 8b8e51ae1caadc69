"""Segmentation networks of medical imaging and microscopy, one family per module."""

from networks.hiformer import HiFormer
from networks.swin_unet import SwinUnet
from networks.transdeeplab import TransDeepLab

__all__ = ["HiFormer", "SwinUnet", "TransDeepLab"]
