"""Render the bundles' configs and documentation from the catalog: ``python -m scripts.render [--check]``."""

import json
import sys
from pathlib import Path

from scripts import command_line
from scripts.catalog.bundles import BUNDLES
from scripts.render.bundle import LOGGING, bundle_configs
from scripts.render.documents import bundle_readme, citation, with_tables

ROOT = Path(__file__).resolve().parent.parent.parent


def render(check: bool = False) -> None:
    """Write every rendered file; with ``--check`` write nothing and exit with 1 if one differs or is left over."""
    files = rendered_files()
    drift = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    left_over = [path for path in _existing() if path not in files]
    if check:
        for path in drift + left_over:
            print(f"{path.relative_to(ROOT)} is not what the catalog renders.", file=sys.stderr)
        if drift or left_over:
            raise SystemExit("Run 'python -m scripts.render' and commit what it changes.")
        return
    for path in drift:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        print(f"Wrote {path.relative_to(ROOT)}.")
    for path in left_over:
        path.unlink()
        print(f"Removed {path.relative_to(ROOT)}.")


def rendered_files() -> dict[Path, str]:
    """Path to content of everything that follows from the catalog."""
    files: dict[Path, str] = {}
    for bundle in BUNDLES:
        folder = ROOT / "bundles" / bundle.name
        for name, content in bundle_configs(bundle).items():
            files[folder / "configs" / f"{name}.json"] = json.dumps(content, indent=4, ensure_ascii=False) + "\n"
        files[folder / "configs" / "logging.conf"] = LOGGING
        files[folder / "docs" / "README.md"] = bundle_readme(bundle)
        files[folder / "LICENSE"] = (ROOT / "LICENSE").read_text(encoding="utf-8")
    files[ROOT / "CITATION.cff"] = citation()
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if document.is_file():
            files[document] = with_tables(document.read_text(encoding="utf-8"))
    return files


def _existing() -> list[Path]:
    folders = [ROOT / "bundles" / bundle.name for bundle in BUNDLES]
    return [path for folder in folders for path in (folder / "configs").rglob("*") if path.is_file()]


if __name__ == "__main__":
    command_line.run(render, "render")
