"""Verifying: every kind of damage to a packed bundle is noticed and named."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from networks.errors import UserError
from networks.workflow.files import file_hash
from scripts.zoo.loading import fit_classes
from scripts.zoo.manifest import MANIFEST
from scripts.zoo.verify import check, verify
from tests.packing import NAME, ZIP


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    content |= changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}, indent=4) + "\n")


def seal(folder: Path) -> Path:
    """Make the manifest right again after a change."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {path: file_hash(folder / path) for path in manifest["files"] if (folder / path).is_file()}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=4) + "\n")
    return folder


def failures(folder: Path) -> dict[str, str]:
    return {name: detail for name, passed, detail in check(str(folder), load=False) if not passed}


DAMAGE = {
    "paths": (lambda f: edit(f / "configs/train.json", dataset_dir="/data/ours"), "'/data/ours' is an absolute path"),
    "version": (lambda f: edit(f / "configs/metadata.json", changelog={"0.0.1": "x"}), "missing in the changelog"),
    "metadata schema": (lambda f: edit(f / "configs/metadata.json", task=None), "'task' is a required property"),
    "JSON": (lambda f: (f / "configs/multi_gpu_train.json").write_text('{"a": 1}'), "not indented by 4"),
    "files": (lambda f: (f / "LICENSE").write_text(""), "LICENSE missing or empty"),
    "weights": (lambda f: torch.save({}, f / "models/model.pt"), "other weights"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, unpacked: Path) -> None:
    damage, sentence = DAMAGE[name]
    damage(unpacked)
    found = failures(unpacked)
    assert found.keys() == {"manifest", name, "loading"}  # nothing of what was changed is run
    found = failures(seal(unpacked))
    assert list(found) == [name] and sentence in found[name]


def test_changed_added_and_lost_files_are_named(unpacked: Path) -> None:
    (unpacked / "docs" / "README.md").write_text("other")
    (unpacked / "configs" / "logging.conf").unlink()
    (unpacked / "extra.py").write_text("")
    for written in ("models/last.pt", "eval/metrics.csv", "__pycache__/x.pyc"):  # what runs write
        (unpacked / written).parent.mkdir(exist_ok=True)
        (unpacked / written).write_text("")
    sentence = failures(unpacked)["manifest"]
    for part in ("docs/README.md is not the file", "configs/logging.conf is missing", "extra.py is not in"):
        assert part in sentence
    assert sentence.count(" is not in ") == 1


@pytest.mark.parametrize(
    ("member", "mode", "sentence"),
    [
        (f"{NAME}/../../evil.py", 0o100644, "outside of its folder"),
        ("/etc/evil.py", 0o100644, "outside of its folder"),
        (f"{NAME}\\..\\evil.py", 0o100644, "outside of its folder"),
        (f"{NAME}/link", 0o120777, "a link or a device"),
        ("other/file", 0o100644, "must hold one folder"),
        (f"{NAME}/LICENSE", 0o100644, "a file twice"),
        (f"{NAME}/__pycache__/x.cpython-311.pyc", 0o100644, "compiled Python"),
    ],
)
def test_unsafe_archives_are_not_unpacked(zoo: Path, tmp_path: Path, member: str, mode: int, sentence: str) -> None:
    path = Path(shutil.copy(zoo / ZIP, tmp_path))
    info = zipfile.ZipInfo(member)
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "../../target")
    ((name, passed, detail),) = check(str(path), load=False)
    assert (name, passed) == ("archive", False) and sentence in detail
    assert [p.name for p in tmp_path.iterdir()] == [ZIP]


def test_archives_that_differ_from_model_info_or_are_cut(zoo: Path, tmp_path: Path) -> None:
    for name in (ZIP, "model_info.json"):
        shutil.copy(zoo / name, tmp_path)
    path = tmp_path / ZIP
    path.write_bytes(path.read_bytes()[:-100])
    assert "its SHA-1 differs" in check(str(path), load=False)[0][2]
    (tmp_path / "model_info.json").unlink()
    assert "is damaged" in check(str(path), load=False)[0][2]
    shutil.copy(zoo / ZIP, path)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{NAME}/configs/train.json")
    with path.open("r+b") as file:  # what is compressed begins with something else
        file.seek(member.header_offset + 30 + len(member.filename))
        file.write(b"\xff")
    assert "is damaged" in check(str(path), load=False)[0][2]


def test_verify_says_what_failed_and_exits_with_1(unpacked: Path, server: str, capsys) -> None:
    (unpacked / "LICENSE").unlink()
    with pytest.raises(SystemExit) as stop:
        verify(str(unpacked), load=False)
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert "FAILED   manifest: LICENSE is missing." in output and "checks passed, " in output
    for source in (f"{server}/none.zip", str(unpacked / "none.zip")):
        with pytest.raises(UserError, match=r"none\.zip"):
            verify(source)


def test_a_check_that_cannot_be_made_is_skipped(unpacked: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    verify(str(unpacked), load=False)
    said = capsys.readouterr().out
    assert "skipped  metadata schema: not made, since jsonschema is not installed: python -m pip install" in said
    assert " 0 failed, 1 skipped." in said


@pytest.mark.parametrize("number", [3, 12])
def test_the_phantom_has_the_networks_classes(number: int, ct_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(ct_dir, tmp_path / "phantom")
    fit_classes(tmp_path / "phantom", number)
    names = json.loads((tmp_path / "phantom" / "dataset.json").read_text())["labels"]
    assert list(names) == [str(i) for i in range(number)] and names["1"] == "aorta"
    labels = [nib.load(path) for path in sorted((tmp_path / "phantom").glob("labels*/*"))]
    assert max(int(np.asarray(label.dataobj).max()) for label in labels) == min(number - 1, 8)
    before = nib.load(sorted(ct_dir.glob("labels*/*"))[0])
    np.testing.assert_array_equal(labels[0].affine, before.affine)
