"""The part of ``networks`` that a bundle carries, under a name that no other bundle's code has.

Why a name of its own: Python keeps one module per name and process. If two bundles both called their code ``networks``,
the second to be loaded would silently run the first one's. The name here holds bundle, version and a digest of the
code, so that equal names are equal code, and bundles of any versions work side by side. How a config finds its code
says ``scripts.zoo.packed_configs``.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from networks.errors import UserError
from scripts.zoo.style import check_tools, formatted, with_sorted_imports

SOURCE = "networks"
DIGITS = 8


@dataclass(frozen=True)
class CarriedCode:
    """Python files of a package.

    Attributes:
        package: its name.
        modules: names of the modules that it was made of, such as "networks.layers.swin".
        files: text by path, such as "swin_unet_v0_1_0_1a2b3c4d/layers/swin.py".
    """

    package: str
    modules: tuple[str, ...]
    files: dict[str, str]


def carry(root: Path, name: str, version: str, classes: Iterable[str], modules: Iterable[str]) -> CarriedCode:
    """Collect what a bundle needs of ``networks`` and give it a name of its own.

    Args:
        root: folder that ``networks`` is in.
        name: the bundle's.
        version: the bundle's.
        classes: names that its configs take from ``networks`` itself.
        modules: modules of ``networks`` that its configs use.

    Raises:
        UserError: a name that ``networks`` does not have, an import that cannot be renamed, or the tools for the
            zoo's style are not installed.
    """
    check_tools()
    public = _public_list(_path(root, SOURCE).read_text(encoding="utf-8"))
    unknown = sorted(set(classes) - public.keys())
    if unknown:
        raise UserError(f"The configs of {name} use networks.{unknown[0]}, which networks/__init__.py does not have.")
    exported = {cls: f"{SOURCE}.{public[cls]}" for cls in sorted(classes)}
    needed = follow(root, [*modules, *exported.values()])
    sources = {module: _path(root, module).read_text(encoding="utf-8") for module in needed}
    sources[SOURCE] = _carried_list(exported)
    digest = hashlib.sha256()
    for module, text in sorted(sources.items()):
        digest.update(f"{module}\0{text}\0".encode())
    package = f"{name}_v{version.replace('.', '_')}_{digest.hexdigest()[:DIGITS]}"
    files = {}
    for module, text in sorted(sources.items()):
        path = _path(root, module).relative_to(root).as_posix()
        files[package + path[len(SOURCE) :]] = with_sorted_imports(rename_imports(formatted(text), package, path))
    return CarriedCode(package, tuple(sorted(sources)), files)


def follow(root: Path, modules: Iterable[str]) -> list[str]:
    """These modules and all of ``networks`` that they import, directly or not, with the packages around them.

    A package imports what is in its public list. That of ``networks`` itself, with every network, is left out.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or module == SOURCE:
            continue
        found.add(module)
        waiting.append(module.rpartition(".")[0])
        text = _path(root, module).read_text(encoding="utf-8")
        waiting += [f"{module}.{name}" for name in _public_list(text).values()]
        for node, names in _imports(text, module):
            waiting += names
            if isinstance(node, ast.ImportFrom):
                # "from package import module" names a module only here
                waiting += [f"{names[0]}.{a.name}" for a in node.names if is_module(root, f"{names[0]}.{a.name}")]
    return sorted(found)


def is_module(root: Path, module: str) -> bool:
    """Whether there is a file for a module below ``root``."""
    base = root.joinpath(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def rename_imports(text: str, package: str, path: str) -> str:
    """The same source importing from ``package`` instead of ``networks``.

    Only the module's name in each statement changes.

    Raises:
        UserError: ``import networks...`` binds the name ``networks``, which would have to change everywhere.
    """
    lines = text.splitlines(keepends=True)
    for node, _ in _imports(text, path):
        if isinstance(node, ast.Import):
            raise UserError(
                f"{path}, line {node.lineno}: write 'from networks... import ...' so that it can be packed."
            )
        line = lines[node.lineno - 1]
        start = line.index(SOURCE, node.col_offset + len("from"))
        lines[node.lineno - 1] = line[:start] + package + line[start + len(SOURCE) :]
    return "".join(lines)


def _imports(text: str, name: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, list[str]]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise UserError(f"{name}, line {node.lineno}: write an absolute import so that it can be packed.")
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        ours = [n for n in names if n == SOURCE or n.startswith(f"{SOURCE}.")]
        if ours:
            yield node, ours


def _path(root: Path, module: str) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _public_list(text: str) -> dict[str, str]:
    """Public name to the module that it comes from, as the dictionaries for ``networks.lazy`` have them."""
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["PUBLIC"]:
            found |= ast.literal_eval(node.value)
    return found


def _carried_list(exported: Mapping[str, str]) -> str:
    """``__init__.py`` with only what is carried."""
    imports = "".join(f"from {module} import {name}\n" for name, module in exported.items())
    listed = "".join(f'    "{name}",\n' for name in exported)
    return f'"""The network of this bundle and what its configs call."""\n\n{imports}\n__all__ = [\n{listed}]\n'
