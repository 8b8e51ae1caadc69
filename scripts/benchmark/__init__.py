"""Time, memory and work of the networks: ``python -m scripts.benchmark networks``."""
