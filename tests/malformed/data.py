"""What ``dataset.json`` may hold, and the files that it lists."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from networks.workflow import case_list, class_names, list_images, load_datalist
from tests.malformed.case import (
    GOOD,
    OTHER,
    Case,
    array,
    bytes_of,
    checking,
    cut,
    data_set,
    labels,
    one_case,
    volume,
)


def with_text(text: str | bytes) -> Callable[[Path], Callable[[], Any]]:
    """A data set whose ``dataset.json`` is this text."""

    def make(folder: Path) -> Callable[[], Any]:
        data_set(folder)
        path = folder / "dataset.json"
        path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)
        return checking(folder)

    return make


def changed(**changes: Any) -> Callable[[Path], Callable[[], Any]]:
    """A data set with entries of ``dataset.json`` changed."""

    def make(folder: Path) -> Callable[[], Any]:
        data_set(folder, **changes)
        return checking(folder)

    return make


def to_train(**changes: Any) -> Callable[[Path], Callable[[], Any]]:
    """A training's list of a data set with entries of ``dataset.json`` changed."""

    def make(folder: Path) -> Callable[[], Any]:
        data_set(folder, **changes)
        return lambda: case_list(load_datalist(str(folder)), "training")

    return make


def naming(**changes: Any) -> Callable[[Path], Callable[[], Any]]:
    """The names of three classes of a data set with entries of ``dataset.json`` changed."""

    def make(folder: Path) -> Callable[[], Any]:
        data_set(folder, **changes)
        return lambda: class_names(str(folder), 3)

    return make


def contract() -> Iterator[Case]:
    """What ``dataset.json`` may hold."""
    for name, text in {
        "empty": "",
        "half": '{"training": [',
        "comma": '{"training": [],}',
        "comment": "{} // mine",
        "list": "[]",
        "number": "3",
        "text": '"training"',
        "null": "null",
        "binary": b"\x89PNG\r\n\x1a\n\xff\xfe",
        "latin": '{"name": "Präparat"}'.encode("latin-1"),
        "twice": '{"training": [], "training": []}',
        "labels twice": '{"labels": {"0": "a", "0": "b"}, "training": []}',
    }.items():
        yield Case(f"json {name}", with_text(text), ("dataset.json",))
    for name, items in {
        "object": {},
        "text": "case0",
        "number": 3,
        "empty": [],
        "no label": [{"image": GOOD["image"]}],
        "no image": [{"label": GOOD["label"]}],
        "number as label": [{**GOOD, "label": 3}],
        "null as image": [{**GOOD, "image": None}],
        "list as image": [{**GOOD, "image": [GOOD["image"]]}],
        "number among items": [GOOD, 7],
        "null among items": [GOOD, None],
        "list among items": [GOOD, [OTHER]],
        "empty path": [{**GOOD, "image": ""}],
        "folder as image": [{**GOOD, "image": "imagesTr"}],
        "missing image": [{**GOOD, "image": "imagesTr/nowhere.nii.gz"}],
        "missing label": [{**GOOD, "label": "labelsTr/nowhere.nii.gz"}],
        "missing second": [GOOD, {**OTHER, "label": "labelsTr/nowhere.nii.gz"}],
    }.items():
        if name == "empty":
            yield Case("training empty", to_train(training=items), ("training",))
            continue
        yield Case(f"training {name}", changed(training=items), ("dataset.json",))
        if name != "no label":
            yield Case(f"validation {name}", changed(validation=items), ("dataset.json",))
        if name not in ("empty", "no label", "no image", "number as label"):
            yield Case(f"test {name}", changed(test=items), ("dataset.json",))
    for name, lists in {
        "training and validation": {"validation": [GOOD]},
        "training and test": {"test": [GOOD]},
        "validation and test": {"test": [OTHER]},
        "one list": {"training": [GOOD, GOOD]},
        "two spellings": {"validation": [{**GOOD, "image": "./imagesTr/../imagesTr/case0.nii.gz"}]},
        "two labels": {"validation": [{**OTHER, "image": GOOD["image"]}]},
    }.items():
        yield Case(f"overlap {name}", changed(**lists), ("case",))
    for name, names in {
        "list": ["background", "liver", "spleen"],
        "text": "liver",
        "gap": {"0": "background", "1": "liver", "3": "spleen"},
        "no background": {"1": "liver", "2": "spleen", "3": "kidney"},
        "same name": {"0": "background", "1": "liver", "2": "liver"},
        "negative": {"-1": "background", "0": "liver", "1": "spleen"},
        "words": {"zero": "background", "one": "liver", "two": "spleen"},
        "fraction": {"0": "background", "1.5": "liver", "2": "spleen"},
        "numbers as names": {"0": 0, "1": 7, "2": 9},
        "null": {"0": "background", "1": None, "2": "spleen"},
        "empty name": {"0": "background", "1": "", "2": "spleen"},
        "fewer": {"0": "background", "1": "liver"},
        "more": {"0": "background", "1": "liver", "2": "spleen", "3": "kidney"},
        "nnU-Net gap": {"background": 0, "liver": 1, "spleen": 3},
        "nnU-Net twice": {"background": 0, "liver": 1, "spleen": 1},
        "nnU-Net regions": {"background": 0, "whole": [1, 2], "spleen": 2},
        "nnU-Net ignore": {"background": 0, "liver": 1, "spleen": 2, "ignore": 3},
        "mixed": {"0": "background", "liver": 1, "2": "spleen"},
    }.items():
        yield Case(f"labels {name}", naming(labels=names), ("dataset.json",))
    yield Case("no such folder", lambda folder: checking(folder / "nowhere"), ("nowhere",))
    yield Case("empty folder", lambda folder: checking(folder), ("dataset.json",))
    yield Case("no image to predict", lambda folder: lambda: list_images(str(folder)), ("holds no image",))
    yield Case("nothing to predict", lambda folder: lambda: list_images(str(folder / "nowhere")), ("nowhere",))
    yield Case("a file as data set", lambda folder: checking(volume(folder / "a.nii.gz")), ("a.nii.gz",))


def floats(value: float) -> np.ndarray:
    data = np.zeros((6, 5, 4), np.float32)
    data[1, 2, 3] = value
    return data


def files() -> Iterator[Case]:
    """Images and labels of volumes."""
    broken = {
        "empty": bytes_of(b""),
        "text": bytes_of(b"not an image"),
        "png": bytes_of(b"\x89PNG\r\n\x1a\n"),
        "cut early": cut(0.1),
        "cut late": cut(0.8),
        "zeros": bytes_of(bytes(400)),
    }
    for kind in ("image", "label"):
        for name, change in broken.items():
            yield Case(f"{kind} {name}", one_case(**{kind: change}), (GOOD[kind].split("/")[-1],))
        for name, shape in {
            "shorter": (5, 5, 4),
            "longer": (6, 5, 5),
            "turned": (5, 6, 4),
            "flat": (6, 5),
            "one slice": (6, 5, 1),
        }.items():
            data = labels(shape=shape) if kind == "label" else labels(range(100), shape, np.int16)
            yield Case(f"{kind} {name}", one_case(**{kind: array(data)}), ("case0",))
    for name, value in {"nan": np.nan, "inf": np.inf, "minus inf": -np.inf}.items():
        yield Case(f"image with {name}", one_case(image=array(floats(value))), ("case0", "NaN or infinite"))
        yield Case(f"label with {name}", one_case(label=array(floats(value))), ("case0", "label values"))
    for name, values in {
        "too large": (0, 1, 3),
        "far too large": (0, 255),
        "negative": (0, -1),
        "fraction": (0, 0.5),
        "nearly whole": (0, 1.01),
        "many": range(200),
    }.items():
        data = labels(values, dtype=np.float32)
        yield Case(f"label values {name}", one_case(label=array(data)), ("case0", "label values", "0..2"))
    yield Case("two channels", one_case(image=array(labels(shape=(6, 5, 4, 2)))), ("case0", "channels"))
    yield Case("label with channels", one_case(label=array(labels(shape=(6, 5, 4, 3)))), ("case0", "channels"))
    yield Case("five axes", one_case(image=array(labels(shape=(6, 5, 4, 2, 2)))), ("case0",))
    yield Case("complex image", one_case(image=array(floats(1).astype(np.complex64))), ("case0",))
