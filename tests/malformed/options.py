"""Values that ids do not take, and command lines of ``monai.bundle run`` with their config files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from networks.workflow import check_options
from networks.workflow.arguments import check_command_line
from networks.workflow.ids import IDS
from tests.malformed.case import Case

TRAIN = "bundles/swin_unet/configs/train.json"
ACDC = "bundles/swin_unet/configs/presets/acdc.json"
EVALUATE = "bundles/swin_unet/configs/evaluate.json"
INFERENCE = "bundles/swin_unet/configs/inference.json"
PROGRAM = "monai/bundle/__main__.py"


def values() -> Iterator[Case]:
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
