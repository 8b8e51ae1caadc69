"""Loading weights that others trained, or that we did: files of several formats, and timm's downloads.

`load` reads a source, finds out its format (`networks.checkpoint_formats`), gives its tensors our names, fits them to
the network's shapes and says what became of every one. Nothing in a file is executed, and a network is either loaded
or left as it was.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from timm.layers import resize_rel_pos_bias_table
from timm.models import adapt_input_conv, clean_state_dict, load_state_dict_from_hf
from torch import Tensor, nn

from networks.checkpoint_formats import ENCODER, OURS, Format, encoder_name, formats
from networks.errors import UserError
from networks.layers.cnn import check_padding, cnn_module
from networks.layers.hybrid import resize_positions
from networks.layers.levit import extend_biases
from networks.state_dicts import CONSTANTS, check_plain, check_tensor, read_weights, unwrap, unwrap_state

logger = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"
HUB_TIMEOUT = 10.0  # seconds


@dataclass
class LoadReport:
    """What became of every tensor of a file and of a network; `str` gives a summary of a few lines.

    Attributes:
        source: file or timm name.
        format: name of the format.
        loaded: the network's tensors that were filled with a tensor of the file as it is.
        resized: the network's tensors that were filled with a resized one, and both shapes.
        skipped: the file's tensors that went nowhere, and why. Those of an authors' checkpoint that were converted but
            do not fit have our names.
        left: the network's tensors that keep their initialisation.
    """

    source: str
    format: str
    loaded: list[str]
    resized: dict[str, str]
    skipped: dict[str, str]
    left: list[str]

    def __str__(self) -> str:
        filled = len(self.loaded) + len(self.resized)
        lines = [f"{self.source} ({self.format}): {filled} of the network's {filled + len(self.left)} tensors filled."]
        reasons = defaultdict(list)
        for name, reason in self.skipped.items():
            reasons[reason.partition(":")[0]].append(name)
        groups = {"as they are": self.loaded, "resized": self.resized, "left at their initialisation": self.left}
        groups |= {f"not used ({reason})": names for reason, names in reasons.items()}
        for title, names in groups.items():
            modules = Counter(".".join(name.split(".")[:2]) for name in names)
            if modules:
                counts = ", ".join(f"{module} {count}" for module, count in modules.items())
                lines.append(f"  {len(names)} {title}: {counts}")
        return "\n".join(lines)


def load(network: nn.Module, source: str | Path) -> LoadReport:
    """Initialise a network with the weights of a file or of a timm model.

    Swin's position bias tables of another window are resized as timm does it, LeViT's of another image size cut or,
    with the bias of the longest distance, extended, absolute position embeddings of another grid interpolated as the
    authors of TransUNet do it. Stems of another number of channels are adapted. A head of another number of classes
    keeps its initialisation. From a Swin checkpoint the encoder takes as many blocks as it has; as in the authors'
    Swin-Unet, the mirrored decoder stages start from the same blocks.

    Args:
        network: the network, also if wrapped; unchanged if this raises.
        source: a checkpoint, as written by torch.save, as .safetensors or as .npz, or a timm name such as
            "swin_tiny_patch4_window7_224", which is downloaded unless it is in Hugging Face's cache.

    Raises:
        UserError: the source is neither a file nor a timm model with weights; the file is not readable, holds more than
            tensors and plain values, or values that are none; it has no known format, or fits the network too little:
            less than half of a transformer encoder, not all of a convolutional one, or of a whole network anything but
            the head; or its encoder pads in another way (:func:`networks.layers.cnn.check_padding`).
        UserError: the download failed.
    """
    network = unwrap(network)
    content = unwrap_state(_read(source))
    state = clean_state_dict({str(name): value for name, value in content.items() if isinstance(value, Tensor)})
    for name, tensor in state.items():
        check_plain(name, tensor, source)
    weights = {name: tensor for name, tensor in state.items() if not name.endswith(CONSTANTS)}
    form = next((form for form in formats(network) if weights and form.detect(network, weights)), None)
    if form is None:
        found = ", ".join(repr(str(name)) for name in list(content)[:4]) or "nothing"
        raise UserError(
            f"{source} is no checkpoint that {type(network).__name__} can use: it holds {found}"
            f"{', ...' if len(content) > 4 else ''}. Accepted are {', '.join(form.name for form in formats(network))}."
        )

    skipped = {str(name): "not a tensor" for name, value in content.items() if not isinstance(value, Tensor)}
    skipped |= dict.fromkeys(state.keys() - weights.keys(), "follows from the sizes")
    own = network.state_dict()
    convolutions = [name for name, tensor in own.items() if tensor.ndim == 4 and name.endswith(".weight")]
    stems = {
        next((c for c in convolutions if c.startswith(f"{part}.")), "")
        for part in (*getattr(network, "encoders", ()), *getattr(network, "stem_names", ()))
    }
    filled, resized, used = {}, {}, set()
    unused = dict.fromkeys(weights, "no counterpart in the network") if form.encoder else {}
    for name, target, tensor in form.convert(network, weights):
        if target not in own:
            unused.setdefault(name, "no counterpart in the network")
            continue
        shapes = f"{tuple(tensor.shape)} in the file, {tuple(own[target].shape)} in the network"
        check_tensor(name, tensor, own[target], source)
        fitted = _fit(target, tensor, own[target], target in stems)
        if fitted is None:
            unused[name] = f"another shape: {shapes}"
            continue
        if fitted is not tensor:
            resized[target] = shapes
        filled[target] = fitted
        used.add(name)

    skipped |= {name: reason for name, reason in unused.items() if name not in used}
    loaded = [name for name in own if name in filled and name not in resized]
    left = [name for name in own if name not in filled]
    report = LoadReport(str(source), form.name, loaded, resized, skipped, left)
    _check(network, report, form)
    if form.encoder == "cnn":
        check_padding(network.get_submodule(encoder_name(network, form.encoder)), weights, source)
    network.load_state_dict(own | filled)
    logger.info("%s", report)
    return report


def load_all(network: nn.Module, sources: str | Path | Sequence[str | Path]) -> list[LoadReport]:
    """`load` one source, or one after the other: a network with two encoders takes the weights of each by itself."""
    sources = [sources] if isinstance(sources, str | Path) else sources
    return [load(network, source) for source in sources]


def sources(network: nn.Module) -> list[str]:
    """What `load` takes for this network beside its own checkpoints: names of formats."""
    return [form.name for form in formats(network) if form is not OURS]


def _check(network: nn.Module, report: LoadReport, form: Format) -> None:
    """Refuse what fits too little.

    Raises:
        UserError: says how much fits and names the first tensor that does not.
    """
    if not form.encoder:
        # A head's last layer is as wide as the classes; fine-tuning on others starts it anew.
        head = getattr(network, "head_name", "head")
        missing = [name for name in report.left if f".{head}." not in f".{name}"]
        foreign = [name for name, reason in report.skipped.items() if reason.startswith("no counterpart")]
        if missing or foreign:
            raise UserError(
                f"{report.source} ({report.format}) is of another {type(network).__name__}: {len(missing)} tensors of "
                f"the network are not filled and {len(foreign)} of the file have no place "
                f"(such as {(missing or foreign)[0]!r}){_shapes(report)}; build the network with the options that the "
                "file was trained with, apart from out_channels, in_channels, img_size and window_size."
            )
        return
    part = encoder_name(network, form.encoder)
    # Files of old PyTorch versions have no counters, which have no influence.
    names = [name for name in network.state_dict() if name.startswith(f"{part}.") and not name.endswith(COUNTER)]
    filled = {*report.loaded, *report.resized}
    left = [name for name in names if name not in filled]
    if form.exact:
        # A classifier is no module of the encoder; where timm has one, it holds no tensors.
        modules = {cnn_module(name.removeprefix(f"{part}.")) for name in names}
        foreign = [
            name
            for name in report.skipped
            if cnn_module(name.removeprefix(ENCODER)) in modules and not name.endswith(COUNTER)
        ]
        if left or foreign:
            raise UserError(
                f"{report.source} ({report.format}) does not fit {type(network).__name__}: {len(left)} tensors of its "
                f"{part} are not filled and {len(foreign)} of the file have no place (such as "
                f"{(left or foreign)[0]!r}); choose a file of this encoder, or build the network with that of the file."
            )
        return
    if 2 * len(left) > len(names) or len(left) == len(names):
        raise UserError(
            f"{report.source} ({report.format}) does not fit {type(network).__name__}: only {len(names) - len(left)} "
            f"of the {part}'s {len(names)} tensors can be filled{_shapes(report)}; choose a checkpoint with the "
            "network's embed_dim, depths and num_heads, or build the network with those of the checkpoint."
        )


def _shapes(report: LoadReport) -> str:
    """The first tensor whose shape does not fit, as a part of a sentence."""
    unfit = ((name, reason) for name, reason in report.skipped.items() if reason.startswith("another shape"))
    name, reason = next(unfit, ("", ""))
    return f", where {name!r} is {reason.partition(': ')[2]}" if name else ""


def _fit(name: str, tensor: Tensor, like: Tensor, stem: bool) -> Tensor | None:
    """The tensor in the shape of `like`, itself where it has that shape, None where no resizing makes sense.

    An encoder's first convolution is its stem.
    """
    if tensor.shape == like.shape:
        return tensor
    if tensor.ndim != like.ndim:
        return None
    if name.endswith("relative_position_bias_table"):
        # ((2 * window - 1)^2, heads): another window, but the heads must be the same.
        if tensor.shape[1] != like.shape[1] or math.isqrt(len(tensor)) ** 2 != len(tensor):
            return None
        window = (math.isqrt(len(like)) + 1) // 2
        return resize_rel_pos_bias_table(tensor, (window, window), tuple(like.shape))
    if name.endswith("attention_biases"):
        # (heads, height, width): another image size, but the heads must be the same.
        return extend_biases(tensor, (like.shape[1], like.shape[2])) if len(tensor) == len(like) else None
    if name.endswith("position_embeddings"):
        # (1, H, W, C): another grid of the same channels, bilinearly with the corners fixed.
        if tensor.shape[3] != like.shape[3]:
            return None
        return resize_positions(tensor, like.shape[1], like.shape[2])
    if stem and tensor.shape[0] == like.shape[0] and tensor.shape[2:] == like.shape[2:]:
        # Colours or grey to any number of channels. From other numbers nothing is known about their meaning.
        if tensor.shape[1] == 3:
            return adapt_input_conv(like.shape[1], tensor)
        if tensor.shape[1] == 1:
            return tensor.expand_as(like) / like.shape[1]
    return None


def _read(source: str | Path) -> Mapping[str, Any]:
    """Content of a file or of a timm model's weights; errors as `load`."""
    if Path(source).is_file():
        return read_weights(source)
    hub_id = timm_hub_id(str(source))
    if hub_id is None:
        raise UserError(f"{source} is neither a file nor a timm model with weights: check the path or the name.")
    return _download(str(source), hub_id)


def timm_hub_id(name: str) -> str | None:
    """Where a timm model's weights are on the Hugging Face hub; None if there is no such model, or none of it."""
    try:
        return getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    except RuntimeError:  # a model of timm, but no weights of that name, such as "resnet50.pth"
        return None


def _download(name: str, hub_id: str) -> dict[str, Tensor]:
    """The weights that `timm.create_model(name, pretrained=True)` starts from.

    Raises:
        UserError: no answer, or no such file.
    """
    file = "model.safetensors"
    try:
        if not isinstance(try_to_load_from_cache(hub_id, file), str):
            # Asking once before the download, because without a network that retries for about a minute.
            get_hf_file_metadata(hf_hub_url(hub_id, file), timeout=HUB_TIMEOUT)
        return load_state_dict_from_hf(hub_id)
    except Exception as error:
        raise UserError(
            f"The weights of {name} could not be downloaded ({type(error).__name__}); check the internet connection, "
            f"or fetch {file} from https://huggingface.co/{hub_id} elsewhere and give the path of that file instead."
        ) from error
