"""Segmenting cases with the parts of a bundle's ``inference.json``, and writing the results in a format."""

import contextlib
import io
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from matplotlib.colors import ListedColormap
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines.utils import IterationEvents, engine_apply_transform
from monai.transforms import Orientation
from PIL import Image, ImageOps
from pydicom import dcmread
from torch import nn

from networks.errors import UserError
from networks.layers.packed import unpack_layers
from networks.workflow import check_cases, complete_writers, load_weights
from networks.workflow.checks import loader, reader_of
from networks.workflow.evaluation import label_overlay
from networks.workflow.files import put_in_place
from networks.workflow.inversion import label_by_class
from networks.workflow.pictures import read_index_map
from networks.workflow.pixel_size import PixelSize, read_pixel_size
from networks.workflow.saving import colour, mark_as_labels, save_picture
from scripts.datasets.dicom import read_series
from scripts.datasets.dicom_seg import uid_notice, write_dicom_seg
from scripts.opened_bundle import InferenceConfig
from scripts.predict.cases import ENDINGS, Case
from scripts.predict.fastest import DifferentLabelsError, Fastest

LEGIBLE = 256  # pixels of height that a volume's slice is enlarged to, by a whole number


@dataclass
class Computed:
    """A case after the network, to be written or given up.

    Attributes:
        case: which it is.
        image: the file that was read.
        folder: of temporary files of this case.
        batch: what the evaluator read, and nothing once it is written.
        output: what the network made of it.
        times: seconds in ``reading`` (with what precedes the network), ``network`` and ``writing`` (with what follows
            the network).
    """

    case: Case
    image: Path
    folder: tempfile.TemporaryDirectory[str]
    batch: Any = None
    output: Any = None
    times: dict[str, float] = field(default_factory=dict)


class Segmenter:
    """The bundle's own evaluator, given one case at a time.

    :meth:`compute` of a case may run while another thread is in :meth:`write` with the case before.

    Attributes:
        notice: what the user has to know about the result that was written last, or nothing.
        probabilities: of the case that was written last, where they were asked for and the network's classes are told
            apart on the image's own grid: (classes, X, Y[, Z]), from 0 to 255.

    Args:
        config: the bundle's inference.
        labels: names of the classes by number.
        network: what to call instead of the bundle's network; by default that, with the weights of ``ckpt_path``.
        size: of the pixels of pictures, where their files do not tell the right one.
        keep_probabilities: whether they are wanted.
        say: is told how, where the network is to be computed as :mod:`scripts.predict.fastest` does.

    Raises:
        UserError: the weights are missing or of another network, or the config has no
            ``SaveImaged`` to write label maps with.
    """

    def __init__(
        self,
        config: InferenceConfig,
        labels: Mapping[int, str],
        network: nn.Module | None,
        size: PixelSize | None = None,
        keep_probabilities: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.labels, self.notice, self._size = config, dict(labels), "", size
        self._times: dict[str, float] = {}
        self.probabilities: MetaTensor | None = None
        self._window = config.get("intensity_range")
        self._folder = tempfile.TemporaryDirectory(prefix="predict-")
        self._results = Path(self._folder.name) / "results"
        save = f"postprocessing::transforms::{_save_index(config)}"
        config.override(
            {
                "handlers": [],  # one bar over all cases instead of one for each
                "evaluator::val_data_loader": [],
                "evaluator::epoch_length": 1,
                "evaluator::postprocessing": None,  # done when the case is written
                f"{save}::output_dir": str(self._results),
                f"{save}::data_root_dir": "",
                **({"network": network} if network is not None else {}),
            }
        )
        if keep_probabilities:
            self._keep_probabilities()
        self._postprocessing = config["postprocessing"]
        complete_writers(self._postprocessing)
        logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)  # it logs every error that it raises
        label_by_class(self._postprocessing)
        self._evaluator = config["evaluator"]
        self._evaluator.logger.setLevel(logging.CRITICAL)
        # else the case after one that failed would be taken for its rest
        self._evaluator.interrupt_resume_enabled = False
        if network is None:
            load_weights(config["network"], config["ckpt_path"])
            unpack_layers(config["network"])  # once, and not for every batch
        self._evaluator.add_event_handler(Events.ITERATION_STARTED, self._clock, "reading")
        self._evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._clock, "network")
        self._fastest = None
        if say is not None and torch.device(config["device"]).type == "cpu":
            self._fastest = self._evaluator.network = Fastest(self._evaluator.network, say)

    def __call__(self, case: Case) -> bool:
        """Segment and write one case; what it returns and raises is that of :meth:`write` and :meth:`compute`."""
        return self.write(self.compute(case))

    def compute(self, case: Case) -> Computed:
        """Read a case and run the network on it.

        Raises:
            Exception: whatever is wrong with the case.
        """
        folder = tempfile.TemporaryDirectory(prefix="case-", dir=self._folder.name)
        self._times, self._since = {}, time.perf_counter()
        if self._fastest is not None:
            self._fastest.start_case()
        try:
            image = as_nifti(case, Path(folder.name)) if case.is_series else Path(case.files[0])
            computed = Computed(case, image, folder, times=self._times)
            try:
                computed.batch, computed.output = self._run(image)
            except DifferentLabelsError:  # float32 from now on
                computed.batch, computed.output = self._run(image)
            return computed
        except BaseException:
            folder.cleanup()
            raise

    def write(self, computed: Computed) -> bool:
        """Make a computed case's files.

        Returns:
            Whether a label map was written: a DICOM SEG with background only does not exist.

        Raises:
            Exception: whatever is wrong with the case; nothing of it is left behind then.
        """
        case, start = computed.case, time.perf_counter()
        self.notice, self.probabilities = "", None
        with computed.folder as name:
            folder = Path(name)
            label = self._label(computed)
            try:
                if case.overlay:
                    picture = folder / "overlay.png"
                    self._draw(computed.image, label, picture)
                segmentation = self._converted(case, label, folder)
                if case.overlay:
                    put_in_place(picture, case.overlay)
                if segmentation is None:
                    return False
                put_in_place(segmentation, case.label)
                return True
            finally:
                label.unlink(missing_ok=True)
                computed.times["writing"] = time.perf_counter() - start

    def _clock(self, phase: str) -> None:
        now = time.perf_counter()
        self._times[phase], self._since = self._times.get(phase, 0.0) + now - self._since, now

    def look_ahead(self, cases: int) -> None:
        """Prepare for so many cases like the one before."""
        if self._fastest is not None:
            self._fastest.look_ahead(cases)

    def _keep_probabilities(self) -> None:
        """Take the logits where the postprocessing makes class numbers of them, unless it resamples those after it."""
        transforms = list(self.config.raw("postprocessing")["transforms"])
        kinds = [str(transform.get("_target_")) for transform in transforms]
        place = next((i for i, kind in enumerate(kinds) if "AsDiscreted" in kind), None)
        if place is not None and not any("Invertd" in kind for kind in kinds[place:]):
            transforms.insert(place, self._keep)
            self.config.override({"postprocessing::transforms": transforms})

    def _keep(self, item: dict[str, Any]) -> dict[str, Any]:
        # part by part: as float32 they are the largest thing in memory
        parts = [(part.float().softmax(0) * 255).round().byte().cpu() for part in item["pred"].split(16, dim=-1)]
        self.probabilities = torch.cat(parts, dim=-1)
        return item

    def _run(self, image: Path) -> tuple[Any, Any]:
        """Run the evaluator on a file: the item that it read, and its output."""
        item, config = {"image": str(image)}, self.config
        if config["check_data"]:
            check_cases([item], config["in_channels"], None, config["reader"], config["spatial_dims"])
        self._evaluator.data_loader = DataLoader(Dataset([item], config["preprocessing"]), batch_size=1)
        state = self._evaluator.state
        try:
            self._evaluator.run()
            (batch,), (output,) = state.batch, state.output
            return batch, output
        finally:
            state.batch = state.output = None  # else they stay in memory beside those of the next case

    def _label(self, computed: Computed) -> Path:
        """The one file that the postprocessing's ``SaveImaged`` writes."""
        shutil.rmtree(self._results, ignore_errors=True)
        batch, output = computed.batch, computed.output
        computed.batch = computed.output = None
        engine_apply_transform(batch, output, self._postprocessing)
        (label,) = (path for path in self._results.rglob("*") if path.is_file())
        return label

    def _converted(self, case: Case, label: Path, folder: Path) -> Path | None:
        """The label map in the format of the case's result."""
        if case.is_seg:
            return self.dicom_seg(case, label, folder)
        suffix = next(ending for ending in ENDINGS if case.label.lower().endswith(ending))
        if label.name.endswith(suffix) and (self._size is None or label.suffix != ".png"):
            return label
        target = folder / f"converted{suffix}"
        if label.suffix != ".png":
            nib.save(nib.load(label), target)
            return target
        numbers, size = read_index_map(label)[..., 0], self._size or read_pixel_size(case.files[0])[0]
        if ENDINGS[suffix] == "nifti":  # x comes first there
            nib.save(mark_as_labels(nib.Nifti1Image(numbers.T, np.eye(4)), size), target)
        else:
            save_picture(numbers, target, size)
        return target

    def dicom_seg(self, case: Case, label: Path, folder: Path) -> Path | None:
        """A series' label map in NIfTI as DICOM SEG in a folder; None where it is background only."""
        if not np.asanyarray(nib.load(label).dataobj).any():
            return None
        series, names = folder / "series", folder / "labels.json"
        series.mkdir()
        for number, file in enumerate(case.files):
            (series / f"{number:06d}").symlink_to(Path(file).resolve())
        names.write_text(json.dumps({"labels": self.labels}), encoding="utf-8")
        target = folder / "segmentation.dcm"
        with contextlib.redirect_stdout(io.StringIO()):  # it announces the file under its temporary name
            write_dicom_seg(label, series, names, target, self.config.name)
        self.notice = uid_notice(dcmread(case.files[0], stop_before_pixels=True))
        return target

    def _draw(self, image: Path, label: Path, target: Path) -> None:
        """The image beside itself with the label map in colours; of a volume, the axial slice with most foreground."""
        grey, found = (part.as_tensor() for part in self.displayed(image, label))
        is_volume = grey.ndim == 4
        if is_volume:
            z = int((found > 0).sum(dim=(0, 1, 2)).argmax())
            grey, found = grey[..., z], found[..., z]
        plain = grey.expand(3, -1, -1).transpose(1, 2)
        both = torch.cat([plain, label_overlay(grey, found, len(self.labels), colour_map(len(self.labels)))], dim=2)
        if is_volume:
            both = both.flip(1)  # a picture's y runs down, a volume's to the front
        drawn = Image.fromarray((both.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        if is_volume:  # a slice of an organ's crop would be no larger than a stamp
            drawn = ImageOps.scale(drawn, max(1, LEGIBLE // drawn.height), Image.Resampling.NEAREST)
        drawn.save(target)

    def displayed(self, image: Path, label: Path) -> tuple[MetaTensor, MetaTensor]:
        """An image and its label map as people look at them.

        Returns:
            The image (1 or 3, X, Y[, Z]) from black, 0, to white, 1, and class numbers (1, X, Y[, Z]); volumes as
            radiologists have them: x to the patient's left, y to the front, z to the head.
        """
        grey, found = loader(self.config["reader"])(image), loader(reader_of(str(label), is_label=True))(label)
        if grey.ndim == 4:
            grey, found = upright(grey), upright(found)
        low, high = self._window or np.percentile(np.asarray(grey), (0.5, 99.5))
        grey = grey if grey.shape[0] == 3 else grey[:1]
        return grey.float().sub(low).div(max(high - low, 1e-6)).clamp(0, 1), found


def upright(volume: MetaTensor) -> MetaTensor:
    """A volume (channels, X, Y, Z) with x to the patient's left, y to the front and z to the head."""
    return Orientation("LAS", labels=None)(volume)


def colour_map(classes: int) -> ListedColormap:
    """The colours of the classes, for :func:`networks.workflow.evaluation.label_overlay`."""
    return ListedColormap([np.divide(colour(number), 255) for number in range(classes)])


def _save_index(config: InferenceConfig) -> int:
    transforms = config.raw("postprocessing")["transforms"]
    found = [i for i, transform in enumerate(transforms) if "SaveImaged" in str(transform.get("_target_"))]
    if len(found) != 1:
        raise UserError(
            f"The postprocessing of {config.name} has {len(found)} SaveImaged; expected one that writes the label maps."
        )
    return found[0]


def as_nifti(case: Case, folder: Path) -> Path:
    """A DICOM series as a NIfTI file in a folder."""
    path = folder / "series.nii"
    nib.save(read_series([Path(file) for file in case.files]), path)
    return path
