"""Preparing a MONAI Label app: a folder with the server's program and the packed bundles that it serves."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from networks.errors import UserError
from networks.workflow.files import put_in_place
from scripts.catalog.bundles import BY_NAME
from scripts.opened_bundle import shipped_weights
from scripts.zoo.archive import opened
from scripts.zoo.pack import Packed, assemble, choose
from scripts.zoo.static_checks import check_manifest

APP_DIR = "apps/segmentation"
MAIN, TASKS = (Path(__file__).with_name(f"monailabel_{name}.py") for name in ("app", "tasks"))
MODELS = "model"


def app(bundles: str | Sequence[str], output_dir: str = APP_DIR) -> None:
    """Do what the command ``app`` of this tool describes, with the same arguments.

    Raises:
        UserError: no such file, an unknown name, a damaged bundle, one that the app has already, or a folder of
            something else.
    """
    folder = Path(str(output_dir))
    sources = [str(b) for b in bundles.split(",")] if isinstance(bundles, str) else [str(b) for b in bundles]
    if folder.exists() and not is_app(folder) and not _is_begun(folder):
        raise UserError(f"{folder} exists and is no app of this tool; give --output_dir a new folder.")
    (folder / MODELS).mkdir(parents=True, exist_ok=True)
    for source in sources:
        target, has_weights = _add(source.strip(), folder)
        print(f"Wrote {target}{'' if has_weights else ', without weights: train it in the app'}.", flush=True)
    put_in_place(TASKS, folder / TASKS.name)
    put_in_place(MAIN, folder / "main.py")
    print(f"Start it by: python -m scripts.label start --app {shlex.quote(str(folder))} --studies DIR")


def is_app(folder: Path) -> bool:
    """Whether a folder holds an app of this tool, whose program is written last."""
    main = folder / "main.py"
    return main.is_file() and main.read_text(errors="replace").splitlines()[:1] == MAIN.read_text().splitlines()[:1]


def _is_begun(folder: Path) -> bool:
    """Whether an app was begun there and not finished, or nothing is there."""
    kept = (MODELS, TASKS.name)
    return folder.is_dir() and all(path.name in kept or path.name.startswith(".part-") for path in folder.iterdir())


def _add(source: str, folder: Path) -> tuple[Path, bool]:
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as temporary:
        if source in BY_NAME or source in (file.stem for file in shipped_weights()):
            bundle, found, _ = choose(source, Path(temporary) / "weights")
            name, content = source, Path(temporary) / source
            _write(assemble(bundle, found=found, name=name), content)
        elif os.sep in source or source.endswith(".zip"):
            with opened(source) as (unpacked, _):
                check_manifest(unpacked)
                name, content = unpacked.name, Path(temporary) / unpacked.name
                shutil.copytree(unpacked, content)
        else:
            raise UserError(
                f"There is no bundle {source!r}; choose from {', '.join(BY_NAME)} and the weights that come with them, "
                f"{', '.join(file.stem for file in shipped_weights())}, or give the path of a packed one."
            )
        target = folder / MODELS / name
        if target.exists():
            raise UserError(
                f"{target} exists and may have been trained since; move it away to replace it, or leave {name} out."
            )
        content.rename(target)
    return target, (target / "models" / "model.pt").is_file()


def _write(packed: Packed, folder: Path) -> None:
    for name, content in packed.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)
