"""Every file that follows from the catalog."""

from pathlib import Path

from networks.workflow.files import json_text
from scripts.catalog.bundles import BUNDLES
from scripts.catalog.classification import CLASSIFIERS
from scripts.render.bundle import LOGGING, bundle_configs
from scripts.render.classification_bundle import classification_configs
from scripts.render.data import Config
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
        files |= _of_bundle(folder, contents)
    for classifier in CLASSIFIERS:
        files |= _of_bundle(ROOT / "bundles" / classifier.name, classification_configs(classifier))
    return files if configs else files | _documents()


def _of_bundle(folder: Path, contents: dict[str, Config]) -> dict[Path, str]:
    """Configs by name, and what is the same in every bundle."""
    files = {folder / "configs" / f"{name}.json": json_text(content) for name, content in contents.items()}
    files[folder / "configs" / "logging.conf"] = LOGGING
    files[folder / "LICENSE"] = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return files


def existing_configs() -> list[Path]:
    """Files in the folders of configs, which hold nothing but what is rendered."""
    folders = [ROOT / "bundles" / bundle.name for bundle in (*BUNDLES, *CLASSIFIERS)]
    return [path for folder in folders for path in (folder / "configs").rglob("*") if path.is_file()]


def _documents() -> dict[Path, str]:
    # slow: PyTorch, all results' intervals
    from scripts.render.classification_readme import classification_readme
    from scripts.render.documents import bundle_readme, citation, with_tables

    files = {}
    for bundle in BUNDLES:
        records = shipped_records(bundle)
        text = bundle_readme(bundle, statement(records), shipped=section(records))
        files[ROOT / "bundles" / bundle.name / "docs" / "README.md"] = text
        if licences := data_licences(records):
            files[ROOT / "bundles" / bundle.name / "docs" / "data_license.txt"] = licences
    for classifier in CLASSIFIERS:
        files[ROOT / "bundles" / classifier.name / "docs" / "README.md"] = classification_readme(classifier)
    files[ROOT / "CITATION.cff"] = citation()
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if document.is_file():
            files[document] = with_tables(document.read_text(encoding="utf-8"))
    return files
