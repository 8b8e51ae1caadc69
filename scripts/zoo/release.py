"""From a suite to a zoo: its networks trained, packed with their weights, described, verified."""

import json
import re
import tempfile
from pathlib import Path

from networks.errors import UserError
from networks.workflow.files import atomic
from scripts.catalog.bundles import Bundle
from scripts.catalog.classification import segmentation_bundle
from scripts.experiments import commands
from scripts.experiments.runs import DONE, RunFolder
from scripts.experiments.suite import Run, load_suite
from scripts.zoo.card import model_card
from scripts.zoo.pack import assemble, write
from scripts.zoo.style import check_tools
from scripts.zoo.verify import check
from scripts.zoo.weights import Weights, weights_at


def release(
    suite: str,
    runs_dir: str = commands.RUNS_DIR,
    output_dir: str = "dist/release",
    base_url: str = "",
    only: str = "",
    train: bool = True,
    overwrite: bool = False,
) -> list[Path]:
    """Do what the command line describes, with the same arguments.

    Returns:
        The zip files.

    Raises:
        UserError: a bundle of the suite classifies pictures, two data sets would have one name, a tool that packing
            needs is not installed, nothing is trained, a training failed or was validated by another score than the
            mean Dice, a version is taken, or a bundle does not pass its checks.
    """
    runs = load_suite(suite).runs
    bundles = {run.bundle: segmentation_bundle(run.bundle) for run in runs}
    data_sets: dict[str, str] = {}
    for run in runs:
        other = data_sets.setdefault(_name(run), run.data_set)
        if other != run.data_set:
            raise UserError(f"{suite} has the data sets {other!r} and {run.data_set!r}, both {_name(run)}; rename one.")
    check_tools()
    if train:
        commands.run(suite, runs_dir, only=only)
    best: dict[str, tuple[Bundle, Weights]] = {}
    for run in runs:
        folder = RunFolder(run, runs_dir)
        if only not in run.name or folder.state() != DONE:
            continue
        found = weights_at(folder.path / "models" / "model.pt", folder.score_files())
        name = _name(run)
        # by the validation, never by the test
        if name not in best or _validated(found) > _validated(best[name][1]):
            best[name] = bundles[run.bundle], found
    if not best:
        named = f" with {only!r} in its name" if only else ""
        raise UserError(f"No run of {suite}{named} is done in {runs_dir}; leave out --train false.")
    target = Path(output_dir)
    paths = []
    for name, (bundle, found) in best.items():
        packed = assemble(bundle, found=found, name=name)
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:  # what does not pass is listed nowhere
            path = write(packed, Path(folder))
            failed = [f"{what}: {detail}" for what, passed, detail in check(str(path)) if passed is False]
        if failed:
            raise UserError(f"{path.name} does not pass the zoo's checks: {' '.join(failed)}")
        path = write(packed, target, base_url, overwrite)
        metadata, document = (packed.files[file] for file in ("configs/metadata.json", "docs/README.md"))
        with atomic(path.with_name(f"{path.stem}_README.md")) as temporary:
            temporary.write_text(model_card(name, json.loads(metadata), document.decode()), encoding="utf-8")
        print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB), its checks passed.", flush=True)
        paths.append(path)
    return paths


def _name(run: Run) -> str:
    """What the bundle of a run is released as."""
    return f"{run.bundle}_{re.sub(r'[^a-z0-9]+', '_', run.data_set.lower()).strip('_')}"


def _validated(weights: Weights) -> float:
    try:
        return weights.training["val_mean_dice"]
    except KeyError:
        record = weights.path.with_suffix(".json")
        raise UserError(
            f"{record} has no val_mean_dice, by which one of several runs is chosen; name one run by --only."
        ) from None
