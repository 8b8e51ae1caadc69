"""TransDeepLab: a DeepLab v3+ made of Swin Transformer blocks.

Paper: Azad et al., "TransDeepLab: Convolution-Free Transformer-based DeepLab v3+ for Medical Image Segmentation",
https://arxiv.org/abs/2208.00713. Authors' code: https://github.com/rezazad68/transdeeplab (no licence found when this
was written). Written from the paper and from a description and measured outputs of the authors' code, not from the code
itself.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from networks.base import SegmentationNetwork, check_counts, check_rates, image_sides
from networks.errors import UserError
from networks.layers.expand import ExpandHead, PatchExpand
from networks.layers.modules import ModuleList
from networks.layers.pyramid_pooling import SwinPyramidPooling, pyramid_windows
from networks.layers.swin import (
    PatchEmbed,
    PatchMerging,
    SwinEncoderStage,
    SwinStage,
    scaled_grid,
    stage_drop_paths,
)
from networks.layers.window_attention import centre_tables
from networks.state_dicts import rename


class DeepLabEncoder(nn.Module):
    """Patch embedding and Swin stages; the first stage's result is the low-level feature, the last's the high-level.

    Args:
        in_channels: channels of the image.
        grid: (height, width) of the token map for which masks are prepared in advance.
        patch_size: side of a patch in pixels.
        embed_dim: channels of the first stage; each later stage doubles them.
        num_heads: attention heads per stage.
        window_size: window side in tokens.
        drop_paths: per stage one stochastic depth rate per block.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        patch_size: int,
        embed_dim: int,
        num_heads: Sequence[int],
        window_size: int,
        drop_paths: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        stages = []
        for i, (heads, rates) in enumerate(zip(num_heads, drop_paths, strict=True)):
            dim = embed_dim * 2**i
            blocks = SwinStage(dim, heads, window_size, scaled_grid(grid, i), rates)
            stages.append(SwinEncoderStage(blocks, PatchMerging(dim) if i + 1 < len(num_heads) else nn.Identity()))
        self.layers = ModuleList(stages)
        self.low_norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) to the normalised low-level tokens and the high-level tokens, (B, H', W', C) each."""
        low = self.layers[0].blocks(self.patch_embed(x))
        x = self.layers[1](self.layers[0].downsample(low))
        return self.low_norm(low), self.layers[2](x)


class UpStage(nn.Module):
    """Blocks of one resolution and the expanding that follows them.

    Args:
        blocks: the blocks.
        dim: channels.
    """

    def __init__(self, blocks: SwinStage, dim: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.upsample = PatchExpand(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, 2H, 2W, dim)."""
        return self.upsample(self.blocks(x))


class DeepLabDecoder(nn.Module):
    """High-level tokens up to the low-level grid, more blocks on both together, then norm and head.

    Args:
        out_channels: classes.
        dim: channels of either feature.
        grid: low-level token map for which masks are prepared in advance.
        num_heads: attention heads.
        window_size: window side in tokens.
        depth: blocks per resolution below the low-level one.
        last_depth: blocks at the low-level resolution.
        drop_path: stochastic depth rate of the blocks below the low-level resolution.
        head_scale: enlargement of the head.
    """

    def __init__(
        self,
        out_channels: int,
        dim: int,
        grid: tuple[int, int],
        num_heads: int,
        window_size: int,
        depth: int,
        last_depth: int,
        drop_path: float,
        head_scale: int,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            UpStage(SwinStage(dim, num_heads, window_size, scaled_grid(grid, level), [drop_path] * depth), dim)
            for level in (2, 1)
        )
        self.last = UpStage(SwinStage(2 * dim, num_heads, window_size, grid, [0.0] * last_depth), 2 * dim)
        self.norm = nn.LayerNorm(2 * dim)
        self.head = ExpandHead(2 * dim, out_channels, head_scale)

    def forward(self, low: Tensor, x: Tensor) -> Tensor:
        """Tokens (B, H, W, dim) and (B, ceil(H / 4), ceil(W / 4), dim) to logits of 2 * head_scale times H and W."""
        height, width = low.shape[1], low.shape[2]
        x = self.layers[0](x)[:, : (height + 1) // 2, : (width + 1) // 2]
        x = self.layers[1](x)[:, :height, :width]
        return self.head(self.norm(self.last(torch.cat([low, x], -1))))


# The authors' names (regular expressions) and what they become.
CBAM_PARTS = {"0": "squeeze", "2": "excite"}
AUTHORS_NAMES = (
    (r"encoder\.((?:patch_embed|layers)\..+)", "encoder.{}".format),
    (r"encoder\.low_level_norm\.(.+)", "encoder.low_norm.{}".format),
    (r"aspp\.layers\.(\d)\.blocks\.(.+)", "aspp.stages.{}.{}".format),
    (
        r"aspp\.proj\.ca\.se\.([02])\.(.+)",
        lambda i, rest: f"aspp.attention.{CBAM_PARTS[i]}.{rest}",
    ),
    (r"aspp\.proj\.sa\.conv\.(.+)", "aspp.attention.spatial.{}".format),
    (r"aspp\.proj\.proj\.(.+)", "aspp.proj.{}".format),
    (r"decoder\.layers_up\.([01])\.(.+)", "decoder.layers.{}.{}".format),
    (r"decoder\.last_layers_up\.0\.(.+)", "decoder.last.{}".format),
    (r"decoder\.norm_up\.(.+)", "decoder.norm.{}".format),
    (r"decoder\.final_up\.(.+)", "decoder.head.{}".format),
    (r"decoder\.output\.(.+)", "decoder.head.output.{}".format),
)


class TransDeepLab(SegmentationNetwork):
    """TransDeepLab for images of any size.

    The defaults are the authors' network of three levels with two classes. As in their code, all pyramid blocks and the
    first decoder blocks have one constant stochastic depth rate, the last decoder blocks none, and initialisations are
    PyTorch's but for the bias tables. Images are padded to whole patches, grids to whole windows and to even sides, and
    all of it is cropped again; for images whose grids are multiples of the windows the output equals the authors',
    with the exception of `SwinUnet`.

    Args:
        in_channels: channels of the image. A single channel is repeated to three, as the authors do, so that stems
            pretrained on colour images fit; any other number gets a stem of that width.
        out_channels: classes.
        img_size: side, or (height, width), of the images for which attention masks are prepared in advance, and from
            which `levels` derives windows. Others work as well, a little slower.
        levels: stages of the pyramid pooling. Their windows are the largest divisors of the high-level grid, whose
            sides are 1/16 of the image's (for patches of 4): of 14 x 14 tokens 14, 7, 2 and 1. Where a grid has fewer
            than `levels`, they are those of the smallest larger grid that has enough, to which it is then padded.
        windows: window sides of the pyramid's stages, in place of `levels`.
        aspp_depths: blocks of the pyramid's stages; None for 2 each, but 1 where a window covers the grid.
        patch_size: side of a patch in pixels; even.
        embed_dim: channels of the first stage; the later two have twice and four times as many.
        depths: blocks per encoder stage.
        num_heads: attention heads per encoder stage.
        window_size: window side in tokens of encoder and decoder.
        aspp_heads: attention heads of the pyramid.
        decoder_heads: attention heads of the decoder.
        decoder_depths: decoder blocks at each of the two resolutions below the low-level one, and at that one.
        aspp_drop_rate: dropout rate of the pyramid's output.
        drop_path_rate: stochastic depth rate of the last encoder block, rising linearly from zero, and of the others as
            above.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    paper = "https://arxiv.org/abs/2208.00713"
    variants: ClassVar[dict] = {f"{levels}level": {"levels": levels} for levels in (3, 1, 2, 4)}
    repeats_grey = True
    encoders: ClassVar[dict] = {"encoder": "swin"}
    authors_names = AUTHORS_NAMES
    small: ClassVar[dict] = {
        "windows": (1, 4),
        "aspp_depths": (1, 1),
        "depths": (1, 2, 1),
        "decoder_depths": (1, 1),
        "embed_dim": 12,
        "num_heads": (1, 2, 4),
        "window_size": 4,
        "aspp_drop_rate": 0.0,
    }

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        levels: int = 3,
        windows: Sequence[int] | None = None,
        aspp_depths: Sequence[int] | None = None,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6),
        num_heads: Sequence[int] = (3, 6, 12),
        window_size: int = 7,
        aspp_heads: int = 3,
        decoder_heads: int = 3,
        decoder_depths: Sequence[int] = (2, 6),
        aspp_drop_rate: float = 0.1,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__(in_channels, out_channels)
        height, width = image_sides(img_size)
        check_counts(embed_dim=embed_dim, window_size=window_size)
        if patch_size < 2 or patch_size % 2:
            raise UserError(f"patch_size={patch_size} is not possible: give an even number, as the decoder doubles.")
        grid = (-(-height // patch_size), -(-width // patch_size))
        high = scaled_grid(grid, 2)
        if windows is None:
            check_counts(levels=levels)
            windows = pyramid_windows(high, levels)
        if aspp_depths is None:
            aspp_depths = [1 if window >= max(high) else 2 for window in windows]
        if not windows or min(windows) < 1:
            raise UserError(f"windows={tuple(windows)} is not possible: give one or more sides of at least 1 token.")
        if len(aspp_depths) != len(windows):
            raise UserError(
                f"aspp_depths={tuple(aspp_depths)} does not fit windows={tuple(windows)}: give one number per window."
            )
        if len(depths) != 3 or len(num_heads) != 3 or len(decoder_depths) != 2:
            raise UserError(
                f"depths={tuple(depths)}, num_heads={tuple(num_heads)} and decoder_depths={tuple(decoder_depths)} do "
                "not fit: give three, three and two numbers."
            )
        for name, blocks in {"depths": depths, "aspp_depths": aspp_depths, "decoder_depths": decoder_depths}.items():
            if min(blocks) < 1:
                raise UserError(f"{name}={tuple(blocks)} has a stage without blocks: give at least 1 per stage.")
        heads = {f"num_heads[{i}]": (number, embed_dim * 2**i) for i, number in enumerate(num_heads)}
        heads |= {"aspp_heads": (aspp_heads, 4 * embed_dim), "decoder_heads": (decoder_heads, embed_dim)}
        for name, (number, dim) in heads.items():
            if number < 1 or dim % number:
                raise UserError(f"{name}={number} does not divide the {dim} channels of its stage: choose a divisor.")
        check_rates(aspp_drop_rate=aspp_drop_rate, drop_path_rate=drop_path_rate)

        drop_paths = stage_drop_paths(drop_path_rate, depths)
        self.encoder = DeepLabEncoder(
            self.stem_channels, grid, patch_size, embed_dim, num_heads, window_size, drop_paths
        )
        self.aspp = SwinPyramidPooling(
            4 * embed_dim, embed_dim, aspp_heads, high, windows, aspp_depths, drop_path_rate, aspp_drop_rate
        )
        depth, last_depth = decoder_depths
        self.decoder = DeepLabDecoder(
            out_channels,
            embed_dim,
            grid,
            decoder_heads,
            window_size,
            depth,
            last_depth,
            drop_path_rate,
            patch_size // 2,
        )

    def logits(self, x: Tensor) -> Tensor:
        low, x = self.encoder(x)
        return self.decoder(low, self.aspp(x))

    def pretrained_targets(self, name: str) -> list[str]:
        """Where a tensor of a Swin checkpoint (in Microsoft's layout) goes: as in the authors' code.

        That is the encoder but for its norm, the first stage's blocks also into the decoder's second stage, and the
        second stage's also into the last one's first two blocks, whose bias tables have other heads and don't fit.
        """
        targets = [f"encoder.{name}"] if name.startswith(("patch_embed.", "layers.")) else []
        if name.startswith("layers.0.blocks."):
            targets.append(f"decoder.layers.1.{name.removeprefix('layers.0.')}")
        if name.startswith("layers.1.blocks."):
            targets.append(f"decoder.last.{name.removeprefix('layers.1.')}")
        return targets

    @staticmethod
    def convert_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict under this module's names, complete for a strict `load_state_dict`.

        Left out are `relative_position_index` and `attn_mask`, which follow from the sizes, and of pyramid stages with
        windows of one token what cannot influence the output: queries, keys and bias tables. Bias tables of encoder and
        decoder for windows that the authors shrank to a small grid become full-sized as in `SwinUnet`.

        Raises:
            UserError: a tensor has a name that the authors' network does not have.
        """
        table = "attn.relative_position_bias_table"
        pointwise = {
            name.removesuffix(table) for name, tensor in state_dict.items() if name.endswith(table) and len(tensor) == 1
        }
        state = {}
        for name, tensor in state_dict.items():
            block = next((prefix for prefix in pointwise if name.startswith(f"{prefix}attn.")), None)
            if block is None:
                state[name] = tensor
            elif ".qkv." in name:
                state[name.replace(".attn.qkv.", ".v.")] = tensor.chunk(3)[2]
            elif name != block + table:
                state[name.replace(".attn.", ".")] = tensor
        converted = rename(state, AUTHORS_NAMES, "the authors' TransDeepLab")
        # Windows of the pyramid are of different sizes, and none is larger than the grid.
        converted |= centre_tables({name: converted[name] for name in converted if not name.startswith("aspp.")})
        # Their 1 x 1 convolutions within CBAM are linear layers here.
        is_linear = re.compile(r"aspp\.attention\.\w+\.weight").fullmatch
        return {name: tensor.flatten(1) if is_linear(name) else tensor for name, tensor in converted.items()}
