"""What the plain top-level ids of the configs take: one table, for checking a run's options and for the documentation.

Nothing here needs more than Python, so that a mistake is found before anything is imported or built.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from networks.errors import UserError

TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
SMALLEST_SIDE = 16  # pixels


@dataclass(frozen=True)
class Kind:
    """A type with its range.

    Attributes:
        text: what is expected, as a part of a sentence.
        accepts: whether a value is of it.
    """

    text: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Id:
    """One id.

    Attributes:
        kind: what values it takes.
        meaning: for people.
        optional: whether null is possible.
    """

    kind: Kind
    meaning: str
    optional: bool = False


def truth(value: Any) -> bool:
    """A truth value, also where a command line has handed it over as text.

    Raises:
        UserError: it is neither a truth value nor a text that means one.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in TRUTHS:
        return TRUTHS[value.strip().lower()]
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise UserError(f"{value!r} is no truth value; give true or false.")


def _is_truth(value: Any) -> bool:
    try:
        truth(value)
    except UserError:
        return False
    return True


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is(value, Real) and abs(value) < float("inf")


def _is_whole(value: Any) -> bool:
    return _is(value, Integral)


def whole(low: int, high: int | None = None) -> Kind:
    """A whole number within bounds."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    return Kind(f"a whole number {bounds}", lambda v: _is_whole(v) and low <= v and (high is None or v <= high))


def number(low: float, high: float | None = None, above: bool = False) -> Kind:
    """A finite number within bounds; ``above`` leaves the lower one out."""
    bounds = f"{'above' if above else 'of at least' if high is None else 'from'} {low:g}"
    bounds += "" if high is None else f" to {high:g}"
    return Kind(
        f"a number {bounds}",
        lambda v: _is_number(v) and (v > low if above else v >= low) and (high is None or v <= high),
    )


def _is_pair(value: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(accepts, value))


def increasing(low: float | None = None, high: float | None = None) -> Kind:
    """Two numbers, the second larger."""
    bounds = "" if low is None else f" from {low:g} to {high:g}"

    def accepts(value: Any) -> bool:
        inside = _is_pair(value, _is_number) and value[0] < value[1]
        return inside and (low is None or (low <= value[0] and value[1] <= high))

    return Kind(f"two numbers{bounds}, the second larger", accepts)


def _is_device(value: Any) -> bool:
    import torch  # the only kind that needs it

    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return device.type != "cuda" or (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count())


def one_of(*texts: str) -> Kind:
    """One of some texts."""
    return Kind(f"{', '.join(texts[:-1])} or {texts[-1]}", lambda v: isinstance(v, str) and v in texts)


TRUTH = Kind("true or false", _is_truth)
HORIZONTAL = "horizontal"
FLIPS = Kind(f"true, false or {HORIZONTAL}", lambda v: v == HORIZONTAL or _is_truth(v))
PATH = Kind("a path", lambda v: (isinstance(v, str) and bool(v.strip())) or hasattr(v, "__fspath__"))
TEXT = Kind("a text", lambda v: isinstance(v, str) and bool(v.strip()))
READER = Kind("the name of a reader, or one", lambda v: isinstance(v, str) or callable(v) or hasattr(v, "get_data"))
SIDES = Kind(
    f"two whole numbers of at least {SMALLEST_SIDE}",
    lambda v: _is_pair(v, lambda side: _is_whole(side) and side >= SMALLEST_SIDE),
)
SOURCES = Kind(
    "a file, a timm model name, or a list of them",
    lambda v: isinstance(v, str | list | tuple) and bool(v) and (isinstance(v, str) or all(map(TEXT.accepts, v))),
)
DEVICE = Kind("a device that is here, such as cpu", _is_device)

IDS = {
    "bundle_root": Id(
        PATH, "folder of the bundle; found by itself from the repository's root and from the bundle's folder"
    ),
    "dataset_dir": Id(
        PATH, "data set folder with `dataset.json`; for inference also any folder of images, or one image file"
    ),
    "output_dir": Id(PATH, "where logs of metrics, scores and predictions go"),
    "ckpt_dir": Id(PATH, "where `model.pt` (best) and `last.pt` are kept"),
    "log_dir": Id(PATH, "TensorBoard's folder"),
    "ckpt_path": Id(PATH, "weights to evaluate or to predict with"),
    "split": Id(TEXT, "list of `dataset.json` to evaluate"),
    "model": Id(TEXT, "what the results are to be called; give variants of a network different names"),
    "tolerance": Id(
        number(0),
        "distance within which the normalised surface Dice takes two surfaces for the same, in mm or pixels",
    ),
    "check_data": Id(TRUTH, "check every image and label, and do not start with one that cannot be used"),
    "allow_overlap": Id(
        TRUTH, "accept a case, or a patient by the files' names, in two of the lists training, validation and test"
    ),
    "preset": Id(
        TEXT,
        "name of the overlay that was merged, kept with the weights; not to be set by hand",
        optional=True,
    ),
    "in_channels": Id(whole(1), "channels of the images"),
    "out_channels": Id(whole(2, 256), "classes with background"),
    "spatial_dims": Id(whole(2, 3), "3 for volumes, which are cut into axial slices, 2 for pictures"),
    "reader": Id(
        READER,
        "MONAI image reader, such as `ITKReader`; null chooses by the file's suffix, and pictures have one that makes "
        "grey, palette, alpha, CMYK and 16 bit the same 8-bit channels in training and inference",
        optional=True,
    ),
    "window": Id(
        increasing(),
        "values of 16-bit pictures that become 0 and 255; null takes those that `dataset.json` keeps in `intensity`, "
        "in an inference else those of the training, else 0 and 65535",
        optional=True,
    ),
    "intensity_range": Id(
        increasing(),
        "values, such as CT numbers (HU), that become 0 and 1; values beyond are clipped. In the robust presets they "
        "become -2 and 2, and null, their default, normalises every image by itself",
    ),
    "intensity_percentiles": Id(
        increasing(0, 100),
        "percentiles of an image's values that become 0 and 1; values beyond are clipped. The robust presets clip at "
        "them where `intensity_range` is null, and bring the image to mean 0 and deviation 1",
    ),
    "img_size": Id(SIDES, "height and width that the network sees: slices are resized to it, pictures cropped"),
    "epochs": Id(whole(1), "passes over the training data"),
    "batch_size": Id(whole(1), "slices or crops per step"),
    "learning_rate": Id(number(0, above=True), "initial learning rate"),
    "patience": Id(
        whole(0),
        "epochs without a better validation after which the rate falls, then training stops; 0 for never",
    ),
    "second_learning_rate": Id(
        number(0), "the rate after the first such time; 0 stops at once, as a cosine schedule has to"
    ),
    "val_interval": Id(whole(1), "epochs between validations"),
    "val_at_start": Id(TRUTH, "validate what training starts from, so that it stays the best if no epoch is better"),
    "sw_batch_size": Id(whole(1), "slices or windows at once in validation and inference"),
    "crops_per_image": Id(whole(1), "random crops of every picture per epoch"),
    "slices_per_epoch": Id(whole(1), "slices that are drawn from all volumes per epoch"),
    "balanced_sampling": Id(
        TRUTH,
        "draw at least every second slice with foreground, and centres of crops from every class equally often",
    ),
    "spatial_augmentation": Id(TRUTH, "turn, scale and shift half of the training's slices and crops a little"),
    "flips": Id(
        one_of("all", HORIZONTAL, "none"),
        "mirror slices and crops in training: along both axes and with quarter turns, left to right only, or not",
    ),
    "intensity_augmentation": Id(
        TRUTH, "vary brightness, contrast, gamma, sharpness, noise and resolution of the training's images"
    ),
    "balanced_loss": Id(TRUTH, "weigh classes in both parts of the loss by the inverse square root of their frequency"),
    "warm_up": Id(number(0, 0.9), "share of the steps in which the learning rate rises before it falls as a cosine"),
    "max_grad_norm": Id(number(0), "norm to which larger gradients are scaled down; 0 leaves them as they are"),
    "ema_momentum": Id(
        number(0, 0.5),
        "share of every step's weights in their moving average, which is validated and kept; 0 keeps the last weights",
    ),
    "tta": Id(
        FLIPS,
        "average the logits of every slice or window and of its flips along both axes, or along the horizontal one: "
        "four passes, or two; of use where the training had these flips",
    ),
    "pretrained": Id(
        SOURCES,
        "file, or timm model name, with weights to start from, or a list of them, one for each encoder",
        optional=True,
    ),
    "resume": Id(TRUTH, "continue from `last.pt`"),
    "overwrite": Id(
        TRUTH,
        "replace an earlier training in these folders; by default its files are moved to `<ckpt_dir>/earlier`",
    ),
    "seed": Id(whole(0, 2**32 - 1), "seed of initialisation, shuffling and augmentation"),
    "amp": Id(TRUTH, "mixed precision: float16 on GPUs, in training bfloat16 on processors where that is faster"),
    "num_workers": Id(
        whole(0), "processes that prepare batches; by default with a GPU as many as there are cores, up to 8, else none"
    ),
    "cache_rate": Id(number(0, 1), "share of the prepared data kept in memory; the rest of the volumes waits on disk"),
    "num_classes": Id(whole(2), "classes to tell apart"),
    "short_side": Id(
        whole(SMALLEST_SIDE),
        "pixels that the shorter side of a picture is brought to, of which crops of `img_size` are taken",
    ),
    "crop_scale": Id(increasing(0, 1), "shares of a picture's area that random crops have, at least and at most"),
    "mask_size": Id(whole(4), "side in pixels of the square patches that are hidden, a multiple of 4"),
    "mask_ratio": Id(number(0.01, 0.99), "share of the patches that are hidden"),
    "weight_decay": Id(number(0), "decay of the weights per step, relative to the learning rate"),
    "label_smoothing": Id(number(0, 0.9), "share of the truth that is spread evenly over all classes"),
    "accumulation_steps": Id(
        whole(1), "parts that a batch is computed in, where memory is short; has to divide `batch_size`"
    ),
    "device": Id(DEVICE, "where the network computes: cpu, cuda, cuda:1, ..."),
}


def check_options(**values: Any) -> None:
    """Check the options of a run together, before anything is built.

    Args:
        **values: ids and their values; ids that are not in the table, such as a network's own, are not looked at.

    Raises:
        UserError: names every id whose value is not possible, what it is and what it takes.
    """
    wrong = problems(values)
    if wrong:
        raise UserError("; ".join(wrong) + ".")


def problems(values: Mapping[str, Any]) -> list[str]:
    """A part of a sentence for each id whose value is not possible."""
    found = []
    for name, value in values.items():
        known = IDS.get(name)
        if known is None or (value is None and known.optional) or known.kind.accepts(value):
            continue
        null = " or null" if known.optional else ""
        found.append(f"--{name} is {value!r}; expected {known.kind.text}{null}")
    return found
