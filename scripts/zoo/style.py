"""The style that MONAI's model zoo asks of Python files, by its own tools and with its settings."""

import importlib.util
from functools import cache

from networks.errors import UserError

LINE = 120


def check_tools() -> None:
    """Raise UserError if the tools are not installed."""
    missing = [name for name in ("black", "isort") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"Packing needs {' and '.join(missing)}; run: python -m pip install 'segmentation-bundles[zoo]'"
        )


@cache
def formatted(text: str) -> str:
    """A Python file as ``black --skip-magic-trailing-comma`` leaves it; bundles carry mostly the same files."""
    import black

    versions = {black.TargetVersion.PY37, black.TargetVersion.PY38, black.TargetVersion.PY39}
    return black.format_str(text, mode=black.Mode(versions, LINE, magic_trailing_comma=False))


def with_sorted_imports(text: str) -> str:
    """A formatted file as ``isort`` leaves it, whose order and breaks depend on the name of a bundle's package."""
    import isort

    # the zoo's settings know no package within a bundle, so isort takes it for an installed one
    return isort.code(text, config=isort.Config(profile="black", line_length=LINE, known_first_party=("models",)))
