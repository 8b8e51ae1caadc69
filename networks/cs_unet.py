"""CS-UNet: a Swin Transformer and a convolutional encoder side by side, and a Swin decoder that joins them.

Paper: Alrfou, Zhao, Kordijazi, "CS-UNet: A Generalizable and Flexible Segmentation Algorithm",
https://arxiv.org/abs/2308.13917. Authors' code: https://github.com/Kalrfou/SwinT-pretrained-microscopy-models (no
licence stated when this was written). Written from the paper and from measured outputs of the authors' code, not from
the code itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from networks.base import SegmentationNetwork, image_sides
from networks.errors import UserError
from networks.layers.cnn import cnn_encoder, pad_image, to_tokens
from networks.layers.eager import channels_last
from networks.layers.expand import ExpandHead, PatchExpand
from networks.layers.mlp import ResMlp
from networks.layers.swin import SwinEncoder, SwinStage, init_weights, scaled_grid, stage_drop_paths
from networks.layers.window_attention import centre_tables
from networks.state_dicts import rename
from networks.swin_unet import SWIN_NAMES, JoiningStage, check_swin, mirrored_targets

PATCH_SIZE = 4  # the stride of the finest convolutional feature


class FusionStage(JoiningStage):
    """Enlarge a token map, join the skips of both encoders by a linear layer, run Swin blocks.

    Args:
        upsample: doubles the map.
        reduce: linear layer over [tokens, Swin encoder's skip, convolutional encoder's skip].
        blocks: the blocks.
    """

    def forward(self, x: Tensor, skip: Tensor, cnn_skip: Tensor) -> Tensor:
        """Tokens (B, H', W', any), and of the encoders (B, H, W, C) and (B, H, W, C')."""
        x = self.upsample(x)[:, : skip.shape[1], : skip.shape[2]]
        return self.blocks(self.join([x, skip, cnn_skip]))


class FusionDecoder(nn.Module):
    """Stages from the deepest but one encoder resolution to the finest, then norm and head.

    Args:
        out_channels: classes.
        embed_dim: channels of the finest stage.
        cnn_dims: channels of the convolutional features, finest first.
        grid: finest token map for which masks are prepared in advance.
        num_heads: attention heads per encoder stage.
        window_size: window side in tokens.
        drop_paths: per encoder stage one stochastic depth rate per block; the decoder mirrors them.
        **kwargs: further arguments of `SwinBlock`.
    """

    def __init__(
        self,
        out_channels: int,
        embed_dim: int,
        cnn_dims: Sequence[int],
        grid: tuple[int, int],
        num_heads: Sequence[int],
        window_size: int,
        drop_paths: Sequence[Sequence[float]],
        **kwargs,
    ) -> None:
        super().__init__()
        stages = []
        above = cnn_dims[-1]  # the deepest convolutional feature joins in the first expansion
        for i in reversed(range(len(num_heads) - 1)):
            dim = embed_dim * 2**i
            blocks = SwinStage(dim, num_heads[i], window_size, scaled_grid(grid, i), drop_paths[i], **kwargs)
            reduce = nn.Linear(2 * dim + cnn_dims[i], dim)
            stages.append(FusionStage(PatchExpand(2 * dim + above, dim), reduce, blocks))
            above = 0
        self.layers = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dim)
        self.head = ExpandHead(embed_dim, out_channels, PATCH_SIZE)

    def forward(self, features: list[Tensor], cnn_features: list[Tensor]) -> Tensor:
        """Both encoders' features to logits (B, out_channels, 4 * H, 4 * W).

        Args:
            features: input of every Swin stage, finest first, and last the normalised deepest tokens.
            cnn_features: a feature on the grid of every Swin stage.
        """
        level = len(cnn_features) - 1
        x = torch.cat([features[-1], cnn_features[level]], -1)
        for layer in self.layers:
            level -= 1
            x = layer(x, features[level], cnn_features[level])
        return self.head(self.norm(x))


# The authors' names (regular expressions, without their prefix) and what they become, None where their network never
# uses the tensor. The patch embedding of the network and of its encoder is one and the same; the decoder's is another,
# and unused. Their EfficientNets keep the last convolution of the classifier. For the rest see `swin_unet`.
NAMES = (
    (r"cnn\.cnn_encoder\.(?:_conv_head|_bn1|conv_head)\..+", None),
    (r"cnn\.cnn_encoder\.(.+)", "cnn_encoder.{}".format),
    (r"decoder\.(?:patch_embed|norm)\..+", None),
    (r"(?:encoder\.)?(patch_embed\..+)", "encoder.{}".format),
    (r"encoder\.((?:layers|norm)\..+)", "encoder.{}".format),
    *((rf"decoder\.{pattern}", target) for pattern, target in SWIN_NAMES[1:]),
)
AUTHORS_NAMES = tuple((rf"CSUnet\.{pattern}", target) for pattern, target in NAMES)


class CSUnet(SegmentationNetwork):
    """CS-UNet for images of any size.

    The defaults are the authors' original network with two classes; `depths=(2, 2, 2, 2)` is their intermediate one.
    Both encoders see the image, and the decoder joins their features at every resolution by linear layers. All Swin
    blocks have a residual MLP. As in the authors' code, the Swin encoder's skip is the *input* of a stage, and the
    decoder mirrors the encoder's depths.

    For the Swin encoder, images are padded as in `SwinUnet`, for the convolutional one to whole multiples of 32 pixels,
    and all of it is cropped again. Where the authors' code accepts a size, the output equals theirs, with the exception
    of `SwinUnet`.

    Both encoders can start from weights of their own: `networks.pretrained.load` takes a Swin checkpoint (into encoder
    and decoder, as the paper has it; the authors' loader fills the patch embedding only) and, in a second call, one of
    the convolutional encoder, such as NASA's MicroNet files.

    Args:
        in_channels: channels of the image. A single channel is repeated to three, as the authors do, so that stems
            pretrained on colour images fit; any other number gets stems of that width.
        out_channels: classes.
        img_size: side, or (height, width), of the images for which attention masks are prepared in advance. Others
            work as well, a little slower.
        encoder_name: the convolutional encoder, by its name in segmentation-models-pytorch; "tu-..." for timm's.
        encoder_weights: name of weights that segmentation-models-pytorch downloads for it, such as "imagenet"; None
            for none.
        embed_dim: channels of the first stage; each later stage doubles them.
        depths: blocks per encoder stage, of which there are four.
        num_heads: attention heads per encoder stage.
        window_size: window side in tokens; a grid no longer than it is one unshifted window. The authors take 7 for
            224 and 8 for 512 pixels.
        mlp_ratio: hidden channels of the MLPs relative to the stage's channels.
        qkv_bias: whether queries, keys and values have a bias.
        drop_rate: dropout rate of embeddings, projections and MLPs.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth rate of the last Swin encoder block, rising linearly from zero.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    paper = "https://arxiv.org/abs/2308.13917"
    variants: ClassVar[dict] = {
        "resnet50": {"encoder_name": "resnet50"},
        "efficientnet-b4": {"encoder_name": "efficientnet-b4"},
        "vgg16_bn_2222": {"encoder_name": "vgg16_bn", "depths": (2, 2, 2, 2)},
    }
    repeats_grey = True
    encoders: ClassVar[dict] = {"encoder": "swin", "cnn_encoder": "cnn"}
    authors_names = AUTHORS_NAMES
    small: ClassVar[dict] = {
        "encoder_name": "resnet18",
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
        encoder_name: str = "resnet50",
        encoder_weights: str | None = None,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
    ) -> None:
        super().__init__(in_channels, out_channels)
        rates = {"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate, "drop_path_rate": drop_path_rate}
        check_swin(embed_dim, depths, num_heads, window_size, rates, mlp_ratio)
        if len(depths) != 4:
            raise UserError(
                f"depths={tuple(depths)} has {len(depths)} stages: give 4, one for each convolutional feature."
            )
        height, width = image_sides(img_size)

        grid = (-(-height // PATCH_SIZE), -(-width // PATCH_SIZE))
        drop_paths = stage_drop_paths(drop_path_rate, depths)
        block = {"mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias, "attn_drop": attn_drop_rate, "mlp": ResMlp}
        self.cnn_encoder = cnn_encoder(encoder_name, self.stem_channels, encoder_weights)
        self.encoder = SwinEncoder(
            self.stem_channels, grid, PATCH_SIZE, embed_dim, num_heads, window_size, drop_paths, drop_rate, **block
        )
        cnn_dims: Any = self.cnn_encoder.out_channels  # smp's encoders have no types
        self.decoder = FusionDecoder(
            out_channels,
            embed_dim,
            cnn_dims[-4:],
            grid,
            num_heads,
            window_size,
            drop_paths,
            drop=drop_rate,
            **block,
        )
        self.encoder.apply(init_weights)
        self.decoder.apply(init_weights)

    def logits(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        # The convolutions follow the memory format of their input.
        x = channels_last(pad_image(x, 32))
        cnn_features: list[Tensor] = []
        stride = 4
        for level, feature in enumerate(self.cnn_encoder(x)[-4:]):
            cnn_features.append(to_tokens(feature, x.shape[2] // stride, x.shape[3] // stride, features[level]))
            stride *= 2
        return self.decoder(features, cnn_features)

    def pretrained_targets(self, name: str) -> list[str]:
        """As in `SwinUnet`."""
        return mirrored_targets(name, len(self.encoder.layers))

    @staticmethod
    def convert_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict under this module's names, complete for a strict `load_state_dict`.

        Left out are `relative_position_index` and `attn_mask`, which follow from the sizes, and what the authors'
        network holds but never uses. Names of the convolutional encoder stay as they are, so those
        of smp 0.2.1's "timm-" families that smp 0.6 takes from timm (RegNet, Res2Net, ...) do not fit.

        Raises:
            UserError: a tensor has a name that the authors' network does not have.
        """
        names = AUTHORS_NAMES
        if any(name.endswith("cnn_encoder.conv_head.weight") for name in state_dict):
            # timm's EfficientNets, whose norm after it has a name that is in use elsewhere.
            names = ((r"CSUnet\.cnn\.cnn_encoder\.bn2\..+", None), *names)
        return centre_tables(rename(state_dict, names, "the authors' CS-UNet"))
