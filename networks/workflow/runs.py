"""Whole runs: one at a time in a folder, the earlier one kept, an orderly end at any time, a summary.

A new training moves what an earlier one left in its folders to ``<ckpt_dir>/earlier/<when that one ended>``. So nothing
is lost by running a command twice, and the newest weights stay at the one path at which MONAI, MONAI Label and the
model zoo look for them.
"""

import contextlib
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite import distributed as idist
from ignite.engine import Engine, Events

from networks.errors import UserError
from networks.layers.packed import check_trainable
from networks.workflow.arguments import config_files, is_bundle_run, split_arguments
from networks.workflow.config_files import config_ids, top_level
from networks.workflow.files import locked, not_written
from networks.workflow.ids import truth
from networks.workflow.inversion import label_by_class
from networks.workflow.saving import complete_writers, write_label_names
from networks.workflow.state import MEASURES, state_of
from networks.workflow.stopping import GRACE, saying

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

logger = logging.getLogger(__name__)
BEST, LAST, FINAL, LOG = "model.pt", "last.pt", "model_final.pt", "metrics.csv"
EARLIER = "earlier"
EVENTS = "events.out.tfevents.*"


class KeepEarlier:
    """Move the files of an earlier training aside when a new one starts.

    They are the best, last and final checkpoint of ``ckpt_dir``, the record and what was exported of the best one
    (``model.*``), ``metrics.csv`` of ``output_dir`` and TensorBoard's files of ``log_dir``. Attach it last, so that
    whatever refuses a run has done so before.

    Args:
        ckpt_dir, output_dir, log_dir: the training's folders.
        overwrite: the earlier files are removed instead.
    """

    def __init__(self, ckpt_dir: str, output_dir: str, log_dir: str, overwrite: bool | str = False) -> None:
        self.ckpt_dir, self.output_dir, self.log_dir = Path(ckpt_dir), Path(output_dir), Path(log_dir)
        self.overwrite = truth(overwrite)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Move or remove the files, unless the trainer has resumed the earlier training.

        Raises:
            UserError: the folders cannot be written to.
        """
        if engine.state.epoch > 0:
            return
        idist.barrier()  # another process may be loading the earlier weights
        if idist.get_rank() > 0:
            return
        found = [path for path in self._files() if path.is_file()]
        if not found:
            return
        if self.overwrite:
            for path in found:
                path.unlink()
            logger.info("Removed the earlier training's %d files (--overwrite true).", len(found))
            return
        target = self._target()
        try:
            target.mkdir(parents=True)
            for path in found:
                shutil.move(path, target / path.name)
        except OSError as error:
            raise not_written(target, error) from error
        could = "; --resume true would have continued it" if self.ckpt_dir / LAST in found else ""
        logger.info("Moved the earlier training's files to %s%s.", target, could)

    def _files(self) -> list[Path]:
        checkpoints = [self.ckpt_dir / name for name in (BEST, LAST, FINAL)]
        of_best = sorted(path for path in self.ckpt_dir.glob(f"{Path(BEST).stem}.*") if path.name != BEST)
        return [*checkpoints, *of_best, self.output_dir / LOG, *sorted(self.log_dir.glob(EVENTS))]

    def _target(self) -> Path:
        """A new folder under the time at which the earlier training wrote last."""
        times = [path.stat().st_mtime for path in (self.ckpt_dir / LAST, *self._files()) if path.is_file()]
        name = datetime.fromtimestamp(times[0], timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
        folder, number = self.ckpt_dir / EARLIER / name, 2
        while folder.exists():
            folder, number = self.ckpt_dir / EARLIER / f"{name}-{number}", number + 1
        return folder


def own_weights(models: str | Path, resume: bool | str = False) -> str:
    """The weights in a bundle's folder that a new training of them starts from.

    They are ``model.pt``, or where a training has moved that aside and has not validated yet, the newest of
    ``earlier``: also for one that is resumed, whose own weights ``model.pt`` holds by now.

    Args:
        models: the folder of the bundle's weights.
        resume: whether the training in that folder goes on. A truth value or a text of one.
    """
    folder = Path(models)
    found = sorted(folder.glob(f"{EARLIER}/*/{BEST}"))
    if not (truth(resume) and (folder / LAST).is_file()):
        found += folder.glob(BEST)
    return str(found[-1] if found else folder / BEST)


def train(trainer: "SupervisedTrainer", evaluator: Engine, ckpt_dir: str, output_dir: str) -> None:
    """Run a training: alone in its folders, with an orderly end, and a summary.

    Args:
        trainer: MONAI's, with its handlers.
        evaluator: the validation's.
        ckpt_dir: where its checkpoints are.
        output_dir: where its log is.

    Raises:
        UserError: the network has packed weights, or another training writes to one of the folders.
    """
    check_trainable(trainer.network)
    last, started = Path(ckpt_dir) / LAST, time.monotonic()

    def safe() -> str:
        if not last.is_file() or trainer.state.epoch == 0:
            return "Nothing of this training was kept yet; start it again."
        return f"{last} holds every epoch that was completed; --resume true goes on with the next."

    remedy = "give --ckpt_dir and --output_dir other folders"
    with _alone((ckpt_dir, output_dir), "training", remedy), _quiet(trainer, evaluator), saying(safe):
        trainer.run()
    state = state_of(evaluator)
    if idist.get_rank() > 0 or state.best_metric_epoch < 0:
        return
    name = state.key_metric_name
    _summary(
        f"Trained to epoch {trainer.state.epoch} in {_duration(time.monotonic() - started)}; best "
        f"{MEASURES.get(name, name)} on the validation split: {state.best_metric:.4f} "
        + (f"in epoch {state.best_metric_epoch}." if state.best_metric_epoch else "before the first epoch."),
        {
            "best weights": Path(ckpt_dir) / BEST,
            "to go on": last,
            "log": Path(output_dir) / LOG,
        },
        "To evaluate",
        _evaluation(),
    )


def evaluate(evaluator: Engine, output_dir: str, postprocessing: Any = None) -> None:
    """Run an evaluation: alone in the folder, with an orderly end, and a summary.

    Args:
        evaluator: the engine, whose handlers load the weights and write the scores.
        output_dir: where the scores go.
        postprocessing: the transforms that it was made with; those that take the largest class do with less memory.

    Raises:
        UserError: another evaluation writes to the folder, or the weights do not fit.
    """
    label_by_class(postprocessing)
    _apply(evaluator, output_dir, "evaluation", "Scores are written at the end; the same command starts anew.")
    if idist.get_rank() == 0:
        weights = getattr(evaluator.state, "checkpoint", "the network without loading weights")
        _summary(f"Evaluated {weights}.", {"scores": Path(output_dir)}, "To predict", _prediction())


def infer(evaluator: Engine, postprocessing: Any, output_dir: str, class_names: Sequence[str] | None = None) -> None:
    """Segment images, as :func:`evaluate`; every file that is written is whole, and what other programs read.

    Args:
        evaluator: the engine, whose handlers load the weights.
        postprocessing: the transforms that it was made with, which write the label maps.
        output_dir: where they go.
        class_names: background first, to be written beside them; None where they are not known.

    Raises:
        UserError: another prediction writes to the folder, or the weights do not fit.
    """
    complete_writers(postprocessing)
    label_by_class(postprocessing)
    _apply(
        evaluator,
        output_dir,
        "prediction",
        f"The label maps in {output_dir} are whole; the same command makes all anew.",
    )
    if idist.get_rank() == 0:
        if class_names is not None:
            write_label_names(output_dir, dict(enumerate(class_names)))
        number = evaluator.state.iteration
        _summary(f"Segmented {number} image{'s' * (number != 1)}.", {"label maps": Path(output_dir)})


def classify(evaluator: Engine, output_dir: str) -> None:
    """Classify pictures, as :func:`evaluate`; the table is written at the end.

    Args:
        evaluator: the engine, whose handlers load the weights and write the table.
        output_dir: where that goes.

    Raises:
        UserError: another prediction writes to the folder, or the weights do not fit.
    """
    _apply(evaluator, output_dir, "prediction", "The table is written at the end; the same command starts anew.")
    if idist.get_rank() == 0:
        _summary("Classified all pictures.", {"classes and their probabilities": Path(output_dir)})


def _apply(evaluator: Engine, output_dir: str, work: str, safe: str) -> None:
    with _alone((output_dir,), work, "give --output_dir another folder"), _quiet(evaluator), saying(lambda: safe):
        evaluator.run()


@contextlib.contextmanager
def _alone(folders: Sequence[str | Path], work: str, remedy: str) -> Iterator[None]:
    """Lock folders; of several processes the first does, and all end if it cannot."""
    with contextlib.ExitStack() as stack:
        refused = None
        if idist.get_rank() == 0:
            try:
                for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
                    stack.enter_context(locked(folder, work, remedy))
            except UserError as error:
                refused = error
        if idist.get_world_size() > 1 and idist.all_reduce(float(refused is not None)) and refused is None:
            raise SystemExit(1)  # the first process says why
        if refused is not None:
            raise refused
        try:
            yield
        except Exception:
            if idist.get_world_size() > 1:
                # where another process has ended, what they compute together fails; the launcher's signal, which ends
                # this one in order, is on its way
                time.sleep(GRACE)
            raise


@contextlib.contextmanager
def _quiet(*engines: Engine) -> Iterator[None]:
    """Without the engines' own lines, such as "Engine run resuming from iteration 0" at every validation."""
    loggers = {engine.logger: engine.logger.level for engine in engines}
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in loggers.items():
            one.setLevel(level)


def _summary(what: str, files: dict[str, Path], purpose: str = "", command: str = "") -> None:
    lines = [what, *(f"  {name}: {path}" for name, path in files.items())]
    if command:
        lines.append(f"{purpose}: {command}")
    logger.info("\n".join(lines))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _evaluation() -> str:
    """The command that evaluates what the running command trains, or nothing where that is not known."""
    files, options = _command()
    # a training without labels has nothing to evaluate
    if not files or files[0].name != "train.json" or not (evaluation := files[0].parent / "evaluate.json").is_file():
        return ""
    files = [file for file in files if file.name != "multi_gpu_train.json"] + [evaluation]
    return _text(files, {key: value for key, value in options.items() if key not in ("resume", "overwrite")})


def _prediction() -> str:
    """The command that predicts with what the running command evaluates, or nothing where that is not known."""
    files, options = _command()
    if not files or not (inference := files[0].parent / "inference.json").is_file():
        return ""
    presets = [file.with_name(f"{file.stem}_inference.json") for file in files if file.parent.name == "presets"]
    files = [inference, *(preset for preset in presets if preset.is_file())]
    known = config_ids(files) - {"dataset_dir", "output_dir"}
    options = {key: value for key, value in options.items() if top_level(key) in known}
    return _text(files, {**options, "dataset_dir": "DIR"})


def _command() -> tuple[list[Path], dict[str, str]]:
    """Config files and options of ``python -m monai.bundle run``, if that is what runs and says them itself."""
    if not is_bundle_run(sys.argv):
        return [], {}
    _, options = split_arguments(sys.argv[2:])
    if "args_file" in options:
        return [], {}
    files = [Path(file) for file in config_files(options.pop("config_file", ""))]
    return [file for file in files if file.is_file()], options


def _text(files: Sequence[Path], options: dict[str, str]) -> str:
    names = str([str(file) for file in files]).replace(" ", "") if len(files) > 1 else str(files[0])
    words = ["python", "-m", "monai.bundle", "run", "--config_file", names]
    words += [part for key, value in options.items() for part in (f"--{key}", value)]
    # lists of files are full of single quotes
    plain = [f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else shlex.quote(word) for word in words]
    return " ".join(plain)
