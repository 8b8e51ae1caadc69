"""Swin-Unet: a U-Net made of Swin Transformer blocks.

Paper: Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation",
https://arxiv.org/abs/2105.05537. Authors' code: https://github.com/HuCaoFighting/Swin-Unet (no licence stated when this
was written). Written from the paper and from measured outputs of the authors' code, not from the code itself.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import SegmentationNetwork, check_counts, check_rates, image_sides
from networks.errors import UserError
from networks.layers.eager import is_plain
from networks.layers.expand import UPSAMPLERS
from networks.layers.swin import SwinEncoder, SwinStage, init_weights, scaled_grid, stage_drop_paths
from networks.layers.window_attention import centre_tables
from networks.state_dicts import rename


class JoiningStage(nn.Module):
    """The parts of a decoder stage, and how it joins tokens.

    Args:
        upsample: doubles a token map.
        reduce: linear layer over [tokens, skip, ...], None where there is no skip.
        blocks: the blocks.
    """

    def __init__(self, upsample: nn.Module, reduce: nn.Linear | None, blocks: SwinStage) -> None:
        super().__init__()
        self.upsample = upsample
        self.reduce = reduce
        self.blocks = blocks

    def join(self, parts: list[Tensor]) -> Tensor:
        """`reduce` of several tokens (B, H, W, any) side by side."""
        assert self.reduce is not None
        if torch.jit.is_scripting():
            # Known while compiling: a layer of PyTorch's dynamic quantisation has no weight to read.
            if hasattr(self.reduce, "_packed_params"):
                return self.reduce(torch.cat(parts, -1))
        elif not is_plain(self.reduce):
            return self.reduce(torch.cat(parts, -1))
        # Products summed instead of one over a concatenation, which would have to be written and read.
        start = parts[0].shape[-1]
        x = F.linear(parts[0], self.reduce.weight[:, :start], self.reduce.bias)
        for part in parts[1:]:
            x = x + F.linear(part, self.reduce.weight[:, start : start + part.shape[-1]])
            start += part.shape[-1]
        return x


class SwinDecoderStage(JoiningStage):
    """Enlarge a token map to the grid of an encoder stage, join that stage's skip, run Swin blocks.

    Arguments as of `JoiningStage`; `upsample` halves the channels.
    """

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Tokens (B, H', W', 2C) and the encoder's (B, H, W, C), whose grid counts even without a skip."""
        x = self.upsample(x)[:, : skip.shape[1], : skip.shape[2]]
        return self.blocks(x if self.reduce is None else self.join([x, skip]))


class SwinDecoder(nn.Module):
    """Decoder stages from the deepest but one encoder resolution to the finest, then norm and head.

    Args:
        out_channels: classes.
        patch_size: enlargement of the head.
        embed_dim: channels of the finest stage.
        grid: finest token map for which masks are prepared in advance.
        num_heads: attention heads per encoder stage.
        window_size: window side in tokens.
        drop_paths: per encoder stage one stochastic depth rate per block; the decoder mirrors them.
        upsample: key of `UPSAMPLERS`.
        num_skips: how many of the finest resolutions have a skip.
        **kwargs: further arguments of `SwinBlock`.
    """

    def __init__(
        self,
        out_channels: int,
        patch_size: int,
        embed_dim: int,
        grid: tuple[int, int],
        num_heads: Sequence[int],
        window_size: int,
        drop_paths: Sequence[Sequence[float]],
        upsample: str,
        num_skips: int,
        **kwargs,
    ) -> None:
        super().__init__()
        up, head = UPSAMPLERS[upsample]
        stages = []
        for i in reversed(range(len(num_heads) - 1)):
            dim = embed_dim * 2**i
            reduce = nn.Linear(2 * dim, dim) if i < num_skips else None
            blocks = SwinStage(dim, num_heads[i], window_size, scaled_grid(grid, i), drop_paths[i], **kwargs)
            stages.append(SwinDecoderStage(up(2 * dim, dim), reduce, blocks))
        self.layers = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dim)
        self.head = head(embed_dim, out_channels, patch_size)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's features to logits (B, out_channels, patch_size * H, patch_size * W)."""
        x = features[-1]
        level = len(features) - 2
        for layer in self.layers:
            level -= 1
            x = layer(x, features[level])
        return self.head(self.norm(x))


# The authors' names (regular expressions, without their prefix) and what they become. `layers_up.0` is a bare patch
# expanding; the later `layers_up` hold blocks and then the expanding that here opens the next stage.
SWIN_NAMES = (
    (r"((?:patch_embed|layers|norm)\..+)", "encoder.{}".format),
    (r"layers_up\.0\.((?:expand|norm)\..+)", "decoder.layers.0.upsample.{}".format),
    (r"layers_up\.(\d+)\.(blocks\..+)", lambda i, rest: f"decoder.layers.{int(i) - 1}.{rest}"),
    (r"layers_up\.(\d+)\.(upsample\..+)", "decoder.layers.{}.{}".format),
    (r"concat_back_dim\.(\d+)\.(.+)", lambda i, rest: f"decoder.layers.{int(i) - 1}.reduce.{rest}"),
    (r"norm_up\.(.+)", "decoder.norm.{}".format),
    (r"up\.(.+)", "decoder.head.{}".format),
    (r"output\.(.+)", "decoder.head.output.{}".format),
)
AUTHORS_NAMES = tuple((rf"swin_unet\.{pattern}", target) for pattern, target in SWIN_NAMES)


class SwinUnet(SegmentationNetwork):
    """Swin-Unet for images of any size.

    The defaults are the authors' tiny network with two classes; `embed_dim=128, num_heads=(4, 8, 16, 32)` is the base.

    As in the authors' code and unlike the paper's figure, a skip is the *input* of an encoder stage, and the decoder
    mirrors the encoder's depths. Images are padded to whole patches, grids to whole windows and to even sides, and all
    of it is cropped again; where the authors' code accepts a size (sides of 4 * 2^3 * window_size pixels times whole
    numbers, or grids no longer than the window), the output equals theirs. An oblong image with a grid that is longer
    than the window on one side only is the exception: the authors shift neither side there, and here the longer one is.

    Args:
        in_channels: channels of the image. A single channel is repeated to three, as the authors do, so that stems
            pretrained on colour images fit; any other number gets a stem of that width.
        out_channels: classes.
        img_size: side, or (height, width), of the images for which attention masks are prepared in advance. Others
            work as well, a little slower.
        patch_size: side of a patch in pixels.
        embed_dim: channels of the first stage; each later stage doubles them.
        depths: blocks per encoder stage.
        num_heads: attention heads per encoder stage.
        window_size: window side in tokens; a grid no longer than it is one unshifted window.
        mlp_ratio: hidden channels of the MLPs relative to the stage's channels.
        qkv_bias: whether queries, keys and values have a bias.
        drop_rate: dropout rate of embeddings, projections and MLPs.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth rate of the last encoder block, rising linearly from zero.
        upsample: what enlarges the map, in the decoder and before the logits: "expand" (patch expanding, the authors'),
            "bilinear" or "transpose" (the paper's ablation; see `networks.layers.expand`).
        num_skips: skip connections, for the paper's ablation. Three are at 1/4, 1/8 and 1/16 of the image's resolution
            (for patches of 4); fewer drop the coarsest first, so one is at 1/4. The paper does not say which it drops;
            this is TransUNet's rule for the same ablation.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    paper = "https://arxiv.org/abs/2105.05537"
    variants: ClassVar[dict] = {"tiny": {}, "base": {"embed_dim": 128, "num_heads": (4, 8, 16, 32)}}
    repeats_grey = True
    encoders: ClassVar[dict] = {"encoder": "swin"}
    authors_names = AUTHORS_NAMES
    small: ClassVar[dict] = {
        "embed_dim": 24,
        "depths": (2, 1, 1, 1),
        "num_heads": (1, 2, 2, 4),
        "window_size": 4,
    }

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        upsample: str = "expand",
        num_skips: int = 3,
    ) -> None:
        super().__init__(in_channels, out_channels)
        rates = {"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate, "drop_path_rate": drop_path_rate}
        check_counts(patch_size=patch_size)
        check_swin(embed_dim, depths, num_heads, window_size, rates, mlp_ratio)
        if upsample not in UPSAMPLERS:
            raise UserError(f"upsample={upsample!r} is unknown: choose one of {', '.join(map(repr, UPSAMPLERS))}.")
        if upsample == "transpose" and patch_size % 2:
            raise UserError(f"patch_size={patch_size} is odd, which upsample='transpose' cannot undo: make it even.")
        if not 0 <= num_skips < len(depths):
            raise UserError(
                f"num_skips={num_skips} is not possible with {len(depths)} stages: choose 0 to {len(depths) - 1}."
            )
        height, width = image_sides(img_size)

        grid = (-(-height // patch_size), -(-width // patch_size))
        drop_paths = stage_drop_paths(drop_path_rate, depths)
        block = {"mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias, "attn_drop": attn_drop_rate}
        self.encoder = SwinEncoder(
            self.stem_channels, grid, patch_size, embed_dim, num_heads, window_size, drop_paths, drop_rate, **block
        )
        block["drop"] = drop_rate
        self.decoder = SwinDecoder(
            out_channels, patch_size, embed_dim, grid, num_heads, window_size, drop_paths, upsample, num_skips, **block
        )
        self.apply(init_weights)

    def logits(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def pretrained_targets(self, name: str) -> list[str]:
        """Where a tensor of a Swin checkpoint (in Microsoft's layout) goes: see `mirrored_targets`."""
        return mirrored_targets(name, len(self.encoder.layers))

    @staticmethod
    def convert_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict under this module's names, complete for a strict `load_state_dict`.

        Left out are `relative_position_index` and `attn_mask`, which follow from the sizes. Bias tables of windows that
        the authors shrank to a small grid are put at the centre of a full-sized table, whose other rows are zero.

        Raises:
            UserError: a tensor has a name that the authors' network does not have.
        """
        return centre_tables(rename(state_dict, AUTHORS_NAMES, "the authors' Swin-Unet"))


def check_swin(
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    rates: Mapping[str, float],
    mlp_ratio: float = 4.0,
) -> None:
    """Check the arguments of a network of Swin stages.

    Args:
        embed_dim: channels of the first stage.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: window side in tokens.
        rates: arguments that must be from 0 to below 1, by name.
        mlp_ratio: hidden channels of the MLPs relative to the stage's channels.

    Raises:
        UserError: an argument is out of range.
    """
    check_counts(embed_dim=embed_dim, window_size=window_size)
    check_counts(**{"embed_dim * mlp_ratio": int(embed_dim * mlp_ratio)})
    if len(depths) != len(num_heads) or len(depths) < 2:
        raise UserError(
            f"depths={tuple(depths)} and num_heads={tuple(num_heads)} do not describe the same two or more "
            "stages: give one number per stage in each."
        )
    if min(depths) < 1:
        raise UserError(f"depths={tuple(depths)} has a stage without blocks: give at least 1 per stage.")
    for i, heads in enumerate(num_heads):
        if heads < 1 or embed_dim * 2**i % heads:
            raise UserError(
                f"num_heads={tuple(num_heads)} does not fit embed_dim={embed_dim}: {heads} heads do not divide the "
                f"{embed_dim * 2**i} channels of stage {i}, choose a divisor."
            )
    check_rates(**rates)


def mirrored_targets(name: str, stages: int) -> list[str]:
    """Where a tensor of a Swin checkpoint goes: into the encoder, and from a stage's blocks also into the decoder's.

    Args:
        name: the tensor's name in Microsoft's layout.
        stages: of the encoder; the decoder's begin at the deepest but one resolution.
    """
    targets = [f"encoder.{name}"]
    stage = re.match(r"layers\.(\d+)\.(blocks\..+)", name)
    if stage:
        targets.append(f"decoder.layers.{stages - 2 - int(stage[1])}.{stage[2]}")
    return targets
