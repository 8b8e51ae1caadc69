"""Measuring label maps: ``python -m scripts.measure``."""
