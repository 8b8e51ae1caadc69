"""Test-time augmentation by flips."""

from collections.abc import Callable

import torch
from monai.inferers import Inferer

FLIPS = ((-1,), (-2,), (-2, -1))


class FlipInferer(Inferer):
    """Mean of the logits of every slice or window and of its flips along both axes: four passes instead of one.

    Args:
        inferer: what cuts an image into slices or windows (B, channels, H, W) and puts the logits together.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        """What the inferer makes of ``inputs`` with the mean in the network's place."""

        def mean(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
            logits = network(x, *args, **kwargs).float()  # in float16 a sum would lose digits
            for axes in FLIPS:
                logits = logits + network(x.flip(axes), *args, **kwargs).float().flip(axes)
            return logits / (1 + len(FLIPS))

        return self.inferer(inputs, mean, *args, **kwargs)
