"""The wheel, installed far from the repository: the tools' one command, the bundles, a training and its predictions."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from networks.errors import UserError
from scripts.catalog.bundles import BY_NAME
from segbundles.__main__ import copy
from tests.workflows import ROOT, command_line, training_overrides

PARTS = ("networks", "segbundles", "scripts", "bundles", "results", "suites")
UNET = BY_NAME["unet"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment's folder of programs; all but this project comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for part in PARTS:  # a copy, since a build leaves folders behind
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "models"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    venv.create(folder / "env")
    programs = folder / "env" / "bin"
    (wheel,) = folder.glob("*.whl")
    install = ["--python", str(programs / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_every_folder_of_the_tools_is_packed() -> None:
    tomllib = pytest.importorskip("tomllib")
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    sources = [path for part in ("networks", "scripts") for path in (ROOT / part).rglob("*.py")]
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in sources}
    expected = {name if name.startswith("networks") else f"segbundles.{name}" for name in names}
    assert set(packages) == {"segbundles", "segbundles.bundles", "segbundles.results", "segbundles.suites", *expected}


def test_editable_installation(tmp_path: Path) -> None:
    """The tests' own environment, made as the README says."""
    program = Path(sys.executable).with_name("segbundles")
    done = subprocess.run([program, "list"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert all(name in done.stdout for name in BY_NAME)
    assert "No trained weights" in done.stdout


def test_a_bundle_is_copied_to_a_new_folder_and_to_the_one_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for here, folder in (("empty", "."), ("other", "new/mine")):
        (tmp_path / here).mkdir()
        monkeypatch.chdir(tmp_path / here)
        copy("unet", folder)
        assert {path.name for path in Path(folder).iterdir()} == {"configs", "docs", "LICENSE"}
        assert Path(folder, "configs", "train.json").is_file()
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            copy("unet", folder)
    assert [path.name for path in tmp_path.glob("other/*")] == ["new"]


@pytest.mark.slow
def test_from_installation_to_prediction(installed: Path, ct_dir: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "absent")}

    def call(*command: str, cwd: Path = tmp_path, code: int = 0) -> str:
        program = str(installed / command[0])
        done = subprocess.run(
            [program, *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr[-3000:]
        return done.stdout + done.stderr

    listed = call("segbundles", "list")
    assert all(f"  {name} " in listed for name in BY_NAME) and "microstructure_cpu" in listed
    assert "No trained weights" in listed
    assert "segbundles" in call("segbundles", "--", "--completion")
    assert "'segbundles datasets'" in call("segbundles", "datasets", "foldr", code=1)

    bundle = tmp_path / "mine"
    call("segbundles", "copy", "unet", str(bundle))
    assert {path.name for path in bundle.iterdir()} == {"configs", "docs", "LICENSE"}
    assert "is not an empty folder" in call("segbundles", "copy", "unet", str(bundle), code=1)

    options = training_overrides(UNET, bundle, ct_dir, epochs=1)
    call("python", *command_line(["configs/train.json"], "training", **options), cwd=bundle)
    assert "models/model.pt, trained on" in call("segbundles", "list")

    small = {key: value for key, value in options.items() if key.startswith(("network_def", "img_size", "device"))}
    given = [part for key, value in small.items() for part in (f"--{key}", str(value))]
    call("segbundles", "predict", str(ct_dir), str(tmp_path / "out"), "--bundle", str(bundle), *given)
    assert len(list((tmp_path / "out").rglob("*_seg.nii.gz"))) == 2
    assert "waiting" in call("segbundles", "experiments", "show", "suites/synapse.json")
    where = call("python", "-c", "import segbundles, networks; print(segbundles.__file__, networks.__file__)")
    assert str(ROOT) not in where
    assert "no scripts" in call(
        "python", "-c", "import importlib.util as u; print('found' if u.find_spec('scripts') else 'no scripts')"
    )
