"""The single list of bundles: what differs between them, and nothing else. ``scripts.render`` makes the rest of it."""

from dataclasses import dataclass, field, replace

from networks.class_names import PRECIPITATES
from scripts.catalog.augmentation import flips_and_rotations, micrograph_augmentation
from scripts.catalog.recipes import (
    ADAM,
    ADAMW,
    Preset,
    Recipe,
    acdc,
    ct_phantom,
    nasa,
    robust,
    synapse,
    transunet_line,
)

VERSIONS = {
    "monai": "1.6.1",
    "pytorch": "2.15.0",
    "numpy": "2.4.6",
    "torchvision": "0.29.1",
    "packages": {
        "matplotlib": "3.11.2",
        "nibabel": "5.4.2",
        "pytorch-ignite": "0.5.5",
        "timm": "1.0.31",
        "segmentation-models-pytorch": "0.6.0",
        "tensorboard": "2.21.0",
    },
    "apps": {"monai-label": "0.8.5"},
    "apps for volumes": {"monai-deploy-app-sdk": "4.0.0"},
}


@dataclass(frozen=True)
class Paper:
    """Where an architecture comes from.

    Attributes:
        title: of the paper.
        authors: all of them.
        venue: and year.
        url: of the paper.
        code: of the authors, or of the library that the network is built with.
        library: whether ``code`` is that library.
    """

    title: str
    authors: str
    venue: str
    url: str
    code: str
    library: bool = False


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
        not_scriptable: why TorchScript cannot script the network; empty where it can.
        batch_norm: whether the network has batch normalisation, whose statistics several GPUs share.
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
    not_scriptable: str = ""
    batch_norm: bool = True
    changelog: dict[str, str] = field(default_factory=lambda: {"0.1.0": "first version"})

    @property
    def version(self) -> str:
        return next(iter(self.changelog))


SMP = "https://github.com/qubvel-org/segmentation_models.pytorch"
DROP_PATH = "stochastic depth rate of the last encoder block"
ENCODER = 'convolutional encoder: one of smp\'s, or "tu-" and the name of a timm model'

SWIN_UNET_SYNAPSE = transunet_line(150, 24, 0.05, (0.4, 0.6), {"drop_path_rate": 0.2})
LEVIT_UNET_SYNAPSE = Recipe(
    img_size=224,
    epochs=350,
    batch_size=8,
    learning_rate=0.00001,
    optimizer=ADAM | {"weight_decay": 0.0001},
    augmentation=flips_and_rotations,
    loss_weights=(0.5, 0.5),
    decay="constant",
    options={"variant": "384", "drop_path_rate": 0.1},
    extra={"val_interval": 10},
)
LEVIT_UNET_SOURCE = "the paper; what it leaves open (loss weights, constant rate) as in TransUNet or simplest"
BASELINE_SOURCE = "TransUNet's recipe, which its paper also used for what it compared with"
RESNET50 = {"encoder_name": "resnet50"}
BASELINE_SYNAPSE = transunet_line(150, 24, 0.01, (0.5, 0.5), RESNET50)

_PUBLISHED = [
    Bundle(
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
        batch_norm=False,
        options={
            "upsample": 'up-sampling: "expand" (patch expanding), "bilinear" or "transpose"',
            "num_skips": "skip connections, 0 to 3",
            "drop_path_rate": DROP_PATH,
        },
        default=ct_phantom(10, options={"upsample": "expand", "num_skips": 3, "drop_path_rate": 0.0}),
        presets={
            **synapse(SWIN_UNET_SYNAPSE),
            **acdc(SWIN_UNET_SYNAPSE),
            **nasa({"drop_path_rate": 0.2}),
        },
    ),
    Bundle(
        name="levit_unet",
        network="LevitUnet",
        title="LeViT-UNet",
        description="LeViT-UNet: a fast LeViT transformer encoder with a convolutional decoder for 2D segmentation.",
        paper=Paper(
            title="LeViT-UNet: Make Faster Encoders with Transformer for Medical Image Segmentation",
            authors="Guoping Xu, Xingrong Wu, Xuan Zhang, Xinwei He",
            venue="arXiv 2021",
            url="https://arxiv.org/abs/2107.08623",
            code="https://github.com/apple1986/LeViT-UNet",
        ),
        options={"variant": 'size of the encoder: "128s", "192" or "384"', "drop_path_rate": DROP_PATH},
        default=ct_phantom(6, options={"variant": "128s", "drop_path_rate": 0.0}),
        presets={
            **synapse(LEVIT_UNET_SYNAPSE, LEVIT_UNET_SOURCE),
            **acdc(replace(LEVIT_UNET_SYNAPSE, epochs=400), LEVIT_UNET_SOURCE),
        },
    ),
    Bundle(
        name="cs_unet",
        network="CSUnet",
        title="CS-UNet",
        description="CS-UNet: a Swin Transformer and a convolutional encoder side by side, and a Swin decoder, "
        "for 2D segmentation of micrographs.",
        paper=Paper(
            title="CS-UNet: A Generalizable and Flexible Segmentation Algorithm",
            authors="Khaled Alrfou, Tian Zhao, Amir Kordijazi",
            venue="arXiv 2023",
            url="https://arxiv.org/abs/2308.13917",
            code="https://github.com/Kalrfou/SwinT-pretrained-microscopy-models",
        ),
        options={
            "encoder_name": ENCODER,
            "depths": "Swin blocks per stage: [2, 2, 6, 2] (original) or [2, 2, 2, 2] (intermediate)",
            "window_size": "side of the attention windows in tokens of 4 x 4 pixels",
            "drop_path_rate": DROP_PATH,
        },
        default=Preset(
            kind="micrograph",
            recipe=Recipe(
                img_size=128,
                epochs=10,
                batch_size=4,
                learning_rate=0.0005,
                optimizer=ADAMW,
                augmentation=micrograph_augmentation,
                loss_weights=(0.7, 0.3),
                balanced=True,
                options={
                    "encoder_name": "resnet50",
                    "depths": [2, 2, 2, 2],
                    "window_size": 8,
                    "drop_path_rate": 0.0,
                },
                extra={"crops_per_image": 8},
            ),
            classes=PRECIPITATES,
            source="a short training of this project that fits the phantom",
        ),
        presets=nasa({"depths": [2, 2, 6, 2], "drop_path_rate": 0.2}),
    ),
    Bundle(
        name="hiformer",
        network="HiFormer",
        title="HiFormer",
        description="HiFormer: a convolutional network and a Swin Transformer in one encoder, fused on two levels, "
        "for 2D segmentation.",
        paper=Paper(
            title="HiFormer: Hierarchical Multi-scale Representations Using Transformers for Medical Image "
            "Segmentation",
            authors="Moein Heidari, Amirhossein Kazerouni, Milad Soltany, Reza Azad, Ehsan Khodapanah Aghdam, "
            "Julien Cohen-Adad, Dorit Merhof",
            venue="WACV 2023",
            url="https://arxiv.org/abs/2207.08518",
            code="https://github.com/amirhossein-kz/HiFormer",
        ),
        options={
            "variant": 'size: "S", "B" or "L"',
            "fusion": '"authors": the function that their code computes; "paper": the fusion that the paper describes',
            "drop_path_rate": DROP_PATH,
        },
        default=ct_phantom(8, options={"variant": "S", "fusion": "authors", "drop_path_rate": 0.0}),
        presets={
            **synapse(transunet_line(401, 10, 0.01, (0.4, 0.6), {"variant": "B", "drop_path_rate": 0.1})),
            **nasa({"variant": "B", "drop_path_rate": 0.1}),
        },
    ),
    Bundle(
        name="transdeeplab",
        network="TransDeepLab",
        title="TransDeepLab",
        description="TransDeepLab: DeepLabV3+ made of Swin Transformer blocks, convolution-free, for 2D segmentation.",
        paper=Paper(
            title="TransDeepLab: Convolution-Free Transformer-based DeepLab v3+ for Medical Image Segmentation",
            authors="Reza Azad, Moein Heidari, Moein Shariatnia, Ehsan Khodapanah Aghdam, Sanaz Karimijafarbigloo, "
            "Ehsan Adeli, Dorit Merhof",
            venue="PRIME, MICCAI Workshops 2022",
            url="https://arxiv.org/abs/2208.00713",
            code="https://github.com/rezazad68/transdeeplab",
        ),
        batch_norm=False,
        options={
            "levels": "parallel window sizes of the spatial pyramid pooling, 1 to 4",
            "drop_path_rate": DROP_PATH,
        },
        default=ct_phantom(4, options={"levels": 2, "drop_path_rate": 0.0}),
        presets={
            **synapse(transunet_line(200, 24, 0.05, (0.4, 0.6), {"levels": 2, "drop_path_rate": 0.1})),
            **nasa({"levels": 2, "drop_path_rate": 0.1}),
        },
    ),
    Bundle(
        name="transunet",
        network="TransUnet",
        title="TransUNet",
        description="TransUNet: a ResNet and a Vision Transformer in a row with a convolutional decoder, "
        "for 2D segmentation.",
        paper=Paper(
            title="TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation",
            authors="Jieneng Chen, Yongyi Lu, Qihang Yu, Xiangde Luo, Ehsan Adeli, Yan Wang, Le Lu, Alan L. Yuille, "
            "Yuyin Zhou",
            venue="arXiv 2021",
            url="https://arxiv.org/abs/2102.04306",
            code="https://github.com/Beckschen/TransUNet",
        ),
        options={
            "depth": "transformer layers",
            "drop_rate": "dropout rate of position embeddings and transformer layers",
        },
        default=ct_phantom(4, 80, 0.0002, {"depth": 12, "drop_rate": 0.0}),
        presets={
            **synapse(transunet_line(150, 24, 0.01, (0.5, 0.5), {"drop_rate": 0.1})),
            **acdc(transunet_line(150, 24, 0.01, (0.5, 0.5), {"drop_rate": 0.1})),
        },
    ),
    Bundle(
        name="unet",
        network="Unet",
        title="U-Net",
        description="U-Net on an encoder of choice, for 2D segmentation.",
        paper=Paper(
            title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
            authors="Olaf Ronneberger, Philipp Fischer, Thomas Brox",
            venue="MICCAI 2015",
            url="https://arxiv.org/abs/1505.04597",
            code=SMP,
            library=True,
        ),
        options={"encoder_name": ENCODER},
        default=ct_phantom(6, options={"encoder_name": "resnet18"}),
        presets={
            **synapse(BASELINE_SYNAPSE, BASELINE_SOURCE),
            **acdc(BASELINE_SYNAPSE, BASELINE_SOURCE),
            **nasa(RESNET50),
        },
    ),
    Bundle(
        name="unet_plusplus",
        network="UnetPlusPlus",
        title="U-Net++",
        description="U-Net++: a U-Net with nested skip connections on an encoder of choice, for 2D segmentation.",
        paper=Paper(
            title="UNet++: A Nested U-Net Architecture for Medical Image Segmentation",
            authors="Zongwei Zhou, Md Mahfuzur Rahman Siddiquee, Nima Tajbakhsh, Jianming Liang",
            venue="DLMIA, MICCAI Workshops 2018",
            url="https://arxiv.org/abs/1807.10165",
            code=SMP,
            library=True,
        ),
        options={"encoder_name": ENCODER},
        default=ct_phantom(4, options={"encoder_name": "resnet18"}),
        not_scriptable="smp's decoder looks its blocks up by computed names; tracing works",
        presets={**synapse(BASELINE_SYNAPSE, BASELINE_SOURCE), **nasa(RESNET50)},
    ),
    Bundle(
        name="deeplabv3_plus",
        network="DeepLabV3Plus",
        title="DeepLabV3+",
        description="DeepLabV3+: atrous spatial pyramid pooling with a light decoder on an encoder of choice, "
        "for 2D segmentation.",
        paper=Paper(
            title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
            authors="Liang-Chieh Chen, Yukun Zhu, George Papandreou, Florian Schroff, Hartwig Adam",
            venue="ECCV 2018",
            url="https://arxiv.org/abs/1802.02611",
            code=SMP,
            library=True,
        ),
        options={"encoder_name": ENCODER},
        default=ct_phantom(6, options={"encoder_name": "resnet18"}),
        presets={**synapse(BASELINE_SYNAPSE, BASELINE_SOURCE), **nasa(RESNET50)},
    ),
    Bundle(
        name="attention_unet",
        network="AttentionUnet",
        title="Attention U-Net",
        description="Attention U-Net: a U-Net whose skip connections pass attention gates, for 2D segmentation.",
        paper=Paper(
            title="Attention U-Net: Learning Where to Look for the Pancreas",
            authors="Ozan Oktay, Jo Schlemper, Loic Le Folgoc, Matthew Lee, Mattias Heinrich, Kazunari Misawa, "
            "Kensaku Mori, Steven McDonagh, Nils Y Hammerla, Bernhard Kainz, Ben Glocker, Daniel Rueckert",
            venue="MIDL 2018",
            url="https://arxiv.org/abs/1804.03999",
            code="https://github.com/Project-MONAI/MONAI",
            library=True,
        ),
        options={
            "channels": "channels of the five resolutions, finest first; each has half the sides of the one before",
            "dropout": "dropout rate after the normalisations",
        },
        default=ct_phantom(4, options={"channels": [16, 32, 64, 128, 256], "dropout": 0.0}),
        presets=synapse(
            transunet_line(150, 24, 0.01, (0.5, 0.5), {"channels": [64, 128, 256, 512, 1024]}), BASELINE_SOURCE
        ),
    ),
]

# our own recipe trains the network with the options that its paper's has
BUNDLES = [
    replace(bundle, presets={**bundle.presets, **robust(next(iter(bundle.presets.values())).recipe.options)})
    for bundle in _PUBLISHED
]
BY_NAME = {bundle.name: bundle for bundle in BUNDLES}
