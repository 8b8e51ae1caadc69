"""Test-time augmentation by flips."""

from collections.abc import Callable

import torch
from monai.inferers import Inferer

from networks.workflow.ids import HORIZONTAL, truth

FLIPS = {"all": ((-1,), (-2,), (-2, -1)), HORIZONTAL: ((-2,),)}  # x is the first of an image's two axes


def flipped(inferer: Inferer, tta: bool | str) -> Inferer:
    """The inferer, in a :class:`FlipInferer` if ``tta`` asks for that: true for all flips, or "horizontal"."""
    if tta == HORIZONTAL:
        return FlipInferer(inferer, HORIZONTAL)
    return FlipInferer(inferer) if truth(tta) else inferer


class FlipInferer(Inferer):
    """Mean of the logits of every slice or window and of its flips: four passes instead of one, or two.

    Args:
        inferer: what cuts an image into slices or windows (B, channels, X, Y) and puts the logits together.
        flips: "all" for those along both axes, or "horizontal" for left to right only, where what is above never
            is below.
    """

    def __init__(self, inferer: Inferer, flips: str = "all") -> None:
        super().__init__()
        self.inferer, self.flips = inferer, FLIPS[flips]

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        """What the inferer makes of ``inputs`` with the mean in the network's place."""

        def mean(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
            # in float16 a sum would lose digits; a TensorRT engine gives all its logits in one and the same memory
            logits = network(x, *args, **kwargs).float().clone()
            for axes in self.flips:
                logits = logits + network(x.flip(axes), *args, **kwargs).float().flip(axes)
            return logits / (1 + len(self.flips))

        return self.inferer(inputs, mean, *args, **kwargs)
