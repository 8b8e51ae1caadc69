"""Data sets in the one layout that every bundle reads: phantoms, and converters of real data, one file each."""
