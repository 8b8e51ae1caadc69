"""Segmenting files, folders and DICOM series with a bundle: ``python -m scripts.predict``."""
