"""A bundle's ``inference.json`` with a user's options, opened so that tools can use its parts."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow.config_files import check_ids, config_ids
from networks.workflow.errors import user_error
from networks.workflow.files import file_hash, parse_json

ROOT = Path(__file__).resolve().parent.parent
LOCATIONS = ("bundle_root", "ckpt_dir", "ckpt_path", "dataset_dir", "output_dir", "device")
COMPRESSED = "networks.compressed.compressed"
SHIPPED = "trained"  # folder of a bundle with the weights that come with it


class InferenceConfig:
    """The parts of ``inference.json``, each made when it is asked for and only once.

    Args:
        bundle: name of a bundle of this repository, or the folder of any bundle.
        preset: data set whose ``presets/<preset>_inference.json`` is merged after it.
        options: ids to override, as on the command line of ``monai.bundle run``.
        segments: whether only a bundle that segments will do, not one that classifies whole pictures.

    Raises:
        UserError: no such bundle or preset; or an option is not an id of the config.
    """

    def __init__(
        self,
        bundle: str,
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
        segments: bool = True,
    ) -> None:
        from monai.bundle import ConfigParser  # here, so that options are checked before MONAI is imported

        self.preset, self.options = preset, dict(options or {})
        files = check_options(bundle, preset, self.options, segments)
        self.folder = files[0].parent.parent
        self.metadata = json.loads((self.folder / "configs" / "metadata.json").read_text("utf-8"))
        self.name = self.metadata.get("name", self.folder.name)
        self._parser = ConfigParser()
        self._parser.read_config([str(file) for file in files])
        self._parser.update({"bundle_root": str(self.folder), **self.options})

    def __getitem__(self, name: str) -> Any:
        """The value of an id, or the object that it describes.

        Raises:
            Exception: what went wrong inside the config, without MONAI's wrapping if it is an error for people.
        """
        try:
            return self._parser.get_parsed_content(name)
        except Exception as error:
            ours = user_error(error)
            if ours is None:
                raise
            raise ours from None

    def __contains__(self, name: str) -> bool:
        """Whether there is such an id."""
        return name in self._parser

    def get(self, name: str) -> Any:
        """As above, or None if there is no such id."""
        return self[name] if name in self._parser else None

    def raw(self, name: str) -> Any:
        """An id as it stands in the config."""
        return self._parser[name]

    def override(self, values: Mapping[str, Any]) -> None:
        """Replace ids by values or objects; parts that were made before are made anew."""
        self._parser.update(dict(values))
        self._parser.parse(reset=True)

    def resolved(self, name: str) -> Any:
        """An id with every reference and expression in it replaced by its value, but nothing instantiated."""
        return self._resolve(self._parser[name], name)

    def _resolve(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: self._resolve(item, f"{name}::{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item, f"{name}::{i}") for i, item in enumerate(value)]
        if isinstance(value, str) and re.fullmatch(r"@[\w:#]+", value):  # what it refers to may be an object's config
            target = value[1:].replace("#", "::")
            if isinstance(self._parser[target], dict | list):
                return self._resolve(self._parser[target], target)
        return self[name] if isinstance(value, str) and value.startswith(("@", "$", "%")) else value

    def labels(self, file: str | Path | None = None) -> dict[int, str]:
        """Names of the classes by number, background included.

        Args:
            file: a ``dataset.json`` or ``metadata.json`` with the names; by default the record of the training that
                lies beside the weights, then the bundle's metadata, whose names hold only for the number of classes
                that it describes, else "class 1", "class 2", ...

        Raises:
            UserError: ``file`` is missing, or it does not name the network's classes.
        """
        from networks.workflow.classes import trained_names  # here, as MONAI above

        classes = int(self["out_channels"])
        trained = trained_names(str(self["ckpt_path"]), classes) if file is None and "ckpt_path" in self else None
        if trained is not None:
            return dict(enumerate(trained))
        source = Path(str(file)) if file is not None else self.folder / "configs" / "metadata.json"
        names = read_labels(source)
        if set(names) == set(range(classes)):
            return names
        if file is not None:
            raise UserError(
                f"{source} names {len(names)} classes, but the network has {classes}; give --labels the dataset.json "
                "that it was trained with."
            )
        return {number: f"class {number}" if number else "background" for number in range(classes)}


def shipped_weights(name: str | None = None) -> list[Path]:
    """The files of the weights that come with the bundles; with a name the one that is called so.

    Raises:
        UserError: there are none of that name.
    """
    files = sorted(ROOT.glob(f"bundles/*/{SHIPPED}/*.safetensors"))
    found = [file for file in files if name in (None, file.stem)]
    if name is not None and not found:
        known = ", ".join(file.stem for file in files) or "none"
        raise UserError(f"No weights called {name!r} come with the bundles; there are {known}.")
    return found


def as_trained(bundle: str, preset: str | None, options: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Preset and options of a bundle's inference, with what the record beside the weights says where nothing was given.

    A training writes such a record (``model.json``). It counts for its own preset, not for another that was asked for.
    A record of other weights, maybe because the training was killed between writing the two, counts with a note.
    Whether the options are ids of the config is left to who opens it.

    Raises:
        UserError: no such bundle or preset, or the record is none.
    """
    # the others may be of the training's preset, which is not known yet
    config = InferenceConfig(bundle, preset, {key: options[key] for key in LOCATIONS if key in options})
    weights = Path(str(config["ckpt_path"]))
    path = weights.with_suffix(".json")
    if not path.is_file():
        return preset, dict(options)
    record = parse_json(path.read_text(encoding="utf-8"), path)
    ids = record.get("ids") if isinstance(record, dict) else None
    if not isinstance(ids, dict):
        raise UserError(f"{path} is not the record of a training, which names its ids; remove it or train again.")
    trained = ids.get("preset")
    if not (config.folder / "configs" / "presets" / f"{trained}_inference.json").is_file():
        trained = None  # a packed bundle's inference is that of the preset already
    if preset not in (None, trained):
        return preset, dict(options)
    if weights.is_file() and record.get("checkpoint") not in (None, file_hash(weights)):
        print(f"Note: {path} was written for other weights than {weights}; remove it if they are of another training.")
    known = InferenceConfig(bundle, trained)
    found = {key: value for key, value in ids.items() if key in known and key != "preset"}
    network = known.raw("network_def")
    if with_changes(network, record) != network:
        found["network_def"] = with_changes(network, record)
    return trained, {**found, **options}


def changes(training: Mapping[str, Any]) -> dict[str, Any]:
    """What ``scripts.compress`` has changed in the network of a training, as arguments of ``networks.compressed``."""
    return training.get("compression", {}).get("network", {})


def with_changes(network: dict[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """A config's network as compressing has left it; itself where nothing was changed, or where it says so already."""
    changed = changes(training)
    return network if not changed or "network" in network else {"_target_": COMPRESSED, "network": network, **changed}


def check_options(bundle: str, preset: str | None, options: Iterable[str], segments: bool = True) -> list[Path]:
    """The files of a bundle's inference config, which hold every id of ``options``; arguments as of InferenceConfig.

    Raises:
        UserError: no such bundle or preset, or an option is not an id of the config.
    """
    folder = bundle_folder(str(bundle), segments)
    files = [folder / "configs" / "inference.json"]
    if preset is not None:
        files.append(_preset_file(folder, str(preset)))
    check_ids(options, config_ids(files))
    return files


def bundle_folder(bundle: str, segments: bool = True) -> Path:
    """The folder of a bundle, by its name or itself; raises UserError where there is none, or none that segments."""
    for folder in (ROOT / "bundles" / bundle, Path(bundle)):
        if (folder / "configs" / "inference.json").is_file():
            if segments and classifies(folder):
                raise UserError(
                    f"{folder.name} classifies whole pictures and this tool is for bundles that segment; run its "
                    "configs/inference.json with 'python -m monai.bundle run' (its docs/README.md says how)."
                )
            return folder.resolve()
    known = ", ".join(sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/inference.json")))
    raise UserError(f"There is no bundle {bundle}; give one of {known}, or a folder that holds configs/inference.json.")


def classifies(folder: Path) -> bool:
    """Whether a bundle's metadata say that it gives classes of pictures and no label maps."""
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    outputs = content.get("network_data_format", {}).get("outputs", {})
    return outputs.get("pred", {}).get("format") == "classification"


def _preset_file(folder: Path, preset: str) -> Path:
    path = folder / "configs" / "presets" / f"{preset}_inference.json"
    if not path.is_file():
        known = [file.name.removesuffix("_inference.json") for file in sorted(path.parent.glob("*_inference.json"))]
        raise UserError(f"{folder.name} has no preset {preset}; choose one of {', '.join(known) or 'none'}.")
    return path


def read_labels(path: Path) -> dict[int, str]:
    """Names of classes by number from a ``dataset.json``, ``labels.json`` or ``metadata.json``.

    Raises:
        UserError: there is no such file, it names none, or as :func:`networks.workflow.data.parse_labels`.
    """
    if not path.is_file():
        raise UserError(f"The file with class names {path} does not exist.")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        names = content.get("labels") or content["network_data_format"]["outputs"]["pred"]["channel_def"]
        if not all(number.isdecimal() for number in names):
            from networks.workflow.data import parse_labels  # here, as MONAI above

            return dict(enumerate(parse_labels(names, path)))
        return {0: "background", **{int(number): str(name) for number, name in names.items()}}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no class names; expected a dataset.json or a bundle's metadata.json.") from error
