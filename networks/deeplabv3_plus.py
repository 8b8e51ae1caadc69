"""DeepLabV3+ on an encoder of choice: atrous spatial pyramid pooling and a light decoder.

Paper: Chen et al., https://arxiv.org/abs/1802.02611. Built with
https://github.com/qubvel-org/segmentation_models.pytorch (MIT licence), which puts it on many encoders.
"""

from collections.abc import Sequence
from typing import ClassVar

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import Tensor, nn

from networks.unet import SmpNetwork


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
        UserError: as `SmpNetwork`.
    """

    paper = "https://arxiv.org/abs/1802.02611"
    small: ClassVar[dict] = {"encoder_name": "resnet18", "decoder_channels": 16}

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
