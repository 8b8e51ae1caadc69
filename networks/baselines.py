"""Baselines: established networks of two libraries, with this package's signature.

U-Net: Ronneberger et al., https://arxiv.org/abs/1505.04597. UNet++: Zhou et al., https://arxiv.org/abs/1807.10165.
DeepLabV3+: Chen et al., https://arxiv.org/abs/1802.02611. All three come from segmentation-models-pytorch,
https://github.com/qubvel-org/segmentation_models.pytorch (MIT licence), which puts them on many encoders.
Attention U-Net: Oktay et al., https://arxiv.org/abs/1804.03999, from MONAI, https://github.com/Project-MONAI/MONAI
(Apache-2.0).

Encoders pretrained on microscopy: Stuckner et al., "Microstructure segmentation with deep learning encoders
pre-trained on a large microscopy dataset", https://doi.org/10.1038/s41524-022-00878-5; NASA's files, see
https://github.com/nasa/pretrained-microscopy-models for their licence, go in by `networks.pretrained.load`.
"""

import math
from collections.abc import Sequence

import monai.networks.nets
import segmentation_models_pytorch as smp
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import Tensor, nn

from networks.layers.arguments import check_channels, check_counts


class Baseline(nn.Module):
    """A network for images of any size: padded inside at the bottom and right, the result cropped.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        multiple: number of pixels that the sides of the padded image are multiples of.

    Raises:
        ValueError: a number of channels is below 1; or, from `forward`, the image has another number of channels.
    """

    fixed_img_size = False
    scriptable = True
    exportable = True

    def __init__(self, in_channels: int, out_channels: int, multiple: int) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels)
        self.in_channels = in_channels
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to logits (B, out_channels, H, W)."""
        check_channels(x, self.in_channels)
        height, width = x.shape[2], x.shape[3]
        if height % self.multiple or width % self.multiple:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        return self.logits(x)[:, :, :height, :width]

    def logits(self, x: Tensor) -> Tensor:
        """Padded image to logits of its size; the subclass's part."""
        raise NotImplementedError


class SmpNetwork(Baseline):
    """A network of segmentation-models-pytorch, as its encoder, decoder and head.

    Args:
        architecture: one of smp's classes.
        in_channels: channels of the image.
        out_channels: classes.
        encoder_name: one of smp's encoders, such as "resnet50", or "tu-" and the name of a timm model.
        encoder_weights: weights that smp downloads while it builds the network, such as "imagenet"; None for none.
        **kwargs: further arguments of the architecture.

    Raises:
        ValueError: smp has no such encoder or weights, or a number of channels is below 1.
    """

    def __init__(
        self,
        architecture: type[smp.base.SegmentationModel],
        in_channels: int,
        out_channels: int,
        encoder_name: str,
        encoder_weights: str | None,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, out_channels, multiple=1)
        try:
            network = architecture(
                encoder_name, in_channels=in_channels, classes=out_channels, encoder_weights=encoder_weights, **kwargs
            )
        except KeyError as error:
            raise ValueError(
                f"encoder_name={encoder_name!r} with encoder_weights={encoder_weights!r} is unknown: choose from "
                "segmentation_models_pytorch.encoders."
            ) from error
        self.multiple = network.encoder.output_stride
        self.encoder = network.encoder
        self.decoder = network.decoder
        self.head = network.segmentation_head

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))


class Unet(SmpNetwork):
    """U-Net on an encoder of choice, for images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: accepted for uniformity; nothing depends on it.
        encoder_name: one of smp's encoders, such as "resnet50", or "tu-" and the name of a timm model.
        encoder_weights: weights that smp downloads while it builds the network, such as "imagenet"; None for none.
        **kwargs: further arguments of `segmentation_models_pytorch.Unet`.

    Raises:
        ValueError: as `SmpNetwork`.
    """

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
        super().__init__(smp.Unet, in_channels, out_channels, encoder_name, encoder_weights, **kwargs)


class UnetPlusPlus(SmpNetwork):
    """UNet++ on an encoder of choice, for images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: accepted for uniformity; nothing depends on it.
        encoder_name: one of smp's encoders, such as "resnet50", or "tu-" and the name of a timm model.
        encoder_weights: weights that smp downloads while it builds the network, such as "imagenet"; None for none.
        **kwargs: further arguments of `segmentation_models_pytorch.UnetPlusPlus`.

    Raises:
        ValueError: as `SmpNetwork`.
    """

    scriptable = False  # smp's decoder looks its blocks up by computed names

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
        super().__init__(smp.UnetPlusPlus, in_channels, out_channels, encoder_name, encoder_weights, **kwargs)


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that trains on a single value per channel, too, where PyTorch's raises an error.

    One value has no statistics of its own (it would be normalised to nothing but the bias), so it is normalised by the
    running ones, as in evaluation, and leaves them as they are. Otherwise this is PyTorch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        batch_statistics = self.running_mean is None or (self.training and x.numel() > x.shape[1])
        factor = 0.0
        if batch_statistics and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            # Without a momentum the running statistics are averages of all batches.
            factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch_statistics, factor, self.eps
        )


class DeepLabV3Plus(SmpNetwork):
    """DeepLabV3+ on an encoder of choice, for images of any size.

    Batches of one image can be trained: the batch normalisation after the global pooling, which then sees one value per
    channel, uses its running statistics (see `PooledBatchNorm2d`).

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: accepted for uniformity; nothing depends on it.
        encoder_name: one of smp's encoders that can be dilated, such as "resnet50".
        encoder_weights: weights that smp downloads while it builds the network, such as "imagenet"; None for none.
        **kwargs: further arguments of `segmentation_models_pytorch.DeepLabV3Plus`.

    Raises:
        ValueError: as `SmpNetwork`.
    """

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
        super().__init__(smp.DeepLabV3Plus, in_channels, out_channels, encoder_name, encoder_weights, **kwargs)
        for pooling in [module for module in self.decoder.modules() if isinstance(module, ASPPPooling)]:
            pooling[2] = PooledBatchNorm2d(pooling[2].num_features)


class AttentionUnet(Baseline):
    """Attention U-Net for images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: accepted for uniformity; nothing depends on it.
        channels: channels of every resolution, finest first.
        strides: reduction from each resolution to the next, one fewer.
        dropout: dropout rate after the normalisations.

    Raises:
        ValueError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    __jit_unused_properties__ = ("encoder",)  # a list made anew at every call is nothing to compile

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        strides: Sequence[int] = (2, 2, 2, 2),
        dropout: float = 0.0,
    ) -> None:
        if len(channels) < 2 or len(strides) != len(channels) - 1:
            raise ValueError(
                f"channels={tuple(channels)} and strides={tuple(strides)} do not fit: give two or more channels and "
                "one stride between any two."
            )
        if min(channels) < 2 or min(strides) < 1:
            raise ValueError(
                f"channels={tuple(channels)} and strides={tuple(strides)} are not possible: give channels of at least "
                "2 and strides of at least 1."
            )
        super().__init__(in_channels, out_channels, multiple=math.prod(strides))
        self.network = monai.networks.nets.AttentionUnet(
            2, in_channels, out_channels, channels, strides, dropout=dropout
        )

    @property
    def encoder(self) -> nn.ModuleList:
        """The layers that every resolution is reached by, finest first, to be frozen or counted as with other networks.

        MONAI nests each resolution in the next finer one, so they are no module of their own, and the names in the
        state dict stay MONAI's.
        """
        head, level, _ = self.network.model
        blocks = [head]
        while isinstance(level.submodule, nn.Sequential):
            block, level = level.submodule
            blocks.append(block)
        return nn.ModuleList([*blocks, level.submodule])

    def logits(self, x: Tensor) -> Tensor:
        return self.network(x)
