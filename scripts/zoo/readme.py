"""``docs/README.md`` of a packed bundle, under the headings of the model zoo's template."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from networks.workflow.protocols import told_means, told_options
from scripts.catalog.bundles import VERSIONS, Bundle
from scripts.opened_bundle import changes
from scripts.render.data import Config
from scripts.render.documents import bundle_readme
from scripts.zoo.weights import data_sets

KINDS = {"ct": "CT", "mr": "MR", "volume": "Volumes", "micrograph": "Microscopy", "picture": "Pictures"}
BY_ITSELF = "normalised one by one, unless `intensity_range` is given"
PREPARED = {
    "ct": "are reoriented to RAS, resized in the plane, clipped to `intensity_range` (HU) and scaled to 0..1",
    "mr": "are reoriented to RAS, resized in the plane and scaled to 0..1 between `intensity_percentiles`",
    "volume": f"are reoriented to RAS, resized in the plane and {BY_ITSELF}",
    "picture": f"are {BY_ITSELF}",
    "micrograph": "are normalised with the mean and standard deviation of ImageNet",
}

COUNTED = (
    "n counts the values behind a mean. It leaves out missing ones, of classes that neither truth nor prediction has,\n"
    "and infinite ones, of classes that only one of them has."
)


def zoo_readme(
    bundle: Bundle,
    weights: str,
    package: str,
    contents: dict[str, Config],
    evaluations: Sequence[Mapping[str, Any]] = (),
    training: Mapping[str, Any] | None = None,
) -> str:
    """The document.

    Args:
        bundle: the catalog's entry, as the weights were trained.
        weights: what is said of them.
        package: name of the code that the bundle carries.
        contents: its configs by name.
        evaluations: what was scored how, as in the metadata.
        training: the weights' record; None without weights.
    """
    paper, preset = bundle.paper, bundle.default
    size, classes = " x ".join(map(str, contents["inference"]["img_size"])), ", ".join(preset.classes)
    kind = "axial slices of volumes" if preset.volumes else "pictures"
    usage = bundle_readme(bundle, weights, package, contents)
    about, _, usage = usage.partition("\n## ")
    use = "in images like those that it was trained on" if training else "once it is trained"
    limits = "Not a medical device."
    if training:
        seen = " and ".join(f"{data['training']} cases of {data['name']}" for data in data_sets(training))
        limits += (
            f" The weights have learned from {seen}: on images of other devices, materials "
            "or patients expect worse, and check results against some that were labelled by hand."
        )
    if bundle.not_scriptable:
        limits += f" TorchScript is not supported by scripting: {bundle.not_scriptable}."
    return f"""# {bundle.title}

### **Authors**
The authors of this bundle; architecture by {paper.authors}

### **Tags**
Segmentation, {KINDS[preset.kind]}, {bundle.title}, 2D

## **Model Description**
{about.partition(chr(10))[2].strip()}

The network takes {kind} and gives one channel of logits per class: background, {classes}.

## **Intended Use**
Research: segmentation of {classes} {use}{_start(training)}

## **Data**
{weights}

#### **Preprocessing**
Images {PREPARED[preset.kind]}. {_size(preset.volumes, size)} A data set is a folder with a `dataset.json` as in the
Medical Segmentation Decathlon, with the lists `training`, `validation` and `test`.

## **Performance**
{_performance(evaluations)}

## **Additional Usage Steps**
{_deeper("## " + usage).strip()}

## **System Configuration**
Any processor or NVIDIA GPU that PyTorch supports. Written with monai {VERSIONS["monai"]} and PyTorch
{VERSIONS["pytorch"]}; training uses mixed precision on a GPU.

## **Limitations**
{limits}

## **References**
[1] {paper.authors}. {paper.title}. {paper.venue}. {paper.url}
"""


def _start(training: Mapping[str, Any] | None) -> str:
    """The end of the sentence about the use, with what compression means for a training."""
    changed = changes(training or {})
    if changed.get("packed"):
        return ". Its weights are packed: no training changes them. Train what they were made of, and compress that."
    start = ", and a start for training on data of one's own"
    if not changed.get("shapes"):
        return f"{start}."
    return f"{start}: `train.json` goes on from these weights, and with `--pretrained null` starts from random ones."


def _size(volumes: bool, size: str) -> str:
    return f"Slices become {size}." if volumes else f"The network sees windows of {size}."


def _performance(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A row for every evaluation and metric, from the records of the runs."""
    rows = [
        f"| {part['data_set']}, {part['split']} | {part['cases']} | {part['protocol']}{told_options(part)} | "
        f"{metric} | {mean} |"
        for part in evaluations
        for metric, mean in told_means(part, 6).items()
    ]
    if not rows:
        return "No scores were recorded for these weights."
    head = [
        "| data set | cases | protocol | metric | mean over cases, then classes |",
        "| --- | --- | --- | --- | --- |",
    ]
    more = ["", COUNTED] if any("counts" in part for part in evaluations) else []
    return "\n".join([*head, *rows, *more])


def _deeper(text: str) -> str:
    """One level down, outside of code."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else re.sub(r"^#", "##", part, flags=re.MULTILINE) for part in parts)
