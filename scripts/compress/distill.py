"""Distillation: a trained network teaches a smaller one what it is unsure of, beside what the labels say.

Hinton et al., "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.
"""

from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import set_determinism
from torch import Tensor, nn

from networks.errors import UserError
from networks.workflow import load_weights
from networks.workflow.files import file_hash
from scripts.catalog.classification import segmentation_bundle
from scripts.compress.bundles import Source, check_output, open_source, write_bundle
from scripts.compress.training import Training
from scripts.opened_bundle import InferenceConfig
from scripts.zoo.weights import data_sets, halved

SAME = ("in_channels", "out_channels", "spatial_dims", "intensity_range", "intensity_percentiles", "window")


class Lesson:
    """Stands for a training's inferer and, as :meth:`loss`, for its loss.

    Args:
        inferer: of the training.
        labels: the training's loss of logits and labels.
        teacher: the trained network, in evaluation mode.
        temperature: that soft labels are made with: the higher, the more the unlikely classes count.
        weight: of the soft labels, from 0 to 1; the labels have the rest.
        size: of the images that the teacher was trained with, if the student's are another size of the same.
    """

    def __init__(
        self, inferer: Any, labels: Any, teacher: nn.Module, temperature: float, weight: float, size: list[int] | None
    ) -> None:
        self.inferer, self.labels, self.teacher = inferer, labels, teacher
        self.temperature, self.weight, self.size = temperature, weight, size
        self._taught: Tensor | None = None

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """The student's logits; the teacher's are kept for the loss."""
        with torch.no_grad():
            self.teacher.to(inputs.device)
            x = inputs.as_subclass(Tensor)
            seen = x if self.size is None else F.interpolate(x, self.size, mode="bilinear", align_corners=False)
            taught = self.teacher(seen)
            if self.size is not None:
                taught = F.interpolate(taught, x.shape[2:], mode="bilinear", align_corners=False)
        self._taught = taught
        return self.inferer(inputs, network, *args, **kwargs)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of logits (B, classes, H, W) and labels (B, 1, H, W)."""
        hard = self.labels(logits, labels)
        soft = soft_loss(logits, self._taught, self.temperature)
        return self.weight * soft + (1 - self.weight) * hard


def soft_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's softened probabilities from the teacher's, mean over the pixels.

    Its gradients shrink with the square of the temperature, which is taken back.
    """
    student = F.log_softmax(logits.as_subclass(Tensor).float() / temperature, 1)
    teacher = F.log_softmax(taught.as_subclass(Tensor).float() / temperature, 1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean() * temperature**2


def distill(
    output: str,
    student: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    preset: str | None = None,
    temperature: float = 2.0,
    weight: float = 0.5,
    dataset_dir: str | None = None,
    **options: Any,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: as :func:`scripts.compress.bundles.open_source` and :class:`scripts.compress.training.Training`, or
            the student is no bundle of the catalog, or does not see the teacher's images or classes.
    """
    if temperature <= 0 or not 0 <= weight <= 1:
        raise UserError(f"temperature={temperature} must be above 0 and weight={weight} from 0 to 1.")
    segmentation_bundle(student)  # of the catalog, since what is written is rendered from that
    folder = check_output(output)
    teacher = open_source(bundle, trained, ckpt_path)
    preset = preset or teacher.preset
    ids = {key: value for key, value in teacher.record["ids"].items() if key in (*SAME, "img_size")}
    ids |= {key: options.pop(key) for key in ("img_size",) if key in options}
    network_ids = {**ids, **{key: value for key, value in options.items() if key in InferenceConfig(student, preset)}}
    config = InferenceConfig(student, preset, {**network_ids, "device": "cpu"})
    check_same(teacher.config, config)
    size = list(config["img_size"]) != list(teacher.config["img_size"])
    resized = list(teacher.config["img_size"]) if size and config["spatial_dims"] == 3 else None
    work = folder.with_name(f"{folder.name}_training")
    how = {"teacher": teacher.record["checkpoint"], "temperature": temperature, "weight": weight, "student": student}
    training = Training(student, preset, ids, dataset_dir, work, options, how)
    set_determinism(int(options.get("seed", 0)))  # as the training does, which is given a network that is there already
    network = config["network_def"]

    def lesson(inferer: Any, loss: Any) -> dict[str, Any]:
        taught = Lesson(inferer, loss, teacher.network.requires_grad_(False), temperature, weight, resized)
        return {"train::inferer": taught, "loss": taught.loss}

    record = training.run("student", network, lesson)
    path = work / "student" / "models" / "model.pt"
    load_weights(network, path)
    source = Source(student, preset, {}, path, {**record, "checkpoint": file_hash(path)}, config, network)
    step = {
        "method": "distill",
        "summary": f"taught by a trained {teacher.bundle}",
        "teacher": {
            "bundle": teacher.bundle,
            "checkpoint": teacher.record["checkpoint"],
            "data_sets": data_sets(teacher.record),
        },
        "temperature": temperature,
        "weight": weight,
        "training": training.described(record),
    }
    write_bundle(source, folder, halved(network.state_dict()), {}, step)


def check_same(teacher: InferenceConfig, student: InferenceConfig) -> None:
    """Raise UserError where two inferences would give a network other images, or take other classes from it."""
    for name in SAME:
        if teacher.get(name) != student.get(name):
            raise UserError(
                f"The teacher was trained with {name} {teacher.get(name)}, the student would be with "
                f"{student.get(name)}; give --preset the one of the teacher's training, or --{name}."
            )
    sizes = [list(config["img_size"]) for config in (teacher, student)]
    if sizes[0] != sizes[1] and teacher["network_def"].fixed_img_size and teacher["spatial_dims"] == 2:
        raise UserError(f"The teacher takes images of {sizes[0]} alone; give --img_size that for the student.")
