"""CS-UNet: every family of convolutional encoders, where it is tapped, and the weights of either encoder."""

import re

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from networks import CSUnet
from networks.layers.cnn import cnn_encoder
from networks.layers.mlp import ResMlp
from networks.pretrained import load

SMALL = {"img_size": 64, "embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4), "window_size": 4}
# One of every family, and the channels at strides 4 to 32.
FAMILIES = {
    "resnet18": (64, 128, 256, 512),
    "vgg11": (256, 512, 512, 512),
    "densenet121": (256, 512, 1024, 1024),
    "efficientnet-b0": (24, 40, 112, 320),
    "inceptionv4": (192, 384, 1024, 1536),
    "se_resnext50_32x4d": (256, 512, 1024, 2048),
    "mobilenet_v2": (24, 32, 96, 1280),
    "dpn68": (144, 320, 704, 832),
    "inceptionresnetv2": (192, 320, 1088, 1536),
    "timm-efficientnet-b0": (24, 40, 112, 320),
    "mit_b0": (32, 64, 160, 256),
    "tu-convnext_atto": (40, 80, 160, 320),
    "xception": (128, 256, 728, 2048),
}


def build(encoder_name: str = "resnet18", **kwargs) -> CSUnet:
    torch.manual_seed(0)
    return CSUnet(encoder_name=encoder_name, **(SMALL | kwargs)).eval()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*timm-:DeprecationWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_encoder_families(name):
    network = build(name, depths=(1, 1, 1, 1))
    features = network.cnn_encoder(torch.rand(1, 3, 64, 64))[-4:]
    assert [(f.shape[1], f.shape[2]) for f in features] == list(zip(FAMILIES[name], (16, 8, 4, 2), strict=True))
    for height, width in ((64, 64), (37, 70)):
        logits = network(torch.rand(1, 3, height, width))
        assert logits.shape == (1, 2, height, width) and logits.isfinite().all()


@torch.no_grad()
def test_features_of_other_grids_are_interpolated():
    class Unpadded(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            sides = [x.shape[2] // stride - 1 for stride in (4, 8, 16)]
            return [x.mean() * x.new_ones(1, c, s, s) for c, s in zip((64, 128, 256), sides, strict=True)] + [
                x.mean() * x.new_ones(1, 512, 2, 2)
            ]

    network = build()
    network.cnn_encoder = Unpadded()
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_taps_are_those_of_the_authors():
    dense = cnn_encoder("densenet121").eval()
    taps = {}
    for key in ("transition1.relu", "transition2.relu", "transition3.relu", "norm5"):
        dense.features.get_submodule(key).register_forward_hook(lambda _, __, out, key=key: taps.update({key: out}))
    features = dense(torch.rand(1, 3, 64, 64))[-4:]
    assert all(torch.equal(feature, tap) for feature, tap in zip(features, taps.values(), strict=True))
    assert features[-1].min() < 0  # without activation

    inception = cnn_encoder("inceptionv4").eval()
    taps = {}
    for i in (4, 8, 14, 21):
        inception.features[i].register_forward_hook(lambda _, __, out, i=i: taps.update({i: out}))
    features = inception(torch.rand(1, 3, 64, 64))[-4:]
    assert all(torch.equal(feature, tap) for feature, tap in zip(features, taps.values(), strict=True))
    assert {m.padding for m in inception.modules() if isinstance(m, nn.MaxPool2d)} == {(1, 1)}
    assert not any(m.count_include_pad for m in inception.modules() if isinstance(m, nn.AvgPool2d))


def test_efficientnet_pads_as_for_an_even_size_in_every_layer():
    convolutions = [m for m in cnn_encoder("efficientnet-b4").modules() if hasattr(m, "static_padding")]
    assert {(m.kernel_size[0], m.static_padding.padding) for m in convolutions if m.stride[0] == 2} == {
        (3, (0, 1, 0, 1)),
        (5, (1, 2, 1, 2)),
    }
    assert all(2 * m.padding[0] == m.kernel_size[0] - 1 for m in convolutions if m.stride[0] == 1)


def test_res_mlp_equals_its_definition():
    mlp, x = ResMlp(8, 16), torch.randn(2, 3, 8)
    expected = mlp.fc3(nn.functional.gelu(mlp.fc2(nn.functional.gelu(mlp.fc1(x))) + x))
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"encoder_name": "resnet5"}, r"encoder_name='resnet5' is unknown: choose a name from https"),
        ({"encoder_name": "tu-resnet5"}, r"encoder_name='tu-resnet5' cannot be used: Unknown model"),
        ({"encoder_name": "tu-vit_tiny_patch16_224"}, r"cannot be used: Unsupported model downsampling pattern"),
        ({"encoder_weights": "micronet"}, r"encoder_weights='micronet' do not exist for resnet18: .*'imagenet'.*None"),
        ({"depths": (2, 2), "num_heads": (1, 2)}, r"depths=\(2, 2\) has 2 stages: give 4"),
        ({"depths": (2, 2, 0, 2)}, r"depths=\(2, 2, 0, 2\) has a stage without blocks"),
        ({"img_size": 0}, r"img_size=0 is not possible"),
        ({"drop_rate": -1}, r"drop_rate=-1 is not a rate"),
        ({"mlp_ratio": 0}, r"embed_dim \* mlp_ratio=0 .* at least 1"),
    ],
)
def test_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_swin_checkpoint_fills_encoder_and_decoder(tmp_path):
    state = SwinTransformer(**(SMALL | {"img_size": 128, "depths": (2, 2, 6, 2), "num_classes": 5})).state_dict()
    torch.save(state, tmp_path / "swin.pth")
    network = build(depths=(2, 2, 6, 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = load(network, tmp_path / "swin.pth")
    after = network.state_dict()
    expected = {name for name in after if name.startswith("encoder.") and ".fc3." not in name}
    expected |= {name for name in after if re.match(r"decoder\.layers\.\d\.blocks\.\d\.(?!mlp\.fc3)", name)}
    assert set(report.loaded) == expected and not report.resized
    assert {name for name in report.left if name.startswith("encoder.")} == {
        name for name in after if name.startswith("encoder.") and ".fc3." in name
    }
    assert torch.equal(after["decoder.layers.0.blocks.5.mlp.fc1.weight"], state["layers.2.blocks.5.mlp.fc1.weight"])
    assert torch.equal(after["decoder.layers.2.blocks.1.norm1.weight"], state["layers.0.blocks.1.norm1.weight"])
    assert torch.equal(after["encoder.norm.weight"], state["norm.weight"])
    assert all(torch.equal(after[name], before[name]) for name in report.left)
    assert set(report.skipped) == {"head.fc.weight", "head.fc.bias"}


def classifier(name: str, entry: str) -> dict[str, Tensor]:
    """Random tensors of an encoder, as a file of a classifier holds them."""
    generator = torch.Generator().manual_seed(0)
    state = get_encoder(name, weights=None).state_dict()
    state = {key: torch.randn(t.shape, generator=generator) if t.ndim else t for key, t in state.items()}
    return state | {f"{entry}.weight": torch.zeros(5, 7), f"{entry}.bias": torch.zeros(5)}


@pytest.mark.parametrize("wrapper", ["", "state_dict"])
@pytest.mark.parametrize(
    ("name", "entry"), [("resnet18", "fc"), ("efficientnet-b0", "_fc"), ("densenet121", "classifier")]
)
def test_micronet_file_fills_the_convolutional_encoder(tmp_path, name, entry, wrapper):
    state = classifier(name, entry)
    file = {
        re.sub(r"\.(norm|conv)([12])\.", r".\1.\2.", key) if name == "densenet121" else key: t
        for key, t in state.items()
    }
    path = tmp_path / f"{name}_pretrained_microscopynet_v1.0.pth.tar"
    torch.save({wrapper: {f"module.{key}": t for key, t in file.items()}, "epoch": 3} if wrapper else file, path)
    network = build(name)
    swin = network.encoder.norm.weight
    report = load(network, path)
    own = network.cnn_encoder.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in own.items())
    assert set(report.loaded) == {f"cnn_encoder.{key}" for key in own}
    unused = {"_conv_head", "_bn1"} if name == "efficientnet-b0" else set()
    assert {key.split(".")[0] for key in report.skipped} == {entry} | unused
    assert torch.equal(network.encoder.norm.weight, swin)


def test_micronet_file_of_another_size_or_channels(tmp_path):
    state = classifier("resnet18", "fc")
    torch.save(state, tmp_path / "resnet18.pth.tar")
    with pytest.raises(ValueError, match=r"tensors of its cnn_encoder are not filled"):
        load(build("resnet34"), tmp_path / "resnet18.pth.tar")
    with pytest.raises(ValueError, match="no checkpoint that CSUnet can use"):
        load(build("vgg11"), tmp_path / "resnet18.pth.tar")
    network = build(in_channels=6)
    report = load(network, tmp_path / "resnet18.pth.tar")
    assert set(report.resized) == {"cnn_encoder.conv1.weight"}
    torch.testing.assert_close(network.cnn_encoder.conv1.weight[:, 3:].detach(), state["conv1.weight"] / 2)
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth.tar")
    assert load(build(), tmp_path / "old.pth.tar").loaded


def test_authors_checkpoint(tmp_path):
    network = build("efficientnet-b0")
    theirs = {}
    for name, tensor in network.state_dict().items():
        stage = re.match(r"decoder\.layers\.(\d)\.(upsample|reduce|blocks)\.(.+)", name)
        if name.startswith("cnn_encoder."):
            theirs[f"CSUnet.cnn.{name}"] = tensor
        elif stage is None:
            renamed = name.replace("decoder.norm", "decoder.norm_up").replace("decoder.head.output", "decoder.output")
            theirs[f"CSUnet.{renamed.replace('decoder.head', 'decoder.up')}"] = tensor
        else:
            i, kind, rest = int(stage[1]), stage[2], stage[3]
            key = {
                "upsample": f"layers_up.{i}.upsample.{rest}" if i else f"layers_up.0.{rest}",
                "reduce": f"concat_back_dim.{i + 1}.{rest}",
                "blocks": f"layers_up.{i + 1}.blocks.{rest}",
            }[kind]
            theirs[f"CSUnet.decoder.{key}"] = tensor
    shared = {name.replace("encoder.patch", "patch"): t for name, t in theirs.items() if ".encoder.patch_embed" in name}
    unused = {name.replace(".patch", ".decoder.patch"): torch.zeros(1) for name in shared}
    unused |= {"CSUnet.decoder.norm.weight": torch.zeros(1), "CSUnet.cnn.cnn_encoder._conv_head.weight": torch.zeros(1)}
    torch.save(shared | theirs | unused, tmp_path / "model.pth")
    other = CSUnet(encoder_name="efficientnet-b0", **SMALL)
    report = load(other, tmp_path / "model.pth")
    assert report.format == "the authors' checkpoints of this network" and not report.left
    assert all(
        torch.equal(a, b) for a, b in zip(other.state_dict().values(), network.state_dict().values(), strict=True)
    )

    torch.save(shared | theirs | {"CSUnet.mystery.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"mystery\.weight.* is not a tensor of the authors' CS-UNet"):
        load(other, tmp_path / "odd.pth")
