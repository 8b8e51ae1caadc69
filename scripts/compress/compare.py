"""What compression costs and gains: scores, bytes, time and memory of several networks, measured in one run."""

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from torch import nn

from networks.errors import UserError
from networks.layers.packed import unpack_layers
from networks.workflow import load_datalist, load_weights
from networks.workflow.config_files import config_ids
from networks.workflow.files import file_hash, parse_json, put_in_place
from networks.workflow.records import read_records
from networks.workflow.statistics import summarise, tables
from scripts.benchmark.measure import in_fresh_process, machine, peak_memory, resident, seconds
from scripts.benchmark.records import store_lines
from scripts.compress.bundles import refresh
from scripts.export.exporting import manifest_path, read_manifest
from scripts.export.runtimes import load_model
from scripts.opened_bundle import InferenceConfig, as_trained, bundle_folder, shipped_weights
from scripts.zoo.manifest import MANIFEST

SCORES = "results_strict.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One network to measure.

    Attributes:
        name: as it was given.
        bundle: name or folder whose configs run it.
        preset: of the configs, or None.
        options: ids of the inference config.
        weights: the checkpoint, or the exported model.
        runtime: "torch", or a format of ``scripts.export``.
    """

    name: str
    bundle: str
    preset: str | None
    options: dict[str, Any]
    weights: Path
    runtime: str = "torch"

    @property
    def label(self) -> str:
        """As it is called in results: without folders, an exported model by the one that it lies in.

        Where that is the folder for weights of a bundle, it is called like the bundle, with its runtime.
        """
        path = Path(self.name)
        if self.runtime == "torch":
            return path.name
        folder = path.resolve().parent
        return f"{folder.parent.name} {self.runtime}" if folder.name == "models" else folder.name

    def config(self) -> InferenceConfig:
        return InferenceConfig(self.bundle, self.preset, {**self.options, "device": "cpu"})

    def network(self) -> nn.Module:
        """Ready to be called, in its own runtime, as scripts.predict does it."""
        if self.runtime != "torch":
            return load_model(self.runtime, self.weights, torch.device("cpu"))
        network = self.config()["network_def"].eval()
        load_weights(network, self.weights)
        unpack_layers(network)
        return network

    def compression(self) -> Record:
        """What the record beside the weights says of compressing them; empty where they are as they were trained."""
        record = self.weights.with_suffix(".json")
        return parse_json(record.read_text("utf-8"), record).get("compression", {}) if record.is_file() else {}

    def files(self) -> list[Path]:
        """What has to be stored to run it."""
        if self.runtime == "torch":
            return [self.weights]
        return [self.weights.parent / file for file in read_manifest(self.weights)["files"]]


def compare(
    *variants: str,
    dataset_dir: str | None = None,
    output: str = "results/compression.jsonl",
    figure: str | None = None,
    split: str = "test",
    cases: int | None = None,
    batch_size: int = 8,
    threads: int = 2,
    repeats: int = 9,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no data set or variants, a figure of another kind, a variant is none, two would have one name in the
            results, or one cannot be measured.
    """
    if len(variants) < 2 or dataset_dir is None:
        raise UserError("Give the network before compression and at least one after it, and --dataset_dir.")
    if figure is not None:
        from scripts.compress.drawing import check_picture, draw

        check_picture(figure)
    found = [find_variant(str(variant)) for variant in variants]
    labels = Counter(variant.label for variant in found)
    for variant in found:
        if labels[variant.label] > 1:
            same = [other.name for other in found if other.label == variant.label]
            if len(set(same)) == 1:
                raise UserError(f"{variant.name} is given twice.")
            raise UserError(
                f"{' and '.join(same)} would have one name in the results, {variant.label}; put them into folders of "
                "different names."
            )
    pairs = load_datalist(dataset_dir).get(split)
    if not pairs:
        raise UserError(f'dataset.json of {dataset_dir} has no list "{split}".')
    count = len(pairs) if cases is None else min(int(cases), len(pairs))
    lines = []
    for variant in found:
        print(f"{variant.name}: scoring {count} cases, then measuring ...", flush=True)
        line = in_fresh_process(measure, variant, found[0], dataset_dir, split, count, batch_size, threads, repeats)
        if "error" in line:
            raise UserError(f"{variant.name}: {line['error']}")
        lines.append(line)
        earlier = read_lines([output]) if Path(output).is_file() else []
        store_lines(
            Path(output), earlier, [line], _identity
        )  # at once: a comparison that is stopped leaves what it has measured
        print(said(line, lines[0]), flush=True)
    print(f"{len(lines)} new lines are in {output}.")
    if figure is not None:
        draw(lines, figure)


def _identity(line: Record) -> tuple[str, ...]:
    return tuple(line[key] for key in ("variant", "baseline", "data_set", "split"))


def find_variant(name: str) -> Variant:
    """A network by what a person calls it.

    Args:
        name: of weights that come with the bundles, a bundle's folder, or a model that was exported.

    Raises:
        UserError: it is none of them.
    """
    path = Path(name)
    if path.is_file() and manifest_path(path).is_file():
        manifest = read_manifest(path)
        above = path.resolve().parent.parent  # a bundle's, where the model lies among its weights
        is_above = above.name == manifest["bundle"] and (above / "configs" / "inference.json").is_file()
        bundle = str(bundle_folder(str(above) if is_above else manifest["bundle"]))
        return Variant(name, bundle, manifest["preset"], manifest["options"], path, manifest["format"])
    if path.is_dir():
        folder, weights = bundle_folder(name), path / "models" / "model.pt"
        if not weights.is_file():
            raise UserError(f"{folder} has no models/model.pt; train it, or give another folder.")
        preset, options = as_trained(str(folder), None, {"ckpt_path": str(weights.resolve())})
        return Variant(name, str(folder), preset, options, weights)
    (weights,) = shipped_weights(name)
    folder = str(weights.parent.parent)
    preset, options = as_trained(folder, None, {"ckpt_path": str(weights)})
    return Variant(name, folder, preset, options, weights)


def measure(
    variant: Variant,
    baseline: Variant,
    dataset_dir: str,
    split: str,
    cases: int,
    batch_size: int,
    threads: int,
    repeats: int,
) -> Record:
    """One line of results; belongs in a process of its own because of the memory.

    Returns:
        `dice`: mean, 95 % interval and number of cases by the strict protocol; `bytes` on disk, and `float32_bytes`,
        what the parameters of the baseline take; `forward`: seconds of the network and, in turn with it, of the
        baseline, and how many times faster it is (median of the pairs); `peak_memory`: by how many bytes the process
        grew for loading and running it; and what all of this is of.
    """
    torch.set_num_threads(threads)
    before = resident()
    config = variant.config()
    channels, size = config["in_channels"], list(config["img_size"])
    image = torch.rand(batch_size, channels, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network = variant.network()
        network(image)
        memory = peak_memory(lambda: network(image), "cpu", before)
        reference, sides = baseline.network(), list(baseline.config()["img_size"])
        image_of_baseline = image if sides == size else torch.rand(batch_size, channels, *sides)
        reference(image_of_baseline)
        times = [
            (seconds(lambda: network(image), 1, "cpu"), seconds(lambda: reference(image_of_baseline), 1, "cpu"))
            for _ in range(repeats)
        ]
    dice, data_set = score(variant, network, dataset_dir, split, cases)
    return {
        "variant": variant.label,
        "baseline": baseline.label,
        "bundle": config.name,
        "runtime": variant.runtime,
        "steps": variant.compression().get("steps", []),
        "data_set": data_set,
        "split": split,
        "dice": dice,
        "float32_bytes": 4 * sum(p.numel() for p in reference.parameters()) if baseline.runtime == "torch" else None,
        "bytes": sum(file.stat().st_size for file in variant.files()),
        "forward": {
            "seconds": statistics.median(own for own, _ in times),
            "baseline_seconds": statistics.median(other for _, other in times),
            "speedup": statistics.median(other / own for own, other in times),
        },
        "peak_memory": memory,
        "settings": {"batch_size": batch_size, "img_size": size, "threads": threads, "repeats": repeats},
        "dtype": "int8" if variant.runtime != "torch" and "int8" in read_manifest(variant.weights) else "float32",
        "checkpoint": file_hash(variant.weights),
        "machine": machine("cpu"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def score(variant: Variant, network: nn.Module, dataset_dir: str, split: str, cases: int) -> tuple[dict[str, Any], str]:
    """Dice of the bundle's own evaluation, with the network in its runtime; a bundle keeps that of its whole test."""
    configs = bundle_folder(variant.bundle) / "configs"
    files = [configs / "train.json", configs / "evaluate.json"]
    if variant.preset and (preset := configs / "presets" / f"{variant.preset}.json").is_file():
        files.insert(1, preset)
    known = config_ids(files)
    options = {key: value for key, value in variant.options.items() if key in known and key != "dataset_dir"}
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        workflow = ConfigWorkflow(
            config_file=[str(file) for file in files],
            workflow_type="train",
            run_id="run",
            logging_file=False,
            **options,
            bundle_root=str(configs.parent),
            dataset_dir=str(Path(dataset_dir).resolve()),
            output_dir=folder,
            split=split,
            device="cpu",
            num_workers=0,
        )
        parser = workflow.parser
        datalist = dict(parser.get_parsed_content("datalist"))
        datalist[split] = datalist[split][:cases]
        # the weights are loaded already, and an exported model takes none
        parser.update({"datalist": datalist, "network": network, "validate::handlers::0::_disabled_": True})
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        scores = Path(folder) / SCORES
        records = [record for record in read_records(scores) if record["metric"] == "dice"]
        (table,) = tables(records)
        total = summarise(table)[-1]
        whole = split == "test" and len(load_datalist(dataset_dir)[split]) == cases
        own = variant.runtime == "torch" and Path(variant.bundle, MANIFEST).is_file()
        if whole and own and variant.compression():  # a bundle of the zoo stays as it was published
            _keep_scores(variant, scores)
    return {"mean": total.mean, "low": total.low, "high": total.high, "cases": len(table.cases)}, table.dataset


def _keep_scores(variant: Variant, scores: Path) -> None:
    """Results of a compressed bundle become part of it."""
    checksum = file_hash(variant.weights)
    lines = [json.dumps({**record, "checkpoint": checksum}) for record in read_records(scores)]
    scores.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    put_in_place(scores, Path(variant.bundle) / "eval" / SCORES)
    refresh(Path(variant.bundle))


def said(line: Record, first: Record) -> str:
    """A line of results for people, beside the first."""
    dice = line["dice"]
    memory = f", {line['peak_memory'] / 1e6:.0f} MB of memory" if line["peak_memory"] else ""
    return (
        f"  Dice {dice['mean']:.4f} [{dice['low']:.4f}, {dice['high']:.4f}] of {dice['cases']} cases "
        f"({100 * (dice['mean'] - first['dice']['mean']):+.2f} points), {line['bytes'] / 1e6:.2f} MB "
        f"({first['bytes'] / line['bytes']:.2f} times smaller), {line['forward']['speedup']:.2f} times as fast{memory}"
    )


def read_lines(files: Sequence[str | Path]) -> list[Record]:
    """Lines that :func:`compare` wrote.

    Raises:
        UserError: a file is missing, or a line is none of them.
    """
    lines = []
    for file in map(Path, files):
        if not file.is_file():
            raise UserError(f"{file} does not exist; give files that 'compress compare' wrote.")
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                line = json.loads(text)
                line["dice"]["mean"], line["bytes"], line["forward"]["seconds"], _identity(line)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"Line {number} of {file} is no result of 'compress compare'.") from error
            lines.append(line)
    return lines
