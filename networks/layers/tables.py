"""Tables that follow from a module's sizes, such as indices and masks, and so are never stored with its weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Tables(nn.Module):
    """A module with tables as buffers that are in no state dict, computed anew in whatever memory they get.

    Without that, a network built on PyTorch's meta device and given memory by `to_empty` would index with what happened
    to be there. A subclass implements `own_tables` and, at the end of its `__init__`, calls `register_tables`.
    """

    def own_tables(self) -> dict[str, Tensor | None]:
        """Every table by its name, on the CPU whatever the default device is; None where there is none."""
        raise NotImplementedError

    def register_tables(self) -> None:
        """Compute the tables for the first time, on the default device as the weights are.

        Not on the meta device: weights may be put into a network there one by one, and tables are in no state dict.
        """
        device = torch.empty(0).device
        for name, table in self.own_tables().items():
            if table is not None and device.type != "meta":
                table = table.to(device)
            self.register_buffer(name, table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """What `to`, `to_empty`, `cuda` and their like have in common."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, table in self.own_tables().items():
            buffer = getattr(self, name)
            if buffer is not before[name] and not buffer.is_meta:
                buffer.copy_(table)
        return self
