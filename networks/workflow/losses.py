"""What the recipes minimise, where MONAI has it otherwise."""

from typing import Any

from monai.losses import DiceCELoss
from torch import Tensor


class BalancedDiceCELoss(DiceCELoss):
    """Cross-entropy that weighs the classes, and a Dice that does not: MONAI's ``weight`` goes to both.

    Args:
        weight: (classes,) of the cross-entropy.
        **kwargs: as of MONAI's ``DiceCELoss``.
    """

    def __init__(self, weight: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cross_entropy.weight = weight
