"""Render the bundles' configs and documentation from the catalog: ``python -m scripts.render [--check]``."""

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import fire

from networks.workflow.records import KEYS
from networks.workflow.scores import PROTOCOLS
from scripts import configs, evaluation_configs
from scripts.catalog import BUNDLES, VERSIONS, Bundle
from scripts.ids import IDS
from scripts.recipes import Preset
from scripts.report.results import load
from scripts.report.sheets import overview
from scripts.tables import architectures_table, faster_table, speed_table

ROOT = Path(__file__).resolve().parent.parent
DECAY = {"polynomial": " with polynomial decay", "constant": ""}
RESULTS = ROOT / "results"
NO_WEIGHTS = "This bundle carries no trained weights."
PHANTOM_ONLY = (
    "Without a data set it trains on a phantom, which is for trying the software: no score on a phantom is evidence of "
    "accuracy."
)
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(message)s
"""


def render(check: bool = False) -> None:
    """Write every rendered file; with ``--check`` write nothing and exit with 1 if one differs or is left over."""
    files = rendered_files()
    drift = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    left_over = [path for path in _existing() if path not in files]
    if check:
        for path in drift + left_over:
            print(f"{path.relative_to(ROOT)} is not what the catalog renders.", file=sys.stderr)
        if drift or left_over:
            raise SystemExit("Run 'python -m scripts.render' and commit what it changes.")
        return
    for path in drift:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        print(f"Wrote {path.relative_to(ROOT)}.")
    for path in left_over:
        path.unlink()
        print(f"Removed {path.relative_to(ROOT)}.")


def rendered_files() -> dict[Path, str]:
    """Path to content of everything that follows from the catalog."""
    files: dict[Path, str] = {}
    for bundle in BUNDLES:
        folder = ROOT / "bundles" / bundle.name
        for name, content in bundle_configs(bundle).items():
            files[folder / "configs" / f"{name}.json"] = json.dumps(content, indent=4, ensure_ascii=False) + "\n"
        files[folder / "configs" / "logging.conf"] = LOGGING
        files[folder / "docs" / "README.md"] = bundle_readme(bundle)
        files[folder / "LICENSE"] = (ROOT / "LICENSE").read_text(encoding="utf-8")
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if document.is_file():
            files[document] = with_tables(document.read_text(encoding="utf-8"))
    return files


def bundle_configs(bundle: Bundle, weights: str = NO_WEIGHTS) -> dict[str, configs.Config]:
    """Name below ``configs`` to content; ``weights`` is the sentence about them."""
    content = {
        "metadata": metadata(bundle, weights),
        "train": configs.train(bundle),
        "evaluate": evaluation_configs.evaluate(bundle),
        "inference": configs.inference(bundle),
        "inference_trt": configs.inference_trt(bundle),
        "multi_gpu_train": configs.multi_gpu_train(bundle),
    }
    for name, preset in bundle.presets.items():
        content[f"presets/{name}"] = configs.preset_overlay(bundle, name)
        content[f"presets/{name}_inference"] = configs.preset_inference(bundle, preset)
        content[f"presets/{name}_paper"] = evaluation_configs.preset_paper(preset)
    return content


def metadata(bundle: Bundle, weights: str = NO_WEIGHTS) -> dict[str, Any]:
    """``metadata.json`` as the model zoo's schema and MONAI Label want it; ``weights`` is the sentence about them."""
    preset = bundle.default
    size, channels = preset.recipe.img_size, configs.CHANNELS[preset.kind]
    classes = ["background", *preset.classes]
    return {
        "schema": SCHEMA,
        "version": bundle.version,
        "changelog": bundle.changelog,
        "monai_version": VERSIONS["monai"],
        "pytorch_version": VERSIONS["pytorch"],
        "numpy_version": VERSIONS["numpy"],
        "required_packages_version": VERSIONS["packages"],
        "supported_apps": {},
        "name": bundle.name,
        "task": f"{bundle.title} segmentation",
        "description": bundle.description,
        "authors": "The authors of this repository; architecture by " + bundle.paper.authors,
        "copyright": "Copyright (c) the authors of this repository; Apache License 2.0",
        "data_source": "Without a data set: a phantom that this bundle writes",
        "data_type": "nibabel" if preset.kind == "ct" else "png",
        "image_classes": "one CT slice" if preset.kind == "ct" else "one micrograph",
        "label_classes": "class numbers in one channel",
        "pred_classes": "one channel of logits per class",
        "eval_metrics": {},
        "intended_use": f"Research; not a medical device. {weights}",
        **({"not_scriptable": bundle.not_scriptable} if bundle.not_scriptable else {}),
        "references": [f"{bundle.paper.authors}. {bundle.paper.title}. {bundle.paper.venue}. {bundle.paper.url}"],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if preset.kind == "ct" else "RGB",
                    "modality": "CT" if preset.kind == "ct" else "SEM",
                    "num_channels": channels,
                    "spatial_shape": [size, size],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": "image"} if channels == 1 else {"0": "R", "1": "G", "2": "B"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(classes),
                    "spatial_shape": [size, size],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(classes)},
                }
            },
        },
    }


def bundle_readme(
    bundle: Bundle, weights: str = NO_WEIGHTS, package: str = "", contents: dict[str, configs.Config] | None = None
) -> str:
    """``docs/README.md`` of one bundle.

    Args:
        bundle: the catalog's entry.
        weights: the sentence about them.
        package: name of the code that the bundle carries; empty in this repository, whose ``networks`` it uses.
        contents: its configs by name, if they are not those of this repository.
    """
    root, paper = "configs" if package else f"bundles/{bundle.name}/configs", bundle.paper
    run = "python -m monai.bundle run"
    presets = "\n".join(
        f"- `presets/{name}.json`: {_recipe_text(preset)}; after {preset.source}."
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

{_paragraph(weights, PHANTOM_ONLY)}

## Use

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

`train.json`: {_recipe_text(bundle.default)}. Overlays for other data sets:

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

Every id below is an option: `--epochs 3`, `--img_size "[224,224]"`. A key that no config file has is refused.

{id_table(bundle, contents)}
"""


def _where(bundle: Bundle, root: str, package: str) -> str:
    """From which folder the commands are meant."""
    if not package:
        return _paragraph(
            f"From the repository's root; from the bundle's folder with `configs/` for `{root}/`;",
            "from anywhere else with `--bundle_root` and the package installed.",
        )
    packages = {"monai": VERSIONS["monai"], "torch": VERSIONS["pytorch"], **VERSIONS["packages"]}
    return _paragraph(
        f"From this folder, or from anywhere with the path to `{root}/`. The folder `{package}` is the code that the",
        "configs call, under a name that no other bundle or version has. It was written with",
        ", ".join(f"{name} {version}" for name, version in packages.items()) + "; nothing else needs to be installed.",
    )


def _paragraph(*parts: str) -> str:
    return textwrap.fill(" ".join(parts), 120, break_long_words=False, break_on_hyphens=False)


def id_table(bundle: Bundle, contents: dict[str, configs.Config] | None = None) -> str:
    """The plain top-level ids of all configs of a bundle with their defaults."""
    content = contents or bundle_configs(bundle)
    texts = IDS | bundle.options
    rows = ["| id | train | inference | meaning |", "| --- | --- | --- | --- |"]
    for key in plain_ids(content):
        cells = [_default(content, names, key) for names in (("train", "evaluate"), ("inference",))]
        rows.append(f"| `{key}` | {cells[0]} | {cells[1]} | {texts[key]} |")
    return "\n".join(rows)


def plain_ids(contents: dict[str, configs.Config]) -> list[str]:
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
        "architectures": architectures_table,
        "speed": speed_table,
        "faster": faster_table,
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
        for b in BUNDLES
    ]
    return "\n".join(rows)


def record_table() -> str:
    """The keys of a result record."""
    rows = ["| key | value |", "| --- | --- |"]
    return "\n".join(rows + [f"| `{key}` | {text} |" for key, text in KEYS.items()])


def microstructure_table() -> str:
    """Mean scores of the suite microstructure, or of its part for processors: both protocols, published numbers."""
    for name in ("microstructure", "microstructure_cpu"):
        path = RESULTS / f"{name}.jsonl"
        if path.is_file():
            results = load([path])
            found = [overview(results, protocol) for protocol in PROTOCOLS]
            return "\n\n".join(sheet.markdown() for sheet in found if sheet)
    return "Not run yet: `python -m scripts.experiments run suites/microstructure.json`, then `collect` the results."


def _recipe_text(preset: Preset) -> str:
    recipe = preset.recipe
    patience, second = recipe.extra.get("patience", 0), recipe.extra.get("second_learning_rate", 0)
    plateau = f"; at {second:g} after {patience} epochs without improvement, and stopped after as many more"
    plateau = plateau if patience else ""
    what = "volumes, axial slices" if preset.volumes else "pictures, random crops"
    return (
        f"{what} at {recipe.img_size} x {recipe.img_size}, {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"{recipe.optimizer['_target_'].rsplit('.', 1)[-1]} at {recipe.learning_rate:g}{DECAY[recipe.decay]}, "
        f"{recipe.loss_weights[0]:g} {'balanced ' * recipe.balanced}CE + {recipe.loss_weights[1]:g} Dice{plateau}"
    )


def _is_plain(key: str, value: Any) -> bool:
    if key in IDS or (isinstance(value, list) and value and all(isinstance(part, int | float) for part in value)):
        return True
    return not isinstance(value, dict | list) and not (isinstance(value, str) and value.startswith(("$", "@", "%")))


def _default(content: dict[str, configs.Config], names: tuple[str, ...], key: str) -> str:
    values = [content[name][key] for name in names if key in content[name]]
    return f"`{json.dumps(values[0])}`" if values else ""


def _existing() -> list[Path]:
    folders = [ROOT / "bundles" / bundle.name for bundle in BUNDLES]
    return [path for folder in folders for path in (folder / "configs").rglob("*") if path.is_file()]


if __name__ == "__main__":
    fire.Fire(render)
