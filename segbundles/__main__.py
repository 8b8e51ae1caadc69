"""Command line: ``segbundles <tool> ...``, or ``python -m segbundles <tool> ...``."""

import importlib
import json
import shutil
import sys
import tempfile
import textwrap
from importlib.util import find_spec
from pathlib import Path

import segbundles

if find_spec("segbundles.scripts") is not None:
    # The tools call themselves "scripts". Installed under that name they would meet every other package that leaves
    # a folder of it behind, and every bundle with scripts of its own; so only this process knows them by it.
    sys.modules["scripts"] = importlib.import_module("segbundles.scripts")
else:  # an editable installation, which leaves the tools in the repository
    sys.path.insert(0, str(Path(__file__).parents[1]))

from networks.errors import UserError
from scripts import command_line
from scripts.opened_bundle import ROOT, shipped_weights

TOOLS = (
    "benchmark",
    "compress",
    "corpus",
    "datasets",
    "demo",
    "experiments",
    "export",
    "label",
    "measure",
    "metrics",
    "predict",
    "report",
    "zoo",
)


@command_line.when_stopped("Nothing was changed.")
def list_bundles(folder: str = ".") -> None:
    """List the bundles with their presets, the suites, and which weights were trained in a folder.

    Args:
        folder: where to look for trained weights: bundles in it, or in its folder ``bundles``, are found.
    """
    print("Bundles:")
    for metadata in sorted(ROOT.glob("bundles/*/configs/metadata.json")):
        bundle = metadata.parent.parent
        presets = sorted(path.stem for path in (bundle / "configs" / "presets").glob("*.json"))
        names = ", ".join(name for name in presets if not name.endswith(("_inference", "_paper")))
        print(f"  {bundle.name:19} presets: {names or 'none'}")
    print("Suites:")
    for suite in sorted(ROOT.glob("suites/*.json")):
        print(f"  {suite.stem:24} {_description(suite)}")
    print("Weights that come with the bundles (segbundles predict INPUT OUTPUT --trained NAME):")
    for weights in shipped_weights():
        print(f"  {weights.stem:20} {weights.parent.parent.name}{_trained_on(weights.with_suffix('.json'))}")
    patterns = ("models/model.pt", "*/models/model.pt", "bundles/*/models/model.pt")
    trained = sorted({path for pattern in patterns for path in Path(folder).glob(pattern)})
    print("Trained weights:" if trained else f"No trained weights in {Path(folder).resolve()}.")
    for weights in trained:
        print(f"  {weights}{_trained_on(weights.with_suffix('.json'))}")


@command_line.when_stopped("Nothing was copied; the same command starts anew.")
def copy(bundle: str, folder: str) -> None:
    """Copy a bundle's configs, licence and documentation to a folder, to train, change or host it there.

    Args:
        bundle: its name.
        folder: folder to create, or an empty one; it becomes the bundle's.
    """
    source, target = ROOT / "bundles" / bundle, Path(folder)
    if not (source / "configs" / "metadata.json").is_file():
        known = ", ".join(sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/metadata.json")))
        raise UserError(f"There is no bundle {bundle!r}; choose from {known}.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not an empty folder; give another one.")
    # one that is there may be where the command is given, which cannot be replaced
    is_there = target.is_dir()
    place = target if is_there else target.parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".copy-", dir=place) as temporary:
        whole = Path(temporary) / bundle
        for part in ("configs", "docs"):
            shutil.copytree(source / part, whole / part)
        shutil.copyfile(source / "LICENSE", whole / "LICENSE")
        if is_there:
            for path in list(whole.iterdir()):
                path.replace(target / path.name)
        else:
            whole.replace(target)
    print(f"Wrote {target}. Train it there: cd {target} && python -m monai.bundle run --config_file configs/train.json")


COMMANDS: dict[str, command_line.Commands] = {
    "list": list_bundles,
    "copy": copy,
    **{tool: importlib.import_module(f"scripts.{tool}.__main__").COMMANDS for tool in TOOLS},
    "pictures": importlib.import_module("scripts.report.pictures").COMMANDS,
}


def main() -> None:
    """Run the command line."""
    command_line.run(COMMANDS, segbundles.__name__)


def _description(suite: Path) -> str:
    return textwrap.shorten(
        json.loads(suite.read_text(encoding="utf-8")).get("description", ""), 90, placeholder=" ..."
    )


def _trained_on(record: Path) -> str:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return f", trained on {content['data_set']['name']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


if __name__ == "__main__":
    main()
