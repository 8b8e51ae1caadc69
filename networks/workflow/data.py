"""Reading the data contract: a folder with ``dataset.json`` in the Medical Segmentation Decathlon's layout."""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite import distributed as idist

from networks.errors import UserError
from networks.phantom import ensure_ct_phantom, ensure_precipitate_phantom
from networks.workflow.carving import drawn_for_validation
from networks.workflow.files import files_below, parse_json

logger = logging.getLogger(__name__)
NIFTI_SUFFIXES = (".nii.gz", ".nii")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".mha", ".mhd", ".nrrd")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)
PHANTOMS = {"ct": ensure_ct_phantom, "precipitate": ensure_precipitate_phantom}
LISTS = ("training", "validation", "test")
Pair = dict[str, str]

# Names that say of whom an image is: BIDS with a number, as sub-micron and sub-grain are no patients, the word patient
# or subject with one, and a numbered case of which there are parts. A bare case_001 may be counted anew in every list,
# so it says nothing.
_PATIENT = re.compile(
    r"(?:^|[/_.-])(?P<patient>sub-(?=[a-z]*\d)[a-z0-9]+|(?:patient|subject)[_-]?\d+"
    r"|case[_-]?\d+(?=[_-]?(?:slice|frame|volume|ses|visit|time|ed\b|es\b)))(?![a-z0-9])",
    re.IGNORECASE,
)


def load_datalist(
    dataset_dir: str, phantom: str | None = None, say: Callable[[str], Any] = logger.info
) -> dict[str, list[Pair]]:
    """Read the lists of ``dataset.json``.

    Without a validation list one is carved from training: a fifth of the patients, the same in every run.

    Args:
        dataset_dir: folder that holds ``dataset.json``.
        phantom: kind of phantom ("ct" or "precipitate") to write to ``dataset_dir`` first if nothing is there.
        say: gets a sentence if a validation list was carved.

    Returns:
        For every list of ``dataset.json`` (``training``, ``validation``, ``test`` and any other) its items, with
        paths joined to ``dataset_dir``. These three are there even if empty.

    Raises:
        UserError: no such folder, no ``dataset.json`` in it or a malformed one, a listed file that is missing, or no
            cases at all.
    """
    datalist = _listed(dataset_dir, phantom)
    training = datalist["training"]
    if training and not datalist["validation"]:
        datalist["training"], datalist["validation"] = _carved(training, dataset_dir)
        if datalist["validation"] and idist.get_rank() == 0:
            say(
                f"{json_path(dataset_dir)} has no validation list: {len(datalist['validation'])} of the "
                f"{len(training)} training cases are kept for validation, the same in every run."
            )
    return datalist


def case_list(datalist: Mapping[str, Sequence[Pair]], name: str) -> list[Pair]:
    """One list of the data set.

    Raises:
        UserError: it is empty.
    """
    if datalist.get(name):
        return list(datalist[name])
    filled = ", ".join(f"{len(items)} {key}" for key, items in datalist.items() if items)
    if name == "validation" and datalist.get("training"):
        raise UserError(
            f"dataset.json lists no validation cases and all of training ({filled}) is of one patient, so none can be "
            'kept for validation; add cases of other patients to "validation" or to "training".'
        )
    raise UserError(
        f'The list "{name}" of dataset.json is missing or empty (filled: {filled or "none"}); '
        f"add the {name} cases to it."
    )


def labelled_list(datalist: Mapping[str, Sequence[Pair]], name: str) -> list[Pair]:
    """One list of the data set, all of whose cases have labels.

    Raises:
        UserError: it is empty, or a case has no label.
    """
    cases = case_list(datalist, name)
    missing = [case["image"] for case in cases if "label" not in case]
    if missing:
        raise UserError(f'{missing[0]} of the list "{name}" has no label, so there is nothing to score it against.')
    return cases


def class_names(dataset_dir: str, out_channels: int | None = None) -> list[str]:
    """Names of the classes, background first, from ``dataset.json``.

    Args:
        dataset_dir: folder of the data set.
        out_channels: number of classes; by default that of the names. Without ``labels``, or without a
            ``dataset.json``, they are called "class 1", "class 2", ...

    Raises:
        UserError: ``dataset.json`` is malformed, or its names are not those of ``out_channels`` classes.
    """
    path = json_path(dataset_dir)
    names = parse_labels(read_dataset_json(dataset_dir).get("labels"), path) if path.is_file() else []
    if not names:
        return ["background", *(f"class {i}" for i in range(1, out_channels or 0))][: out_channels or 0]
    if out_channels is not None and len(names) != out_channels:
        raise UserError(
            f'{path} names {len(names)} classes with background in "labels", but out_channels is {out_channels}; set '
            f"--out_channels {len(names)}, or correct the labels."
        )
    return names


def parse_labels(labels: Any, path: str | Path) -> list[str]:
    """Class names by number from either form of ``labels``: ``{"1": "liver"}``, or nnU-Net's ``{"liver": 1}``.

    The background may be left out.

    Args:
        labels: what ``dataset.json`` holds; None and an empty object name nothing.
        path: the file, for messages.

    Raises:
        UserError: neither form, regions of several classes, a class to ignore, a number or name that comes twice, or a
            gap in the numbers.
    """
    if not labels:
        return []
    form = f'{path}: "labels" must be {{"0": "background", "1": name, ...}}'
    if not isinstance(labels, dict):
        raise UserError(f"{form}, but it is {json.dumps(labels)[:200]}.")
    if any(str(part).strip().lower() == "ignore" for item in labels.items() for part in item):
        raise UserError(
            f'{path}: "labels" has the class "ignore", and pixels to leave out are not supported; give them a class or '
            "make them background."
        )
    if any(isinstance(value, list) for value in labels.values()):
        raise UserError(
            f'{path}: "labels" has regions of several classes, which are not supported; name each class by one number.'
        )
    if all(re.fullmatch("0|[1-9][0-9]*", key) for key in labels):
        pairs = [(int(key), name) for key, name in labels.items()]
    elif all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in labels.values()):
        pairs = [(number, name) for name, number in labels.items()]
    else:
        raise UserError(f"{form}, but it is {json.dumps(labels, ensure_ascii=False)[:200]}.")
    names = {0: "background"} if all(number != 0 for number, _ in pairs) else {}
    for number, name in pairs:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{form}, but class {number} has the name {json.dumps(name)}.")
        if number in names or name.strip() in names.values():
            raise UserError(
                f'{path}: "labels" has the number {number} or the name {name!r} twice; every class has one of each.'
            )
        names[number] = name.strip()
    if sorted(names) != list(range(len(names))):
        listed = ", ".join(map(str, sorted(names)))
        raise UserError(f'{path}: "labels" has the numbers {listed}; expected 0, 1, 2, ... without a gap.')
    return [names[number] for number in range(len(names))]


def dataset_name(dataset_dir: str) -> str:
    """``name`` of ``dataset.json``, or the folder's name."""
    name = read_dataset_json(dataset_dir).get("name") if json_path(dataset_dir).is_file() else None
    return str(name or Path(dataset_dir).resolve().name)


def has_spacing(dataset_dir: str) -> bool:
    """Whether the volumes' headers tell the size of a voxel: ``dataset.json`` may say that it is "unknown"."""
    return not json_path(dataset_dir).is_file() or read_dataset_json(dataset_dir).get("spacing") != "unknown"


def stored_window(dataset_dir: str) -> list[float] | None:
    """``window`` in ``intensity`` of ``dataset.json``: what the conversion of 16-bit pictures made 0 and 255, or None.

    Raises:
        UserError: ``dataset.json`` is malformed.
    """
    path = json_path(dataset_dir)
    return read_dataset_json(dataset_dir).get("intensity", {}).get("window") if path.is_file() else None


def case_name(image: str, dataset_dir: str) -> str:
    """Path of a case's image within the data set, with forward slashes."""
    path, root = Path(image), Path(dataset_dir)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def patient(image: str, dataset_dir: str) -> str | None:
    """Of whom an image is, where its path in the data set says so; None where it does not.

    ``sub-01/ses-2/sub-01_ses-2_T1w``, ``patient001_frame01`` and ``case0005_slice012`` do, ``case_001`` and
    ``hippocampus_001`` do not: whether such numbers are counted anew in every list is not known.
    """
    match = _PATIENT.search(case_name(image, dataset_dir))
    return match["patient"].lower() if match else None


def list_images(dataset_dir: str, phantom: str | None = None, output_dir: str | Path | None = None) -> list[Pair]:
    """The images to segment: ``dataset.json``'s test list, else every image below a folder, else one image file.

    Args:
        dataset_dir: folder of the data contract, any folder with images (searched recursively), or one image file.
        phantom: see :func:`load_datalist`.
        output_dir: folder of the results; what lies in it is no input.

    Returns:
        Sorted items ``{"image": path}``.

    Raises:
        UserError: the folder or file does not exist or holds no image in a known format, two images differ in nothing
            but their suffixes, as their results would not, or ``dataset.json`` is malformed or its test list is empty.
    """
    root = Path(dataset_dir)
    if phantom is not None or (root / "dataset.json").is_file():
        images = [item["image"] for item in case_list(_listed(dataset_dir, phantom), "test")]
    elif root.is_file():
        images = [str(root)]
    elif not root.is_dir():
        raise UserError(f"{root} does not exist; give --dataset_dir a folder with images or a data set.")
    else:
        images = [str(p) for p in files_below(root, output_dir) if p.name.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        raise UserError(f"{root} holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    first: dict[str, str] = {}
    for image in images:
        other = first.setdefault(stem(image), image)
        if other != image:
            raise UserError(f"{other} and {image} would have one result; rename one, or keep them in two folders.")
    return [{"image": image} for image in first.values()]


def stem(name: str) -> str:
    """A file's name, with or without folders, without the ending of an image."""
    suffix = next((s for s in sorted(IMAGE_SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def read_dataset_json(dataset_dir: str) -> dict[str, Any]:
    """``dataset.json`` as it is, with or without a byte-order mark.

    Raises:
        UserError: no such folder or file, it is no JSON object, or a key comes twice in one of its objects.
    """
    root, path = Path(dataset_dir), json_path(dataset_dir)
    if not root.is_dir():
        raise UserError(f"The data set folder {root} does not exist; give --dataset_dir an existing folder.")
    if not path.is_file():
        raise UserError(
            f"{root} has no dataset.json; make one with 'python -m scripts.datasets' or write it by hand "
            "(docs: the data contract)."
        )

    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"), path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); correct it or convert the data set again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected an object with the list 'training'.")
    for name in LISTS:
        if not isinstance(content.get(name, []), list):
            raise UserError(f"{path}: '{name}' must be a list of image and label pairs.")
    return content


def _carved(training: list[Pair], dataset_dir: str) -> tuple[list[Pair], list[Pair]]:
    """Training and validation; all of it is training if it is of one patient."""
    # by the path in the data set, so that the draw does not depend on where that lies
    units = [patient(case["image"], dataset_dir) or case_name(case["image"], dataset_dir) for case in training]
    chosen = drawn_for_validation(units)
    pairs = list(zip(units, training, strict=True))
    return [case for unit, case in pairs if unit not in chosen], [case for unit, case in pairs if unit in chosen]


def _listed(dataset_dir: str, phantom: str | None) -> dict[str, list[Pair]]:
    """The lists as ``dataset.json`` has them."""
    if phantom is not None:
        PHANTOMS[phantom](dataset_dir)
    content = read_dataset_json(dataset_dir)
    lists = {name: items for name, items in content.items() if name in LISTS or _is_case_list(items)}
    datalist = {name: [_resolve(dataset_dir, name, item) for item in items] for name, items in lists.items()}
    if not any(datalist.values()):
        raise UserError(
            f"{json_path(dataset_dir)} lists no cases; expected at least one item "
            '{"image": ..., "label": ...} in "training".'
        )
    return {**{name: [] for name in LISTS}, **datalist}


def json_path(dataset_dir: str) -> Path:
    """Where a data set has its ``dataset.json``."""
    return Path(dataset_dir) / "dataset.json"


def _is_case_list(items: object) -> bool:
    """Whether a list of another name is one of cases; one good item shows what is meant."""
    return isinstance(items, list) and any(isinstance(item, dict) and "image" in item for item in items)


def _resolve(dataset_dir: str, name: str, item: object) -> Pair:
    case = {"image": item} if isinstance(item, str) else item
    keys = ("image",) if name == "test" and isinstance(case, dict) and "label" not in case else ("image", "label")
    if not isinstance(case, dict) or not all(isinstance(case.get(key), str) and case[key] for key in keys):
        raise UserError(
            f'{json_path(dataset_dir)}: the item {json.dumps(item)} of "{name}" is malformed; '
            'expected {"image": "path", "label": "path"}.'
        )
    return {key: _file(dataset_dir, name, case[key]) for key in keys}


def _file(dataset_dir: str, name: str, path: str) -> str:
    """A listed file below the data set's folder.

    Results are written under the path that an image has in its data set, so a file elsewhere has no place there.
    """
    # not resolved: a link in the folder may lead anywhere
    root = Path(dataset_dir).absolute()
    inside = Path(os.path.relpath(os.path.normpath(root / path), os.path.normpath(root)))
    if os.pardir in inside.parts:
        raise UserError(
            f'{json_path(dataset_dir)} lists {path} in "{name}", which is outside of its folder; copy or link the '
            "file into the folder and list it by its path there."
        )
    file = Path(dataset_dir) / inside
    if not file.is_file():
        raise UserError(
            f'{json_path(dataset_dir)} lists {file} in "{name}", but there is no such file; '
            "restore it or take the case out of the list."
        )
    return str(file)
