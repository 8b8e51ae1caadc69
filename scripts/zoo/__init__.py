"""Bundles for model zoos: packing, checking and handing over. Command line: ``python -m scripts.zoo``."""
