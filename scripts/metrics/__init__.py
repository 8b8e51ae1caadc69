"""Scores of saved label maps, summaries and comparisons."""
