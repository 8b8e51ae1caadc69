"""Finding the saved label map of each case, whoever wrote it."""

from collections.abc import Sequence
from pathlib import Path

from networks.errors import UserError
from networks.workflow.data import IMAGE_SUFFIXES, Pair, case_name

POSTFIX = "_seg"  # of this project's inference


def find_predictions(folder: str, pairs: Sequence[Pair], dataset_dir: str) -> list[Path]:
    """One file per case, below ``folder``: named as the image or the label, with or without ``_seg``.

    Of several files of that name the one in the image's subfolder counts.

    Raises:
        UserError: no such folder, or a case has no file or several in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"The folder {root} does not exist; give a folder of saved label maps.")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith("."):
            by_stem.setdefault(_stem(path.name), []).append(path)
    return [_one(root, by_stem, pair, dataset_dir) for pair in pairs]


def _one(root: Path, by_stem: dict[str, list[Path]], pair: Pair, dataset_dir: str) -> Path:
    image = _stem(Path(pair["image"]).name)
    stems = dict.fromkeys(_stem(Path(path).name) for path in pair.values())
    found = [path for stem in stems for name in (stem, stem + POSTFIX) for path in by_stem.get(name, [])]
    if len(found) > 1:
        parent = root / Path(case_name(pair["image"], dataset_dir)).parent
        found = [path for path in found if path.parent == parent] or found
    if len(found) != 1:
        raise UserError(
            f"{root} holds {len(found)} label maps for {pair['image']}; expected one file named {image} or "
            f"{image}{POSTFIX}: run the inference config on this data set first, or sort the files."
        )
    return found[0]


def _stem(name: str) -> str:
    suffix = next((s for s in sorted(IMAGE_SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
