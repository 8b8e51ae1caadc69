"""MLPs that take the place of the plain one in a Swin block.

ResMLP: Alrfou et al., "CS-UNet: A Generalizable and Flexible Segmentation Algorithm", https://arxiv.org/abs/2308.13917.
Written from the paper and from measured outputs of the authors' code (no licence stated when this was written).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ResMlp(nn.Module):
    """Two linear layers with a residual around them, and a third: fc3(gelu(fc2(gelu(fc1(x))) + x)).

    Args:
        dim: channels of a token.
        hidden: channels in between.
        drop: dropout rate after each GELU and after the last layer.
    """

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.fc3 = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(F.gelu(self.fc1(x)))
        return self.drop(self.fc3(self.drop(F.gelu(self.fc2(hidden) + x))))
