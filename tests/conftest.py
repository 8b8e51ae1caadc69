"""Shared fixtures: one thread (tiny networks are far faster so), the repository's root, a tiny phantom."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import http.server
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from networks.phantom import write_ct_phantom, write_precipitate_phantom
from networks.texture_phantom import write_texture_phantom
from scripts.zoo.pack import assemble, write
from tests import packing
from tests.packing import BUNDLE, NAME, ZIP
from tests.predicting import VOLUMES, write_weights
from tests.workflows import ROOT

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _light_subprocesses() -> None:
    """Subprocesses do without two packages that MONAI would import for nothing, for a third of its time."""
    paths = [str(Path(__file__).parent / "absent"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


@pytest.fixture(autouse=True)
def _in_repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def ct_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT phantom of 3 training, 2 validation and 2 test volumes, whose 60 x 48 slices the networks see resized."""
    folder = tmp_path_factory.mktemp("data") / "ct"
    write_ct_phantom(folder, num_training=3, num_validation=2, num_test=2, size=(60, 48, 6))
    return folder


@pytest.fixture(scope="session")
def micrograph_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny micrograph phantom."""
    return write_precipitate_phantom(tmp_path_factory.mktemp("data") / "micrographs", 2, 1, 1, size=(80, 64))


@pytest.fixture(scope="session")
def texture_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny phantom of textures in classes: 6, 2 and 2 pictures of each."""
    return write_texture_phantom(tmp_path_factory.mktemp("textures") / "phantom", (6, 2, 2), side=32)


@pytest.fixture(scope="session")
def data_dirs(ct_dir: Path, micrograph_dir: Path) -> dict[str, Path]:
    """A tiny data set for every kind of preset."""
    return {
        **dict.fromkeys(("ct", "mr", "volume"), ct_dir),
        **dict.fromkeys(("micrograph", "picture"), micrograph_dir),
    }


@pytest.fixture(scope="session")
def trained(ct_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which a small Attention U-Net was trained and evaluated."""
    root = packing.repository(tmp_path_factory.mktemp("trained"))
    packing.train(root, ct_dir)
    return root


@pytest.fixture(scope="session")
def zoo(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with two versions of the bundle: the trained one, and one without weights whose code differs."""
    folder = tmp_path_factory.mktemp("zoo")
    write(assemble(BUNDLE, root=trained), folder)
    newer = packing.repository(tmp_path_factory.mktemp("newer"))
    with (newer / "networks" / "attention_unet.py").open("a") as file:
        file.write("\nNEWER = True\n")
    changelog = {"0.2.0": "newer", **BUNDLE.changelog}
    write(assemble(replace(BUNDLE, changelog=changelog), root=newer), folder)
    return folder


@pytest.fixture(scope="session")
def server(zoo: Path) -> Iterator[str]:
    """The zoo's address on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(zoo)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()


@pytest.fixture
def unpacked(zoo: Path, tmp_path: Path) -> Path:
    """The trained bundle's folder."""
    with zipfile.ZipFile(zoo / ZIP) as archive:
        archive.extractall(tmp_path)
    return tmp_path / NAME


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a prediction for a bundle of volumes."""
    return write_weights(VOLUMES, tmp_path_factory.mktemp("weights"))


@pytest.fixture
def images(ct_dir: Path, tmp_path: Path) -> Path:
    """Three volumes in folders, stored in three orientations."""
    source = nib.load(next((ct_dir / "imagesTs").glob("*.nii.gz")))
    data = np.asarray(source.dataobj)
    folder = tmp_path / "images"
    for name, array, affine in (
        ("a/one", data, source.affine),
        ("a/two", data[::-1], source.affine @ np.diag([-1, 1, 1, 1])),
        ("three", data[:50].transpose(1, 0, 2), source.affine[:, [1, 0, 2, 3]]),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), folder / f"{name}.nii.gz")
    return folder
