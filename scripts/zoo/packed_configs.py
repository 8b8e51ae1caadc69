"""Turning the repository's configs into those of a packed bundle, which find and call the code beside them.

A config is not told where it is: MONAI puts a bundle's folder on Python's path only when ``run`` starts, which is too
late for a network, and ``monai.bundle.load`` and the exports never do. But all of them are called with ``config_file``,
and a workflow keeps ``config_root_path``, so the id ``here`` finds the bundle by looking at its callers. MONAI Label
does neither, but puts the folder on the path itself and sets ``bundle_root``. The id ``code`` is the imported package,
and whatever came from ``networks`` is reached through it (``$@code.SwinUnet``), so that nothing is imported before the
folder is known.
"""

import ast
import re
from typing import Any

from networks.errors import UserError
from scripts.zoo.carried import SOURCE

Config = dict[str, Any]
ANCHOR = "bundle_root"
# pkgutil and not importlib: MONAI parses every text with "import" in it as Python, references and all
HELPERS = ["$import inspect", "$import pkgutil", "$import sys"]
REFERENCE = re.compile(r"@\w*(?:(?:::|#)\w+)*")


def used_by(contents: list[Config]) -> tuple[set[str], set[str]]:
    """What configs use of ``networks``: names of the package itself, and modules.

    Raises:
        UserError: an import or a ``_target_`` in a form that cannot be packed.
    """
    names: set[str] = set()
    modules: set[str] = set()
    for content in contents:
        modules |= set(_aliases(content).values())
        for target in _targets(content):
            module, _, name = target.rpartition(".")
            if module == SOURCE:
                names.add(name)
            else:
                modules.add(module)
    return names, modules


def pack_config(content: Config, package: str, modules: dict[str, str]) -> Config:
    """One config of a packed bundle.

    Args:
        content: the repository's config.
        package: name of the carried package.
        modules: id to module of ``networks``, such as {"workflow": "networks.workflow"}; see :func:`module_ids`.

    Raises:
        UserError: the config has an id of the name of one that is added.
    """
    packed = _rewrite(content, {module: name for name, module in modules.items()}, set(modules))
    own = [item for item in content.get("imports", []) if SOURCE in _imported(item)]
    if own:
        packed["imports"] = [item for item in content["imports"] if item not in own] + HELPERS
    if ANCHOR not in content:
        return packed
    ids = _code_ids(package, _aliases(content))
    clash = (ids.keys() - {ANCHOR}) & content.keys()
    if clash:
        raise UserError(f"The id '{min(clash)}' is needed for the bundle's own code; rename it in the configs.")
    before, after = packed.items(), list(packed).index(ANCHOR)
    return dict([*list(before)[:after], *ids.items(), *list(before)[after + 1 :]])


def module_ids(contents: list[Config]) -> dict[str, str]:
    """Id to module for every module that the configs import under a name."""
    found: dict[str, str] = {}
    for content in contents:
        for alias, module in _aliases(content).items():
            if found.setdefault(alias, module) != module:
                raise UserError(f"The configs import both {found[alias]} and {module} as '{alias}'; rename one.")
    return found


def _code_ids(package: str, modules: dict[str, str]) -> Config:
    callers = (
        "*(os.path.dirname(os.path.dirname(os.path.abspath(str(file)))) for info in inspect.stack(0) "
        "for file in monai.utils.ensure_tuple(info.frame.f_locals.get('config_file') or ()))",
        "*(os.path.dirname(os.path.abspath(str(info.frame.f_locals['self'].__dict__['config_root_path']))) "
        "for info in inspect.stack(0) "
        "if 'config_root_path' in getattr(info.frame.f_locals.get('self'), '__dict__', ()))",
    )
    is_here = f"os.path.isfile(os.path.join(folder, '{package}', '__init__.py'))"
    return {
        "here": f"$next((folder for folder in [{', '.join(callers)}] if {is_here}), os.path.abspath('.'))",
        ANCHOR: "@here",
        "code": f"$[sys.path.extend({{@here, os.path.abspath(@{ANCHOR})}}.difference(sys.path)), "
        f"pkgutil.resolve_name('{package}')][1]",
        **{
            name: f"$pkgutil.resolve_name(@code.__name__ + '{module[len(SOURCE) :]}')"
            for name, module in modules.items()
        },
    }


def _rewrite(item: Any, ids: dict[str, str], aliases: set[str]) -> Any:
    if isinstance(item, dict):
        return {
            key: _target(value, ids) if key == "_target_" and isinstance(value, str) else _rewrite(value, ids, aliases)
            for key, value in item.items()
        }
    if isinstance(item, list):
        return [_rewrite(part, ids, aliases) for part in item]
    if isinstance(item, str) and item.startswith("$") and not _imported(item):
        return _expression(item, aliases)
    return item


def _target(target: str, ids: dict[str, str]) -> str:
    module, _, name = target.rpartition(".")
    if module == SOURCE:
        return f"$@code.{name}"
    if module in ids:
        return f"$@{ids[module]}.{name}"
    if module.startswith(f"{SOURCE}."):
        return f"$pkgutil.resolve_name(@code.__name__ + '{module[len(SOURCE) :]}').{name}"
    return target


def _expression(text: str, aliases: set[str]) -> str:
    """Names of imported modules become references to ids: ``workflow.f()`` becomes ``@workflow.f()``."""
    # references are no Python; names of the same length keep every column where it is
    source = REFERENCE.sub(lambda match: "_" * len(match[0]), text[1:])
    encoded = text[1:].encode()
    names = [node for node in ast.walk(ast.parse(source, mode="eval")) if isinstance(node, ast.Name)]
    for node in sorted((n for n in names if n.id in aliases), key=lambda n: -n.col_offset):
        encoded = encoded[: node.col_offset] + b"@" + encoded[node.col_offset :]
    return "$" + encoded.decode()


def _imported(item: Any) -> list[str]:
    """Top-level packages of an import statement, or nothing."""
    if not (isinstance(item, str) and item.startswith("$") and re.match(r"\$\s*(import|from)\s", item)):
        return []
    (statement,) = ast.parse(item[1:].strip()).body
    if isinstance(statement, ast.ImportFrom):
        return [(statement.module or "").split(".")[0]]
    return [alias.name.split(".")[0] for alias in statement.names]


def _aliases(content: Config) -> dict[str, str]:
    """Name to module of the imports from ``networks``."""
    found = {}
    for item in content.get("imports", []):
        if SOURCE not in _imported(item):
            continue
        (statement,) = ast.parse(item[1:].strip()).body
        if not isinstance(statement, ast.Import) or not statement.names[0].asname:
            raise UserError(f"'{item}' cannot be packed; write '$import networks.<module> as <name>'.")
        found[statement.names[0].asname] = statement.names[0].name
    return found


def _targets(item: Any) -> list[str]:
    if isinstance(item, dict):
        own = item.get("_target_")
        found = [own] if isinstance(own, str) and own.startswith(f"{SOURCE}.") else []
        return found + [target for value in item.values() for target in _targets(value)]
    if isinstance(item, list):
        return [target for value in item for target in _targets(value)]
    return []
