"""How networks are trained: recipes, and presets, which are recipes for a data set, with those that several share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from networks.class_names import COATING, HEART, ORGANS, PRECIPITATES
from scripts.catalog.augmentation import (
    Config,
    horizontal_flips,
    micrograph_augmentation,
    mild_augmentation,
    paper_augmentation,
    robust_augmentation,
)

# fused: on processors PyTorch's default goes over the weights operator by operator
ADAM = {"_target_": "torch.optim.Adam", "fused": True}
ADAMW = {"_target_": "torch.optim.AdamW", "weight_decay": 0.01, "fused": True}
SGD = {"_target_": "torch.optim.SGD", "momentum": 0.9, "weight_decay": 0.0001, "fused": True}


@dataclass(frozen=True)
class Recipe:
    """How to train: every field is a top-level id of the configs or becomes an object in them.

    Attributes:
        img_size: height and width that the network sees.
        epochs: passes over the training data.
        batch_size: slices or crops per step.
        learning_rate: initial learning rate.
        optimizer: class and arguments, without parameters and learning rate.
        augmentation: builds the random transforms.
        loss_weights: of cross-entropy and Dice.
        decay: of the learning rate per step, "polynomial" to zero, "constant", or "cosine" to zero after a warm-up.
        balanced: whether the cross-entropy weighs classes by their rarity.
        robust: whether it has what ids of its own switch off: clipped gradients, an average of the weights, images
            that are normalised one by one, balanced sampling and loss.
        options: network options that are ids of their own.
        extra: other top-level ids.
    """

    img_size: int
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: dict[str, Any]
    augmentation: Callable[[], list[Config]]
    loss_weights: tuple[float, float] = (0.4, 0.6)
    decay: str = "polynomial"
    balanced: bool = False
    robust: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A recipe for one data set: an overlay config, merged after ``train.json``.

    Attributes:
        kind: "ct", "mr" or, for any data set, "volume" (sliced axially); "micrograph" or "picture" (in random crops).
        recipe: the training.
        classes: names without background; none for those of the data set that is trained on.
        source: whose recipe it is.
    """

    kind: str
    recipe: Recipe
    classes: tuple[str, ...]
    source: str

    @property
    def volumes(self) -> bool:
        """Whether images are volumes."""
        return self.kind not in ("micrograph", "picture")


def ct_phantom(
    epochs: int, img_size: int = 112, learning_rate: float = 0.0005, options: dict[str, Any] | None = None
) -> Preset:
    """A short training of this project on the CT phantom."""
    recipe = Recipe(
        img_size=img_size,
        epochs=epochs,
        batch_size=4,
        learning_rate=learning_rate,
        optimizer=ADAMW,
        augmentation=mild_augmentation,
        options=options or {},
    )
    return Preset("ct", recipe, ORGANS, "a short training of this project that fits the phantom")


def synapse(recipe: Recipe, source: str = "the authors' code and README") -> dict[str, Preset]:
    """A recipe for Synapse."""
    return {"synapse": Preset("ct", recipe, ORGANS, source)}


def acdc(recipe: Recipe, source: str = "the same network's recipe for Synapse") -> dict[str, Preset]:
    """A recipe for ACDC."""
    return {"acdc": Preset("mr", recipe, HEART, source)}


def transunet_line(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    loss_weights: tuple[float, float],
    options: dict[str, Any] | None = None,
) -> Recipe:
    """What TransUNet and the papers after it share: 224 pixels, SGD with polynomial decay, quarter turns and flips."""
    return Recipe(
        img_size=224,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer=SGD,
        augmentation=paper_augmentation,
        loss_weights=loss_weights,
        options=options or {},
        extra={"val_interval": 10},
    )


def nasa(options: dict[str, Any] | None = None) -> dict[str, Preset]:
    """The recipe of NASA's benchmark, on which CS-UNet and its rivals were compared, for its two kinds of micrographs.

    Adam at 2e-4 until validation has not improved for 30 epochs, then at 1e-5 until it has not for another 30.
    """

    def recipe(augmentation: Callable[[], list[Config]]) -> Recipe:
        return Recipe(
            img_size=512,
            epochs=1000,
            batch_size=20,
            learning_rate=0.0002,
            optimizer=ADAM,
            augmentation=augmentation,
            loss_weights=(0.7, 0.3),
            decay="constant",
            balanced=True,
            options=options or {},
            extra={"crops_per_image": 1, "patience": 30, "second_learning_rate": 0.00001},
        )

    source = "CS-UNet's paper and the benchmark of Stuckner et al., npj Comput. Mater. 8, 200 (2022)"
    return {
        "nasa_super": Preset("micrograph", recipe(micrograph_augmentation), PRECIPITATES, source),
        "nasa_ebc": Preset("micrograph", recipe(horizontal_flips), COATING, source),
    }


def robust(options: dict[str, Any]) -> dict[str, Preset]:
    """This project's own recipe for any volumes and any pictures: the same for all networks but for their options."""

    def recipe(**ids: Any) -> Recipe:
        parts = {
            "balanced_sampling": True,
            "spatial_augmentation": True,
            "flips": "all",
            "intensity_augmentation": True,
            "balanced_loss": False,
            "warm_up": 0.05,
            "max_grad_norm": 1.0,
            "ema_momentum": 0.001,
        }
        return Recipe(
            img_size=224,
            epochs=100,
            batch_size=16,
            learning_rate=0.0005,
            optimizer=ADAMW,
            augmentation=robust_augmentation,
            loss_weights=(0.5, 0.5),
            decay="cosine",
            robust=True,
            options=options,
            extra={**parts, **ids},
        )

    source = "no paper: this project's own for any data set (`docs/training.md` of the repository)"
    return {
        # anatomy keeps its sides
        "robust_volumes": Preset("volume", recipe(slices_per_epoch=2000, flips="none"), (), source),
        "robust_pictures": Preset("picture", recipe(crops_per_image=8), (), source),
    }
