"""Classification of whole pictures, whose encoder then starts a segmentation network.

The line of work of CS-UNet (https://arxiv.org/abs/2308.13917): a Swin Transformer, and the convolutional encoder beside
it, learn to classify micrographs before they learn to segment them. The Swin Transformer is that of Liu et al.,
https://arxiv.org/abs/2103.14030: the mean of its last tokens, then a linear layer.
"""

from collections.abc import Sequence
from typing import Any

import timm
from timm.layers import trunc_normal_
from torch import Tensor, nn

from networks.base import check_counts, image_sides, stem_image
from networks.errors import UserError, did_you_mean
from networks.layers.swin import SwinEncoder, init_weights, stage_drop_paths
from networks.swin_unet import check_swin

SWIN = "swin"
PATCH_SIZE = 4


class TokenMean(nn.Module):
    """Mean over the last tokens of a Swin encoder."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's features, last (B, H, W, C), to (B, C)."""
        return features[-1].mean((1, 2))


class Classifier(nn.Module):
    """An encoder with a linear layer over its pooled features, for images of any size.

    The Swin encoder is the very module of `SwinUnet`, `CSUnet` and the others, so it takes any size as they do: where a
    grid has odd sides, merging pads it by a row and a column, and a grid no longer than the window is one window. 112
    pixels give grids of 28, 14, 7 and 4 tokens, and all position-bias tables keep the size of a full window.

    `networks.pretrained.load` fills the encoder from Microsoft's and timm's checkpoints, and hands it on to the
    segmentation networks.

    Args:
        in_channels: channels of the image. A single channel is repeated to three, as the segmentation networks do, so
            that one and the same stem fits all; any other number gets a stem of that width.
        out_channels: classes.
        img_size: side, or (height, width), of the images for which attention masks are prepared in advance. Others
            work as well, a little slower; of timm's networks those that need a fixed size have this one.
        encoder_name: "swin", or the name of a timm model, such as "resnet50". CS-UNet calls that encoder "tu-resnet50".
        embed_dim: channels of the Swin encoder's first stage; each later stage doubles them. This and the following
            arguments are of the Swin encoder alone.
        depths: blocks per stage; (2, 2, 2, 2) is the intermediate network of CS-UNet's paper.
        num_heads: attention heads per stage.
        window_size: window side in tokens.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from zero.

    Raises:
        UserError: an argument is out of range, or timm has no such model.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        encoder_name: str = SWIN,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.2,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels)
        self.in_channels = in_channels
        self.stem_channels = 3 if in_channels == 1 else in_channels
        self.encoder: nn.Module
        if encoder_name == SWIN:
            self.encoder = swin_encoder(
                self.stem_channels, img_size, embed_dim, depths, num_heads, window_size, drop_path_rate
            )
            self.pool: nn.Module = TokenMean()
            features = embed_dim * 2 ** (len(depths) - 1)
        else:
            self.encoder = timm_encoder(encoder_name, self.stem_channels, img_size)
            self.pool = nn.Identity()
            features = int(self.encoder.head_hidden_size)  # type: ignore[arg-type]
        self.encoders = {"encoder": "swin" if encoder_name == SWIN else "cnn"}
        self.head = nn.Linear(features, out_channels)
        init_weights(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to logits (B, out_channels)."""
        return self.head(self.pool(self.encoder(stem_image(x, self.in_channels, self.stem_channels))))

    def pretrained_targets(self, name: str) -> list[str]:
        """Where a tensor of a Swin checkpoint (in Microsoft's layout) goes."""
        return [f"encoder.{name}"]


def swin_encoder(
    in_channels: int,
    img_size: int | Sequence[int],
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    drop_path_rate: float,
) -> SwinEncoder:
    """The Swin encoder, initialised as its authors do; arguments and errors as of `Classifier`."""
    check_swin(embed_dim, depths, num_heads, window_size, {"drop_path_rate": drop_path_rate})
    height, width = image_sides(img_size)
    grid = (-(-height // PATCH_SIZE), -(-width // PATCH_SIZE))
    drop_paths = stage_drop_paths(drop_path_rate, depths)
    encoder = SwinEncoder(in_channels, grid, PATCH_SIZE, embed_dim, num_heads, window_size, drop_paths)
    return encoder.apply(init_weights)


def timm_encoder(name: str, in_channels: int, img_size: int | Sequence[int]) -> nn.Module:
    """A model of timm that gives its pooled features (B, channels), without weights.

    Raises:
        UserError: there is no such model, or it cannot be built with these channels or this size.
    """
    if not timm.is_model(name):
        known = timm.list_models()
        raise UserError(
            f"encoder_name={name!r} is neither {SWIN!r} nor a model of timm; "
            + did_you_mean(name, known, "see timm.list_models()")
        )
    arguments: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
    try:
        try:
            return timm.create_model(name, img_size=image_sides(img_size), **arguments)
        except TypeError:  # most convolutional networks have no such argument and take any size
            return timm.create_model(name, **arguments)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"encoder_name={name!r} cannot be used: {error}") from error


class MaskedImageModel(nn.Module):
    """SimMIM: a Swin encoder that sees a picture with masked patches, and a linear layer that paints what they hide.

    Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", https://arxiv.org/abs/2111.09886. Masked tokens
    are replaced by a learned one after the patch embedding. The head is a 1x1 convolution and a pixel shuffle over the
    encoder's last map; sides that are no multiples of that map's stride are painted in full and cropped.

    Args:
        in_channels: channels of the image. A single one is repeated to three for the encoder, as in `Classifier`.
        img_size, embed_dim, depths, num_heads, window_size, drop_path_rate: as in `Classifier`.

    Raises:
        UserError: an argument is out of range; or, from `forward`, the image has another number of channels.
    """

    encoders = {"encoder": "swin"}  # noqa: RUF012  as the other networks have it

    def __init__(
        self,
        in_channels: int = 3,
        img_size: int | Sequence[int] = 224,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels)
        self.in_channels = in_channels
        self.stem_channels = 3 if in_channels == 1 else in_channels
        self.encoder = swin_encoder(
            self.stem_channels, img_size, embed_dim, depths, num_heads, window_size, drop_path_rate
        )
        self.mask_token = nn.Parameter(self.encoder.norm.weight.new_zeros(embed_dim))
        trunc_normal_(self.mask_token, std=0.02)
        stride = PATCH_SIZE * 2 ** (len(depths) - 1)
        self.painter = nn.Sequential(
            nn.Conv2d(embed_dim * 2 ** (len(depths) - 1), in_channels * stride**2, 1), nn.PixelShuffle(stride)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Image (B, in_channels, H, W) and what of it is hidden to the painted image, of its shape.

        Args:
            x: the image.
            mask: (B, 1, H, W), 1 where hidden and 0 elsewhere, the same within every patch of 4 x 4 pixels; by default
                nothing is hidden.
        """
        height, width = x.shape[2], x.shape[3]
        tokens = self.encoder.patch_embed(stem_image(x, self.in_channels, self.stem_channels))
        if mask is not None:
            hidden = mask[:, 0, ::PATCH_SIZE, ::PATCH_SIZE, None].to(tokens.dtype)
            tokens = tokens * (1 - hidden) + self.mask_token.to(tokens.dtype) * hidden
        deepest = self.encoder.stages(tokens)[-1]
        return self.painter(deepest.permute(0, 3, 1, 2))[:, :, :height, :width]

    def pretrained_targets(self, name: str) -> list[str]:
        """Where a tensor of a Swin checkpoint (in Microsoft's layout) goes."""
        return [f"encoder.{name}"]
