"""MONAI Label's server for tests, and what its segmentations have to equal."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from scripts.zoo.manifest import MODEL
from tests.workflows import run

TIMEOUT = 300


class Server:
    """MONAI Label's server in a process of its own.

    Args:
        app_dir: the app.
        studies: folder of images.
        log: file for what it prints.
    """

    def __init__(self, app_dir: Path, studies: Path, log: Path) -> None:
        self.requests = pytest.importorskip("requests")
        self.app_dir, self.studies, self.log = app_dir, studies, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "scripts.label", "start", "--app", str(app_dir), "--studies", str(studies)]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, "--port", str(port), "--auto_scoring", "false"], stdout=file, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + TIMEOUT
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return self.requests.get(f"{self.url}/info/", timeout=TIMEOUT).ok
        except self.requests.ConnectionError:
            return False

    def get(self, path: str) -> Any:
        answer = self.requests.get(self.url + path, timeout=TIMEOUT)
        assert answer.ok, answer.text
        return answer.json()

    def post(self, path: str, **parameters: Any) -> tuple[int, Any]:
        answer = self.requests.post(self.url + path, json=parameters or None, timeout=TIMEOUT)
        return answer.status_code, answer.json()

    def segment(self, model: str, image: str) -> bytes:
        answer = self.requests.post(f"{self.url}/infer/{model}?image={image}&output=image", timeout=TIMEOUT)
        assert answer.ok, answer.text
        return answer.content

    def submit(self, image: str, label: Path) -> None:
        with label.open("rb") as file:
            answer = self.requests.put(
                f"{self.url}/datastore/label?image={image}&tag=final", files={"label": file}, timeout=TIMEOUT
            )
        assert answer.ok, answer.text

    def weights(self, model: str) -> bytes:
        return (self.app_dir / "model" / model / MODEL).read_bytes()


def own_inference(server: Server, model: str, image: str, folder: Path) -> nib.Nifti1Image:
    """What the bundle's ``inference.json`` writes for an image."""
    bundle = server.app_dir / "model" / model
    options = {"bundle_root": str(bundle), "dataset_dir": str(server.studies / f"{image}.nii.gz"), "device": "cpu"}
    run([str(bundle / "configs" / "inference.json")], "infer", **options, output_dir=str(folder))
    (path,) = folder.rglob("*_seg.nii.gz")
    return nib.load(path)


def assert_same(answer: bytes, expected: nib.Nifti1Image, folder: Path) -> None:
    (folder / "answer.nii.gz").write_bytes(answer)
    found = nib.load(folder / "answer.nii.gz")
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.affine, expected.affine)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
