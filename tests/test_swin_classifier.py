"""Encoders that were trained on whole pictures, by timm or by this project, start the segmentation networks."""

import re
from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.utils import CheckpointSaver

import networks
from networks.classifier import Classifier, MaskedImageModel
from networks.errors import UserError
from networks.pretrained import load, load_all

SIZES = {"embed_dim": 24, "window_size": 4}
DEPTHS, HEADS = (2, 2, 4, 2), (1, 2, 4, 8)
NETWORKS = {
    "SwinUnet": {"depths": DEPTHS, "num_heads": HEADS},
    "CSUnet": {"depths": DEPTHS, "num_heads": HEADS, "encoder_name": "resnet18"},
    "HiFormer": {"depths": DEPTHS[:3], "num_heads": HEADS[:3], "encoder_name": "resnet18"},
    "TransDeepLab": {"depths": DEPTHS[:3], "num_heads": HEADS[:3]},
}
# What a network's encoder does not have: the classifier's head everywhere, and of three-stage encoders the rest.
ABSENT = {
    "SwinUnet": r"head\.",
    "CSUnet": r"head\.",
    "HiFormer": r"head\.|norm\.|patch_embed\.|layers\.3\.",
    "TransDeepLab": r"head\.|norm\.|layers\.3\.",
}
# What a Swin classifier does not have: the third layer of a ResMLP, a CNN and its way in, a norm of low-level features.
OWN = {
    "SwinUnet": r"$",
    "CSUnet": r".*\.fc3\.",
    "HiFormer": r"encoder\.(cnn|proj|norm)",
    "TransDeepLab": r"encoder\.low_norm\.",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The file that timm's training script writes after a step of training, and the model's tensors."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("swin")
    model = SwinTransformer(img_size=128, depths=DEPTHS, num_heads=HEADS, num_classes=5, **SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 128, 128)), torch.arange(4)).backward()
    optimizer.step()
    CheckpointSaver(model, optimizer, checkpoint_dir=str(folder), recovery_dir=str(folder)).save_checkpoint(0, 1.0)
    return folder / "last.pth.tar", model.state_dict()


@pytest.mark.parametrize("name", NETWORKS)
def test_swin_classifier_loads_completely(name: str, checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, trained = checkpoint
    network = getattr(networks, name)(3, 2, 128, **SIZES, **NETWORKS[name])
    report = load(network, path)
    assert not report.resized
    unused = [key for key, reason in report.skipped.items() if key in trained and "follows" not in reason]
    assert [key for key in unused if not re.match(ABSENT[name], key)] == []
    left = [key for key in report.left if key.startswith("encoder.") and not re.match(OWN[name], key)]
    assert left == []
    state = network.state_dict()
    for i in range(len(NETWORKS[name]["depths"])):
        key = f"layers.{i}.blocks.1.attn.qkv.weight"
        torch.testing.assert_close(state[f"encoder.{key}"], trained[key], rtol=0, atol=0)


def test_two_encoders_start_from_two_files(checkpoint: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """As a bundle's ``--pretrained`` with a list does it."""
    trained = networks.Unet(3, 2, encoder_name="resnet18").encoder
    torch.save(trained.state_dict(), tmp_path / "resnet18.pth")
    network = networks.CSUnet(3, 2, 128, **SIZES, **NETWORKS["CSUnet"])
    swin, cnn = load_all(network, [checkpoint[0], tmp_path / "resnet18.pth"])
    assert swin.loaded and cnn.loaded and not set(swin.loaded) & set(cnn.loaded)
    state = network.state_dict()
    assert all(torch.equal(state[f"cnn_encoder.{key}"], tensor) for key, tensor in trained.state_dict().items())
    key = "layers.0.blocks.0.mlp.fc1.weight"
    assert torch.equal(state[f"encoder.{key}"], checkpoint[1][key])


@pytest.fixture(scope="module", params=["classifier", "simmim"])
def own_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `BestCheckpoint` writes of a Swin encoder with its head, which no two tensors of are equal."""
    sizes = SIZES | {"depths": DEPTHS, "num_heads": HEADS}
    model = Classifier(3, 5, 128, **sizes) if request.param == "classifier" else MaskedImageModel(3, 128, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    path = tmp_path_factory.mktemp("own") / "model.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_own_encoder_is_handed_over_completely(name: str, own_checkpoint: Path) -> None:
    """Every tensor of the encoder is the file's, or has no place, as with timm's; so is what the decoder takes."""
    trained = torch.load(own_checkpoint, weights_only=True)
    network = getattr(networks, name)(3, 2, 128, **SIZES, **NETWORKS[name])
    report = load(network, own_checkpoint)
    assert report.format == "our pretrained Swin encoders" and not report.resized
    unused = [key for key, reason in report.skipped.items() if "follows" not in reason]
    # the merging after the third stage, which timm counts to the fourth
    merging = r"layers\.2\.downsample\.|" if len(NETWORKS[name]["depths"]) == 3 else ""
    absent = rf"encoder\.({merging}{ABSENT[name]})|head\.|mask_token|painter\."
    assert [key for key in unused if not re.match(absent, key)] == []
    assert [key for key in report.left if key.startswith("encoder.") and not re.match(OWN[name], key)] == []
    state = network.state_dict()
    given = [key for key in trained if key.startswith("encoder.") and key not in unused and key not in report.skipped]
    places = {target: key for key in given for target in network.pretrained_targets(key.removeprefix("encoder."))}
    # the last decoder stage of TransDeepLab has other heads, and so other bias tables
    filled = [target for target, key in places.items() if target in state and state[target].shape == trained[key].shape]
    assert sorted(filled) == sorted(report.loaded) and len(filled) >= len(given)
    assert all(torch.equal(state[target], trained[places[target]]) for target in filled)


def test_own_encoder_goes_on_as_a_classifier(own_checkpoint: Path) -> None:
    """Of the same classes with its head, of others and after SimMIM with a new one."""
    trained = torch.load(own_checkpoint, weights_only=True)
    for classes in (5, 7):
        network = Classifier(3, classes, 128, **SIZES, depths=DEPTHS, num_heads=HEADS)
        load(network, own_checkpoint)
        state = network.state_dict()
        assert all(torch.equal(state[key], trained[key]) for key in state if key.startswith("encoder."))
        same_head = classes == 5 and "head.weight" in trained
        assert same_head == (same_head and torch.equal(state["head.weight"], trained["head.weight"]))


@pytest.mark.parametrize("encoder_name", ["resnet18", "tu-resnet18"])
def test_own_cnn_is_handed_over_completely(encoder_name: str, tmp_path: Path) -> None:
    """Into CS-UNet's second encoder, by smp's name and by timm's; another depth of the family is refused."""
    trained = Classifier(3, 5, 64, encoder_name="resnet18").state_dict()
    torch.save(trained, tmp_path / "model.pt")
    options = SIZES | NETWORKS["CSUnet"] | {"encoder_name": encoder_name}
    network = networks.CSUnet(3, 2, 64, **options)
    report = load(network, tmp_path / "model.pt")
    assert {key for key in report.skipped if key.startswith("encoder.")} == set()
    prefix = "cnn_encoder.model." if encoder_name.startswith("tu-") else "cnn_encoder."
    state = network.state_dict()
    assert all(
        torch.equal(state[prefix + key.removeprefix("encoder.")], tensor)
        for key, tensor in trained.items()
        if key.startswith("encoder.")
    )
    torch.save(Classifier(3, 5, 64, encoder_name="resnet34").state_dict(), tmp_path / "deeper.pt")
    with pytest.raises(UserError, match=r"80 of the file have no place \(such as 'encoder\.layer1\.2"):
        load(network, tmp_path / "deeper.pt")


@pytest.mark.parametrize(("channels", "side"), [(1, 112), (3, 50)])
def test_classifier_takes_any_size(channels: int, side: int) -> None:
    """Also grids of odd sides; what is prepared for one size equals what is made for another."""
    sizes = {"embed_dim": 24, "window_size": 7, "depths": (1, 1, 2, 1), "num_heads": HEADS}
    network = Classifier(channels, 5, side, **sizes).eval()
    other = Classifier(channels, 5, 64, **sizes).eval()
    other.load_state_dict(network.state_dict())
    image = torch.randn(2, channels, side, side)
    assert network(image).shape == (2, 5)
    torch.testing.assert_close(other(image), network(image))
    masked = MaskedImageModel(channels, side, **sizes).eval()
    assert masked(image).shape == image.shape


def test_masked_patches_are_not_seen() -> None:
    """What is under the mask changes nothing; what is beside it does."""
    model = MaskedImageModel(3, 64, **SIZES, depths=(1, 1, 1, 1), num_heads=HEADS).eval()
    image, mask = torch.randn(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., :32, 32:] = 1
    painted = model(image, mask)
    torch.testing.assert_close(model(torch.where(mask > 0, 100.0, image), mask), painted)
    assert not torch.allclose(model(image + 1 - mask, mask), painted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_name": "resnet81"}, r"'resnet81' is neither 'swin' nor a model of timm; did you mean"),
        ({"depths": (2, 2)}, "do not describe the same two or more stages"),
        ({"out_channels": 0}, "out_channels=0 is not possible"),
    ],
)
def test_impossible_classifiers(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(**options)
