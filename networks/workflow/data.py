"""Reading the data contract: a folder with ``dataset.json`` in the Medical Segmentation Decathlon's layout."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.transforms import LoadImage

from networks.phantom import ensure_ct_phantom, ensure_precipitate_phantom

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
PHANTOMS = {"ct": ensure_ct_phantom, "precipitate": ensure_precipitate_phantom}
Pair = dict[str, str]


def load_datalist(dataset_dir: str, phantom: str | None = None) -> dict[str, list[Pair]]:
    """Read the lists of ``dataset.json``.

    Args:
        dataset_dir: folder that holds ``dataset.json``.
        phantom: kind of phantom ("ct" or "precipitate") to write to ``dataset_dir`` first if nothing is there.

    Returns:
        For every list of ``dataset.json`` (``training``, ``validation``, ``test`` and any other) its items, with
        paths joined to ``dataset_dir``. ``validation`` and ``test`` are there even if empty.

    Raises:
        FileNotFoundError: no such folder, no ``dataset.json`` in it, or a listed file is missing.
        ValueError: ``dataset.json`` is malformed or lists no training cases.
    """
    if phantom is not None:
        PHANTOMS[phantom](dataset_dir)
    content = _read_dataset_json(dataset_dir)
    lists = {name: items for name, items in content.items() if _is_case_list(items)}
    datalist = {name: [_resolve(dataset_dir, name, item) for item in items] for name, items in lists.items()}
    if not any(datalist.values()):
        raise ValueError(
            f"{_json_path(dataset_dir)} lists no cases; expected at least one item "
            '{"image": ..., "label": ...} in "training".'
        )
    return {"training": [], "validation": [], "test": [], **datalist}


def case_list(datalist: dict[str, list[Pair]], name: str) -> list[Pair]:
    """One list of the data set, or a ValueError that says which list is empty."""
    if not datalist.get(name):
        filled = [key for key, items in datalist.items() if items]
        raise ValueError(
            f'The list "{name}" of dataset.json is missing or empty (filled: {", ".join(filled)}); '
            f"add the {name} cases to it."
        )
    return datalist[name]


def class_names(dataset_dir: str, out_channels: int | None = None) -> list[str]:
    """Names of the classes 0..out_channels-1 (default: all) from ``dataset.json``; "class 1", ... where it has none."""
    path = _json_path(dataset_dir)
    labels = _read_dataset_json(dataset_dir).get("labels", {}) if path.is_file() else {}
    return [
        labels.get(str(i)) or ("background" if i == 0 else f"class {i}") for i in range(out_channels or len(labels))
    ]


def balanced_weights(cases: Sequence[Pair], out_channels: int, reader: str | None = None) -> torch.Tensor:
    """Weights (out_channels,) that give every class the same share of a cross-entropy: 1 / frequency, mean 1.

    Args:
        cases: items whose ``label`` is counted.
        out_channels: classes; one that no label has gets weight 0.
        reader: MONAI image reader.
    """
    counts = torch.zeros(out_channels, dtype=torch.float64)
    load = LoadImage(reader=reader, image_only=True)
    for path in sorted({pair["label"] for pair in cases}):
        counts += torch.bincount(load(path).as_tensor().long().flatten(), minlength=out_channels)
    weights = torch.where(counts > 0, counts.sum() / counts.clamp(min=1), 0)
    return (weights / weights.mean()).float()


def dataset_name(dataset_dir: str) -> str:
    """``name`` of ``dataset.json``, or the folder's name."""
    path = _json_path(dataset_dir)
    name = _read_dataset_json(dataset_dir).get("name") if path.is_file() else None
    return str(name or Path(dataset_dir).resolve().name)


def case_name(image: str, dataset_dir: str) -> str:
    """Path of a case's image within the data set, with forward slashes."""
    path, root = Path(image), Path(dataset_dir)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def list_images(dataset_dir: str, phantom: str | None = None) -> list[Pair]:
    """The images to segment: ``dataset.json``'s test list, else every image below a folder, else one image file.

    Args:
        dataset_dir: folder of the data contract, any folder with images (searched recursively), or one image file.
        phantom: see :func:`load_datalist`.

    Returns:
        Sorted items ``{"image": path}``.

    Raises:
        FileNotFoundError: the folder or file does not exist or holds no image in a known format.
        ValueError: ``dataset.json`` is malformed or its test list is empty.
    """
    root = Path(dataset_dir)
    if phantom is not None or (root / "dataset.json").is_file():
        datalist = load_datalist(dataset_dir, phantom)
        return [{"image": item["image"]} for item in case_list(datalist, "test")]
    if root.is_file():
        return [{"image": str(root)}]
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist; give --dataset_dir a folder with images or a data set.")
    files = sorted(p for p in root.rglob("*") if p.is_file() and _is_image(p))
    if not files:
        raise FileNotFoundError(f"{root} holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return [{"image": str(p)} for p in files]


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.lower().endswith(IMAGE_SUFFIXES)


def _json_path(dataset_dir: str) -> Path:
    return Path(dataset_dir) / "dataset.json"


def _read_dataset_json(dataset_dir: str) -> dict:
    root, path = Path(dataset_dir), _json_path(dataset_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"The data set folder {root} does not exist; give --dataset_dir an existing folder.")
    if not path.is_file():
        raise FileNotFoundError(
            f"{root} has no dataset.json; make one with 'python -m scripts.datasets' or write it by hand "
            "(docs: the data contract)."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); correct it or convert the data set again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected an object with the list 'training'.")
    if not isinstance(content.get("training", []), list) or not isinstance(content.get("labels", {}), dict):
        raise ValueError(f"{path}: 'training' must be a list of image and label pairs and 'labels' an object.")
    return content


def _is_case_list(items: object) -> bool:
    return isinstance(items, list) and all(isinstance(item, str | dict) for item in items)


def _resolve(dataset_dir: str, name: str, item: str | dict) -> Pair:
    item = {"image": item} if isinstance(item, str) else item
    keys = ("image",) if name == "test" and "label" not in item else ("image", "label")
    if not all(isinstance(item.get(key), str) for key in keys):
        raise ValueError(
            f'{_json_path(dataset_dir)}: the item {json.dumps(item)} of "{name}" is malformed; '
            'expected {"image": "path", "label": "path"}.'
        )
    pair = {key: str(Path(dataset_dir) / item[key]) for key in keys}
    _require_files(dataset_dir, name, pair.values())
    return pair


def _require_files(dataset_dir: str, name: str, paths: Sequence[str]) -> None:
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(
                f'{_json_path(dataset_dir)} lists {path} in "{name}", but there is no such file; '
                "restore it or take the case out of the list."
            )
