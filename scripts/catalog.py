"""The single list of bundles: what differs between them, and nothing else. ``scripts.render`` makes the rest of it."""

from dataclasses import dataclass, field
from typing import Any

VERSIONS = {
    "monai": "1.6.1",
    "pytorch": "2.15.0",
    "numpy": "2.4.6",
    "packages": {"nibabel": "5.4.2", "pytorch-ignite": "0.5.5", "timm": "1.0.31"},
}
ORGANS = ["aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach"]


@dataclass(frozen=True)
class Paper:
    """Where an architecture comes from."""

    title: str
    authors: str
    venue: str
    url: str
    code: str


@dataclass(frozen=True)
class Recipe:
    """How to train: every field is a top-level id of the configs or becomes an object in them.

    Attributes:
        img_size: height and width that the network sees.
        epochs: passes over the training data.
        batch_size: slices or crops per step.
        learning_rate: initial learning rate.
        optimizer: class and arguments, without parameters and learning rate.
        augmentation: name of a function of ``scripts.data_configs`` that builds the random transforms.
        loss_weights: of cross-entropy and Dice.
        decay: of the learning rate per step, "polynomial" to zero or "constant".
        balanced: whether the cross-entropy weighs classes by their rarity.
        options: network options that are ids of their own.
        extra: other top-level ids.
    """

    img_size: int
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: dict[str, Any]
    augmentation: str
    loss_weights: tuple[float, float] = (0.4, 0.6)
    decay: str = "polynomial"
    balanced: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A recipe for one data set: an overlay config, merged after ``train.json``.

    Attributes:
        kind: "ct" (volumes, sliced axially) or "micrograph" (pictures, in random crops).
        recipe: the training.
        classes: names without background.
        source: whose recipe it is.
    """

    kind: str
    recipe: Recipe
    classes: list[str]
    source: str


@dataclass(frozen=True)
class Bundle:
    """One architecture.

    Attributes:
        name: folder below ``bundles``.
        network: class in ``networks``.
        title: as people write it.
        description: one sentence for metadata and tables.
        paper: its publication.
        options: what the ids of the network's own options mean, for the id table.
        default: what ``train.json`` trains on the phantom.
        presets: overlays by file name.
        changelog: version to text, newest first.
    """

    name: str
    network: str
    title: str
    description: str
    paper: Paper
    options: dict[str, str]
    default: Preset
    presets: dict[str, Preset]
    changelog: dict[str, str]

    @property
    def version(self) -> str:
        return next(iter(self.changelog))


ADAMW = {"_target_": "torch.optim.AdamW", "weight_decay": 0.01}
SGD = {"_target_": "torch.optim.SGD", "momentum": 0.9, "weight_decay": 0.0001}

SWIN_UNET = Bundle(
    name="swin_unet",
    network="SwinUnet",
    title="Swin-Unet",
    description="Swin-Unet: a U-shaped network of shifted-window transformer blocks for 2D segmentation.",
    paper=Paper(
        title="Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation",
        authors="Hu Cao, Yueyue Wang, Joy Chen, Dongsheng Jiang, Xiaopeng Zhang, Qi Tian, Manning Wang",
        venue="ECCV Workshops 2022",
        url="https://arxiv.org/abs/2105.05537",
        code="https://github.com/HuCaoFighting/Swin-Unet",
    ),
    options={
        "upsample": 'up-sampling: "expand" (patch expanding), "bilinear" or "transpose"',
        "num_skips": "skip connections, 0 to 3",
        "drop_path_rate": "stochastic depth rate of the last encoder block",
    },
    default=Preset(
        kind="ct",
        recipe=Recipe(
            img_size=112,
            epochs=10,
            batch_size=4,
            learning_rate=0.0005,
            optimizer=ADAMW,
            augmentation="mild_augmentation",
            options={"upsample": "expand", "num_skips": 3, "drop_path_rate": 0.0},
        ),
        classes=ORGANS,
        source="a short training of this project that fits the phantom",
    ),
    presets={
        "synapse": Preset(
            kind="ct",
            recipe=Recipe(
                img_size=224,
                epochs=150,
                batch_size=24,
                learning_rate=0.05,
                optimizer=SGD,
                augmentation="paper_augmentation",
                options={"drop_path_rate": 0.2},
                extra={"val_interval": 10},
            ),
            classes=ORGANS,
            source="the authors' code and README",
        ),
        "nasa_super": Preset(
            kind="micrograph",
            recipe=Recipe(
                img_size=224,
                epochs=100,
                batch_size=4,
                learning_rate=0.0005,
                optimizer=ADAMW,
                augmentation="micrograph_augmentation",
                options={"drop_path_rate": 0.1},
                extra={"val_interval": 10, "crops_per_image": 4},
            ),
            classes=["secondary precipitate", "tertiary precipitate"],
            source="a recipe of this project for few large micrographs",
        ),
    },
    changelog={"0.1.0": "first version"},
)

BUNDLES = [SWIN_UNET]
