"""Packing bundles into zip files that carry all they need."""

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networks
from networks.errors import UserError
from networks.workflow.files import atomic, json_text, put_in_place, write_json
from scripts.catalog.bundles import BUNDLES, BY_NAME, Bundle
from scripts.catalog.classification import segmentation_bundle
from scripts.opened_bundle import changes, shipped_weights, with_changes
from scripts.render.bundle import LOGGING, NO_WEIGHTS, bundle_configs
from scripts.zoo import weights as trained
from scripts.zoo.carried import carry
from scripts.zoo.manifest import LARGE_FILES, MANIFEST, MODEL, large_files_yaml, make_manifest
from scripts.zoo.packed_configs import module_ids, pack_config, used_by
from scripts.zoo.readme import zoo_readme

ROOT = Path(__file__).resolve().parent.parent.parent
LARGE = 25 * 2**20  # the zoo's limit for a file in its repository
# zip files cannot hold an earlier time
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
SOURCES = Path(networks.__file__).resolve().parent.parent  # of the code; installed, it lies beside the tools
MODEL_INFO = "model_info.json"
# what the training of a slimmed network starts from
SLIMMED = "$workflow.own_weights(@bundle_root + '/models', @resume)"


@dataclass(frozen=True)
class Packed:
    """A bundle ready to be written.

    Attributes:
        name: folder in the zip.
        version: of the bundle.
        files: content by path in that folder, a path for the weights.
        aside: weights that are hosted beside the zip, or None.
        notes: for people.
        bundle: the catalog's entry as the training ran it.
    """

    name: str
    version: str
    files: dict[str, bytes | Path]
    aside: Path | None
    notes: tuple[str, ...]
    bundle: Bundle

    @property
    def stem(self) -> str:
        return f"{self.name}_v{self.version}"


def pack(*names: str, output_dir: str = "dist/zoo", base_url: str = "", aside: bool = False, overwrite: bool = False):
    """Do what the command ``pack`` of this tool describes, with the same arguments.

    Raises:
        UserError: an unknown name, weights without their records, a version that is taken.
    """
    if aside and not base_url:
        raise UserError("--aside needs --base_url, the address from which the weights will be fetched.")
    folder = Path(str(output_dir))
    with tempfile.TemporaryDirectory() as temporary:
        chosen = [choose(name, Path(temporary) / name) for name in names] or [(bundle, None, "") for bundle in BUNDLES]
        for bundle, found, name in chosen:
            packed = assemble(bundle, base_url if aside else "", found=found, name=name)
            path = write(packed, folder, base_url, overwrite)
            print(f"Wrote {path} ({path.stat().st_size / 1000:,.0f} kB).", flush=True)
            for note in packed.notes:
                print(f"Note: {note}", flush=True)


def choose(name: str, temporary: Path) -> tuple[Bundle, trained.Weights | None, str]:
    """Catalog entry, weights and name of what is to be packed.

    Args:
        name: of a bundle or of weights that come with one, or the folder of a compressed bundle.
        temporary: folder for the weights that come with a bundle, to be removed once they are packed.

    Raises:
        UserError: none of these.
    """
    if name in (file.stem for file in shipped_weights()):
        return *trained.shipped(name, temporary), name
    if name in BY_NAME or not Path(name).is_dir():
        return segmentation_bundle(name), None, ""
    found = trained.find_weights(Path(name))
    if found is None or found.training.get("bundle") not in BY_NAME:
        raise UserError(f"{name} is a folder, but not one that scripts.compress wrote; give one of those, or a bundle.")
    return BY_NAME[found.training["bundle"]], found, Path(name).resolve().name


def assemble(
    bundle: Bundle,
    large_files_url: str = "",
    root: Path = ROOT,
    found: trained.Weights | None = None,
    name: str = "",
) -> Packed:
    """Everything that goes into a bundle's zip, rendered from the catalog.

    Args:
        bundle: the catalog's entry.
        large_files_url: where large weights will be hosted; they go into the zip if empty.
        root: the repository, whose ``networks`` and ``bundles`` are read.
        found: weights; those in the bundle's folder, if any, by default.
        name: of the packed bundle; the catalog's by default.
    """
    found = found or trained.find_weights(root / "bundles" / bundle.name)
    licence = (ROOT / "bundles" / bundle.name / "LICENSE").read_bytes()
    bundle = replace(bundle, name=name or bundle.name)
    if found is not None:
        bundle = trained.trained_bundle(bundle, found)
        trained.check_fit(bundle, found)
    statement = found.statement if found else NO_WEIGHTS
    contents = bundle_configs(bundle, statement)
    metadata = contents.pop("metadata")
    if found is not None:
        metadata = trained.describe(metadata, found)
        for name in ("train", "inference"):
            contents[name] |= {key: value for key, value in found.training["ids"].items() if key in contents[name]}
        if changes(found.training).get("shapes"):
            contents["train"]["pretrained"] = SLIMMED
        for content in contents.values():
            if "network_def" in content:
                content["network_def"] = with_changes(content["network_def"], found.training)
    classes, modules = used_by(list(contents.values()))
    code = carry(root if root != ROOT else SOURCES, bundle.name, bundle.version, classes, modules)
    ids = module_ids(list(contents.values()))
    files: dict[str, bytes | Path] = {"LICENSE": licence}
    contents = {name: pack_config(content, code.package, ids) for name, content in contents.items()}
    files |= {f"configs/{name}.json": _json(content) for name, content in contents.items()}
    files["configs/metadata.json"] = _json(metadata)
    files["configs/logging.conf"] = LOGGING.encode()
    evaluations, training = (found.evaluations, found.training) if found else ((), None)
    files["docs/README.md"] = zoo_readme(bundle, statement, code.package, contents, evaluations, training).encode()
    files |= {path: text.encode() for path, text in code.files.items()}
    aside = None
    if found is not None:
        if licences := trained.licences(found.training):
            files["docs/data_license.txt"] = "".join(f"{name}: {licence}\n" for name, licence in licences).encode()
        files["models/model.json"] = _json(found.training)
        if large_files_url and found.path.stat().st_size > LARGE:
            aside = found.path
            url = f"{large_files_url.rstrip('/')}/{bundle.name}_v{bundle.version}_model.pt"
            files[LARGE_FILES] = large_files_yaml(MODEL, url, found.checksum).encode()
        else:
            files[MODEL] = found.path
    files[MANIFEST] = _json(make_manifest(bundle.name, bundle.version, code, files))
    return Packed(bundle.name, bundle.version, files, aside, found.notes if found else (), bundle)


def write(packed: Packed, folder: Path, base_url: str = "", overwrite: bool = False) -> Path:
    """Write the zip, the weights beside it if there are any, and the entry of ``model_info.json``.

    Raises:
        UserError: the folder has this version with other content, or its list cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, index = folder / f"{packed.stem}.zip", folder / MODEL_INFO
    info = trained.read_record(index) if index.is_file() else {}
    with atomic(path) as temporary:
        _write_zip(packed, temporary)
        checksum = sha1(temporary)
        if info.get(packed.stem, {}).get("checksum", checksum) != checksum and not overwrite:
            raise UserError(
                f"{folder} already holds {packed.name} {packed.version} with other content, which people may have "
                "downloaded; add a version to its changelog in scripts/catalog/bundles.py, or give --overwrite."
            )
    if packed.aside:
        put_in_place(packed.aside, folder / f"{packed.stem}_model.pt")
    source = f"{base_url.rstrip('/')}/{path.name}" if base_url else path.name
    description = json.loads(packed.files["configs/metadata.json"])["description"]
    info[packed.stem] = {"checksum": checksum, "source": source, "description": description}
    write_json(index, dict(sorted(info.items())))
    return path


def _write_zip(packed: Packed, path: Path) -> None:
    """Same files, same bytes: sorted, one time, one mode, and nothing of this computer."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(packed.files.items()):
            info = zipfile.ZipInfo(f"{packed.name}/{name}", TIMESTAMP)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            # a checkpoint is a zip file of random-looking numbers: compressing it takes long and gains little
            info.compress_type = zipfile.ZIP_STORED if isinstance(content, Path) else zipfile.ZIP_DEFLATED
            with (
                content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as source,
                archive.open(info, "w", force_zip64=isinstance(content, Path)) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)


def sha1(path: Path) -> str:
    # what MONAI's model_info.json has; the manifest's SHA-256 are what guards the content
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def _json(content: dict[str, Any]) -> bytes:
    return json_text(content).encode()
