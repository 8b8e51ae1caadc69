"""A bundle as a pull request to MONAI's model zoo: its style, its lists, and its unit test, which is run."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import black
import isort
import pytest

from networks.errors import UserError
from networks.workflow.checks import loader, read_image, reader_of
from networks.workflow.data import load_datalist
from scripts.catalog.bundles import BUNDLES, BY_NAME, Bundle
from scripts.render.shared import CHANNELS
from scripts.zoo.pack import MODEL_INFO
from scripts.zoo.submit import lay_out, submit
from scripts.zoo.unit_test import unit_test
from scripts.zoo.verify import check
from tests.packing import BUNDLE, NAME

LISTS = """# lists of the zoo's CI
exclude_verify_shape_list = ["mednist_gan"]

exclude_verify_torchscript_list = [{names}]
"""
# what the zoo's own does
UTILS = """
def check_workflow(workflow, check_properties=False):
    workflow.initialize()
    assert not check_properties or not workflow.check_properties()
    workflow.run()
    workflow.finalize()
"""


def is_sorted(text: str) -> bool:
    """Whether the zoo's isort has nothing to change."""
    return isort.check_code(text, profile="black", line_length=120, known_first_party=["models"])


def is_black(text: str) -> bool:
    """Whether the zoo's black has nothing to change."""
    mode = black.Mode({black.TargetVersion.PY39}, 120, magic_trailing_comma=False)
    return black.format_str(text, mode=mode) == text


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_unit_tests_have_the_zoos_style(bundle: Bundle) -> None:
    text = unit_test(bundle, CHANNELS[bundle.default.kind])
    assert is_sorted(text) and is_black(text)


@pytest.mark.parametrize(("name", "channels"), [("unet", 1), ("unet", 2), ("unet", 3), ("cs_unet", 1), ("cs_unet", 3)])
def test_unit_tests_write_images_with_the_networks_channels(
    name: str, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes and pictures; more or fewer than a bundle's own where its weights were trained so."""
    monkeypatch.setitem(sys.modules, "utils", SimpleNamespace(check_workflow=None))
    found: dict = {"__name__": "written"}
    exec(unit_test(BY_NAME[name], channels), found)
    test = next(value for key, value in found.items() if key.startswith("Test"))()
    monkeypatch.setattr(found["tempfile"], "mkdtemp", lambda: str(tmp_path))
    test.setUp()
    images = [pair["image"] for pair in load_datalist(test.dataset_dir)["training"]]
    assert {channels} == {read_image(loader(reader_of(image)), image).shape[0] for image in images}


@pytest.mark.parametrize("names", ['"vista2d"', '\n    "vista2d",\n    "vista3d",\n', ""])
def test_a_trained_bundle_becomes_a_pull_request(names: str, trained: Path, tmp_path: Path, capsys) -> None:
    """Into a clone, whose CI takes the bundle: its list, its style, its unit test."""
    (tmp_path / "ci" / "unit_tests").mkdir(parents=True)
    lists = tmp_path / "ci" / "bundle_custom_data.py"
    lists.write_text(LISTS.format(names=names))
    bundle = replace(BUNDLE, not_scriptable="for the test")
    lay_out(bundle, tmp_path, root=trained)
    before = ast.literal_eval(f"[{names}]")
    assert ast.literal_eval(lists.read_text().partition("torchscript_list = ")[2]) == [NAME, *before]
    assert is_black(lists.read_text())
    folder = tmp_path / "models" / NAME
    readme = (folder / "docs" / "README.md").read_text()
    assert "not supported by scripting: for the test" in readme and "| CT phantom, test | 2 | strict | dice |" in readme
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] and metadata["supported_apps"].keys() == {"monai-label", "monai-deploy-app-sdk"}
    with pytest.raises(UserError, match="exists; remove it first"):
        lay_out(bundle, tmp_path, root=trained)
    assert lists.read_text().count(f'"{NAME}"') == 1


@pytest.mark.slow
def test_the_pull_request_passes_the_zoos_tests(trained: Path, tmp_path: Path) -> None:
    lay_out(BUNDLE, tmp_path, root=trained)
    folder = tmp_path / "models" / NAME
    files = sorted(folder.rglob("*.py"))
    assert all(is_sorted(file.read_text()) for file in files)
    assert all(is_black(file.read_text()) for file in files if file.parent.name != "workflow")
    assert [name for name, passed, _ in check(str(folder), load=False) if not passed] == []
    weights = (folder / "models" / "model.pt").read_bytes()
    (tmp_path / "ci" / "unit_tests" / "utils.py").write_text(UTILS)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [sys.executable, f"ci/unit_tests/test_{NAME}.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Ran 2 tests" in done.stderr
    assert (folder / "models" / "model.pt").read_bytes() == weights


def test_what_the_zoo_does_not_take(trained: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(UserError, match="There is no bundle 'vnet'"):
        submit("vnet", str(tmp_path))
    with pytest.raises(UserError, match="unet has no weights"):
        lay_out(BY_NAME["unet"], tmp_path, root=trained)
    for module in ("scripts.zoo.pack", "scripts.zoo.submit"):
        monkeypatch.setattr(f"{module}.LARGE", 1000)
    with pytest.raises(UserError, match="larger than the 25 MB that the zoo takes; give --weights_url"):
        lay_out(BUNDLE, tmp_path, root=trained)
    lay_out(replace(BUNDLE, not_scriptable="for the test"), tmp_path, "https://zoo.example/files/", root=trained)
    said = capsys.readouterr().out
    assert f"to https://zoo.example/files/{NAME}_v0.1.0_model.pt" in said and f'    "{NAME}",' in said
    folder = tmp_path / "models" / NAME
    assert (folder / "large_files.yml").is_file() and not (folder / "models" / "model.pt").exists()
    (tmp_path / "models" / MODEL_INFO).write_text(json.dumps({f"{NAME}_v0.1.0": {}}))
    with pytest.raises(UserError, match="add a version to its changelog"):
        lay_out(BUNDLE, tmp_path, "https://zoo.example/files/", root=trained)
