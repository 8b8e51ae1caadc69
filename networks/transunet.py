"""TransUNet: a ResNet and a Vision Transformer in a row, and a convolutional decoder with skips from the ResNet.

Paper: Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation",
https://arxiv.org/abs/2102.04306. Authors' code: https://github.com/Beckschen/TransUNet (Apache-2.0). Written from the
paper and from measured outputs of the authors' code, not from the code itself.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import SegmentationNetwork, check_counts, check_rates, image_sides
from networks.errors import UserError
from networks.layers.conv import Conv3x3, UpBlock
from networks.layers.hybrid import HybridEncoder
from networks.state_dicts import new_names, rename


class Decoder(nn.Module):
    """A convolution of the token map, then blocks that each double the map.

    Args:
        embed_dim: channels of a token.
        skip_channels: channels of the skips, coarsest first, 0 for none.
        channels: channels after the first convolution and after each block.
    """

    def __init__(self, embed_dim: int, skip_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.conv = Conv3x3(embed_dim, channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.ModuleList(UpBlock(channels[i], skip, channels[i + 1]) for i, skip in enumerate(skip_channels))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps, finest first, to one of twice the finest's resolution."""
        x = F.relu(self.norm(self.conv(features[-1])), inplace=True)
        level = len(features) - 2
        for block in self.blocks:
            x = block(x, features[level] if level >= 0 else None)
            level -= 1
        return x


# The layers of a residual unit by the names that the authors and Google share.
UNIT = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)} | {f"gn{i}": f"norm{i}" for i in (1, 2, 3)}
UNIT |= {"downsample": "downsample.0", "conv_proj": "downsample.0", "gn_proj": "downsample.1"}


def _unit(block: str, unit: str, layer: str, rest: str) -> str:
    return f"encoder.stages.{int(block) - 1}.{int(unit) - 1}.{UNIT[layer]}.{rest}"


# Other people's names (regular expressions) and what they become; queries, keys and values are joined afterwards.
RESNET = r"transformer\.embeddings\.hybrid_model\."
LAYER = r"transformer\.encoder\.layer\.(\d+)\."
AUTHORS_NAMES = (
    (rf"{RESNET}root\.conv\.(.+)", "encoder.stem.conv.{}".format),
    (rf"{RESNET}root\.gn\.(.+)", "encoder.stem.norm.{}".format),
    (rf"{RESNET}body\.block(\d)\.unit(\d+)\.({'|'.join(UNIT)})\.(.+)", _unit),
    (r"transformer\.embeddings\.patch_embeddings\.(.+)", "encoder.patch_embed.{}".format),
    (r"transformer\.embeddings\.(position_embeddings)", "encoder.{}".format),
    (rf"{LAYER}attention_norm\.(.+)", "encoder.blocks.{}.norm1.{}".format),
    (rf"{LAYER}ffn_norm\.(.+)", "encoder.blocks.{}.norm2.{}".format),
    (rf"{LAYER}ffn\.(fc[12]\..+)", "encoder.blocks.{}.mlp.{}".format),
    (rf"{LAYER}attn\.out\.(.+)", "encoder.blocks.{}.attn.proj.{}".format),
    (rf"{LAYER}attn\.((?:query|key|value)\..+)", "encoder.blocks.{}.attn.{}".format),
    (r"transformer\.encoder\.encoder_norm\.(.+)", "encoder.norm.{}".format),
    (r"decoder\.conv_more\.0\.(.+)", "decoder.conv.{}".format),
    (r"decoder\.conv_more\.1\.(.+)", "decoder.norm.{}".format),
    (r"decoder\.blocks\.(\d)\.conv([12])\.0\.(.+)", "decoder.blocks.{}.conv{}.{}".format),
    (r"decoder\.blocks\.(\d)\.conv([12])\.1\.(.+)", "decoder.blocks.{}.norm{}.{}".format),
    (r"segmentation_head\.0\.(.+)", "head.{}".format),
)
BLOCK = r"Transformer/encoderblock_(\d+)/"
GOOGLE_NAMES = (  # their kernels and scales are called weights before
    (r"conv_root/(.+)", "encoder.stem.conv.{}".format),
    (r"gn_root/(.+)", "encoder.stem.norm.{}".format),
    (rf"block(\d)/unit(\d+)/({'|'.join(UNIT)})/(.+)", _unit),
    (r"embedding/(.+)", "encoder.patch_embed.{}".format),
    (r"Transformer/posembed_input/pos_embedding", "encoder.position_embeddings".format),
    (rf"{BLOCK}LayerNorm_0/(.+)", "encoder.blocks.{}.norm1.{}".format),
    (rf"{BLOCK}LayerNorm_2/(.+)", "encoder.blocks.{}.norm2.{}".format),
    (rf"{BLOCK}MlpBlock_3/Dense_0/(.+)", "encoder.blocks.{}.mlp.fc1.{}".format),
    (rf"{BLOCK}MlpBlock_3/Dense_1/(.+)", "encoder.blocks.{}.mlp.fc2.{}".format),
    (rf"{BLOCK}MultiHeadDotProductAttention_1/out/(.+)", "encoder.blocks.{}.attn.proj.{}".format),
    (rf"{BLOCK}MultiHeadDotProductAttention_1/(query|key|value)/(.+)", "encoder.blocks.{}.attn.{}.{}".format),
    (r"Transformer/encoder_norm/(.+)", "encoder.norm.{}".format),
    (r".+", None),  # the class token, its position and the classifier
)


class TransUnet(SegmentationNetwork):
    """TransUNet for images of any size.

    The defaults are the authors' R50-ViT-B/16 with two classes.

    Images are zero-padded at the bottom and right to sides of multiples of 16 and the result is cropped. Position
    embeddings have the grid of `img_size` and are resized for images of another grid, as the authors resize pretrained
    ones. At `img_size`, a multiple of 16, the output equals that of the authors' code, which accepts nothing else.

    On CPUs, training is faster with images in PyTorch's usual memory format than with channels last, because of the
    group normalisation's backward pass.

    Args:
        in_channels: channels of the image. A single channel is repeated to three, as the authors do, so that stems
            pretrained on colour images fit; any other number gets a stem of that width.
        out_channels: classes.
        img_size: side, or (height, width), of the images that the network is trained on: sets the grid of the position
            embeddings, and with it the shape of that one weight.
        width: channels of the ResNet's stem, a multiple of 32; its stages give 4, 8 and 16 times as many.
        depths: residual units of the ResNet's three stages.
        embed_dim: channels of a token.
        depth: transformer blocks.
        num_heads: attention heads.
        mlp_dim: hidden channels of the transformer's MLPs.
        decoder_channels: channels of the decoder at 1/16, 1/8, 1/4, 1/2 and all of the image's resolution.
        drop_rate: dropout rate of the embeddings and the MLPs.
        attn_drop_rate: dropout rate of the attention weights.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    paper = "https://arxiv.org/abs/2102.04306"
    variants: ClassVar[dict] = {"r50_b16": {}}
    repeats_grey = True
    encoders: ClassVar[dict] = {"encoder": "vit"}
    authors_names = AUTHORS_NAMES
    small: ClassVar[dict] = {
        "width": 32,
        "depths": (1, 1, 1),
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 48,
        "decoder_channels": (32, 32, 16, 16, 8),
    }

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        width: int = 64,
        depths: Sequence[int] = (3, 4, 9),
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        decoder_channels: Sequence[int] = (512, 256, 128, 64, 16),
        drop_rate: float = 0.1,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(in_channels, out_channels, multiple=16)
        check_counts(width=width, embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim)
        if width % 32:
            raise UserError(f"width={width} cannot be normalised in 32 groups: choose a multiple of 32.")
        if len(depths) != 3 or min(depths) < 1:
            raise UserError(f"depths={tuple(depths)} is not possible: give three numbers of at least 1.")
        if len(decoder_channels) != 5 or min(decoder_channels) < 1:
            raise UserError(
                f"decoder_channels={tuple(decoder_channels)} is not possible: give five numbers of at least 1."
            )
        if embed_dim % num_heads:
            raise UserError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}: choose a divisor.")
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate)
        image_height, image_width = image_sides(img_size)

        grid = (-(-image_height // 16), -(-image_width // 16))
        self.encoder = HybridEncoder(
            self.stem_channels, grid, width, depths, embed_dim, depth, num_heads, mlp_dim, drop_rate, attn_drop_rate
        )
        self.decoder = Decoder(embed_dim, (8 * width, 4 * width, width, 0), decoder_channels)
        self.head = nn.Conv2d(decoder_channels[-1], out_channels, 3, padding=1)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))

    @staticmethod
    def convert_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict under this module's names, complete for a strict `load_state_dict`.

        Raises:
            UserError: a tensor has a name that the authors' network does not have, or the position embeddings are not
                those of a square grid.
        """
        converted = rename(state_dict, AUTHORS_NAMES, "the authors' TransUNet")
        for name in [name for name in converted if name.endswith("position_embeddings")]:
            converted[name] = _square(converted[name])
        return _join_qkv(converted)

    @staticmethod
    def convert_google(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
        """Google's `R50+ViT-B_16.npz` as triples of their name, our name and the tensor in PyTorch's layout.

        Queries, keys and values are one tensor here, which then comes once under each of their names. The class token,
        its position and the classifier are left out.

        Raises:
            UserError: the position embeddings are not those of a square grid.
        """
        weights = {name: re.sub("(kernel|scale)$", "weight", name) for name in state_dict}
        renamed = new_names(weights.values(), GOOGLE_NAMES, "Google's ViT")
        targets = {name: renamed[weight] for name, weight in weights.items() if weight in renamed}
        joined = _join_qkv({target: _from_google(name, state_dict[name]) for name, target in targets.items()})
        for name, target in targets.items():
            target = re.sub(r"\.(query|key|value)\.", ".qkv.", target)
            if target in joined:
                yield name, target, joined[target]


def _join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values, where there are all three, as the one `qkv` of `Attention`."""
    joined = {}
    for name, tensor in state.items():
        trio = [re.sub(r"\.(query|key|value)\.", f".{part}.", name) for part in ("query", "key", "value")]
        if trio[0] == trio[1] or not all(part in state for part in trio):
            joined[name] = tensor
        elif name == trio[0]:
            joined[name.replace(".query.", ".qkv.")] = torch.cat([state[part] for part in trio])
    return joined


def _square(positions: Tensor) -> Tensor:
    """Position embeddings (1, N, C) of a square grid as (1, H, W, C)."""
    side = math.isqrt(positions.shape[1])
    if side**2 != positions.shape[1]:
        raise UserError(f"{positions.shape[1]} position embeddings are not those of a square grid: check the file.")
    return positions.view(1, side, side, -1)


def _from_google(name: str, tensor: Tensor) -> Tensor:
    """A tensor of Google's layout (inputs before outputs, attention heads apart) in PyTorch's."""
    if name.endswith("pos_embedding"):
        return _square(tensor[:, 1:])
    if not name.endswith("kernel"):
        return tensor.flatten()
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    return (tensor.flatten(0, -2) if "/out/" in name else tensor.flatten(1)).t()
