"""Inputs that are wrong in one way each: what is made, what is run on it, and what its sentence has to name.

Every function yields cases; ``tests/test_malformed.py`` runs them.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch import nn

from networks.workflow import check_dataset, check_options, list_images, load_weights
from networks.workflow.arguments import check_command_line
from networks.workflow.checks import check_cases
from networks.workflow.ids import IDS

TRAIN = "bundles/swin_unet/configs/train.json"
ACDC = "bundles/swin_unet/configs/presets/acdc.json"
EVALUATE = "bundles/swin_unet/configs/evaluate.json"
INFERENCE = "bundles/swin_unet/configs/inference.json"
PROGRAM = "monai/bundle/__main__.py"
AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        name: of the test.
        make: writes the input below a folder and returns what has to refuse it.
        says: texts that the sentence has to have.
        words: the same as a command line, as far as it is one; for the sample of real processes.
    """

    name: str
    make: Callable[[Path], Callable[[], Any]]
    says: tuple[str, ...]
    words: Callable[[Path], list[str]] | None = None


def volume(path: Path, data: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """A small NIfTI file: an image of ramps by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) if data is None else data
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def labels(values: Any = (0, 1, 2), shape: tuple[int, ...] = (6, 5, 4), dtype: Any = np.uint8) -> np.ndarray:
    """A label map whose voxels repeat some values."""
    return np.resize(np.asarray(values, dtype), shape)


def data_set(folder: Path, cases: int = 3, **changes: Any) -> Path:
    """A data set of small volumes with three classes, with entries of ``dataset.json`` changed; None removes one."""
    items = []
    for i in range(cases):
        image = np.arange(120, dtype=np.int16).reshape(6, 5, 4) + i
        volume(folder / f"imagesTr/case{i}.nii.gz", image)
        volume(folder / f"labelsTr/case{i}.nii.gz", labels())
        items.append({"image": f"imagesTr/case{i}.nii.gz", "label": f"labelsTr/case{i}.nii.gz"})
    content = {
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": items[:1],
        "validation": items[1:2],
        "test": items[2:],
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def checking(folder: Path) -> Callable[[], Any]:
    """The check of a data set of three classes."""
    return lambda: check_dataset(str(folder), 1, 3)


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


GOOD = {"image": "imagesTr/case0.nii.gz", "label": "labelsTr/case0.nii.gz"}
OTHER = {"image": "imagesTr/case1.nii.gz", "label": "labelsTr/case1.nii.gz"}


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
        yield Case(f"training {name}", changed(training=items), ("dataset.json",))
        if name not in ("empty", "no label"):
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
        yield Case(f"labels {name}", changed(labels=names), ("dataset.json",))
    yield Case("no such folder", lambda folder: checking(folder / "nowhere"), ("nowhere",))
    yield Case("empty folder", lambda folder: checking(folder), ("dataset.json",))
    yield Case("no image to predict", lambda folder: lambda: list_images(str(folder)), ("holds no image",))
    yield Case("nothing to predict", lambda folder: lambda: list_images(str(folder / "nowhere")), ("nowhere",))
    yield Case("a file as data set", lambda folder: checking(volume(folder / "a.nii.gz")), ("a.nii.gz",))


def one_case(
    image: Callable[[Path], Any] | None = None, label: Callable[[Path], Any] | None = None
) -> Callable[[Path], Callable[[], Any]]:
    """A data set whose first image or label is replaced."""

    def make(folder: Path) -> Callable[[], Any]:
        data_set(folder)
        if image is not None:
            image(folder / GOOD["image"])
        if label is not None:
            label(folder / GOOD["label"])
        return checking(folder)

    return make


def bytes_of(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def cut(share: float) -> Callable[[Path], Any]:
    """The file without its end."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def array(data: np.ndarray, affine: np.ndarray = AFFINE) -> Callable[[Path], Any]:
    return lambda path: volume(path, data, affine)


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


def moved(change: np.ndarray) -> np.ndarray:
    """The affine of a label that lies elsewhere: a change in millimetres after the image's."""
    return change @ AFFINE


def shift(x: float, y: float = 0, z: float = 0) -> np.ndarray:
    result = np.eye(4)
    result[:3, 3] = x, y, z
    return result


def turn(degrees: float, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    result, angle = np.eye(4), np.deg2rad(degrees)
    i, j = axes
    result[i, i] = result[j, j] = np.cos(angle)
    result[i, j], result[j, i] = -np.sin(angle), np.sin(angle)
    return result


def shear(amount: float) -> np.ndarray:
    result = np.eye(4)
    result[0, 1] = amount
    return result


def geometry() -> Iterator[Case]:
    """Labels that do not lie on their image's grid, and grids that lie nowhere."""
    for name, affine in {
        "shifted by a voxel": moved(shift(1.5)),
        "shifted by half a voxel": moved(shift(0, 0.75)),
        "shifted by a tenth": moved(shift(0, 0, 0.3)),
        "shifted far": moved(shift(500, 500, 500)),
        "other spacing": AFFINE @ np.diag([1.1, 1, 1, 1]),
        "other thickness": AFFINE @ np.diag([1, 1, 0.5, 1]),
        "spacing of one": np.eye(4),
        "turned a little": moved(turn(2)),
        "turned by 45 degrees": moved(turn(45, (1, 2))),
        "sheared": moved(shear(0.1)),
        "flipped in place": AFFINE @ np.diag([-1, 1, 1, 1]),
        "flipped along z": AFFINE @ np.diag([1, 1, -1, 1]),
        "mirrored": np.diag([-1, 1, 1, 1.0]) @ AFFINE,
        "point reflection": -AFFINE + 2 * np.diag([0, 0, 0, 1.0]),
    }.items():
        yield Case(f"label {name}", one_case(label=array(labels(), affine)), ("labelsTr", "case0"))
    for name, affine in unusable().items():
        for kind in ("image", "label"):
            data = labels(range(120), dtype=np.int16) if kind == "image" else labels()
            both = one_case(**{kind: raw_affine(data, affine)})
            yield Case(f"{kind} affine {name}", both, ("case0", "affine"))

        def predict(folder: Path, affine: np.ndarray = affine) -> Callable[[], Any]:
            path = folder / "a.nii.gz"
            raw_affine(labels(range(120), dtype=np.int16), affine)(path)
            return lambda: check_cases([{"image": str(path)}], 1, None, None, 3)

        yield Case(f"predict affine {name}", predict, ("a.nii.gz", "affine"))


def unusable() -> dict[str, np.ndarray]:
    nan, infinite, zero, column = (AFFINE.copy() for _ in range(4))
    nan[0, 3], infinite[1, 1], zero[:3, :3], column[:3, 1] = np.nan, np.inf, 0, 0
    parallel = AFFINE.copy()
    parallel[:3, 1] = parallel[:3, 0]
    return {"nan": nan, "infinite": infinite, "zero": zero, "zero axis": column, "parallel axes": parallel}


def raw_affine(data: np.ndarray, affine: np.ndarray) -> Callable[[Path], Any]:
    """A file with an sform that nibabel's own constructor might refuse."""

    def write(path: Path) -> None:
        image = nib.Nifti1Image(data, None)
        image.header["sform_code"], image.header["qform_code"] = 1, 0
        for name, row in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
            image.header[name] = row
        image.header["pixdim"][1:4] = 1.5, 1.5, 3
        nib.save(image, path)

    return write


class Tiny(nn.Module):
    """A network to load checkpoints into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)


def spoiled(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    """A checkpoint of ``Tiny`` after a change."""

    def write(path: Path) -> None:
        state = Tiny().state_dict()
        other = change(state)
        torch.save(state if other is None else other, path)

    return write


def assign(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[Path], Any]:
    return spoiled(lambda state: state.update({name: make(state[name])}))


def fill(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return make


def checkpoints() -> Iterator[Case]:
    """Weights that do not fit or are none."""
    contents: dict[str, Callable[[Path], Any]] = {
        "empty": bytes_of(b""),
        "text": bytes_of(b"weights"),
        "half": lambda path: (spoiled(lambda state: None)(path), cut(0.5)(path)),
        "list": spoiled(lambda state: list(state.values())),
        "tensor": spoiled(lambda state: state["conv.weight"]),
        "number": spoiled(lambda state: 3),
        "nothing": spoiled(lambda state: {}),
        "path object": spoiled(lambda state: {"network": Path("a")}),
        "whole module": spoiled(lambda state: Tiny()),
        "lambda's place": spoiled(lambda state: {"conv.weight": "text"}),
        "missing tensor": spoiled(lambda state: {k: v for k, v in state.items() if k != "conv.bias"}),
        "foreign tensor": spoiled(lambda state: {**state, "head.weight": torch.zeros(3)}),
        "other names": spoiled(lambda state: {f"x.{k}": v for k, v in state.items()}),
    }
    for name in ("conv.weight", "conv.bias", "norm.weight", "norm.running_mean", "norm.running_var"):
        contents |= {
            f"{name} nan": assign(name, fill(float("nan"))),
            f"{name} inf": assign(name, fill(float("inf"))),
            f"{name} whole numbers": assign(name, lambda t: t.to(torch.int32)),
            f"{name} bytes": assign(name, lambda t: t.to(torch.uint8)),
            f"{name} complex": assign(name, lambda t: t.to(torch.complex64)),
            f"{name} truth": assign(name, lambda t: t > 0),
            f"{name} shape": assign(name, lambda t: torch.cat([t, t])),
            f"{name} text": assign(name, lambda t: "text"),
        }
    for name, write in contents.items():

        def make(folder: Path, write: Callable[[Path], Any] = write) -> Callable[[], Any]:
            write(folder / "model.pt")
            return lambda: load_weights(Tiny(), folder / "model.pt")

        yield Case(f"checkpoint {name}", make, ("model.pt",))
    yield Case("no checkpoint", lambda folder: lambda: load_weights(Tiny(), folder / "model.pt"), ("model.pt",))


def options() -> Iterator[Case]:
    """Values that ids do not take."""
    wrong: dict[str, list[Any]] = {
        "resume": ["maybe", "", 2, None, [True]],
        "amp": ["fp16", -1],
        "check_data": ["later"],
        "epochs": [0, -3, 1.5, "ten", None, True],
        "batch_size": [0, -1, 2.5, "4"],
        "learning_rate": [0, -0.1, float("nan"), float("inf"), "fast"],
        "img_size": [[1, 1], [224], 224, "224", [224, 0], [224.5, 224], [-224, 224], None, [[224, 224]]],
        "intensity_range": [[5, 5], [5, -5], [1], "soft tissue", None, [0, float("nan")]],
        "intensity_percentiles": [[-1, 99], [0, 101], [99, 1], 99],
        "in_channels": [0, -1, 1.5],
        "out_channels": [0, 1, 300, "nine"],
        "spatial_dims": [1, 4, "3d"],
        "num_workers": [-1, 1.5, "all"],
        "cache_rate": [-0.5, 1.5, "half"],
        "val_interval": [0, -1, 0.5],
        "sw_batch_size": [0, 1.5],
        "crops_per_image": [0, "many"],
        "patience": [-1, 2.5],
        "second_learning_rate": [-1e-5],
        "seed": [-1, 2**33, "random"],
        "tolerance": [-2, "2mm"],
        "device": ["gpu", "cuda:77", 1.5, ["cpu"]],
        "dataset_dir": ["", None, 3],
        "ckpt_path": ["", 0],
        "split": ["", None, 1],
        "pretrained": ["", [], [None], 3],
    }
    for name, values in wrong.items():
        for value in values:
            yield Case(
                f"{name} {value!r}",
                lambda folder, name=name, value=value: lambda: check_options(**{name: value}),
                (f"--{name} is {value!r}", IDS[name].kind.text[:8]),
            )


def run_words(*words: str) -> Callable[[Path], Callable[[], Any]]:
    return lambda folder: lambda: check_command_line([PROGRAM, "run", *(w.replace("DIR", str(folder)) for w in words)])


def config_file(text: str, *words: str, name: str = "mine.json") -> Callable[[Path], Callable[[], Any]]:
    """A run whose last config is this text."""

    def make(folder: Path) -> Callable[[], Any]:
        path = folder / name
        path.write_text(text)
        return lambda: check_command_line([PROGRAM, "run", "--config_file", f"['{TRAIN}','{path}']", *words])

    return make


def command_lines() -> Iterator[Case]:
    """Command lines of ``monai.bundle run`` and their config files."""
    lines: dict[str, tuple[tuple[str, ...], str]] = {
        "no config": (("training",), "--config_file"),
        "missing config": (("--config_file", "DIR/train.json"), "train.json does not exist"),
        "folder as config": (("--config_file", "DIR"), "does not exist"),
        "missing overlay": (("--config_file", f"['{TRAIN}','DIR/x.json']"), "x.json does not exist"),
        "misspelled preset": (("--config_file", f"['{TRAIN}','{ACDC[:-6]}.json']"), "did you mean"),
        "forgotten quotes": (("--config_file", TRAIN, ACDC), "belongs to no option"),
        "forgotten quotes with an id": (("training", "--config_file", TRAIN, ACDC), "belongs to no option"),
        "half a list": (("--config_file", f"['{TRAIN}',", f"'{ACDC}']"), "belongs to no option"),
        "config twice": (("--config_file", TRAIN, "--config_file", ACDC), "there twice"),
        "option twice": (("--config_file", TRAIN, "--epochs", "1", "--epochs", "2"), "there twice"),
        "no value": (("--config_file", TRAIN, "--resume"), "has no value"),
        "no value in between": (("--config_file", TRAIN, "--resume", "--epochs", "2"), "has no value"),
        "None": (("--config_file", TRAIN, "--pretrained", "None"), "$None"),
        "misspelled option": (("--config_file", TRAIN, "--epohcs", "2"), "did you mean epochs"),
        "unknown option": (("--config_file", TRAIN, "--zzz", "2"), "--zzz"),
        "misspelled run": (("trainig", "--config_file", TRAIN), "did you mean training"),
        "unknown run": (("fly", "--config_file", TRAIN), "'fly'"),
        "evaluate's option in training": (("--config_file", TRAIN, "--split", "test"), "--split"),
        "two runs": (("training", "run", "--config_file", TRAIN), "belongs to no option"),
        "overlay alone": (("--config_file", EVALUATE), "overlay of first"),
        "wrong order": (("--config_file", f"['{ACDC}','{TRAIN}']"), "overlay of first"),
        "training preset for inference": (("--config_file", f"['{INFERENCE}','{ACDC}']"), "acdc.json"),
        "missing metadata": (("--config_file", TRAIN, "--meta_file", "DIR/metadata.json"), "metadata.json"),
        "missing logging": (("--config_file", TRAIN, "--logging_file", "DIR/log.conf"), "log.conf"),
        "missing arguments": (("--args_file", "DIR/args.json"), "args.json does not exist"),
        "text as config": (("--config_file", "README.md"), "README.md"),
        "nested parent": (("--config_file", TRAIN, "--train::trainr::max_epochs", "2"), "train::trainr"),
        "nested child": (("--config_file", TRAIN, "--train::loader", "2"), "'train' has no 'loader'"),
        "list index": (("--config_file", TRAIN, "--train::handlers::99", "2"), "has no '99'"),
    }
    for name, (words, said) in lines.items():
        yield Case(
            f"run {name}",
            run_words(*words),
            (said,),
            lambda folder, words=words: ["-m", "networks", "run", *(w.replace("DIR", str(folder)) for w in words)],
        )
    for name, (text, said) in {
        "comma": ('{"epochs": 1,}', "syntax error"),
        "quotes": ("{'epochs': 1}", "syntax error"),
        "open": ('{"epochs": 1', "syntax error"),
        "empty": ("", "syntax error"),
        "bom": ('\ufeff{"epochs": 1}', "syntax error"),
        "list": ("[]", "holds a list"),
        "number": ("3", "holds a int"),
        "key twice": ('{"epochs": 1, "epochs": 2}', "twice"),
        "inner key twice": ('{"loss": {"a": 1, "a": 2}}', "twice"),
        "misspelled id": ('{"epohcs": 1}', "did you mean epochs"),
        "unknown id": ('{"zzz": 1}', "'zzz'"),
        "unknown nested id": ('{"trian::trainer": {}}', "'trian'"),
    }.items():
        yield Case(f"overlay {name}", config_file(text), ("mine.json", said))
    for name, (text, said) in {
        "open list": ("epochs: [1", "syntax error"),
        "tab": ("epochs:\n\t- 1", "syntax error"),
        "text": ("epochs", "holds a str"),
        "key twice": ("epochs: 1\nepochs: 2", "twice"),
        "misspelled id": ("epohcs: 1", "did you mean epochs"),
    }.items():
        yield Case(f"yaml {name}", config_file(text, name="mine.yaml"), ("mine.yaml", said))


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (32, 24), **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **save)
    return path
