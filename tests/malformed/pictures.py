"""Pictures and their label maps that cannot be read, or would be read as something else."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from networks.workflow import PictureReader, check_cases, check_dataset
from tests.malformed.case import Case, bytes_of, cut

SIZE = (24, 32)
IMAGE, LABEL = "images/a.png", "labels/a.png"


def grey(values: Any = range(200), dtype: Any = np.uint8, size: tuple[int, ...] = SIZE) -> np.ndarray:
    """An array whose pixels repeat some values."""
    return np.resize(np.asarray(values).astype(dtype), size)


def saved(array: np.ndarray, **options: Any) -> Callable[[Path], Any]:
    return lambda path: Image.fromarray(array).save(path, **options)


def pages(count: int, format: str) -> Callable[[Path], Any]:
    """Several pictures in one file."""

    def write(path: Path) -> None:
        first, *others = (Image.fromarray(grey(range(i, 200))) for i in range(count))
        first.save(path, format=format, save_all=True, append_images=others)

    return write


def data_set(folder: Path, image: str = IMAGE, label: str = LABEL) -> Path:
    """A data set of two pictures with three classes."""
    items = []
    for name in ("a", "b"):
        for kind, array in (("images", grey(range(ord(name), 200))), ("labels", grey((0, 1, 2)))):
            (folder / kind).mkdir(exist_ok=True)
            saved(array)(folder / kind / f"{name}.png")
        items.append({"image": f"images/{name}.png", "label": f"labels/{name}.png"})
    content = {
        "labels": {"0": "background", "1": "oxide", "2": "crack"},
        "training": [{"image": image, "label": label}],
        "validation": items[1:],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def one(kind: str, write: Callable[[Path], Any], suffix: str = ".png") -> Callable[[Path], Callable[[], Any]]:
    """A data set whose first image or label is another file."""

    def make(folder: Path) -> Callable[[], Any]:
        names = {"image": IMAGE, "label": LABEL}
        names[kind] = names[kind].replace(".png", suffix)
        data_set(folder, **names)
        write(folder / names[kind])
        return lambda: check_dataset(str(folder), 3, 3)

    return make


def cases() -> Iterator[Case]:
    """Of a data set, and of a folder to predict on."""
    coloured = np.stack([grey(), grey(range(50)), grey(range(9))], axis=-1)
    broken = {
        "empty": (bytes_of(b""), ".png"),
        "text": (bytes_of(b"not a picture"), ".png"),
        "head only": (bytes_of(b"\x89PNG\r\n\x1a\n"), ".png"),
        "cut": (lambda path: (saved(coloured)(path), cut(0.6)(path)), ".png"),
        "cut tiff": (lambda path: (saved(coloured)(path), cut(0.6)(path)), ".tif"),
        "animated": (pages(3, "PNG"), ".png"),
        "pages": (pages(2, "TIFF"), ".tif"),
        "float": (saved(grey(np.linspace(0, 1, 99), np.float32)), ".tif"),
    }
    for name, (write, suffix) in broken.items():
        for kind in ("image", "label"):
            yield Case(f"picture {kind} {name}", one(kind, write, suffix), (f"a{suffix}",))

        def predict(folder: Path, write: Callable = write, suffix: str = suffix) -> Callable[[], Any]:
            write(folder / f"a{suffix}")
            item = {"image": str(folder / f"a{suffix}")}
            return lambda: check_cases([item], 3, None, PictureReader(3), 2)

        yield Case(f"picture predicted {name}", predict, (f"a{suffix}",))
    for name, array in {
        "smaller": grey((0, 1, 2), size=(24, 31)),
        "turned": grey((0, 1, 2), size=(32, 24)),
        "too large a class": grey((0, 3)),
        "as shown": grey((0, 127, 255)),
        "16 bit": grey((0, 1, 300), np.uint16),
        "coloured": coloured,
    }.items():
        yield Case(f"picture label {name}", one("label", saved(array)), ("a.png",))
