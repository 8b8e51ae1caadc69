"""What is rendered is what is committed, and every command in the documents uses ids and files that exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from networks.workflow.arguments import check_command_line, config_files, split_arguments
from scripts.catalog.bundles import BUNDLES
from scripts.render.__main__ import render
from scripts.render.bundle import bundle_configs
from scripts.render.documents import with_tables
from tests.workflows import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
DOCUMENTS += sorted(ROOT.glob("bundles/*/docs/*.md"))


def commands(document: Path) -> list[str]:
    """The lines of the bash blocks, with line continuations joined."""
    blocks = re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.slow
def test_nothing_drifts() -> None:
    render(check=True)


def test_drift_is_noticed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("scripts.render.files.ROOT", tmp_path)
    (tmp_path / "LICENSE").write_text("licence")
    with pytest.raises(SystemExit, match=r"python -m scripts\.render"):
        render(check=True)
    render()
    render(check=True)
    train = tmp_path / "bundles" / BUNDLES[0].name / "configs" / "train.json"
    (train.parent / "presets" / "old.json").write_text("{}")
    with pytest.raises(SystemExit):
        render(check=True)
    render()
    assert not (train.parent / "presets" / "old.json").exists()


def test_configs_are_self_contained() -> None:
    for bundle in BUNDLES:
        for content in bundle_configs(bundle).values():
            text = json.dumps(content)
            assert ".json::" not in text
            assert not re.search(r'"/[a-z]+/', text), "an absolute path"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_use_ids_and_files_that_exist(document: Path, monkeypatch) -> None:
    for command in commands(document):
        for words in map(shlex.split, command.split("&&")):
            arguments = words[words.index("monai.bundle") + 1 :] if "monai.bundle" in words else []
            if "--config_file" not in arguments or arguments[0] != "run":
                continue
            files = [Path(file) for file in config_files(split_arguments(arguments)[1]["config_file"])]
            # commands for a bundle's own folder name its configs without the way there
            monkeypatch.chdir(ROOT if files[0].parts[0] == "bundles" else ROOT / "bundles" / "swin_unet")
            check_command_line(["monai/bundle/__main__.py", *arguments])


def test_tables_are_replaced_in_place() -> None:
    text = "a\n<!-- table: bundles -->\nold\n<!-- end -->\nb\n"
    assert with_tables(text) == with_tables(with_tables(text)) != text
    assert with_tables(text).startswith("a\n<!-- table: bundles -->\n| bundle |")
