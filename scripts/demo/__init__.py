"""A page in the browser to try networks on one's own images: ``python -m scripts.demo``."""
