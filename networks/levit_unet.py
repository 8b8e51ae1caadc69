"""LeViT-UNet: a LeViT encoder, whose stem is a small convolutional network, and a convolutional decoder.

Paper: Xu et al., "LeViT-UNet: Make Faster Encoders with Transformer for Medical Image Segmentation",
https://arxiv.org/abs/2107.08623. Authors' code: https://github.com/apple1986/LeViT-UNet (no licence stated when this
was written). Written from the paper and from measured outputs of the authors' code, not from the code itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import SegmentationNetwork, check_counts, check_rates, image_sides
from networks.errors import UserError
from networks.layers.conv import UpBlock
from networks.layers.levit import LevitEncoder, convert_levit
from networks.state_dicts import rename

STRIDE = 16  # of the stem
VARIANTS: dict[str, dict[str, Any]] = {
    "128s": {
        "embed_dim": (128, 256, 384),
        "key_dim": 16,
        "depths": (2, 3, 4),
        "num_heads": (4, 6, 8),
        "drop_path_rate": 0.0,
    },
    "192": {
        "embed_dim": (192, 288, 384),
        "key_dim": 32,
        "depths": (4, 4, 4),
        "num_heads": (3, 5, 6),
        "drop_path_rate": 0.0,
    },
    "384": {
        "embed_dim": (384, 512, 768),
        "key_dim": 32,
        "depths": (4, 4, 4),
        "num_heads": (6, 9, 12),
        "drop_path_rate": 0.1,
    },
}


class LevitDecoder(nn.Module):
    """All features of 1/16 and below together, then block by block up to 1/2 with the stem's maps, then logits.

    Args:
        out_channels: classes.
        embed_dim: channels per stage of the encoder.
        channels: channels of the three blocks.
    """

    def __init__(self, out_channels: int, embed_dim: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        skips = [embed_dim[0] // 2, embed_dim[0] // 4, embed_dim[0] // 8]
        widths = [embed_dim[0] + sum(embed_dim), channels[0] + skips[0], channels[1] + skips[1]]
        self.blocks = nn.ModuleList(UpBlock(width, 0, out) for width, out in zip(widths, channels, strict=True))
        self.head = nn.Conv2d(channels[2] + skips[2], out_channels, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's features to logits (B, out_channels, H, W)."""
        maps = features[3:5]
        for i in range(5, len(features)):
            x = features[i]
            for _ in range(i - 4):
                x = enlarge(x, 2 * x.shape[2], 2 * x.shape[3])
            # A map of odd sides has been rounded up when it was halved.
            maps.append(enlarge(x, features[3].shape[2], features[3].shape[3]))
        x = torch.cat(maps, 1)
        for i, block in enumerate(self.blocks):
            x = torch.cat([block(x), features[2 - i]], 1)
        return enlarge(self.head(x), 2 * x.shape[2], 2 * x.shape[3])


def enlarge(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear interpolation of (B, C, H, W) with the corners in place."""
    return F.interpolate(x, [height, width], mode="bilinear", align_corners=True)


# The authors' names (regular expressions) and what they become. Those of the transformer are converted
# afterwards; in the 192 variant `blocks` are the same tensors as `block_1` to `block_3`.
AUTHORS_NAMES = (
    (r"blocks\.\d+\..+", None),
    (r"block_[123]\.(\d+\..+)", "blocks.{}".format),
    (r"cnn_b([1-4])\.0\.c\.(.+)", "encoder.stem.conv{}.linear.{}".format),
    (r"cnn_b([1-4])\.0\.bn\.(.+)", "encoder.stem.conv{}.bn.{}".format),
    (r"decoderBlock_([123])\.conv([12])\.0\.(.+)", lambda i, j, rest: f"decoder.blocks.{int(i) - 1}.conv{j}.{rest}"),
    (r"decoderBlock_([123])\.conv([12])\.1\.(.+)", lambda i, j, rest: f"decoder.blocks.{int(i) - 1}.norm{j}.{rest}"),
    (r"segmentation_head\.0\.(.+)", "decoder.head.{}".format),
)


class LevitUnet(SegmentationNetwork):
    """LeViT-UNet for images of any size.

    The defaults are the authors' smallest network with two classes. As in their code and unlike the paper's figure, the
    encoder's maps all meet at 1/16 of the image's resolution, and a skip joins the next block before that enlarges.

    The authors' network takes 224 x 224 pixels only. Here attention biases, which are learned per distance in rows and
    columns, have tables for `img_size`. A larger image gives distances that the table does not have, and they get the
    bias of the longest that it has; a smaller one uses a part. Images are padded to whole multiples of 16 pixels and
    the logits cropped. At 224 pixels all of this is the authors'.

    Args:
        in_channels: channels of the image. The authors' code has 1; others get a stem of that width.
        out_channels: classes.
        img_size: side, or (height, width), of the images for which the tables of attention biases are made, so
            networks of different sizes have tables of different sizes.
        variant: "128s", "192" or "384", which sets the defaults of the following four and of `drop_path_rate`.
        embed_dim: channels per stage; there may be other than the authors' three stages.
        key_dim: channels of a head's queries and keys.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        decoder_channels: channels of the three decoder blocks.
        drop_path_rate: stochastic depth rate of every block; by default 0.1 for "384" and else 0.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    paper = "https://arxiv.org/abs/2107.08623"
    variants: ClassVar[dict] = {name: {"variant": name} for name in VARIANTS}
    encoders: ClassVar[dict] = {"encoder": "levit"}
    authors_names = AUTHORS_NAMES
    small: ClassVar[dict] = {
        "embed_dim": (16, 24),
        "key_dim": 8,
        "depths": (1, 1),
        "num_heads": (2, 3),
        "decoder_channels": (32, 16, 8),
        "drop_path_rate": 0.1,
    }

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        variant: str = "128s",
        embed_dim: Sequence[int] | None = None,
        key_dim: int | None = None,
        depths: Sequence[int] | None = None,
        num_heads: Sequence[int] | None = None,
        decoder_channels: Sequence[int] = (512, 256, 128),
        drop_path_rate: float | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, multiple=STRIDE)
        if variant not in VARIANTS:
            raise UserError(f"variant={variant!r} is unknown: choose one of {', '.join(map(repr, VARIANTS))}.")
        preset = VARIANTS[variant]
        embed_dim = preset["embed_dim"] if embed_dim is None else embed_dim
        key_dim = preset["key_dim"] if key_dim is None else key_dim
        depths = preset["depths"] if depths is None else depths
        num_heads = preset["num_heads"] if num_heads is None else num_heads
        drop_path_rate = preset["drop_path_rate"] if drop_path_rate is None else drop_path_rate
        check_counts(key_dim=key_dim)
        stages = {"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads}
        if len({len(values) for values in stages.values()}) > 1 or not embed_dim:
            given = ", ".join(f"{name}={tuple(values)}" for name, values in stages.items())
            raise UserError(f"{given} do not describe the same stages: give one number per stage in each.")
        if len(decoder_channels) != 3:
            raise UserError(f"decoder_channels={tuple(decoder_channels)} is not possible: give three numbers.")
        for name, values in (stages | {"decoder_channels": decoder_channels}).items():
            if min(values) < 1:
                raise UserError(f"{name}={tuple(values)} is not possible: give numbers of at least 1.")
        if embed_dim[0] % 8:
            raise UserError(
                f"embed_dim={tuple(embed_dim)} is not possible: the stem doubles its channels three times up to the "
                f"first stage's {embed_dim[0]}, give that a multiple of 8."
            )
        if any(dim % key_dim for dim in embed_dim[:-1]):
            raise UserError(
                f"key_dim={key_dim} does not divide the channels of all but the last stage, "
                f"embed_dim={tuple(embed_dim)}: choose a divisor, because it makes the heads in between."
            )
        check_rates(drop_path_rate=drop_path_rate)
        height, width = image_sides(img_size)

        grid = (-(-height // STRIDE), -(-width // STRIDE))
        self.encoder = LevitEncoder(in_channels, embed_dim, key_dim, depths, num_heads, grid, drop_path_rate)
        self.decoder = LevitDecoder(out_channels, embed_dim, decoder_channels)

    def logits(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    @staticmethod
    def convert_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict under this module's names, complete for a strict `load_state_dict`.

        Left out are `attention_bias_idxs`, which follow from the sizes, and `blocks`, which in the 192 variant are the
        same tensors as `block_1` to `block_3`.

        Raises:
            UserError: a tensor has a name that the authors' network does not have.
        """
        renamed = rename(state_dict, AUTHORS_NAMES, "the authors' LeViT-UNet")
        blocks = {name.removeprefix("blocks."): renamed.pop(name) for name in [*renamed] if name.startswith("blocks.")}
        return renamed | {f"encoder.{target}": tensor for _, target, tensor in convert_levit(blocks)}
