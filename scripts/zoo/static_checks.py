"""Checks of a bundle's files that run nothing of it."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow.files import file_hash
from scripts.opened_bundle import SHIPPED
from scripts.render.bundle import NO_WEIGHTS
from scripts.zoo.manifest import LARGE_FILES, MANIFEST, MODEL, manifest_problems
from scripts.zoo.packed_configs import REFERENCE

SCHEMA = Path(__file__).with_name("metadata_schema.json")
REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md", MANIFEST)
ABSOLUTE = re.compile(r"(/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\|file:)\S*")
VERSION = re.compile(r"[0-9](\.[0-9])*")


class SkippedError(UserError):
    """A check that cannot be made here, with how it could be."""


def static_checks(schema: str = "") -> dict[str, Callable[[Path], str]]:
    """Check by name; each takes the bundle's folder, returns a detail and raises ValueError.

    Args:
        schema: file of a JSON schema for the metadata, this project's by default.
    """
    return {
        "manifest": check_manifest,
        "files": check_files,
        "JSON": check_json,
        "metadata schema": lambda folder: check_schema(folder, Path(str(schema)) if schema else SCHEMA),
        "version": check_version,
        "paths": check_paths,
        "weights": check_weights,
    }


def check_manifest(folder: Path) -> str:
    """Every file is there and has the SHA-256 it was packed with."""
    manifest = _read(folder / MANIFEST)
    problems = manifest_problems(folder, manifest)
    if problems:
        raise UserError(" ".join(problems))
    metadata = _metadata(folder)
    for key, found in (("bundle", folder.name), ("version", metadata.get("version"))):
        if manifest.get(key) != found:
            raise UserError(f"{MANIFEST} is of {key} {manifest.get(key)}, but this is {found}.")
    return f"{len(manifest['files'])} files with the right SHA-256"


def check_files(folder: Path) -> str:
    """What the zoo wants is there."""
    missing = [path for path in REQUIRED if not (folder / path).is_file() or not (folder / path).stat().st_size]
    if missing:
        raise UserError(f"{', '.join(missing)} missing or empty.")
    return ", ".join(REQUIRED)


def check_json(folder: Path) -> str:
    """Configs are objects, indented by 4."""
    files = _json_files(folder)
    for path in files:
        content, text = _read(path), path.read_text(encoding="utf-8").rstrip("\n")
        if text not in (json.dumps(content, indent=4), json.dumps(content, indent=4, ensure_ascii=False)):
            raise UserError(f"{path.relative_to(folder)} is not indented by 4 (as json.dumps does), or repeats a key.")
    return f"{len(files)} files"


def check_schema(folder: Path, schema: Path) -> str:
    """The metadata are as their schema wants them."""
    try:
        import jsonschema  # only verifying needs it
    except ImportError as error:
        raise SkippedError("not made, since jsonschema is not installed: python -m pip install jsonschema.") from error
    validator = jsonschema.Draft201909Validator(_read(schema))
    errors = sorted(validator.iter_errors(_metadata(folder)), key=lambda error: error.json_path)
    if errors:
        raise UserError(" ".join(f"metadata.json, {error.json_path}: {error.message[:200]}." for error in errors[:5]))
    return schema.name


def check_version(folder: Path) -> str:
    """The version stands in the changelog; MONAI compares versions as texts, so each part is one digit."""
    metadata = _metadata(folder)
    version, changelog = metadata.get("version", ""), metadata.get("changelog", {})
    if version not in changelog:
        raise UserError(f"Version {version} is missing in the changelog of metadata.json; say there what is new.")
    if not VERSION.fullmatch(version):
        raise UserError(f"Version {version} has a part of several digits, which MONAI would order wrongly.")
    if any(other > version for other in changelog):
        raise UserError(f"The changelog of metadata.json has a version above {version}.")
    return version


def check_paths(folder: Path) -> str:
    """No absolute path in any config."""
    for path in _json_files(folder):
        for where, text in _texts(_read(path)):
            absolute = next((part for part in _path_candidates(text) if ABSOLUTE.fullmatch(part)), None)
            if absolute is not None:
                raise UserError(
                    f"{path.relative_to(folder)}, {where}: '{absolute}' is an absolute path; "
                    "paths of a bundle start at bundle_root or at the working folder."
                )
    return "none absolute"


def check_weights(folder: Path) -> str:
    """Weights come with what their runs recorded, and a bundle without says so."""
    metadata, model = _metadata(folder), folder / MODEL
    record = metadata.get("trained_weights")
    if not model.is_file() and "shipped_weights" in metadata:
        for name, shipped in metadata["shipped_weights"].items():
            path = folder / SHIPPED / f"{name}.safetensors"
            if not path.is_file() or file_hash(path) != shipped["checkpoint"]:
                raise UserError(
                    f"metadata.json describes {path.relative_to(folder)}, which is missing or another file."
                )
        return f"{', '.join(metadata['shipped_weights'])} in {SHIPPED}"
    if not model.is_file() and not (folder / LARGE_FILES).is_file():
        if record is not None or NO_WEIGHTS not in metadata.get("intended_use", ""):
            raise UserError(f"There is no {MODEL}; intended_use of metadata.json must say: {NO_WEIGHTS}")
        return "none, and the metadata say so"
    if not isinstance(record, dict) or "data_set" not in record:
        raise UserError(f"metadata.json does not say what {MODEL} was trained on (trained_weights).")
    checksum = file_hash(model) if model.is_file() else record["checkpoint"]
    evaluations = metadata.get("evaluations", [])
    if any(part.get("checkpoint") != checksum for part in [record, *evaluations]):
        raise UserError(f"metadata.json describes other weights than {MODEL} (their SHA-256 differ).")
    scored = ", ".join(f"{part['data_set']} {part.get('split', '')}".strip() for part in evaluations)
    return f"trained on {record['data_set']['name']}, evaluated on {scored or 'nothing'}"


def _metadata(folder: Path) -> dict[str, Any]:
    return _read(folder / "configs" / "metadata.json")


def _json_files(folder: Path) -> list[Path]:
    return sorted((folder / "configs").rglob("*.json"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.name} is missing.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} holds a {type(content).__name__}; expected an object.")
    return content


def _texts(item: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a config with its id."""
    if isinstance(item, str):
        yield where, item
    elif isinstance(item, dict | list):
        for key, value in item.items() if isinstance(item, dict) else enumerate(item):
            yield from _texts(value, f"{where}::{key}" if where else str(key))


def _path_candidates(text: str) -> list[str]:
    """A plain text itself; of an expression the texts in it, without those that are added to another: '/models'."""
    if not text.startswith("$"):
        return [text]
    try:
        tree = ast.parse(REFERENCE.sub(lambda match: "_" * len(match[0]), text[1:].strip()))
    except SyntaxError:
        return [text]
    added = {id(node.right) for node in ast.walk(tree) if isinstance(node, ast.BinOp)}
    added |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in constants if id(node) not in added]
