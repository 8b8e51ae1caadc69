"""HiFormer: a CNN and a Swin Transformer in one encoder, two of whose levels are fused and decoded.

Paper: Heidari et al., "HiFormer: Hierarchical Multi-scale Representations Using Transformers for Medical Image
Segmentation", https://arxiv.org/abs/2207.08518. Authors' code: https://github.com/amirhossein-kz/HiFormer (MIT
licence). Written from the paper and from a description and measured outputs of the authors' code, not from the code
itself. The ResNets and the blocks of the fusion are timm's.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import SegmentationNetwork, check_counts, check_rates, image_sides
from networks.errors import UserError
from networks.layers.conv import is_conv
from networks.layers.eager import channels_last, is_plain
from networks.layers.level_fusion import DoubleLevelFusion, NoFusion
from networks.layers.modules import ModuleList
from networks.layers.swin import (
    PatchMerging,
    SwinEncoderStage,
    SwinStage,
    init_weights,
    scaled_grid,
    stage_drop_paths,
)
from networks.layers.window_attention import centre_tables
from networks.state_dicts import rename

VARIANTS: dict[str, dict[str, Any]] = {
    "S": {"encoder_name": "resnet34", "fusion_depths": (1, 1), "fusion_heads": (3, 3), "fusion_mlp_ratio": 1.0},
    "B": {"encoder_name": "resnet50", "fusion_depths": (1, 2), "fusion_heads": (6, 12), "fusion_mlp_ratio": 2.0},
    "L": {"encoder_name": "resnet34", "fusion_depths": (1, 4), "fusion_heads": (6, 6), "fusion_mlp_ratio": 4.0},
}
FUSIONS = ("authors", "paper")
STRIDE = 16  # pixels per token of the coarsest level


class ResNetStages(nn.Module):
    """A ResNet's stem and first three stages.

    Args:
        name: timm's name of the ResNet.
        in_channels: channels of the image.
    """

    def __init__(self, name: str, in_channels: int) -> None:
        super().__init__()
        # Without `zero_init_last` the initialisation is torchvision's, and every weight gets a gradient from the start.
        resnet: Any = timm.create_model(name, in_chans=in_channels, zero_init_last=False)
        self.channels = [stage["num_chs"] for stage in resnet.feature_info[1:4]]
        self.conv1, self.bn1, self.act1, self.maxpool = resnet.conv1, resnet.bn1, resnet.act1, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, in_channels, H, W) to maps of 1/4, 1/8 and 1/16 of its sides."""
        x = channels_last(x)
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        fine = self.layer1(x)
        middle = self.layer2(fine)
        return fine, middle, self.layer3(middle)


class JoinedSwin(nn.Module):
    """Three Swin stages that the three maps of a CNN join.

    Each map is projected to tokens and added to what the stage of its resolution returns. The first stage starts from
    the first map's tokens, the later ones from the merged sums.

    Args:
        channels: of the CNN's maps.
        embed_dim: channels of the first Swin stage; each later stage doubles them.
        grid: finest token map for which masks are prepared in advance.
        num_heads: attention heads per stage.
        window_size: window side in tokens.
        drop_paths: per stage one stochastic depth rate per block.
    """

    def __init__(
        self,
        channels: Sequence[int],
        embed_dim: int,
        grid: tuple[int, int],
        num_heads: Sequence[int],
        window_size: int,
        drop_paths: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        stages, project = [], []
        for i, (heads, rates) in enumerate(zip(num_heads, drop_paths, strict=True)):
            dim = embed_dim * 2**i
            blocks = SwinStage(dim, heads, window_size, scaled_grid(grid, i), rates)
            stages.append(SwinEncoderStage(blocks, PatchMerging(dim) if i + 1 < len(num_heads) else nn.Identity()))
            project.append(nn.Linear(channels[i], dim))
        self.layers = ModuleList(stages).apply(init_weights)
        self.project = nn.ModuleList(project)  # 1 x 1 convolutions of the authors, also in their initialisation

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """The CNN's maps (B, channels, H, W), each half as large as the last, to the first and the last tokens.

        That is (B, H, W, embed_dim) and (B, H / 4, W / 4, 4 * embed_dim).
        """
        x = self.project[0](fine.permute(0, 2, 3, 1))
        large = x + self.layers[0].blocks(x)
        x = self.project[1](middle.permute(0, 2, 3, 1)) + self.layers[1].blocks(self.layers[0].downsample(large))
        x = self.project[2](coarse.permute(0, 2, 3, 1)) + self.layers[2].blocks(self.layers[1].downsample(x))
        return large, x


class ConvNormAct(nn.Sequential):
    """A 3 x 3 convolution, group normalisation and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(32, out_channels)
        self.act = nn.ReLU(inplace=True)


class Decoder(nn.Module):
    """Convolutions over both levels, their sum, and logits.

    Args:
        out_channels: classes.
        dims: channels of the large and of the small level.
        channels: channels of the sum; a multiple of 32.
        head_channels: channels at full resolution.
    """

    def __init__(self, out_channels: int, dims: Sequence[int], channels: int = 128, head_channels: int = 16) -> None:
        super().__init__()
        self.large = ConvNormAct(dims[0], channels)
        self.small = nn.ModuleList([ConvNormAct(dims[1], channels), ConvNormAct(channels, channels)])
        self.reduce = nn.Conv2d(channels, head_channels, 1)
        self.head = nn.Conv2d(head_channels, out_channels, 3, padding=1)

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        """Tokens (B, H, W, C) and (B, H / 4, W / 4, C') to logits (B, out_channels, 4H, 4W)."""
        x = upsample(self.small[0](small.permute(0, 3, 1, 2)), 2)
        x = self.small[1](x)
        return self.head(upsample(F.relu(self.reduced_sum(self.large(large.permute(0, 3, 1, 2)), x)), 4))

    def reduced_sum(self, large: Tensor, small: Tensor) -> Tensor:
        """`reduce` of the sum of both levels' maps."""
        if torch.jit.is_scripting():
            pass
        elif not (is_plain(self.reduce) and is_conv(self.reduce, 1)):
            return self.reduce(upsample(small, 2) + large)
        # The authors enlarge and add all channels, then reduce them; a 1 x 1 convolution may as well come first.
        return upsample(self.reduce(small), 2) + F.conv2d(large, self.reduce.weight)


def upsample(x: Tensor, scale: int) -> Tensor:
    """Bilinear enlargement, half-pixel centres."""
    return F.interpolate(x, scale_factor=float(scale), mode="bilinear", align_corners=False)


# Second names: the ResNet's later stages and the decoder's convolutions are registered twice.
ALIASES = r"All2Cross\.pyramid\.resnet_layers\.[56]\..+|ConvUp_[sl]\.conv_tower\..+"

# Parameters without influence on the authors' output: the norms behind the class tokens, and the fusion, of which the
# ViT blocks' results are thrown away and the class tokens are dropped before the decoder.
DEAD = r"All2Cross\.pyramid\.norm_[12]\..+|All2Cross\.blocks\.0\..+"

# The authors' names (regular expressions) and what they become.
RESNET_PARTS = {"0": "conv1", "1": "bn1", "4": "layer1"}
AUTHORS_NAMES = (
    (ALIASES, None),
    (r"All2Cross\.pos_embed\.([01])", "fusion.position.{}.position_embeddings".format),
    (r"All2Cross\.pyramid\.resnet_layers\.([014])\.(.+)", lambda i, rest: f"cnn_encoder.{RESNET_PARTS[i]}.{rest}"),
    (r"All2Cross\.pyramid\.p([23])\.(.+)", "cnn_encoder.layer{}.{}".format),
    (r"All2Cross\.pyramid\.p([123])_ch\.(.+)", lambda i, rest: f"encoder.project.{int(i) - 1}.{rest}"),
    (r"All2Cross\.pyramid\.p([12])_pm\.(.+)", lambda i, rest: f"encoder.layers.{int(i) - 1}.downsample.{rest}"),
    (r"All2Cross\.pyramid\.swin_transformer\.(layers\..+)", "encoder.{}".format),
    (r"All2Cross\.pyramid\.norm_([12])\.(.+)", lambda i, rest: f"fusion.class_norm.{int(i) - 1}.{rest}"),
    (r"All2Cross\.blocks\.0\.blocks\.(.+)", "fusion.blocks.{}".format),
    (r"All2Cross\.blocks\.0\.projs\.(.+)", lambda rest: f"fusion.cross.{rest[0]}.project{rest[1:]}"),
    (r"All2Cross\.blocks\.0\.revert_projs\.(.+)", lambda rest: f"fusion.cross.{rest[0]}.revert{rest[1:]}"),
    (r"All2Cross\.blocks\.0\.fusion\.(\d)\.norm1\.(.+)", "fusion.cross.{}.norm.{}".format),
    (r"All2Cross\.blocks\.0\.fusion\.(\d)\.attn\.(.+)", "fusion.cross.{}.{}".format),
    (r"All2Cross\.norm\.([01])\.(.+)", "fusion.norm.{}.{}".format),
    (r"ConvUp_l\.convs_level\.0\.(.+)", "decoder.large.conv.{}".format),
    (r"ConvUp_l\.convs_level\.1\.(.+)", "decoder.large.norm.{}".format),
    (r"ConvUp_s\.convs_level\.([04])\.(.+)", lambda i, rest: f"decoder.small.{int(i) // 4}.conv.{rest}"),
    (r"ConvUp_s\.convs_level\.([15])\.(.+)", lambda i, rest: f"decoder.small.{int(i) // 4}.norm.{rest}"),
    (r"conv_pred\.0\.(.+)", "decoder.reduce.{}".format),
    (r"segmentation_head\.0\.(.+)", "decoder.head.{}".format),
)


class HiFormer(SegmentationNetwork):
    """HiFormer for images of any size.

    The variants are the authors' S, B and L. Their code computes the paper's fusion but drops every result of it: only
    class tokens change, which the decoder does not get. S and L are thus the same function. `fusion="authors"` is that
    function without the dead parts; `fusion="paper"` keeps the results (see `DoubleLevelFusion`), so that every
    parameter counts. It accepts the authors' weights too, but those were never trained in the fusion.

    Images are zero-padded at the bottom and right to multiples of 16, token maps to whole windows, and all of it is
    cropped again. Position embeddings belong to `img_size` and are interpolated for other sizes.

    Args:
        in_channels: channels of the image. A single channel is repeated to three, as the authors do, so that stems
            pretrained on colour images fit; any other number gets a stem of that width.
        out_channels: classes.
        img_size: side, or (height, width), of the images that position embeddings and attention masks are for.
        variant: "S", "B" or "L", which sets `encoder_name` and the fusion's sizes where those are not given.
        fusion: "authors" or "paper".
        encoder_name: timm's name of a ResNet, such as "resnet34" or "resnet50".
        embed_dim: channels of the first Swin stage; the later two have twice and four times as many.
        depths: Swin blocks per stage.
        num_heads: attention heads per Swin stage.
        window_size: window side in tokens; a grid no longer than it is one unshifted window.
        drop_path_rate: stochastic depth rate of the last Swin block, rising linearly from zero.
        fusion_depths: ViT blocks of the large and of the small level.
        fusion_heads: attention heads of the large and of the small level.
        fusion_mlp_ratio: hidden channels of the ViT blocks' MLPs relative to the level's channels.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    paper = "https://arxiv.org/abs/2207.08518"
    variants: ClassVar[dict] = {name: {"variant": name} for name in VARIANTS}
    repeats_grey = True
    encoders: ClassVar[dict] = {"encoder": "swin", "cnn_encoder": "cnn"}
    authors_names = AUTHORS_NAMES
    small: ClassVar[dict] = {
        "encoder_name": "test_resnet",
        "embed_dim": 12,
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 4),
        "window_size": 4,
        "fusion_depths": (1, 1),
        "fusion_heads": (2, 4),
    }

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        variant: str = "B",
        fusion: str = "authors",
        encoder_name: str | None = None,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6),
        num_heads: Sequence[int] = (3, 6, 12),
        window_size: int = 7,
        drop_path_rate: float = 0.1,
        fusion_depths: Sequence[int] | None = None,
        fusion_heads: Sequence[int] | None = None,
        fusion_mlp_ratio: float | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, multiple=STRIDE)
        if variant not in VARIANTS:
            raise UserError(f"variant={variant!r} is unknown: choose one of {', '.join(map(repr, VARIANTS))}.")
        if fusion not in FUSIONS:
            raise UserError(f"fusion={fusion!r} is unknown: choose one of {', '.join(map(repr, FUSIONS))}.")
        preset = VARIANTS[variant]
        encoder_name = preset["encoder_name"] if encoder_name is None else encoder_name
        fusion_depths = preset["fusion_depths"] if fusion_depths is None else fusion_depths
        fusion_heads = preset["fusion_heads"] if fusion_heads is None else fusion_heads
        fusion_mlp_ratio = preset["fusion_mlp_ratio"] if fusion_mlp_ratio is None else fusion_mlp_ratio
        height, width = image_sides(img_size)
        check_counts(embed_dim=embed_dim, window_size=window_size)
        if encoder_name not in timm.list_models(module="resnet"):
            raise UserError(
                f"encoder_name={encoder_name!r} is not a ResNet of timm: choose for example 'resnet34' or 'resnet50'."
            )
        dims = (embed_dim, 4 * embed_dim)
        _check_stages("depths", depths, "num_heads", num_heads, [embed_dim * 2**i for i in range(3)])
        _check_stages("fusion_depths", fusion_depths, "fusion_heads", fusion_heads, dims)
        check_counts(**{"embed_dim * fusion_mlp_ratio": int(embed_dim * fusion_mlp_ratio)})
        check_rates(drop_path_rate=drop_path_rate)

        self.converter_options = {"fusion": fusion}
        small = (-(-height // STRIDE), -(-width // STRIDE))
        grids = ((4 * small[0], 4 * small[1]), small)
        drop_paths = stage_drop_paths(drop_path_rate, depths)
        self.cnn_encoder = ResNetStages(encoder_name, self.stem_channels)
        channels = self.cnn_encoder.channels
        self.encoder = JoinedSwin(channels, embed_dim, grids[0], num_heads, window_size, drop_paths)
        self.fusion: NoFusion
        if fusion == "paper":
            self.fusion = DoubleLevelFusion(dims, grids, fusion_depths, fusion_heads, fusion_mlp_ratio)
        else:
            self.fusion = NoFusion(dims, grids)
        self.decoder = Decoder(out_channels, dims)

    def logits(self, x: Tensor) -> Tensor:
        fine, middle, coarse = self.cnn_encoder(x)
        large, small = self.encoder(fine, middle, coarse)
        large, small = self.fusion(large, small)
        return self.decoder(large, small)

    def pretrained_targets(self, name: str) -> list[str]:
        """Where a tensor of a Swin checkpoint (in Microsoft's layout) goes: stages and mergings.

        The authors load the same, but then initialise them anew, so that only the bias tables of the file survive.
        """
        return [f"encoder.{name}"] if name.startswith("layers.") else []

    @staticmethod
    def convert_authors(state_dict: Mapping[str, Tensor], fusion: str = "authors") -> dict[str, Tensor]:
        """The authors' state dict under this module's names, complete for a strict `load_state_dict`.

        Left out are tensors that the authors' modules register under a second name, buffers that follow from the sizes
        and, for `fusion="authors"`, everything that cannot influence their output: `DEAD`, and of the position
        embeddings the one of the class token. Bias tables of windows that the authors shrank to a small grid become
        full-sized as in `SwinUnet`.

        Raises:
            UserError: a tensor has a name that the authors' network does not have.
        """
        names = ((DEAD, None), *AUTHORS_NAMES) if fusion == "authors" else AUTHORS_NAMES
        converted = rename(state_dict, names, "the authors' HiFormer")
        for name, tensor in [*converted.items()]:
            if re.fullmatch(r"encoder\.project\.\d\.weight", name):
                converted[name] = tensor.flatten(1)  # their 1 x 1 convolutions to tokens are linear layers here
            elif name.startswith("fusion.position."):
                side = math.isqrt(tensor.shape[1] - 1)
                converted[name] = tensor[:, 1:].unflatten(1, (side, side))
                if fusion == "paper":
                    converted[name.replace("position", "class_position", 1)] = tensor[:, :1].unsqueeze(1)
        return centre_tables(converted)


def _check_stages(name: str, depths: Sequence[int], heads_name: str, heads: Sequence[int], dims: Sequence[int]) -> None:
    """Refuse numbers of blocks and heads that do not fit stages of these channels.

    Raises:
        UserError: says which.
    """
    if not len(depths) == len(heads) == len(dims):
        raise UserError(
            f"{name}={tuple(depths)} and {heads_name}={tuple(heads)} do not describe {len(dims)} stages: "
            f"give {len(dims)} numbers in each."
        )
    if min(depths) < 1:
        raise UserError(f"{name}={tuple(depths)} has a stage without blocks: give at least 1 per stage.")
    for number, dim in zip(heads, dims, strict=True):
        if number < 1 or dim % number:
            raise UserError(
                f"{heads_name}={tuple(heads)} does not fit: {number} heads do not divide the {dim} channels of "
                "their stage, choose a divisor."
            )
