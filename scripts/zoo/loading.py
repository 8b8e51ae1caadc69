"""What MONAI's model zoo runs with a bundle, as a program of its own.

``scripts.zoo.verify`` starts it with Python's isolated mode in an empty folder, so that nothing of this repository is
on the path, and nothing that a bundle's code does reaches the process that checks it. It imports nothing from here.

Usage: ``python -I loading.py BUNDLE_FOLDER RESULTS.json``; the working folder must be empty.
"""

import importlib
import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, download_large_files, load, verify_net_in_out
from PIL import Image

SMALL = {"num_training": 1, "num_validation": 1, "num_test": 1}
KINDS = {3: ("write_ct_phantom", (60, 48, 6)), 2: ("write_precipitate_phantom", (80, 64))}


class Bundle:
    """The bundle to check, and what the checks share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs = folder / "configs"
        self.metadata = json.loads((self.configs / "metadata.json").read_text(encoding="utf-8"))
        self.model = folder / "models" / "model.pt"
        self.files = {"meta_file": str(self.configs / "metadata.json"), "bundle_root": str(folder)}

    def large_files(self) -> str:
        """Weights that are hosted elsewhere."""
        if not (self.folder / "large_files.yml").is_file():
            return "none"
        download_large_files(bundle_path=str(self.folder))
        return "downloaded, checksums right"

    def code(self) -> str:
        """The network comes from the bundle's own folder, and nothing from an installed ``networks``."""
        network = self._network()
        file = Path(sys.modules[type(network).__module__].__file__).resolve()
        if self.folder.resolve() not in file.parents:
            raise ValueError(f"The network's class is defined in {file}, which is not part of the bundle.")
        if "networks" in sys.modules:
            raise ValueError(f"The bundle imports {sys.modules['networks'].__file__}, which it does not carry.")
        return type(network).__module__

    def properties(self, kind: str) -> str:
        """What MONAI asks of a training or inference config is there."""
        overrides = {"bundle_root": str(self.folder), "device": "cpu", "dataset_dir": self._phantom()}
        file = str(self.configs / ("inference.json" if kind == "inference" else "train.json"))
        workflow = ConfigWorkflow(config_file=file, workflow_type=kind, logging_file=False, **overrides)
        workflow.initialize()
        missing = workflow.check_properties()
        if missing:
            raise ValueError(f"{kind}.json lacks or misnames the properties {', '.join(missing)}.")
        return "all there"

    def in_and_out(self) -> str:
        """The network takes and gives what the metadata say."""
        verify_net_in_out("network_def", config_file=str(self.configs / "inference.json"), device="cpu", **self.files)
        image = self.metadata["network_data_format"]["inputs"]["image"]
        return f"{image['num_channels']} x {' x '.join(map(str, image['spatial_shape']))}"

    def torchscript(self) -> str:
        """The network can be scripted and then runs, or the metadata say why not."""
        reason = self.metadata.get("not_scriptable")
        image = self.metadata["network_data_format"]["inputs"]["image"]
        model = self.model
        if not model.is_file():
            model = Path("untrained.pt").absolute()
            torch.save(self._network().state_dict(), model)
        arguments = {**self.files, "config_file": str(self.configs / "inference.json"), "ckpt_file": str(model)}
        target = Path("model.ts").absolute()
        try:
            ckpt_export("network_def", filepath=str(target), **arguments)
            with torch.no_grad():  # what is compiled may still refuse to run, such as parametrisations
                torch.jit.load(target)(torch.zeros(1, image["num_channels"], *image["spatial_shape"]))
        except Exception as error:
            if reason:
                return f"not scriptable, as stated: {reason}"
            raise ValueError(
                f"The network cannot be scripted ({innermost(error)}) and metadata.json gives no reason; state it "
                "under 'not_scriptable'."
            ) from error
        if reason:
            raise ValueError(f"metadata.json says that the network cannot be scripted ({reason}), but it can.")
        return "scripted"

    def weights(self) -> str:
        """``monai.bundle.load`` gives the network with the bundle's weights."""
        if not self.model.is_file():
            return "none to load"
        network = load(self.folder.name, bundle_dir=self.folder.parent, device="cpu")
        state = torch.load(self.model, map_location="cpu", weights_only=True)
        own = network.state_dict()
        different = [key for key in own if key not in state or not torch.equal(own[key], state[key])]
        if different or own.keys() != state.keys():
            raise ValueError(f"monai.bundle.load gives a network with other weights (such as {different[:1]}).")
        return f"{len(own)} tensors"

    def _network(self) -> torch.nn.Module:
        parser = ConfigParser()
        config_file = str(self.configs / "inference.json")
        parser.read_config(config_file)
        parser.read_meta(self.files["meta_file"])
        parser["bundle_root"] = self.files["bundle_root"]
        return parser.get_parsed_content("network_def")

    def _phantom(self) -> str:
        """A tiny data set that the bundle's own code writes, since the properties include the data."""
        folder = Path("phantom").absolute()
        if not folder.exists():
            parser = ConfigParser()
            parser.read_config(str(self.configs / "inference.json"))
            package = type(self._network()).__module__.split(".")[0]
            name, size = KINDS[parser["spatial_dims"]]
            getattr(importlib.import_module(f"{package}.phantom"), name)(folder, **SMALL, size=size)
            fit_classes(folder, self.metadata["network_data_format"]["outputs"]["pred"]["num_channels"])
        return str(folder)


def fit_classes(folder: Path, number: int) -> None:
    """Give a phantom as many classes as a network has: the last takes what is too much."""
    index = folder / "dataset.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    names = list(content["labels"].values())
    if len(names) == number:
        return
    content["labels"] = {str(i): names[i] if i < len(names) else f"class {i}" for i in range(number)}
    index.write_text(json.dumps(content), encoding="utf-8")
    for path in folder.glob("labels*/*"):
        if path.suffix == ".png":
            Image.fromarray(np.minimum(np.asarray(Image.open(path)), number - 1)).save(path)
        else:
            image = nib.load(path)
            label = np.minimum(np.asarray(image.dataobj), number - 1)
            nib.save(nib.Nifti1Image(label, image.affine), path)


def innermost(error: BaseException) -> str:
    """The first cause in one line: MONAI wraps errors in several layers."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def main(folder: str, results: str) -> None:
    """Run every check and write name, success and detail of each."""
    warnings.simplefilter("ignore")  # MONAI's about configs that run code, which is what this is for
    bundle = Bundle(Path(folder))
    checks: dict[str, Callable[[], str]] = {
        "large files": bundle.large_files,
        "own code": bundle.code,
        "training properties": lambda: bundle.properties("train"),
        "inference properties": lambda: bundle.properties("inference"),
        "network in and out": bundle.in_and_out,
        "TorchScript": bundle.torchscript,
        "weights load": bundle.weights,
    }
    found = []
    for name, check in checks.items():
        try:
            found.append((name, True, check()))
        except Exception as error:
            traceback.print_exc()
            found.append((name, False, str(error) if isinstance(error, ValueError) else innermost(error)))
    Path(results).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
