"""The bundles that classify whole pictures, to pretrain the encoders of those that segment."""

from dataclasses import dataclass, field
from typing import Any

from networks.errors import UserError
from networks.texture_phantom import TEXTURES
from scripts.catalog.bundles import BY_NAME, DROP_PATH, Bundle, Paper


@dataclass(frozen=True)
class PictureRecipe:
    """How to train on whole pictures: every field but the source is an id of the configs.

    Attributes:
        img_size: height and width that the network sees.
        short_side: pixels that the shorter side of a picture is brought to.
        epochs: passes over the training data.
        batch_size: pictures per step.
        learning_rate: after the warm-up.
        weight_decay: of AdamW.
        source: whose recipe it is.
        options: network options that are ids of their own.
        extra: other top-level ids.
    """

    img_size: int
    short_side: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassificationBundle:
    """A network that tells classes of pictures apart.

    Attributes:
        name: folder below ``bundles``.
        title: as people write it.
        description: one sentence for metadata and tables.
        paper: its publication.
        options: what the ids of the network's own options mean, for the id table.
        classes: of the phantom that ``train.json`` trains on.
        default: what it trains.
        presets: overlays by file name.
        masked: what ``simmim.json`` trains without labels on the phantom.
        masked_presets: overlays of that by file name.
        changelog: version to text, newest first.
    """

    name: str
    title: str
    description: str
    paper: Paper
    options: dict[str, str]
    classes: tuple[str, ...]
    default: PictureRecipe
    presets: dict[str, PictureRecipe]
    masked: PictureRecipe
    masked_presets: dict[str, PictureRecipe]
    changelog: dict[str, str] = field(default_factory=lambda: {"0.1.0": "first version"})

    @property
    def version(self) -> str:
        return next(iter(self.changelog))


ORIGINAL = {"encoder_name": "swin", "depths": [2, 2, 6, 2], "window_size": 7, "drop_path_rate": 0.2}
SMALL = ORIGINAL | {"depths": [2, 2, 2, 2], "drop_path_rate": 0.0}
PAPERS = "CS-UNet's paper (30 epochs, batch, decay, warm-up, early stopping); the rate is this project's"
SIMMIM = "SimMIM's paper (masks, loss, decay); rate, length and crops are this project's"

_CLASSES = {"warm_up": 0.1667, "label_smoothing": 0.1, "patience": 5}
_MASKS = {"warm_up": 0.1, "crop_scale": [0.67, 1.0], "mask_size": 32, "mask_ratio": 0.6, "max_grad_norm": 5.0}

CLASSIFIERS = [
    ClassificationBundle(
        name="swin_classification",
        title="Swin classification",
        description="A Swin Transformer, or any encoder of timm, that classifies whole pictures or learns from them "
        "without labels, to start the encoders of the segmentation networks.",
        paper=Paper(
            title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
            authors="Ze Liu, Yutong Lin, Yue Cao, Han Hu, Yixuan Wei, Zheng Zhang, Stephen Lin, Baining Guo",
            venue="ICCV 2021",
            url="https://arxiv.org/abs/2103.14030",
            code="https://github.com/microsoft/Swin-Transformer",
        ),
        options={
            "encoder_name": '"swin", or the name of a timm model: "resnet50" here is "tu-resnet50" in CS-UNet',
            "depths": "Swin blocks per stage: [2, 2, 6, 2] (original) or [2, 2, 2, 2] (intermediate)",
            "window_size": "side of the attention windows in tokens of 4 x 4 pixels",
            "drop_path_rate": DROP_PATH + " of Swin",
        },
        classes=tuple(TEXTURES),
        default=PictureRecipe(
            img_size=64,
            short_side=64,
            epochs=10,
            batch_size=16,
            learning_rate=0.0002,
            weight_decay=0.05,
            source="a short training of this project that fits the phantom",
            options=SMALL,
            extra=_CLASSES | {"patience": 0},
        ),
        presets={
            "from_scratch": PictureRecipe(224, 224, 30, 128, 0.0005, 0.05, PAPERS, ORIGINAL, _CLASSES),
            "fine_tuned": PictureRecipe(224, 224, 30, 128, 0.00005, 0.00000001, PAPERS, ORIGINAL, _CLASSES),
        },
        masked=PictureRecipe(
            img_size=64,
            short_side=64,
            epochs=10,
            batch_size=16,
            learning_rate=0.0005,
            weight_decay=0.05,
            source="a short training of this project on the phantom",
            options={key: value for key, value in SMALL.items() if key != "encoder_name"},
            extra=_MASKS | {"mask_size": 16},
        ),
        masked_presets={
            "simmim": PictureRecipe(
                224,
                256,
                100,
                128,
                0.0002,
                0.05,
                SIMMIM,
                {key: value for key, value in ORIGINAL.items() if key != "encoder_name"} | {"drop_path_rate": 0.0},
                _MASKS,
            )
        },
    )
]


def segmentation_bundle(name: str) -> Bundle:
    """The catalog's entry of a bundle that segments.

    Raises:
        UserError: there is none of that name, or it classifies.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    if any(name == classifier.name for classifier in CLASSIFIERS):
        raise UserError(
            f"{name} classifies whole pictures and this tool is for bundles that segment; choose from "
            f"{', '.join(BY_NAME)}, or run its configs with 'python -m monai.bundle run'."
        )
    raise UserError(f"There is no bundle {name!r}; choose from {', '.join(BY_NAME)}.")


def any_bundle(name: str) -> Bundle | ClassificationBundle:
    """The catalog's entry of a bundle.

    Raises:
        UserError: there is none of that name.
    """
    classifiers = {classifier.name: classifier for classifier in CLASSIFIERS}
    return classifiers[name] if name in classifiers else segmentation_bundle(name)
