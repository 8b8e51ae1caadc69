"""Trained weights of a bundle, with the records that the training and the evaluation wrote."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import networks
from networks.compressed import compressed
from networks.errors import UserError
from networks.workflow.checkpoints import load_weights, save_atomically
from networks.workflow.files import file_hash
from networks.workflow.protocols import told_counts, told_options
from networks.workflow.provenance import start_of
from networks.workflow.records import read_records
from networks.workflow.statistics import counted, summarise_all, tables
from scripts.catalog.bundles import BY_NAME, Bundle
from scripts.opened_bundle import changes, shipped_weights

DECIMALS = 4
SCORES = "results_*.jsonl"
HALF_ERROR = 1e-3  # what half precision may change of a value, relative to it and to the mean size of the tensor's
OPTIONS = ("tta", "other_input")  # of an evaluation, where it says so
Record = dict[str, Any]


@dataclass(frozen=True)
class Weights:
    """A checkpoint and what the runs wrote about it.

    Attributes:
        path: ``model.pt``.
        checksum: its SHA-256.
        training: what it was trained on (``model.json``).
        evaluations: those of exactly these weights.
        notes: evaluations that were left out, and why, for people.
    """

    path: Path
    checksum: str
    training: Record
    evaluations: tuple[Record, ...]
    notes: tuple[str, ...]

    @property
    def statement(self) -> str:
        """For documentation and metadata."""
        data = self.training["data_set"]
        cases = f"{data['training']} training and {data['validation']} validation cases"
        about = f" ({data['description'].rstrip('.')})" if data.get("description") else ""
        steps = [_said(step, data) for step in self.training.get("compression", {}).get("steps", ())]
        then = f" They were then {', then '.join(steps)}." if steps else ""
        licence = _licences_said(self.training)
        return f"The weights were trained on {data['name']}{about}: {cases}{start_of(self.training)}.{then}{licence}"


def find_weights(folder: Path) -> Weights | None:
    """The weights in a bundle's folder, or None.

    Raises:
        UserError: weights whose training record is missing, unreadable, or of other weights.
    """
    path = folder / "models" / "model.pt"
    return weights_at(path, sorted((folder / "eval").glob(SCORES))) if path.is_file() else None


def weights_at(path: Path, score_files: Iterable[Path]) -> Weights:
    """Weights with their records.

    Args:
        path: ``model.pt`` with ``model.json`` beside it.
        score_files: results of evaluations, of which those of other weights are left out.

    Raises:
        UserError: the training's record is missing, unreadable, or of other weights.
    """
    checksum, record_path = file_hash(path), path.with_suffix(".json")
    if not record_path.is_file():
        raise UserError(
            f"{path} has no {record_path.name} beside it, so what it was trained on is unknown; train it with this "
            "version, which writes that file, or move the weights away to pack the bundle without."
        )
    training = read_record(record_path)
    if training.get("checkpoint") != checksum:
        raise UserError(
            f"{record_path} is about other weights than {path} (their SHA-256 differ); restore the file that the "
            "training wrote, train again, or move the weights away to pack the bundle without."
        )
    evaluations, notes = [], []
    for file in score_files:
        records = read_records(file)
        own = [record for record in records if record["checkpoint"] == checksum]
        evaluations += evaluations_of(own)
        if len(own) < len(records):
            notes.append(f"{file} has scores of other weights than {path}, which were left out; evaluate again.")
    if not evaluations and not notes:
        notes.append(f"{path} was never evaluated, so the metadata have no scores; run evaluate.json first for them.")
    return Weights(path, checksum, training, tuple(evaluations), tuple(notes))


def shipped(name: str, folder: Path) -> tuple[Bundle, Weights]:
    """Weights that come with a bundle, in the form that MONAI's configs load.

    Args:
        name: of the weights.
        folder: where ``model.pt`` is written.

    Returns:
        The catalog's entry of their bundle, and the weights.

    Raises:
        UserError: no weights of that name, or their record is missing or of other weights.
    """
    (source,) = shipped_weights(name)
    record_path, path = source.with_suffix(".json"), folder / "model.pt"
    record = read_record(record_path) if record_path.is_file() else {}
    if any(part.get("checkpoint") != file_hash(source) for part in (record, *record.get("evaluations", ()))):
        raise UserError(
            f"{record_path} is missing or about other weights than {source} (their SHA-256 differ); restore both "
            "files, or write them anew by 'python -m scripts.zoo ship'."
        )
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in load_file(source).items()}
    save_atomically(state, path)
    checksum = file_hash(path)
    evaluations = [{**evaluation, "checkpoint": checksum} for evaluation in record.pop("evaluations")]
    training = {key: value for key, value in record.items() if key != "dtype"} | {"checkpoint": checksum}
    return BY_NAME[source.parent.parent.name], Weights(path, checksum, training, tuple(evaluations), ())


def trained_bundle(bundle: Bundle, weights: Weights) -> Bundle:
    """The catalog's entry as the training ran it: its preset as the default, its classes, size and options.

    Raises:
        UserError: the record names a preset that the catalog does not have.
    """
    ids = weights.training["ids"]
    name = ids.get("preset")
    if name is not None and name not in bundle.presets:
        raise UserError(
            f"{weights.path.with_suffix('.json')} says that the weights were trained with the preset '{name}', which "
            f"{bundle.name} does not have any more; restore it in the catalog or train again."
        )
    preset = bundle.presets[name] if name else bundle.default
    recipe = preset.recipe
    options = {key: ids[key] for key in bundle.options if key in ids}
    recipe = replace(recipe, img_size=ids["img_size"][0], options={**recipe.options, **options})
    return replace(bundle, default=replace(preset, recipe=recipe, classes=_classes(preset.classes, weights)))


def check_fit(bundle: Bundle, weights: Weights) -> None:
    """Load the weights into the network that the packed configs will build.

    Raises:
        UserError: they do not fit; says how.
    """
    ids = weights.training["ids"]
    arguments = {key: ids[key] for key in ("in_channels", "out_channels", "img_size")}
    network = getattr(networks, bundle.network)(**arguments, **bundle.default.recipe.options)
    load_weights(compressed(network, **changes(weights.training)), weights.path)


def data_sets(training: Mapping[str, Any]) -> list[Record]:
    """What weights have learned from, each once: their training's data, those of their compressions, those of teachers.

    Args:
        training: the weights' record.
    """
    found = [training["data_set"]]
    for step in training.get("compression", {}).get("steps", ()):
        own = step.get("training", {}).get("data_set")
        found += [*([own] if own else []), *step.get("teacher", {}).get("data_sets", ())]
    return [data for number, data in enumerate(found) if data not in found[:number]]


def licences(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and licences of the data that weights have learned from, where their record has these."""
    found = [(data["name"], data["licence"]) for data in data_sets(training) if data.get("licence")]
    return list(dict.fromkeys(found))


def describe(metadata: dict[str, Any], weights: Weights) -> dict[str, Any]:
    """Metadata with what the runs recorded in place of the catalog's "no weights"."""
    ids = weights.training["ids"]
    image = metadata["network_data_format"]["inputs"]["image"]
    image |= {"num_channels": ids["in_channels"], "spatial_shape": list(ids["img_size"])}
    if len(image["channel_def"]) != ids["in_channels"]:
        image["channel_def"] = {str(i): f"channel {i}" for i in range(ids["in_channels"])}
    metadata["network_data_format"]["outputs"]["pred"]["spatial_shape"] = list(ids["img_size"])
    if changes(weights.training).get("packed"):
        metadata["not_scriptable"] = "its weights are packed, and TorchScript cannot unpack them when a layer is called"
    return metadata | {
        "data_source": weights.statement,
        "eval_metrics": _scores(weights.evaluations),
        "trained_weights": weights.training,
        "evaluations": list(weights.evaluations),
    }


def evaluations_of(records: list[Record]) -> list[Record]:
    """What was scored how, with the mean over the cases and then the classes of every metric.

    Evaluations with flips at test time say so by ``tta``, those of images that were prepared unlike in training by
    ``other_input``. Where a mean leaves out missing or infinite values, ``counts`` says how many.
    """
    found: dict[tuple, Record] = {}
    ways = {told_options(record): {key: record[key] for key in OPTIONS if key in record} for record in records}
    for told, way in ways.items():
        for table in tables(record for record in records if told_options(record) == told):
            ids = {"data_set": table.dataset, "split": table.split, "protocol": table.protocol, "model": table.model}
            entry = {"checkpoint": records[0]["checkpoint"], **ids, **way, "cases": len(table.cases), "scores": {}}
            entry = found.setdefault(what_was_scored(entry), entry)
            metric, summary = f"{table.metric}, {table.unit}" if table.unit else table.metric, summarise_all(table)
            if math.isfinite(summary.mean):
                entry["scores"][metric] = round(summary.mean, DECIMALS)
            if summary.missing or summary.infinite:
                entry.setdefault("counts", {})[metric] = counted(summary, table.unit)
    return list(found.values())


def what_was_scored(evaluation: Record) -> tuple:
    """What tells evaluations of the same weights apart."""
    return *(evaluation.get(key) for key in ("data_set", "split", "protocol", "model")), told_options(evaluation)


def _scores(evaluations: tuple[Record, ...]) -> dict[str, float]:
    """The means under names that say how they were scored."""
    return {
        f"mean {name}{told_counts(part, name)} ({part['protocol']} protocol{told_options(part)}, {part['data_set']}, "
        f"{part['split']})": mean
        for part in evaluations
        for name, mean in part["scores"].items()
    }


def _said(step: Record, data: Record) -> str:
    """How a step of compression was made, with the data that it has learned from beside those of the training."""
    text, own = step["summary"], step.get("training", {}).get("data_set", data)
    if own != data:
        text += f" on {own['name']} ({own['training']} training and {own['validation']} validation cases)"
    if taught := step.get("teacher", {}).get("data_sets"):
        text += f", which had learned from {' and '.join(other['name'] for other in taught)}"
    return text


def _licences_said(training: Record) -> str:
    found = licences(training)
    if len(data_sets(training)) == 1:
        return f" Licence of the data: {found[0][1]}." if found else ""
    return f" Licences of the data: {'; '.join(': '.join(names) for names in found)}." if found else ""


def _classes(default: list[str], weights: Weights) -> list[str]:
    """Names of the classes without background: the data set's, else the catalog's where the number is the same."""
    number = weights.training["ids"]["out_channels"] - 1
    labels = weights.training["data_set"].get("labels", {})
    if not labels and len(default) == number:
        return default
    return [labels.get(str(i)) or f"class {i}" for i in range(1, number + 1)]


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in half precision, but for tensors of which that would lose more than rounding does."""

    def half(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor.contiguous()
        short = tensor.to(torch.float16)
        # a value far below the tensor's others may lose more of itself
        size = tensor.square().mean().sqrt().item()
        same = torch.allclose(short.float(), tensor, rtol=HALF_ERROR, atol=HALF_ERROR * size)
        return (short if same else tensor).contiguous()

    return {name: half(tensor.detach()) for name, tensor in state.items()}


def read_record(path: Path) -> Record:
    """The object in a JSON file; raises UserError where the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); run what wrote it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected the object that a run wrote.")
    return content
