"""Suites: which networks are trained on which data sets, from which weights, how often and how.

A suite is a JSON file:

```
{
    "name": "microstructure",
    "description": "one sentence",
    "data_sets": {
        "Super1": {
            "dataset_dir": "data/nasa/Super1",
            "preset": "nasa_super",
            "setting": "full",
            "splits": ["test"],
            "options": {},
            "prepare": "python -m scripts.datasets nasa --source SOURCE/Super1 --output_dir data/nasa/Super1"
        }
    },
    "networks": {"CS-UNet": {"bundle": "cs_unet", "options": {"encoder_name": "resnet50"}}},
    "pretraining": {"none": null, "ImageNet": {"CS-UNet": ["cnn.pth", "swin.pth"]}},
    "recipes": {"paper": {}, "short": {"epochs": 60}},
    "seeds": [0, 1, 2],
    "protocols": ["strict", "paper"],
    "exclude": [{"data_set": ["Super3", "Super4"], "network": "CS-UNet", "pretraining": "none"}]
}
```

Its runs are the cross product of data sets, networks, pretraining, recipes and seeds, without those that have all the
labels of an item of ``exclude``. A pretraining is null (from scratch) or names the sources for the
networks that it exists for; others are left out of it. Options are ids of the bundle's configs; a recipe's are applied
first, then the data set's, then the network's. A bundle without the data set's preset is an error. Networks that
classify whole pictures have a folder or a table of pictures as their data set, and the strict protocol alone.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow import load_datalist, load_pictures, picture_classes
from networks.workflow.protocols import PROTOCOLS
from scripts.catalog.classification import ClassificationBundle, any_bundle

SUITES_DIR = Path(__file__).resolve().parent.parent.parent / "suites"
DATA_SET_KEYS = {"dataset_dir", "preset", "setting", "splits", "options", "prepare"}
REQUIRED = {"name", "data_sets", "networks"}
KEYS = REQUIRED | {"description", "pretraining", "recipes", "seeds", "protocols", "exclude"}
LABELS = {"data_set", "network", "pretraining", "recipe", "seed"}
FORMS: dict[str, type] = dict.fromkeys(("data_sets", "networks", "recipes", "options"), dict)
FORMS |= dict.fromkeys(("seeds", "protocols", "exclude", "splits"), list)


@dataclass(frozen=True)
class Run:
    """One training with its evaluations.

    Attributes:
        suite: name of the suite.
        network: label of the network in the suite.
        data_set: label of the data set.
        pretraining: label of the weights it starts from.
        recipe: label of the recipe.
        seed: of the training.
        bundle: name of the bundle.
        preset: name of its overlay.
        dataset_dir: folder of the data set.
        setting: such as "one-shot"; only reported.
        splits: lists of ``dataset.json`` to score.
        protocols: to score by.
        options: ids and their values.
    """

    suite: str
    network: str
    data_set: str
    pretraining: str
    recipe: str
    seed: int
    bundle: str
    preset: str
    dataset_dir: str
    setting: str = ""
    splits: tuple[str, ...] = ("test",)
    protocols: tuple[str, ...] = ("strict",)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the run, and of its folder below the suite's."""
        return run_name(vars(self))

    @property
    def classifies(self) -> bool:
        """Whether the network tells whole pictures apart, and segments none."""
        return isinstance(any_bundle(self.bundle), ClassificationBundle)

    @property
    def sources(self) -> list[str]:
        """Files or timm models that the training starts from; files are relative to the folder that this runs in."""
        given = self.options.get("pretrained") or []
        return [given] if isinstance(given, str) else list(given)

    def spec(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON reads it back."""
        return json.loads(json.dumps(asdict(self)))


def run_name(labels: Mapping[str, Any]) -> str:
    """The name of the run with these labels."""
    parts = [str(labels.get(key)) for key in ("data_set", "network", "pretraining", "recipe")]
    return "__".join(re.sub(r"[^\w.+-]+", "-", part) for part in [*parts, f"seed{labels.get('seed')}"])


@dataclass(frozen=True)
class Suite:
    """A named list of runs.

    Attributes:
        name: of the suite.
        description: one sentence.
        runs: in the order in which they are done.
        prepare: per data set folder the command that makes it.
    """

    name: str
    description: str
    runs: list[Run]
    prepare: dict[str, str]

    def check_data(self, runs: Iterable[Run]) -> None:
        """Raise UserError with one sentence if a data set of some of its runs is not there."""
        for run in {(run.dataset_dir, run.splits): run for run in runs}.values():
            folder = run.dataset_dir
            if not (Path(folder) if run.classifies else Path(folder) / "dataset.json").exists():
                how = self.prepare.get(folder)
                raise UserError(
                    f"{folder}, the data set {run.data_set} of the suite {self.name}, does not exist; make it"
                    f"{f' by: {how}' if how else ' with scripts.datasets'}."
                )
            lists = load_pictures(folder, picture_classes(folder)) if run.classifies else load_datalist(folder)
            lacking = [split for split in run.splits if not lists.get(split)]
            if lacking:
                raise UserError(f'{folder} has no list "{lacking[0]}", which {self.name} scores.')

    def check_sources(self, runs: Iterable[Run]) -> None:
        """Raise UserError with one sentence if weights that some of its runs start from are not there."""
        from networks.pretrained import timm_hub_id  # here, as a suite is read without PyTorch

        for source, run in {source: r for r in runs for source in r.sources}.items():
            if not Path(source).is_file() and timm_hub_id(source) is None:
                raise UserError(
                    f"{source}, from which {run.network} of the suite {self.name} starts, is neither a file nor a timm "
                    "model; fetch it as docs/experiments.md says, or start in the folder that it is relative to."
                )


def load_suite(path: str | Path) -> Suite:
    """Read a suite: a file, or one of this project's by its name.

    Raises:
        UserError: no such file, not JSON, a key is missing or unknown, or a bundle, preset or protocol does not
            exist.
    """
    path = Path(path)
    if not path.exists() and (SUITES_DIR / path.name).is_file() and path.parent in (Path(), Path("suites")):
        path = SUITES_DIR / path.name
    if not path.is_file():
        known = ", ".join(f"suites/{p.name}" for p in sorted(SUITES_DIR.glob("*.json")))
        raise UserError(f"{path} does not exist; give a suite{f' such as {known}' if known else ''}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    _check_keys(path, "the suite", content, KEYS, REQUIRED)
    for label, data_set in content["data_sets"].items():
        _check_keys(path, f"the data set {label}", data_set, DATA_SET_KEYS, {"dataset_dir", "preset"})
    for label, network in content["networks"].items():
        _check_keys(path, f"the network {label}", network, {"bundle", "options"}, {"bundle"})
    wrong = set(content.get("protocols", ())) - set(PROTOCOLS)
    if wrong:
        raise UserError(f"{path}: the protocol {min(wrong)!r} does not exist; choose from {', '.join(PROTOCOLS)}.")
    for item in content.get("exclude", []):
        _check_keys(path, "an item of exclude", item, LABELS, set())
    _check_labels(path, content)
    runs = [run for run in _runs(path, content) if not _is_excluded(run, content.get("exclude", []))]
    if not runs:
        raise UserError(f"{path} has no runs: its list exclude takes all of them away.")
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{path} has two runs called {twice}; give its networks and data sets different labels.")
    prepare = {d["dataset_dir"]: d["prepare"] for d in content["data_sets"].values() if "prepare" in d}
    return Suite(content["name"], content.get("description", ""), runs, prepare)


def _runs(path: Path, content: dict[str, Any]) -> Iterator[Run]:
    product = itertools.product(
        content["data_sets"].items(),
        content.get("recipes", {"preset": {}}).items(),
        content.get("seeds", [0]),
        content["networks"].items(),
        content.get("pretraining", {"none": None}).items(),
    )
    for (data_set, data), (recipe, recipe_options), seed, (label, network), (pretraining, sources) in product:
        if sources is not None and label not in sources:
            continue
        try:
            bundle = any_bundle(network["bundle"])
        except UserError as error:
            raise UserError(f"{path}, the network {label}: {error}") from None
        if data["preset"] not in bundle.presets:
            raise UserError(
                f"{path}: the bundle {bundle.name} has no preset {data['preset']!r} for {data_set}; it has "
                f"{', '.join(bundle.presets)}."
            )
        protocols = tuple(content.get("protocols", ["strict"]))
        if isinstance(bundle, ClassificationBundle) and protocols != ("strict",):
            raise UserError(f"{path}: the bundle {bundle.name} classifies pictures; give the protocol strict alone.")
        weights = {} if sources is None else {"pretrained": sources[label]}
        yield Run(
            suite=content["name"],
            network=label,
            data_set=data_set,
            pretraining=pretraining,
            recipe=recipe,
            seed=seed,
            bundle=bundle.name,
            preset=data["preset"],
            dataset_dir=data["dataset_dir"],
            setting=data.get("setting", ""),
            splits=tuple(data.get("splits", ["test"])),
            protocols=protocols,
            options={**recipe_options, **data.get("options", {}), **network.get("options", {}), **weights},
        )


def _is_excluded(run: Run, items: list[dict[str, Any]]) -> bool:
    return any(all(getattr(run, label) in _as_list(wanted) for label, wanted in item.items()) for item in items)


def _check_labels(path: Path, content: dict[str, Any]) -> None:
    """Labels that are spelt otherwise where they are used would leave runs out, or in, without a word."""
    pretraining = content.get("pretraining", {"none": None})
    if not isinstance(pretraining, dict) or not all(isinstance(s, dict | None) for s in pretraining.values()):
        raise UserError(f'{path}: "pretraining" is {pretraining!r}; expected labels with null or sources by network.')
    known = {
        "data_set": content["data_sets"],
        "network": content["networks"],
        "pretraining": pretraining,
        "recipe": content.get("recipes", {"preset": {}}),
        "seed": content.get("seeds", [0]),
    }
    used = [("network", label) for sources in pretraining.values() for label in sources or ()]
    for item in content.get("exclude", []):
        used += [(key, label) for key, value in item.items() for label in _as_list(value)]
    for key, label in used:
        if label not in known[key]:
            raise UserError(
                f"{path} names the {key} {label!r} under pretraining or exclude, but has none of that label; it has "
                f"{', '.join(map(str, known[key]))}."
            )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_keys(path: Path, what: str, content: Any, allowed: set[str], required: set[str]) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{path}: {what} is no object; see scripts/experiments/suite.py for the form of a suite.")
    missing, unknown = required - content.keys(), content.keys() - allowed
    if missing:
        raise UserError(f'{path}: {what} has no "{min(missing)}".')
    if unknown:
        raise UserError(f'{path}: {what} has "{min(unknown)}"; known are {", ".join(sorted(allowed))}.')
    for key, value in content.items():
        form = FORMS.get(key, object)
        if not isinstance(value, form):
            named = "list, [...]" if form is list else "object, {...}"
            raise UserError(f'{path}: "{key}" of {what} is {value!r}; expected a JSON {named}.')
