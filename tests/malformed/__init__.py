"""Inputs that are wrong in one way each: what is made, what is run on it, and what its sentence has to name.

Every module yields cases; ``tests/test_malformed.py`` runs them.
"""

from tests.malformed import data, geometry, options, pictures, tools, weights
from tests.malformed.case import Case

CASES: list[Case] = [
    *data.contract(),
    *data.files(),
    *geometry.cases(),
    *pictures.cases(),
    *weights.cases(),
    *options.values(),
    *options.command_lines(),
    *tools.cases(),
]
