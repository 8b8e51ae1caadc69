"""Public lists of packages whose modules are imported when something of them is first asked for (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def public_list(package: str, modules: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """What a package assigns to `__getattr__`, `__dir__` and `__all__`.

    Args:
        package: its name.
        modules: public name to the module of the package that defines it.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return find, lambda: sorted(modules), sorted(modules)
