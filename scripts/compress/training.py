"""Training a network that is being compressed, by the bundle's own training."""

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from torch import nn

from networks.errors import UserError
from networks.workflow.checkpoints import load_weights
from networks.workflow.config_files import check_ids, config_ids
from networks.workflow.files import parse_json, write_json
from scripts.compress.bundles import Source
from scripts.opened_bundle import bundle_folder

OWN = ("bundle_root", "ckpt_dir", "output_dir", "log_dir", "dataset_dir", "network_def", "network", "resume", "preset")
RECORDED = ("data_set", "seed", "pretrained", "epoch", "val_mean_dice")
SETTINGS, DONE = "settings.json", "done"
Lesson = Callable[[Any, Any], dict[str, Any]]


def trained_for(epochs: int) -> str:
    """The end of a summary."""
    return f" and trained for {epochs} epoch{'s' * (epochs > 1)}" if epochs else ""


def training_of(
    source: Source,
    output: Path,
    epochs: int,
    dataset_dir: str | None,
    options: Mapping[str, Any],
    compression: Mapping[str, Any],
) -> "Training | None":
    """The training of a compression, in a folder beside its output; None where none is asked for.

    Args:
        source: what is compressed.
        output: folder of the compressed bundle.
        epochs: of the training.
        dataset_dir: the data set.
        options: further ids of the training's config.
        compression: how the network is compressed.

    Raises:
        UserError: as :class:`Training`; options of a training without epochs; one that the network was trained with; or
            other weights to start from.
    """
    if epochs < 1:
        if options:
            raise UserError(f"--{next(iter(options))} is an option of the training, which --epochs asks for.")
        return None
    if "pretrained" in options:
        raise UserError("--pretrained would replace the weights that are compressed; leave it out.")
    folder = output.with_name(f"{output.name}_training")
    ids = source.record["ids"]
    kept = next((name for name in options if name in ids), None)
    if kept is not None:  # the record's is what the written bundle has
        raise UserError(
            f"--{kept} is {ids[kept]} in what is compressed, and so in the compressed bundle too; leave it out."
        )
    about = {**compression, "checkpoint": source.record["checkpoint"]}
    return Training(source.bundle, source.preset, ids, dataset_dir, folder, {**options, "epochs": epochs}, about)


class Training:
    """Trainings of one compression, each in a folder of its own, so that a stop loses no more than an epoch.

    Args:
        bundle: name of the bundle that is trained.
        preset: data set of its training, or None.
        ids: of the training's record, which shape the network and its input.
        dataset_dir: the data set.
        folder: where the trainings have their folders.
        options: further ids of the training's config, such as epochs and learning_rate.
        compression: what else decides about the weights that come out: how and from what the network is compressed.

    Raises:
        UserError: no data set, or an option is no id of the config.
    """

    def __init__(
        self,
        bundle: str,
        preset: str | None,
        ids: Mapping[str, Any],
        dataset_dir: str | None,
        folder: Path,
        options: Mapping[str, Any],
        compression: Mapping[str, Any],
    ) -> None:
        if dataset_dir is None or not (Path(dataset_dir) / "dataset.json").is_file():
            raise UserError("Give --dataset_dir, a folder with dataset.json: the data to train on.")
        configs = bundle_folder(bundle) / "configs"
        self.files = [configs / "train.json"] + ([configs / "presets" / f"{preset}.json"] if preset else [])
        known = config_ids(self.files)
        check_ids(options, known)
        taken = [name for name in options if name in OWN]
        if taken:
            raise UserError(f"--{taken[0]} is given by the compression itself; leave it out.")
        self.folder, self.compression = folder, compression
        self.options = {
            **{key: value for key, value in ids.items() if key in known and key != "preset"},
            "dataset_dir": str(Path(dataset_dir).resolve()),
            "preset": preset,
            **options,
        }

        # for records, which say nothing of this machine
        self.said = {key: value for key, value in options.items() if isinstance(value, int | float | bool)}

    def described(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """For a step's record: the options, and what a training's record says of its data, start and best epoch."""
        return {**self.said, **{key: record[key] for key in RECORDED if key in record}}

    def run(self, name: str, network: nn.Module, lesson: Lesson | None = None) -> dict[str, Any]:
        """Train a network, or go on where an earlier call was stopped; it has the best weights afterwards.

        Args:
            name: of the training, and of its folder.
            network: what is trained, with the weights that it starts from.
            lesson: from the config's inferer and loss to what takes their places, by their ids.

        Returns:
            The training's record.

        Raises:
            UserError: the folder is of a training with other options, or of another compression.
        """
        folder = self.folder / name
        best, done, file = folder / "models" / "model.pt", folder / DONE, folder / SETTINGS
        settings = {key: str(value) for key, value in {**self.options, **self.compression}.items()}
        if file.is_file() or best.parent.is_dir():
            if not file.is_file():
                raise UserError(f"{folder} does not say how it was trained; remove it, or give another OUTPUT.")
            earlier = parse_json(file.read_text(encoding="utf-8"), file)
            changed = sorted(key for key in settings.keys() | earlier.keys() if settings.get(key) != earlier.get(key))
            if changed:
                raise UserError(
                    f"{folder} is of a training with another {', '.join(changed)}; remove it, or give another OUTPUT."
                )
        else:
            write_json(file, settings)
        if not done.is_file():
            self._train(folder, network, lesson)
            done.touch()
        load_weights(network, best)
        network.to("cpu").eval()
        record = best.with_suffix(".json")
        return parse_json(record.read_text(encoding="utf-8"), record)

    def _train(self, folder: Path, network: nn.Module, lesson: Lesson | None) -> None:
        root = logging.getLogger()
        path, hook, level = list(sys.path), sys.excepthook, logging.getLogger("ignite").level
        root_level, console = root.level, logging.StreamHandler(sys.stdout)  # as logging.conf has it: a line per epoch
        console.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(console)
        root.setLevel(logging.INFO)
        try:
            workflow = ConfigWorkflow(
                config_file=[str(file) for file in self.files],
                workflow_type="train",
                run_id="training",
                logging_file=False,  # reading it would close every handler of the process
                **self.options,
                bundle_root=str(folder),
                ckpt_dir=str(folder / "models"),
                output_dir=str(folder / "eval"),
                log_dir=str(folder / "logs"),
                resume=(folder / "models" / "last.pt").is_file(),
            )
            workflow.parser.update({"network_def": network})
            if lesson is not None:
                content = workflow.parser.get_parsed_content
                workflow.parser.update(lesson(content("train::inferer"), content("loss")))
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        finally:
            sys.path[:], sys.excepthook = path, hook
            logging.getLogger("ignite").setLevel(level)
            root.removeHandler(console)
            root.setLevel(root_level)
