"""U-Net on an encoder of choice, and what the networks of segmentation-models-pytorch (smp) have in common.

Paper: Ronneberger et al., https://arxiv.org/abs/1505.04597. Built with
https://github.com/qubvel-org/segmentation_models.pytorch (MIT licence), which puts it on many encoders.

Encoders pretrained on microscopy: Stuckner et al., "Microstructure segmentation with deep learning encoders
pre-trained on a large microscopy dataset", https://doi.org/10.1038/s41524-022-00878-5; NASA's files, see
https://github.com/nasa/pretrained-microscopy-models for their licence, go in by `networks.pretrained.load`.
"""

import inspect
from collections.abc import Iterable, Sequence
from typing import ClassVar

import segmentation_models_pytorch as smp
from torch import Tensor

from networks.base import SegmentationNetwork
from networks.errors import UserError, did_you_mean
from networks.layers.cnn import check_encoder, unused_layers
from networks.layers.conv import quicken_convs
from networks.layers.eager import channels_last


class SmpNetwork(SegmentationNetwork):
    """A network of segmentation-models-pytorch, as its encoder, decoder and head, for images of any size.

    Attributes:
        architecture: smp's class.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: accepted for uniformity; nothing depends on it.
        encoder_name: one of smp's encoders, such as "resnet50", or "tu-" and the name of a timm model.
        encoder_weights: weights that smp downloads while it builds the network, such as "imagenet"; None for none.
        **kwargs: further arguments of the architecture; of an encoder of timm also those of its model.

    Raises:
        UserError: smp has no such encoder, weights or argument, the architecture cannot be built on it, or a number of
            channels is below 1.
    """

    architecture: ClassVar[type[smp.base.SegmentationModel]]
    encoders: ClassVar[dict] = {"encoder": "cnn"}

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        encoder_name: str = "resnet50",
        encoder_weights: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, out_channels)
        check_encoder(encoder_name, encoder_weights)
        _check_names(self.architecture, encoder_name, kwargs)
        try:
            network = self.architecture(
                encoder_name, in_channels=in_channels, classes=out_channels, encoder_weights=encoder_weights, **kwargs
            )
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            more = "".join(f", {key}={value!r}" for key, value in kwargs.items())
            name = type(self).__name__
            raise UserError(f"{name} cannot be built with encoder_name={encoder_name!r}{more}: {error}") from error
        self.multiple = network.encoder.output_stride
        self.encoder = network.encoder
        for name in unused_layers(self.encoder):  # several processes wait for the gradients of all that is trained
            getattr(self.encoder, name).requires_grad_(False)
        self.decoder = network.decoder
        self.head = network.segmentation_head
        quicken_convs(self)

    def logits(self, x: Tensor) -> Tensor:
        # a processor's convolutions are faster so, separable ones the most; GPUs are left to choose
        x = channels_last(x) if x.device.type == "cpu" else x
        return self.head(self.decoder(self.encoder(x)))


def _check_names(architecture: type, encoder_name: str, names: Iterable[str]) -> None:
    """Refuse arguments that smp would leave out without a word.

    It hands on what it does not know to the encoder, and only timm's look at it. A second head, of `aux_params`, is
    not a part of these networks.

    Raises:
        UserError: says which.
    """
    known = inspect.signature(architecture).parameters.keys() - {"aux_params", "classes", "kwargs"}
    of_timm = encoder_name.startswith(("tu-", "timm-"))
    for name in set(names) - known:
        if name == "aux_params" or not of_timm:
            raise UserError(
                f"{architecture.__name__} has no argument {name!r} here; "
                + did_you_mean(name, known, f"choose from {', '.join(sorted(known))}")
            )


class Unet(SmpNetwork):
    """U-Net; arguments and errors as `SmpNetwork`, further arguments as `segmentation_models_pytorch.Unet`."""

    architecture = smp.Unet
    paper = "https://arxiv.org/abs/1505.04597"
    small: ClassVar[dict] = {"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 8, 8)}
