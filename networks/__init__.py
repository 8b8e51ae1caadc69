"""Segmentation networks of medical imaging and microscopy, one family per module."""

from networks.levit_unet import LevitUnet
from networks.swin_unet import SwinUnet

__all__ = ["LevitUnet", "SwinUnet"]
