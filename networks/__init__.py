"""Segmentation networks of medical imaging and microscopy, one family per module."""

from networks.swin_unet import SwinUnet
from networks.transunet import TransUnet

__all__ = ["SwinUnet", "TransUnet"]
