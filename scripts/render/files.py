"""Every file that follows from the catalog."""

from pathlib import Path

from networks.workflow.files import json_text
from scripts.catalog.bundles import BUNDLES
from scripts.render.bundle import LOGGING, bundle_configs
from scripts.render.shipped import data_licences, section, shipped_records, statement

ROOT = Path(__file__).resolve().parent.parent.parent


def rendered_files(configs: bool = False) -> dict[Path, str]:
    """Path to content of everything that follows from the catalog.

    Args:
        configs: leave the documents out, whose tables need the networks and the results.
    """
    files: dict[Path, str] = {}
    for bundle in BUNDLES:
        folder = ROOT / "bundles" / bundle.name
        records = shipped_records(bundle)
        contents = bundle_configs(bundle, statement(records))
        if records:
            contents["metadata"]["shipped_weights"] = records
        for name, content in contents.items():
            files[folder / "configs" / f"{name}.json"] = json_text(content)
        files[folder / "configs" / "logging.conf"] = LOGGING
        files[folder / "LICENSE"] = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return files if configs else files | _documents()


def existing_configs() -> list[Path]:
    """Files in the folders of configs, which hold nothing but what is rendered."""
    folders = [ROOT / "bundles" / bundle.name for bundle in BUNDLES]
    return [path for folder in folders for path in (folder / "configs").rglob("*") if path.is_file()]


def _documents() -> dict[Path, str]:
    from scripts.render.documents import bundle_readme, citation, with_tables  # slow: PyTorch, all results' intervals

    files = {}
    for bundle in BUNDLES:
        records = shipped_records(bundle)
        text = bundle_readme(bundle, statement(records), shipped=section(records))
        files[ROOT / "bundles" / bundle.name / "docs" / "README.md"] = text
        if licences := data_licences(records):
            files[ROOT / "bundles" / bundle.name / "docs" / "data_license.txt"] = licences
    files[ROOT / "CITATION.cff"] = citation()
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if document.is_file():
            files[document] = with_tables(document.read_text(encoding="utf-8"))
    return files
