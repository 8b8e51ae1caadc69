"""Finding the saved label map of each case, whoever wrote it."""

from collections.abc import Sequence
from pathlib import Path

from networks.errors import UserError
from networks.workflow.data import IMAGE_SUFFIXES, Pair, case_name, stem
from networks.workflow.files import files_below

POSTFIX = "_seg"  # of this project's inference
REMEDY = "run the inference config on this data set first, or sort the files"


def find_predictions(folder: str, pairs: Sequence[Pair], dataset_dir: str, remedy: str = REMEDY) -> list[Path]:
    """One file per case, below ``folder``: named as the image or the label, with or without ``_seg``.

    Of several files of that name the one in the image's subfolder counts.

    Args:
        folder: of the label maps.
        pairs: the cases.
        dataset_dir: where they are.
        remedy: what to do about a missing file, as the end of a sentence.

    Raises:
        UserError: no such folder, or a case has no file or several in it, or shares its file with another.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"The folder {root} does not exist; give a folder of saved label maps.")
    by_stem: dict[str, list[Path]] = {}
    for path in files_below(root):
        if path.name.lower().endswith(IMAGE_SUFFIXES):
            by_stem.setdefault(stem(path.name), []).append(path)
    found = [_one(root, by_stem, pair, dataset_dir, remedy) for pair in pairs]
    of: dict[Path, str] = {}
    for pair, path in zip(pairs, found, strict=True):
        if path in of:
            raise UserError(f"{path} is the only label map for {of[path]} and for {pair['image']}: {remedy}.")
        of[path] = pair["image"]
    return found


def _one(root: Path, by_stem: dict[str, list[Path]], pair: Pair, dataset_dir: str, remedy: str) -> Path:
    image = stem(Path(pair["image"]).name)
    stems = dict.fromkeys(stem(Path(path).name) for path in pair.values())
    names = dict.fromkeys(name for known in stems for name in (known, known + POSTFIX))  # a label may be called x_seg
    found = [path for name in names for path in by_stem.get(name, [])]
    if len(found) > 1:
        parent = root / Path(case_name(pair["image"], dataset_dir)).parent
        found = [path for path in found if path.parent == parent] or found
    if len(found) != 1:
        raise UserError(
            f"{root} holds {len(found)} label maps for {pair['image']}; expected one file named {image} or "
            f"{image}{POSTFIX}: {remedy}."
        )
    return found[0]
