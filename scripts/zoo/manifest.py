"""``manifest.json``: what a packed bundle consists of, with the SHA-256 of every file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from networks.workflow.files import file_hash
from scripts.zoo.carried import CarriedCode

MANIFEST = "manifest.json"
LARGE_FILES = "large_files.yml"
MODEL = "models/model.pt"
FORMAT = 1
# at a bundle's top: folders of runs, and what the Hugging Face Hub adds
WRITTEN = ("data", "eval", "logs", "models", "README.md", ".gitattributes", ".cache")


def make_manifest(name: str, version: str, code: CarriedCode, files: Mapping[str, bytes | Path]) -> dict[str, Any]:
    """The manifest of files by path; those of weights are read in parts."""
    return {
        "format": FORMAT,
        "bundle": name,
        "version": version,
        "code": {"package": code.package, "modules": list(code.modules)},
        "files": {path: checksum(content) for path, content in sorted(files.items())},
    }


def checksum(content: bytes | Path) -> str:
    """SHA-256, hexadecimal."""
    return file_hash(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def manifest_problems(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What of a folder is not as its manifest says; what runs write into the folder is left alone.

    Returns:
        A sentence for every file that is missing, changed or not listed.
    """
    listed = manifest.get("files")
    if not isinstance(listed, dict) or manifest.get("format") != FORMAT:
        return [f"{MANIFEST} is not of format {FORMAT}."]
    problems = []
    for path, expected in sorted(listed.items()):
        file = folder / path
        if not file.is_file():
            problems.append(f"{path} is missing.")
        elif file_hash(file) != expected:
            problems.append(f"{path} is not the file that was packed (its SHA-256 differs).")
    present = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    packed = {path.as_posix() for path in present if path.parts[0] not in WRITTEN and "__pycache__" not in path.parts}
    problems += [f"{path} is not in {MANIFEST}." for path in sorted(packed - listed.keys() - {MANIFEST})]
    return problems


def large_files_yaml(path: str, url: str, sha256: str) -> str:
    """``large_files.yml`` as ``monai.bundle download_large_files`` reads it."""
    return f'large_files:\n  - path: "{path}"\n    url: "{url}"\n    hash_val: "{sha256}"\n    hash_type: "sha256"\n'
