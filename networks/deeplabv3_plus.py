"""DeepLabV3+ on an encoder of choice: atrous spatial pyramid pooling and a light decoder.

Paper: Chen et al., https://arxiv.org/abs/1802.02611. Built with
https://github.com/qubvel-org/segmentation_models.pytorch (MIT licence), which puts it on many encoders.
"""

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
    """DeepLabV3+; arguments and errors as `SmpNetwork`, whose encoder has to be one that can be dilated.

    Batches of one image can be trained: the batch normalisation after the global pooling, which then sees one value per
    channel, uses its running statistics (see `PooledBatchNorm2d`). Further arguments are those of
    `segmentation_models_pytorch.DeepLabV3Plus`.
    """

    architecture = smp.DeepLabV3Plus
    paper = "https://arxiv.org/abs/1802.02611"
    small: ClassVar[dict] = {"encoder_name": "resnet18", "decoder_channels": 16}

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for pooling in [module for module in self.decoder.modules() if isinstance(module, ASPPPooling)]:
            pooling[2] = PooledBatchNorm2d(pooling[2].num_features)
