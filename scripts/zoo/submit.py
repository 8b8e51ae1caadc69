"""Laying a trained bundle out as a pull request to MONAI's model zoo."""

import ast
import json
import shutil
from pathlib import Path

from networks.errors import UserError
from networks.workflow.files import atomic
from scripts.catalog.bundles import Bundle
from scripts.catalog.classification import segmentation_bundle
from scripts.zoo.manifest import MODEL
from scripts.zoo.pack import LARGE, MODEL_INFO, ROOT, Packed, assemble
from scripts.zoo.style import formatted
from scripts.zoo.unit_test import unit_test
from scripts.zoo.weights import read_record

CUSTOM = Path("ci", "bundle_custom_data.py")
NOT_SCRIPTED = "exclude_verify_torchscript_list"


def submit(name: str, folder: str, weights_url: str = "") -> None:
    """Do what the command ``submit`` of this tool describes, with the same arguments.

    Raises:
        UserError: an unknown bundle, one without weights, weights above 25 MB without an address, a version that the
            zoo has, or a folder that holds the bundle already.
    """
    lay_out(segmentation_bundle(name), Path(str(folder)), str(weights_url))


def lay_out(bundle: Bundle, zoo: Path, weights_url: str = "", root: Path = ROOT) -> None:
    """Write the bundle's folder, its unit test and, where it needs one, its line in the CI's lists.

    Args:
        bundle: the catalog's entry.
        zoo: a clone of the model zoo, or a folder for what is to be copied into one.
        weights_url: folder in the net from which weights above 25 MB will be fetched.
        root: the repository, whose ``networks`` and ``bundles`` are read.
    """
    weights = root / "bundles" / bundle.name / MODEL
    if not weights.is_file():
        raise UserError(
            f"{bundle.name} has no weights ({weights}), which the zoo asks for; train and evaluate it first."
        )
    if weights.stat().st_size > LARGE and not weights_url:
        raise UserError(
            f"{weights} is larger than the 25 MB that the zoo takes; give --weights_url, the address of the folder "
            "from which it will be fetched."
        )
    packed = assemble(bundle, weights_url, root)
    target = zoo / "models" / bundle.name
    _check_free(packed, zoo, target)
    for path, content in sorted(packed.files.items()):
        with atomic(target / path) as temporary:
            if isinstance(content, Path):
                shutil.copyfile(content, temporary)
            else:
                temporary.write_bytes(content)
    metadata = json.loads(packed.files["configs/metadata.json"])
    channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    test = zoo / "ci" / "unit_tests" / f"test_{bundle.name}.py"
    with atomic(test) as temporary:
        temporary.write_text(unit_test(packed.bundle, channels), encoding="utf-8")
    print(f"Wrote {target} and {test}.")
    if bundle.not_scriptable:
        _exclude(bundle.name, zoo / CUSTOM)
    if packed.aside:
        print(f"Upload {packed.aside} to {weights_url.rstrip('/')}/{packed.stem}_model.pt before you open the request.")
    for note in packed.notes:
        print(f"Note: {note}")


def _check_free(packed: Packed, zoo: Path, target: Path) -> None:
    index = zoo / "models" / MODEL_INFO
    if index.is_file() and packed.stem in read_record(index):
        raise UserError(
            f"{index} has {packed.name} {packed.version} already; add a version to its changelog in "
            "scripts/catalog/bundles.py."
        )
    if target.exists():
        raise UserError(f"{target} exists; remove it first, so that nothing of an earlier version stays.")


def _exclude(name: str, path: Path) -> None:
    """Add a bundle to the list of those that are not checked for TorchScript, or say so."""
    if not path.is_file():
        print(f"Add this line to {NOT_SCRIPTED} in the zoo's {CUSTOM}:\n    {json.dumps(name)},")
        return
    text = path.read_text(encoding="utf-8")
    found = [node.value for node in ast.parse(text).body if _is_list(node)]
    if len(found) != 1:
        raise UserError(f"{path} has no list {NOT_SCRIPTED}; add {json.dumps(name)} where the zoo has it now.")
    if name in ast.literal_eval(found[0]):
        return
    lines = text.splitlines(keepends=True)
    row, column = found[0].lineno - 1, found[0].col_offset + 1
    lines[row] = f"{lines[row][:column]}{json.dumps(name)}, {lines[row][column:]}"  # black takes a comma too many away
    with atomic(path) as temporary:
        temporary.write_text(formatted("".join(lines)), encoding="utf-8")
    print(f"Added {name} to {NOT_SCRIPTED} in {path}.")


def _is_list(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.List)
        and [getattr(target, "id", None) for target in node.targets] == [NOT_SCRIPTED]
    )
