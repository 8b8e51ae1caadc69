"""Pictures in classes: a folder per class, or a table of pictures, and what is checked of them before a training.

What is understood:

- ``class/.../picture`` and ``split/class/.../picture``, where all outer folders are called after splits: train or
  training, val, valid or validation, test or testing;
- a CSV file, or a folder with a ``labels.csv``, with the columns ``image`` (paths from the file's folder), ``class``
  and ``split``; without ``split`` all are for training, without ``class`` they are for learning without labels. The
  columns ``source``, ``group`` and ``duplicates`` say what must be in one split, and stays together where one for
  validation is drawn.
"""

import csv
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ignite import distributed as idist

from networks.errors import UserError
from networks.texture_phantom import ensure_texture_phantom
from networks.workflow.carving import drawn_for_validation, joined
from networks.workflow.data import LISTS, PICTURE_SUFFIXES, case_name, load_datalist, patient
from networks.workflow.files import files_below, is_hidden
from networks.workflow.overlap import check_lists, same_content

logger = logging.getLogger(__name__)
TABLE = "labels.csv"
SPLITS = ("training", "validation", "test")
# columns whose pictures of one value stay in one split, and what such a value is called
TOGETHER = {"source": "source", "group": "group", "duplicates": "group of duplicates"}
# what people call them
SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"}
SPLIT_NAMES |= {name: name for name in SPLITS}
Item = dict[str, Any]


class Picture(NamedTuple):
    """A picture of a data set.

    Attributes:
        image: its file.
        kind: name of its class; empty if unknown.
        split: "training", "validation" or "test".
        of: what its table says it belongs to, such as "source a.tif" and "group specimen 7".
    """

    image: Path
    kind: str
    split: str
    of: tuple[str, ...] = ()


def picture_classes(dataset_dir: str, phantom: bool = False) -> list[str]:
    """Names of the classes in alphabetical order, which is that of their numbers.

    Args:
        dataset_dir: a folder, or a CSV file; see the module.
        phantom: whether to write the phantom there first if nothing is there.

    Raises:
        UserError: nothing is there, a picture is missing or has no class, or there are fewer than two classes.
    """
    names = sorted({picture.kind for picture in _labelled(dataset_dir, phantom)})
    if len(names) < 2:
        raise UserError(f"{dataset_dir} has one class of pictures, {names[0]!r}; expected at least two to tell apart.")
    return names


def load_pictures(
    dataset_dir: str,
    class_names: Sequence[str],
    phantom: bool = False,
    say: Callable[[str], Any] = logger.info,
) -> dict[str, list[Item]]:
    """The pictures of every split.

    Without a split for validation a fifth of every class are kept for it, the same in every run. What is drawn are
    pictures with all that share a source, a group, duplicates or a patient with them.

    Args:
        dataset_dir, phantom: as for :func:`picture_classes`.
        class_names: names of the classes by number.
        say: gets a sentence if pictures were kept for validation.

    Returns:
        Per split, items with ``image`` (path), ``label`` (number of the class) and ``name`` (path in the data set).

    Raises:
        UserError: as :func:`picture_classes`, or a class is none of ``class_names``.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    pictures = _labelled(dataset_dir, phantom)
    unknown = sorted({picture.kind for picture in pictures} - numbers.keys())
    if unknown:
        raise UserError(
            f"{dataset_dir} has the class {unknown[0]!r}, which is none of the {len(numbers)} that the network was "
            f"trained to tell apart ({', '.join(class_names[:5])}, ...); leave it out, or correct its name."
        )
    pictures = _carved(pictures, dataset_dir, say)
    root = str(picture_root(dataset_dir))
    lists: dict[str, list[Item]] = {name: [] for name in LISTS}
    for image, kind, split, _ in pictures:
        item = {"image": str(image), "label": numbers[kind], "name": case_name(str(image), root)}
        lists[split].append(item)
    return lists


def unlabelled_pictures(
    dataset_dir: str, phantom: bool = False, say: Callable[[str], Any] = logger.info
) -> dict[str, list[Item]]:
    """The pictures to learn from without labels: those for training, and a part of them to validate with.

    Args:
        dataset_dir: what :func:`picture_classes` takes, a data set with ``dataset.json``, of which the pictures for
            training and validation are taken, or any tree of folders with pictures. Pictures for test are never taken,
            nor are copies of them, nor what shares a source, a group, duplicates or a patient with them.
        phantom: as for :func:`picture_classes`.
        say: gets a sentence for what is left out, and if pictures were kept for validation.

    Returns:
        Items of "training" and "validation" with ``image`` and ``name``.

    Raises:
        UserError: nothing is there, or too little.
    """
    if phantom:
        ensure_texture_phantom(dataset_dir)
    if (Path(dataset_dir) / "dataset.json").is_file():
        pictures = pictures_to_segment(dataset_dir, say)
    else:
        pictures = _pictures(dataset_dir, labelled=False)
    pictures = _not_of_test(pictures, dataset_dir, say)
    if len(pictures) < 2:
        raise UserError(f"{dataset_dir} has {len(pictures)} pictures to learn from; expected at least two.")
    # one class for all: the fifth for validation is drawn from the whole
    pictures = _carved([picture._replace(kind="") for picture in pictures], dataset_dir, say)
    root = str(picture_root(dataset_dir))
    found: dict[str, list[Item]] = {"training": [], "validation": []}
    for image, _, split, _ in pictures:
        found[split].append({"image": str(image), "name": case_name(str(image), root)})
    return {split: picture_list(found, split) for split in found}


def pictures_to_segment(dataset_dir: str, say: Callable[[str], Any] = logger.info) -> list[Picture]:
    """The images of a data set with ``dataset.json``, those for test being all but training and validation.

    Args:
        dataset_dir: that folder.
        say: gets a sentence if cases were kept for validation.

    Raises:
        UserError: as :func:`networks.workflow.data.load_datalist`, or an image is no picture.
    """
    found = []
    for name, cases in load_datalist(dataset_dir, say=say).items():
        # a list of another name, such as different_test, is one to score on
        split = name if name in ("training", "validation") else "test"
        found += [Picture(Path(case["image"]), "", split) for case in cases]
    volume = next((image for image, *_ in found if not image.name.lower().endswith(PICTURE_SUFFIXES)), None)
    if volume is not None:
        raise UserError(f"{dataset_dir} lists {volume}, which is no picture; expected {', '.join(PICTURE_SUFFIXES)}.")
    return found


def pictures_to_classify(dataset_dir: str, phantom: bool = False) -> list[Item]:
    """All pictures of a folder and the folders in it, of a CSV file with a column ``image``, or one picture.

    Args:
        dataset_dir: that folder or file.
        phantom: as for :func:`picture_classes`.

    Returns:
        Items with ``image`` and ``name``.

    Raises:
        UserError: nothing is there.
    """
    if phantom:
        ensure_texture_phantom(dataset_dir)
    path = Path(dataset_dir)
    if _is_picture(path):
        return [{"image": str(path), "name": path.name}]
    if path.is_dir() and not (path / TABLE).is_file():
        images = list(_images(path))
        if not images:
            raise UserError(f"{path} holds no pictures; expected files ending in {', '.join(PICTURE_SUFFIXES)}.")
    else:
        images = [picture.image for picture in _pictures(dataset_dir, labelled=False)]
    root = str(picture_root(dataset_dir))
    return [{"image": str(image), "name": case_name(str(image), root)} for image in images]


def picture_list(datalist: Mapping[str, Sequence[Item]], split: str) -> list[Item]:
    """The pictures of one split; raises UserError if there are none."""
    if datalist.get(split):
        return list(datalist[split])
    if split == "validation" and datalist.get("training"):
        raise UserError(
            "The data set has no pictures for validation, and none can be kept for it, since those of every class "
            "belong together by source, group, duplicates or patient, or are a single one; add pictures of others."
        )
    filled = ", ".join(f"{len(items)} for {name}" for name, items in datalist.items() if items)
    raise UserError(f"The data set has no pictures for {split!r} (it has {filled or 'none'}); add some of that split.")


def picture_root(dataset_dir: str) -> Path:
    """The folder of a data set that may be given by its table."""
    path = Path(dataset_dir)
    return path.parent if path.is_file() else path


def check_pictures(
    dataset_dir: str, class_names: Sequence[str], allow_overlap: bool | str = False, **lists: Sequence[Item]
) -> None:
    """Refuse a training that could not learn a class, or whose scores would measure memory.

    Args:
        dataset_dir: of the data set.
        class_names: names of the classes by number.
        allow_overlap: accept that a picture, or what pictures belong to, is in two splits.
        **lists: the pictures of every split.

    Raises:
        UserError: a class has no picture for training, one picture is of two classes, or as
            :func:`networks.workflow.overlap.check_lists`, to which sources, groups and duplicates are what pictures
            belong to.
    """
    counts = Counter(item["label"] for item in lists["training"])
    lacking = [name for number, name in enumerate(class_names) if not counts[number]]
    if lacking:
        more = f" (and {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
        raise UserError(
            f"The class {lacking[0]!r}{more} of {dataset_dir} has no pictures for training; add some, or leave it out."
        )
    labels = {Path(item["image"]): item["label"] for items in lists.values() for item in items}
    for one, twin in same_content(list(labels)):
        if labels[one] != labels[twin]:
            raise UserError(
                f"{one} ({class_names[labels[one]]}) and {twin} ({class_names[labels[twin]]}) hold the same picture, "
                "but are of two classes; remove the one that is wrong."
            )
    # not in the items themselves, which become batches
    of = {str(picture.image): picture.of for picture in _labelled(dataset_dir, phantom=False)}
    pairs: Any = {  # whose labels are files there
        name: [{**item, "of": of.get(item["image"], ())} for item in items] for name, items in lists.items()
    }
    check_lists(str(picture_root(dataset_dir)), allow_overlap, **pairs)


def describe_pictures(dataset_dir: str, class_names: Sequence[str], **lists: Sequence[Item]) -> dict[str, Any]:
    """What the record of a training says of its data, without any path of this computer."""
    labels = {str(number): name for number, name in enumerate(class_names)}
    numbers = {name: len(items) for name, items in lists.items()}
    return {"name": picture_root(dataset_dir).resolve().name, **({"labels": labels} if labels else {}), **numbers}


def _labelled(dataset_dir: str, phantom: bool) -> list[Picture]:
    if phantom:
        ensure_texture_phantom(dataset_dir)
    return _pictures(dataset_dir, labelled=True)


def _pictures(dataset_dir: str, labelled: bool) -> list[Picture]:
    root = Path(dataset_dir)
    if not root.exists():
        raise UserError(f"{root} does not exist; give --dataset_dir a folder of pictures in classes, or a CSV file.")
    table = root if root.is_file() else root / TABLE
    found = list(_of_table(table, labelled) if table.is_file() else _of_folders(root, labelled))
    if not found:
        raise UserError(f"{root} holds no pictures; expected files ending in {', '.join(PICTURE_SUFFIXES)}.")
    return found


def _of_table(path: Path, labelled: bool) -> Iterator[Picture]:
    needed = ["image", "class"] if labelled else ["image"]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in needed if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(
                    f"{path} has no column {lacking[0]!r} in its first line; expected image,class,split with commas "
                    "between them."
                )
            for row in reader:
                yield _of_row(row, path, reader.line_num, labelled)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); export it as one.") from error


def _of_row(row: Mapping[str, str | None], path: Path, line: int, labelled: bool) -> Picture:
    name, kind, split = ((row.get(key) or "").strip() for key in ("image", "class", "split"))
    if not name or (labelled and not kind):
        raise UserError(f"Line {line} of {path} has no {'image' if not name else 'class'}; fill it in.")
    if "split" in row and split.lower() not in SPLIT_NAMES:
        raise UserError(f"Line {line} of {path} has the split {split!r}; expected training, validation or test.")
    image = path.parent / name
    if not image.is_file():
        raise UserError(f"Line {line} of {path} lists {image}, but there is no such file; restore it or take it out.")
    together = tuple(f"{what} {value}" for key, what in TOGETHER.items() if (value := (row.get(key) or "").strip()))
    return Picture(image, kind, SPLIT_NAMES[split.lower()] if "split" in row else "training", together)


def _of_folders(root: Path, labelled: bool) -> Iterator[Picture]:
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_hidden(path.name)]
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if splits and len(splits) < len(folders):
        other = next(folder for folder in folders if folder not in splits)
        raise UserError(
            f"{root} has folders of splits ({splits[0].name}) beside others ({other.name}); put every class into a "
            "split, or the splits apart."
        )
    beside = next((path for path in sorted(root.iterdir()) if _is_picture(path)), None) if splits else None
    if beside is not None:
        raise UserError(
            f"{beside} lies beside the folders of splits ({splits[0].name}) and is of none; put it into one, or out of "
            f"{root}."
        )
    if not labelled and not splits:
        yield from (Picture(path, "", "training") for path in _images(root))
        return
    for outer in splits or [root]:
        split = SPLIT_NAMES[outer.name.lower()] if splits else "training"
        loose = [] if not labelled else [path for path in sorted(outer.iterdir()) if _is_picture(path)]
        if loose:
            raise UserError(f"{loose[0]} lies in no folder of a class; put it into one, or list all in a CSV file.")
        for folder in sorted(outer.iterdir()) if labelled else [outer]:
            if not folder.is_dir() or is_hidden(folder.name):
                continue
            images = list(_images(folder))
            if labelled and not images:
                raise UserError(f"{folder} holds no pictures of the class {folder.name!r}; add some or remove it.")
            yield from (Picture(path, folder.name if labelled else "", split) for path in images)


def _not_of_test(pictures: list[Picture], dataset_dir: str, say: Callable[[str], Any]) -> list[Picture]:
    """The pictures for training and validation, each once, without those for test, their copies and their kin."""
    tested = {picture.image for picture in pictures if picture.split == "test"}
    others = [picture for picture in pictures if picture.image not in tested]
    # those for test first: of equal files the first is the original
    pairs = same_content([*sorted(tested), *(picture.image for picture in others)])
    copies = {twin: original for original, twin in pairs if twin not in tested}
    of_test = sum(original in tested for original in copies.values())
    root = str(picture_root(dataset_dir))
    units = joined([[f"file {copies.get(p.image, p.image)}", *_belongs(p, root)] for p in pictures])
    units_of_test = {unit for unit, picture in zip(units, pictures, strict=True) if picture.split == "test"}
    unit_of = {picture.image: unit for unit, picture in zip(units, pictures, strict=True)}
    distinct = [picture for picture in others if picture.image not in copies]
    found = [picture for picture in distinct if unit_of[picture.image] not in units_of_test]
    told = (
        (of_test, "are copies of pictures for test"),
        (len(copies) - of_test, "are copies of others"),
        (len(distinct) - len(found), "share a source, a group, duplicates or a patient with pictures for test"),
    )
    for number, what in told if idist.get_rank() == 0 else ():
        if number:
            say(
                f"{number} of the {len(others)} pictures of {dataset_dir} for training and validation {what} and are "
                "left out."
            )
    return found


def _belongs(picture: Picture, root: str) -> list[str]:
    """What a picture must share its split with, by its table and by its name."""
    who = patient(str(picture.image), root)
    return [*picture.of, *([f"patient {who}"] if who else [])]


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in files_below(folder) if _is_picture(path))


def _is_picture(path: Path) -> bool:
    return path.is_file() and not is_hidden(path.name) and path.name.lower().endswith(PICTURE_SUFFIXES)


def _carved(pictures: list[Picture], dataset_dir: str, say: Callable[[str], Any]) -> list[Picture]:
    """The same pictures, of which a part of training is for validation where there is none."""
    if any(picture.split == "validation" for picture in pictures):
        return pictures
    root = str(picture_root(dataset_dir))
    # by the path in the data set, so that the draw does not depend on where that lies, nor on the order of a table
    training = sorted((p for p in pictures if p.split == "training"), key=lambda p: case_name(str(p.image), root))
    units = joined([[f"file {case_name(str(picture.image), root)}", *_belongs(picture, root)] for picture in training])
    drawn = drawn_for_validation(units, [picture.kind for picture in training])
    chosen = {picture.image for picture, unit in zip(training, units, strict=True) if unit in drawn}
    if chosen and idist.get_rank() == 0:
        say(f"{dataset_dir} has no pictures for validation: {len(chosen)} are kept for it, the same in every run.")
    return [p._replace(split="validation") if p.split == "training" and p.image in chosen else p for p in pictures]
