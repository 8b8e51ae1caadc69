"""Documentation of the bundles, and the tables in the other documents."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from networks.workflow.ids import IDS
from networks.workflow.records import KEYS
from scripts.benchmark.tables import architectures_table, faster_table, predictions_table, speed_table
from scripts.catalog.bundles import BUNDLES, VERSIONS, Bundle
from scripts.catalog.classification import CLASSIFIERS
from scripts.catalog.recipes import Preset
from scripts.render.bundle import NO_WEIGHTS, bundle_configs
from scripts.render.data import Config
from scripts.report.front import (
    acdc_table,
    clusters_table,
    compression_table,
    hippocampus_table,
    measured_table,
    microstructure_table,
    pollen_table,
    strict_table,
)

DECAY = {
    "polynomial": " with polynomial decay",
    "constant": "",
    "cosine": " with warm-up and cosine decay",
}
MEASURED_PARTICLES = ("area_fraction", "number", "mean_diameter", "mean_aspect_ratio", "mean_neighbour_distance")
PHANTOM_ONLY = (
    "Without a data set it trains on a phantom, which is for trying the software: no score on a phantom is evidence of "
    "accuracy."
)


def bundle_readme(
    bundle: Bundle,
    weights: str = NO_WEIGHTS,
    package: str = "",
    contents: dict[str, Config] | None = None,
    shipped: str = "",
) -> str:
    """``docs/README.md`` of one bundle.

    Args:
        bundle: the catalog's entry.
        weights: the sentence about them.
        package: name of the code that the bundle carries; empty in this repository, whose ``networks`` it uses.
        contents: its configs by name, if they are not those of this repository.
        shipped: the section about weights that come with it.
    """
    root, paper = "configs" if package else f"bundles/{bundle.name}/configs", bundle.paper
    run, contents = "python -m monai.bundle run", contents or bundle_configs(bundle)
    presets = "\n".join(
        f"- `presets/{name}.json`: {_recipe_text(preset, contents[f'presets/{name}'])}; after {preset.source}."
        for name, preset in bundle.presets.items()
    )
    code = (
        f"The network is that of <{paper.code}>."
        if paper.library
        else f"Authors' code: <{paper.code}> (not copied\nhere; this is an independent implementation that loads the "
        "authors' weights)."
    )
    first = next(iter(bundle.presets))
    return f"""# {bundle.title}

{bundle.description}

{paper.authors}. [{paper.title}]({paper.url}). {paper.venue}. {code}

{paragraph(weights, PHANTOM_ONLY)}

{shipped}## Use

{_where(bundle, root, package)}

```bash
{run} training --config_file {root}/train.json
{run} --config_file "['{root}/train.json','{root}/evaluate.json']"
{run} --config_file {root}/inference.json --dataset_dir DIR
{run} --config_file "['{root}/inference.json','{root}/inference_trt.json']" --dataset_dir DIR
torchrun --nproc_per_node=2 -m monai.bundle run training \\
  --config_file "['{root}/train.json','{root}/multi_gpu_train.json']"
```

The fourth command is the third with TensorRT, which needs an NVIDIA GPU and the extra `tensorrt`.

## Recipes

`train.json`: {_recipe_text(bundle.default, contents["train"])}. Overlays for other data sets:

{presets}

```bash
{run} training --config_file "['{root}/train.json','{root}/presets/{first}.json']" --dataset_dir DIR
{run} --config_file "['{root}/train.json','{root}/presets/{first}.json','{root}/evaluate.json']" --dataset_dir DIR
{run} --config_file "['{root}/inference.json','{root}/presets/{first}_inference.json']" --dataset_dir DIR
```

`evaluate.json` scores by the strict protocol; the overlay of a data set after it infers and scores as the code behind
that data set's published numbers (the two protocols: `docs/scores.md` of the repository):

```bash
{run} --dataset_dir DIR \\
  --config_file "['{root}/train.json','{root}/presets/{first}.json','{root}/evaluate.json',\\
'{root}/presets/{first}_paper.json']"
```

## Ids

Every id below is an option of the configs that have it: `--epochs 3`, `--img_size "[224,224]"`. Those without a default
are of presets; `split`, `model` and `tolerance` are of `evaluate.json`. A key that no given config file has is refused.

{id_table(contents, bundle.options)}
"""


def _where(bundle: Bundle, root: str, package: str) -> str:
    """From which folder the commands are meant."""
    if not package:
        return paragraph(
            f"From the repository's root; from the bundle's folder with `configs/` for `{root}/`;",
            "from anywhere else with `--bundle_root` and the package installed.",
        )
    packages = {"monai": VERSIONS["monai"], "torch": VERSIONS["pytorch"], **VERSIONS["packages"]}
    return paragraph(
        f"From this folder, or from anywhere with the path to `{root}/`. The folder `{package}` is the code that the",
        "configs call, under a name that no other bundle or version has. It was written with",
        ", ".join(f"{name} {version}" for name, version in packages.items()) + "; nothing else needs to be installed.",
    )


def paragraph(*parts: str) -> str:
    """Sentences as one paragraph of the width of the documents."""
    return textwrap.fill(" ".join(parts), 120, break_long_words=False, break_on_hyphens=False)


def id_table(content: dict[str, Config], meanings: Mapping[str, str], extra: Sequence[str] = ()) -> str:
    """The plain top-level ids of all configs of a bundle with their defaults.

    Args:
        content: the configs by name.
        meanings: of ids that ``IDS`` does not have, or that mean something else there.
        extra: configs whose defaults have columns of their own, after those of training and inference.
    """
    columns = {"train": ("train", "evaluate"), "inference": ("inference",), **{name: (name,) for name in extra}}
    rows = [f"| id | {' | '.join(columns)} | takes | meaning |", f"| {' | '.join(['---'] * (3 + len(columns)))} |"]
    for key in plain_ids(content):
        cells = [_default(content, names, key) for names in columns.values()]
        takes = (
            IDS[key].kind.text + (" or null" if IDS[key].optional else "") if key in IDS else "what the network takes"
        )
        meaning = meanings[key] if key in meanings else IDS[key].meaning
        rows.append(f"| `{key}` | {' | '.join(cells)} | {takes} | {meaning} |")
    return "\n".join(rows)


def plain_ids(contents: dict[str, Config]) -> list[str]:
    """The ids of these configs that a user sets: values, and expressions that only join paths."""
    found: dict[str, None] = {}
    for name, content in contents.items():
        if name != "metadata":
            found |= dict.fromkeys(key for key, value in content.items() if "::" not in key and _is_plain(key, value))
    return list(found)


def with_tables(text: str) -> str:
    """Replace what stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` by the rendered table."""
    tables = {
        "bundles": bundle_table,
        "record": record_table,
        "microstructure": microstructure_table,
        "microstructure_brief": partial(microstructure_table, brief=True),
        "acdc": acdc_table,
        "hippocampus": hippocampus_table,
        "clusters": clusters_table,
        "pollen": pollen_table,
        "pretraining": partial(strict_table, "pretraining"),
        "untuned": partial(strict_table, "untuned_pictures"),
        "compression": compression_table,
        "architectures": architectures_table,
        "speed": speed_table,
        "faster": faster_table,
        "predictions": predictions_table,
        "measured_superalloys": partial(measured_table, "superalloys", MEASURED_PARTICLES),
        "measured_hippocampus": partial(measured_table, "hippocampus", ("volume", "largest_slice_area")),
    }
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def bundle_table() -> str:
    """One line per bundle."""
    rows = ["| bundle | network | paper |", "| --- | --- | --- |"]
    rows += [
        f"| [{b.name}](bundles/{b.name}/docs/README.md) | {b.title} | [{b.paper.title}]({b.paper.url}) |"
        for b in (*BUNDLES, *CLASSIFIERS)
    ]
    return "\n".join(rows)


def record_table() -> str:
    """The keys of a result record."""
    rows = ["| key | value |", "| --- | --- |"]
    return "\n".join(rows + [f"| `{key}` | {text} |" for key, text in KEYS.items()])


def _recipe_text(preset: Preset, config: Config) -> str:
    recipe = preset.recipe
    height, width = config["img_size"]  # of weights that were trained at another size, not the catalog's
    patience, second = recipe.extra.get("patience", 0), recipe.extra.get("second_learning_rate", 0)
    plateau = f"; at {second:g} after {patience} epochs without improvement, and stopped after as many more"
    plateau = plateau if patience else ""
    what = "volumes, axial slices" if preset.volumes else "pictures, random crops"
    own = ", strong augmentation, clipped gradients, averaged weights, for any classes" * recipe.robust
    return (
        f"{what} at {height} x {width}, {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"{recipe.optimizer['_target_'].rsplit('.', 1)[-1]} at {recipe.learning_rate:g}{DECAY[recipe.decay]}, "
        f"{recipe.loss_weights[0]:g} {'balanced ' * recipe.balanced}CE + {recipe.loss_weights[1]:g} Dice{plateau}{own}"
    )


def _is_plain(key: str, value: Any) -> bool:
    if key in IDS or (isinstance(value, list) and value and all(isinstance(part, int | float) for part in value)):
        return True
    return not isinstance(value, dict | list) and not (isinstance(value, str) and value.startswith(("$", "@", "%")))


def _default(content: dict[str, Config], names: tuple[str, ...], key: str) -> str:
    values = [content[name][key] for name in names if key in content[name]]
    return f"`{json.dumps(values[0])}`" if values else ""


def citation() -> str:
    """``CITATION.cff``: this software, and the paper of every architecture."""
    lines = [
        "cff-version: 1.2.0",
        "title: Segmentation bundles",
        "message: If you use a network of this collection, cite its paper, and this software for the implementation.",
        "type: software",
        "license: Apache-2.0",
        "authors:",
        "  - name: The authors of this repository",
        "references:",
    ]
    for bundle in (*BUNDLES, *CLASSIFIERS):
        paper = bundle.paper
        lines += ["  - type: article", f"    title: {json.dumps(paper.title)}", f"    url: {paper.url}"]
        lines += [f"    notes: {json.dumps(f'{bundle.title}. {paper.venue}')}", "    authors:"]
        lines += [f"      - name: {json.dumps(name, ensure_ascii=False)}" for name in paper.authors.split(", ")]
    return "\n".join(lines) + "\n"
