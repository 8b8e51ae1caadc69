"""A Swin Transformer trained with timm as a classifier starts every network with a Swin encoder."""

import re
from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.utils import CheckpointSaver

import networks
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
