"""What is compressed, and the bundle that comes of it.

A compressed bundle is a folder as ``scripts.zoo pack`` fills its zip files: configs, weights, records and the code that
they need, so that it runs wherever MONAI does.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from networks.errors import UserError
from networks.state_dicts import read_weights, unwrap_state
from networks.workflow.checkpoints import load_weights, save_atomically
from networks.workflow.files import atomic, file_hash, parse_json, write_json
from scripts.catalog.bundles import BY_NAME
from scripts.opened_bundle import InferenceConfig, as_trained, bundle_folder, changes, shipped_weights
from scripts.zoo.manifest import MANIFEST
from scripts.zoo.pack import assemble
from scripts.zoo.style import check_tools
from scripts.zoo.weights import find_weights

OF_OTHER_WEIGHTS = ("dtype", "evaluations", "epoch", "val_mean_dice")  # in the record of what is compressed
Record = dict[str, Any]


@dataclass
class Source:
    """A trained network to compress.

    Attributes:
        bundle: its name in the catalog.
        preset: of its training, or None.
        options: ids of its inference config that the training has set.
        checkpoint: file of the weights.
        record: the training's, which lies beside them.
        config: the inference config with all of this.
        network: with the weights, in evaluation mode, on the processor.
    """

    bundle: str
    preset: str | None
    options: dict[str, Any]
    checkpoint: Path
    record: Record
    config: InferenceConfig
    network: nn.Module

    @property
    def bytes(self) -> int:
        """Of the weights in float32, which is what a training writes."""
        state = unwrap_state(read_weights(self.checkpoint))
        return sum(t.numel() * 4 if t.is_floating_point() else t.numel() * t.element_size() for t in state.values())

    def build(self) -> nn.Module:
        """The same network once more, with the same weights."""
        config = InferenceConfig(self.bundle, self.preset, self.options)
        network = config["network_def"].eval()
        load_weights(network, self.checkpoint)
        return network


def open_source(bundle: str | None, trained: str | None, ckpt_path: str | None) -> Source:
    """Open what is to be compressed.

    Args:
        bundle: name of a bundle, or the folder of one that this tool wrote.
        trained: name of weights that come with the bundles, instead.
        ckpt_path: the weights of ``bundle``; ``models/model.pt`` in its folder by default.

    Raises:
        UserError: neither or both are given, there is none, or the weights have no record beside them.
    """
    if (bundle is None) == (trained is None) or (trained and ckpt_path):
        raise UserError("Give --bundle NAME, with --ckpt_path FILE if need be, or --trained NAME: what to compress.")
    if trained is not None:
        (path,) = shipped_weights(trained)
        folder = path.parent.parent
    else:
        folder = bundle_folder(bundle)
        path = Path(ckpt_path) if ckpt_path else folder / "models" / "model.pt"
    record_path = path.with_suffix(".json")
    if not path.is_file() or not record_path.is_file():
        raise UserError(f"{path} and its record {record_path.name} are not both there; give weights of a training.")
    record = parse_json(record_path.read_text(encoding="utf-8"), record_path)
    if record.get("checkpoint") != file_hash(path):
        raise UserError(f"{record_path} is about other weights than {path}; give both as they were written.")
    name = record.get("bundle", folder.name)
    if name not in BY_NAME:
        raise UserError(f"{record_path} does not say which bundle of the catalog {path} is of; give --bundle its name.")
    preset, options = as_trained(name, None, {"ckpt_path": str(path)})
    config = InferenceConfig(name, preset, {**options, "device": "cpu"})
    network = config["network_def"].eval()
    load_weights(network, path)
    return Source(name, preset, options, path, record, config, network)


def check_output(output: str | Path) -> Path:
    """The folder of a compressed bundle, whose name becomes the bundle's.

    Raises:
        UserError: the name is none that Python's packages can have, the folder holds something else, or what
            :func:`write_bundle` needs is not installed.
    """
    check_tools()
    folder = Path(output)
    if not folder.name.isidentifier():
        raise UserError(f"{folder.name!r} cannot be a bundle's name: give OUTPUT letters, digits and underscores.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; give another OUTPUT, or remove it.")
    return folder


def write_bundle(
    source: Source, output: Path, state: Mapping[str, Tensor], network: Mapping[str, Any], step: Mapping[str, Any]
) -> None:
    """Write a compressed bundle.

    Args:
        source: what it was made of.
        output: its folder.
        state: the weights.
        network: arguments of ``networks.compressed.compressed`` beside those that the source has.
        step: how it was made; ``summary`` is the sentence about it, such as "pruned".

    Raises:
        UserError: the weights are not those of the network that the configs build.
    """
    before = source.record.get("compression", {"steps": []})
    made_of = {"checkpoint": source.record["checkpoint"], "bytes": source.checkpoint.stat().st_size}
    record = {
        **{key: value for key, value in source.record.items() if key not in OF_OTHER_WEIGHTS},
        "bundle": source.bundle,
        "compression": {
            "network": {**changes(source.record), **network},
            "steps": [*before["steps"], {**step, "made_of": made_of}],
        },
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compress-", dir=output.parent) as temporary:
        whole = Path(temporary) / output.name
        model = whole / "models" / "model.pt"
        save_atomically(dict(state), model)
        write_json(model.with_suffix(".json"), {**record, "checkpoint": file_hash(model)})
        refresh(whole)
        size = model.stat().st_size
        if output.is_dir():
            output.rmdir()  # empty, as was checked
        whole.replace(output)
    print(f"Wrote {output}: {size / 1e6:.2f} MB of weights, {source.bytes / size:.2f} times smaller than in float32.")


def refresh(folder: Path) -> None:
    """Write the files of a compressed bundle that follow from its weights and from its scores, if there are any.

    The code is that of this version; a folder with that of an earlier one is removed once all is there.
    """
    found = find_weights(folder)
    before = _package(folder)
    packed = assemble(BY_NAME[found.training["bundle"]], found=found, name=folder.resolve().name)
    for name, content in packed.files.items():
        if isinstance(content, bytes):  # the weights are there
            with atomic(folder / name) as temporary:
                temporary.write_bytes(content)
    if before is not None and before.isidentifier() and before != _package(folder):  # a name, and no path elsewhere
        shutil.rmtree(folder / before)


def _package(folder: Path) -> str | None:
    """Name of the code that a bundle's manifest lists; None before it is written."""
    path = folder / MANIFEST
    return parse_json(path.read_text(encoding="utf-8"), path)["code"]["package"] if path.is_file() else None
