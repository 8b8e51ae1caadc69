"""Segmentation networks of medical imaging and microscopy, one family per module."""
