"""From a folder of micrographs to a corpus for classification: ``python -m scripts.corpus``."""
