"""What a network says of a picture as a whole: the mean of its last features, before any classifier."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from timm.data import resolve_model_data_config
from timm.models import clean_state_dict
from torch import Tensor, nn

from networks.errors import UserError, did_you_mean
from networks.layers.cnn import check_padding, convert_cnn_names
from networks.pretrained import COUNTER, load
from networks.state_dicts import CONSTANTS, check_tensor, read_weights, unwrap_state
from networks.workflow import load_weights
from networks.workflow.files import file_hash
from scripts.corpus.steps import read_cleaned
from scripts.opened_bundle import InferenceConfig, as_trained, bundle_folder, classifies, shipped_weights

# torchvision's VGGs have as linear layers what timm has as convolutions
VGG_LINEAR = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2."}
SIZE = 224  # side in pixels of pictures for networks whose training does not tell it
CLASSIFIERS = ("fc", "head", "head_dist", "classifier", "last_linear", "_fc")


class Features:
    """Features of pictures by a network.

    Attributes:
        about: network, weights and size, for records.

    Args:
        network: takes (B, C, H, W), gives (B, features).
        read: gives the network's input (1, C, H, W) of a file.
        about: see above.
        device: where to compute.
    """

    def __init__(
        self, network: nn.Module, read: Callable[[Path], Tensor], about: Mapping[str, Any], device: str
    ) -> None:
        self._network, self._read, self._device = network.eval().to(device), read, device
        self.about = dict(about)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Path]) -> np.ndarray:
        """(len(images), features) float32."""
        batch = torch.cat([self._read(image) for image in images])
        return self._network(batch.to(self._device)).float().cpu().numpy()


def timm_features(name: str, weights: str | None, size: int, device: str) -> Features:
    """By a network of timm.

    Args:
        name: timm's, such as "vgg16", whose features are the 4,096 before its classifier, as in CS-UNet's paper.
        weights: file in the names of timm, torchvision or efficientnet-pytorch; by default timm's are downloaded.
        size: side to which pictures are resized.
        device: where to compute.

    Raises:
        UserError: no such network, the file does not fill it, or the download failed.
    """
    if not timm.is_model(name):
        raise UserError(
            f"timm has no network {name!r}; {did_you_mean(name, timm.list_models(), 'see timm.list_models()')}"
        )
    arguments = {"num_classes": 0, "pretrained": weights is None}
    try:
        try:
            network = timm.create_model(name, img_size=size, **arguments)
        except TypeError:  # most convolutional networks have no such argument and take any size
            network = timm.create_model(name, **arguments)
    except Exception as error:
        raise UserError(
            f"The network {name} cannot be made ({type(error).__name__}: {str(error).splitlines()[0][:150]}); give "
            "--weights a file where there is no internet, or another network or --size."
        ) from error
    if weights is not None:
        fill_timm(network, weights)
    data = resolve_model_data_config(network)
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))

    def read(image: Path) -> Tensor:
        picture = torch.tensor(read_cleaned(image, 3)).permute(2, 0, 1)[None] / 255
        return (_resized(picture, size) - mean) / std

    about = {"network": name, "weights": "timm" if weights is None else Path(weights).name, "size": size}
    about |= {} if weights is None else {"sha256": file_hash(weights)}
    return Features(network, read, about, device)


def fill_timm(network: nn.Module, weights: str) -> None:
    """Load a file into a network of timm without classifier: every tensor of the network, and no other but a head's.

    Raises:
        UserError: the file cannot be read, is of another network, or of one that pads in another way.
    """
    state = clean_state_dict(dict(unwrap_state(read_weights(weights))))
    state = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    own = network.state_dict()
    if "pre_logits.fc1.weight" in own:
        renamed = {}
        for name, tensor in state.items():
            prefix = next((p for p in VGG_LINEAR if name.startswith(p)), "")
            target = VGG_LINEAR[prefix] + name.removeprefix(prefix) if prefix else name
            renamed[target] = (
                tensor.reshape(own[target].shape) if prefix and tensor.numel() == own[target].numel() else tensor
            )
        state = renamed
    found = {target: state[name] for name, target in convert_cnn_names(network, state).items()}
    left = [n for n in own if n not in found and not n.endswith((COUNTER, *CONSTANTS))]
    given = {
        name for name in state if name.partition(".")[0] not in CLASSIFIERS and not name.endswith((COUNTER, *CONSTANTS))
    }
    foreign = sorted(given - set(convert_cnn_names(network, state)))
    unfit = [name for name, tensor in found.items() if tensor.shape != own[name].shape]
    if left or foreign or unfit:
        raise UserError(
            f"{weights} is not of this network: {len(left)} of its {len(own)} tensors are not in the file, "
            f"{len(foreign)} of the file have no place and {len(unfit)} have another shape (such as "
            f"{(left or foreign or unfit)[0]!r}); give a file of this network and the --size of its training."
        )
    check_padding(network, state, weights)
    for name, tensor in found.items():
        check_tensor(name, tensor, own[name], weights)
    network.load_state_dict(own | found)


def bundle_features(bundle: str, ckpt_path: str | None, trained: str | None, size: int | None, device: str) -> Features:
    """By the encoder of a network that was trained with one of the bundles, on pictures prepared as it knows them.

    Args:
        bundle: its name or folder; not needed with ``trained``.
        ckpt_path: its checkpoint; by default the one in the bundle's folder. Of the bundle that classifies also what
            its training without labels (SimMIM) wrote.
        trained: name of weights that come with the bundles.
        size: side to which pictures are resized; by default that of a classifier's training, else SIZE.
        device: where to compute.

    Raises:
        UserError: no such bundle or weights, it is for volumes, its network has no encoder, or the checkpoint is of
            another network.
    """
    options: dict[str, Any] = {"ckpt_path": ckpt_path} if ckpt_path else {}
    if trained:
        (weights,) = shipped_weights(trained)
        bundle, options = str(weights.parent.parent), {"ckpt_path": str(weights)}
    preset, is_classifier = None, classifies(bundle_folder(bundle, segments=False))
    if not is_classifier:  # whose config reads the record by itself
        preset, options = as_trained(bundle, None, options)
    config = InferenceConfig(bundle, preset, {**options, "device": device}, segments=False)
    if "spatial_dims" in config and config["spatial_dims"] != 2:
        raise UserError(f"{config.name} was trained on volumes; give one that was trained on pictures.")
    network = config["network"]
    if not isinstance(getattr(network, "encoder", None), nn.Module):
        raise UserError(f"{config.name} has no encoder of its own; give another --bundle, or --network.")
    if is_classifier:
        _fill_encoder(network, config["ckpt_path"])
    else:
        load_weights(network, config["ckpt_path"])
    prepare: Compose = config["preprocessing"]
    side = size or (max(config["img_size"]) if is_classifier else SIZE)

    def read(image: Path) -> Tensor:
        # (C, x, y), as the reader of pictures gives it and the network was trained: upright would be another picture
        picture = convert_to_tensor(prepare({"image": str(image)})["image"], track_meta=False)
        return _resized(picture[None].float(), side)

    about = {
        "network": config.name,
        "weights": Path(config["ckpt_path"]).name,
        "size": side,
        "sha256": file_hash(config["ckpt_path"]),
    }
    return Features(_Encoder(network), read, about, device)


def _fill_encoder(network: nn.Module, weights: str) -> None:
    """Fill the whole encoder of a classifier from a checkpoint with such an encoder, whatever it has beside it."""
    report = load(network, weights)
    odd = [name for name in (*report.left, *report.skipped) if name.startswith("encoder.")]
    odd = [name for name in odd if not name.endswith((COUNTER, *CONSTANTS))]
    if odd:
        raise UserError(
            f"{weights} is of another encoder: {len(odd)} tensors are in one of the two only (such as {odd[0]!r}); "
            "keep the model.json of its training beside it."
        )


class _Encoder(nn.Module):
    """The mean of what a network's encoder gives last, whatever the network does with the image before."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._found: Tensor | None = None
        is_swin = getattr(network, "encoders", {}).get("encoder") == "swin"
        self._axes = (1, 2) if is_swin else (2, 3)  # Swin's tokens have their channels last
        network.encoder.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        last = output[-1] if isinstance(output, list | tuple) else output
        self._found = last.mean(self._axes) if last.ndim == 4 else last

    def forward(self, x: Tensor) -> Tensor:
        self.network(x)
        return self._found


def _resized(picture: Tensor, size: int) -> Tensor:
    """A picture (1, C, H, W) as a square: tiles are squares already, and others are squeezed rather than cut."""
    return F.interpolate(picture, (size, size), mode="bilinear", antialias=True, align_corners=False)
