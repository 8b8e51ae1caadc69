"""Learning from pictures without labels, as SimMIM does (https://arxiv.org/abs/2111.09886): what is hidden, how far
off it was painted, and pictures of that."""

import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.transforms import Randomizable, Transform
from torch import nn
from torchvision.utils import make_grid, save_image

from networks.errors import UserError
from networks.workflow.evaluation import EventLog
from networks.workflow.files import atomic
from networks.workflow.state import state_of

SHOWN = 6
HIDDEN = 0.5  # grey of what is hidden


class HidePatchesd(Randomizable, Transform):
    """Add ``mask`` (1, H, W) to an ``image`` (C, H, W): 1 where a square patch is hidden, else 0.

    Patches that the image's end cuts count as whole ones.

    Args:
        mask_size: side of a patch in pixels, a multiple of ``token_size``.
        mask_ratio: share of the patches that are hidden.
        by_name: draw the same for a ``name`` in every epoch, for validation.
        token_size: side in pixels of what the network takes for a token.

    Raises:
        UserError: the side is no such multiple.
    """

    def __init__(
        self, mask_size: int = 32, mask_ratio: float = 0.6, by_name: bool = False, token_size: int = 4
    ) -> None:
        if mask_size % token_size:
            raise UserError(f"mask_size is {mask_size}; expected a multiple of {token_size}, the side of a token.")
        self.mask_size, self.mask_ratio, self.by_name = mask_size, mask_ratio, by_name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its mask."""
        height, width = data["image"].shape[1:]
        rows, columns = -(-height // self.mask_size), -(-width // self.mask_size)
        draw = np.random.RandomState(zlib.crc32(str(data["name"]).encode())) if self.by_name else self.R
        hidden = draw.permutation(rows * columns) < math.ceil(self.mask_ratio * rows * columns)
        patches = torch.from_numpy(hidden.reshape(1, rows, columns).astype(np.float32))
        for axis in (1, 2):
            patches = patches.repeat_interleave(self.mask_size, axis)
        return {**data, "mask": patches[:, :height, :width].contiguous()}


def masked_batch(
    batch: Mapping[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor], dict[str, Any]]:
    """What MONAI's engines take from a batch: image, target (image and mask as one tensor), and the network's mask."""
    image, mask = (batch[key].to(device=device, non_blocking=non_blocking, **kwargs) for key in ("image", "mask"))
    return image, torch.cat([image, mask], 1), (mask,), {}


class HiddenL1(nn.Module):
    """Mean absolute error over the hidden pixels and their channels."""

    def forward(self, painted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Painted image (B, C, H, W) against image and mask (B, C + 1, H, W)."""
        image, mask = target[:, :-1], target[:, -1:]
        error = (painted.float() - image).abs() * mask
        return error.sum() / (mask.sum() * image.shape[1]).clamp(min=1)


class PaintedPictures:
    """After every validation a sheet of pictures: original, what the network saw, what it painted into the gaps.

    Args:
        path: PNG file.
        events: TensorBoard's log, which gets the sheet as well.
        mean, deviation: per channel, by which the images were normalised from 0..1.
    """

    def __init__(self, path: str, events: EventLog, mean: Sequence[float], deviation: Sequence[float]) -> None:
        self.path, self.events = Path(path), events
        self.mean, self.deviation = (torch.as_tensor(values).float().view(-1, 1, 1) for values in (mean, deviation))
        self._rows: dict[int, torch.Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose targets are those of :func:`masked_batch`."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
            engine.add_event_handler(Events.COMPLETED, self)

    def _start(self) -> None:
        self._rows.clear()

    def _keep(self, engine: Engine) -> None:
        state = state_of(engine)
        for item, output in zip(state.batch, state.output, strict=True):
            # always the same pictures, from all over the list
            number = zlib.crc32(item["name"].encode())
            if len(self._rows) >= SHOWN and number > max(self._rows):
                continue
            target, painted = (torch.as_tensor(output[key]).float().cpu() for key in ("label", "pred"))
            image, painted = (part * self.deviation + self.mean for part in (target[:-1], painted))
            mask = target[-1:]
            parts = [image, image * (1 - mask) + HIDDEN * mask, image * (1 - mask) + painted * mask]
            # networks see pictures with x first
            self._rows[number] = torch.stack([part.transpose(1, 2) for part in parts]).clamp(0, 1)
            for surplus in sorted(self._rows)[SHOWN:]:
                del self._rows[surplus]

    def __call__(self, engine: Engine) -> None:
        """Write the sheet."""
        sheet = make_grid(torch.cat([self._rows[number] for number in sorted(self._rows)]), nrow=3, pad_value=1.0)
        self.events.add_image("original, seen, painted", sheet, engine.state.epoch)
        self.events.flush()
        with atomic(self.path) as temporary:
            save_image(sheet, temporary)
