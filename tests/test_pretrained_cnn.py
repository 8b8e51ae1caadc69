"""Weights of convolutional encoders: NASA's MicroNet, efficientnet-pytorch, and Google's hybrid for TransUNet."""

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from networks import TransUnet, Unet
from networks.classifier import Classifier
from networks.errors import UserError
from networks.pretrained import load
from scripts.corpus.features import timm_features
from tests.test_pretrained import TouchFile, randomise, small

TRANSUNET = {"width": 32, "depths": (2, 1, 1), "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 40}


def transunet(img_size=64, **kwargs) -> TransUnet:
    torch.manual_seed(2)
    return TransUnet(3, 2, img_size, decoder_channels=(8, 8, 8, 8, 4), **(TRANSUNET | kwargs))


def google(network: TransUnet) -> dict[str, np.ndarray]:
    """An encoder in the layout of Google's `R50+ViT-B_16.npz`, written down apart from the converter."""
    encoder = network.encoder
    arrays = {"cls": torch.zeros(1, 1, 24), "head/kernel": torch.zeros(24, 7), "head/bias": torch.zeros(7)}

    def add(name: str, module: nn.Module, kernel=None) -> None:
        if isinstance(module, nn.GroupNorm):
            arrays[f"{name}/scale"], arrays[f"{name}/bias"] = (p.view(1, 1, 1, -1) for p in module.parameters())
        elif isinstance(module, nn.LayerNorm):
            arrays[f"{name}/scale"], arrays[f"{name}/bias"] = module.weight, module.bias
        elif isinstance(module, nn.Conv2d):
            arrays[f"{name}/kernel"] = module.weight.permute(2, 3, 1, 0)
        else:
            arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = module.weight.t(), module.bias

    add("conv_root", encoder.stem.conv)
    add("gn_root", encoder.stem.norm)
    for b, stage in enumerate(encoder.stages, 1):
        for u, unit in enumerate(stage, 1):
            for k in (1, 2, 3):
                add(f"block{b}/unit{u}/conv{k}", getattr(unit, f"conv{k}"))
                add(f"block{b}/unit{u}/gn{k}", getattr(unit, f"norm{k}"))
            if unit.downsample is not None:
                add(f"block{b}/unit{u}/conv_proj", unit.downsample[0])
                add(f"block{b}/unit{u}/gn_proj", unit.downsample[1])
    add("embedding", encoder.patch_embed)
    arrays["embedding/bias"] = encoder.patch_embed.bias
    positions = encoder.position_embeddings.flatten(1, 2)
    arrays["Transformer/posembed_input/pos_embedding"] = torch.cat([torch.ones(1, 1, 24), positions], 1)
    for i, block in enumerate(encoder.blocks):
        place = f"Transformer/encoderblock_{i}"
        add(f"{place}/LayerNorm_0", block.norm1)
        add(f"{place}/LayerNorm_2", block.norm2)
        add(f"{place}/MlpBlock_3/Dense_0", block.mlp.fc1)
        add(f"{place}/MlpBlock_3/Dense_1", block.mlp.fc2)
        attention = f"{place}/MultiHeadDotProductAttention_1"
        for j, part in enumerate(("query", "key", "value")):
            rows = slice(24 * j, 24 * (j + 1))
            arrays[f"{attention}/{part}/kernel"] = block.attn.qkv.weight[rows].t().reshape(24, 3, 8)
            arrays[f"{attention}/{part}/bias"] = block.attn.qkv.bias[rows].reshape(3, 8)
        arrays[f"{attention}/out/kernel"] = block.attn.proj.weight.t().reshape(3, 8, 24)
        arrays[f"{attention}/out/bias"] = block.attn.proj.bias
    add("Transformer/encoder_norm", encoder.norm)
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


def test_google_files(tmp_path):
    trained = transunet()
    randomise(trained)
    np.savez(tmp_path / "R50+ViT-B_16.npz", **google(trained))
    network = transunet()
    report = load(network, tmp_path / "R50+ViT-B_16.npz")
    encoder = [name for name in network.state_dict() if name.startswith("encoder.")]
    assert report.format == "Google's ViT .npz files" and report.loaded == encoder and not report.resized
    assert report.skipped == dict.fromkeys(["cls", "head/kernel", "head/bias"], "no counterpart in the network")
    for name in encoder:
        assert torch.equal(network.state_dict()[name], trained.state_dict()[name]), name

    network = transunet(img_size=(96, 48))
    report = load(network, tmp_path / "R50+ViT-B_16.npz")
    assert report.resized == {"encoder.position_embeddings": "(1, 4, 4, 24) in the file, (1, 6, 3, 24) in the network"}
    resized, source = network.encoder.position_embeddings, trained.encoder.position_embeddings
    torch.testing.assert_close(resized[:, ::5, ::2], source[:, ::3, ::3])  # the corners are kept

    with pytest.raises(ValueError, match=r"does not fit TransUnet: only \d+ of the encoder's"):
        load(transunet(embed_dim=48, width=64), tmp_path / "R50+ViT-B_16.npz")
    with pytest.raises(ValueError, match="no checkpoint that SwinUnet can use"):
        load(small(), tmp_path / "R50+ViT-B_16.npz")


def test_arrays_with_code_or_cut_off_are_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", payload=np.array([TouchFile(tmp_path / "executed")]))
    with pytest.raises(ValueError, match=r"evil\.npz is not a readable \.npz file"):
        load(transunet(), tmp_path / "evil.npz")
    assert not (tmp_path / "executed").exists()
    np.savez(tmp_path / "cut.npz", a=np.zeros(5000))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cut\.npz is not a readable \.npz file"):
        load(transunet(), tmp_path / "cut.npz")


@pytest.mark.parametrize("trunk", ["classifier", "bare"])
@pytest.mark.parametrize(
    ("encoder_name", "stem", "classifier"),
    [("resnet18", "conv1.weight", "fc"), ("efficientnet-b0", "_conv_stem.weight", "_fc")],
)
def test_micronet_encoders(tmp_path, encoder_name, stem, classifier, trunk):
    trained = Unet(encoder_name=encoder_name)
    randomise(trained)
    state = trained.encoder.state_dict()
    path = tmp_path / f"{encoder_name}_pretrained_microscopynet_v1.0.pth.tar"
    if trunk == "classifier":
        rest = {f"{classifier}.weight": torch.zeros(5, 8), f"{classifier}.bias": torch.zeros(5)}
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in (state | rest).items()}}, path)
    else:
        torch.save(state, path)
    network = Unet(encoder_name=encoder_name)
    report = load(network, path)
    assert report.loaded == [f"encoder.{name}" for name in state] and not report.resized
    assert all(name.startswith(f"{classifier}.") for name in report.skipped)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.encoder.state_dict().items())

    network = Unet(in_channels=1, encoder_name=encoder_name)
    report = load(network, path)
    assert report.resized.keys() == {f"encoder.{stem}"}
    # A grey image gets what it got repeated to three channels.
    torch.testing.assert_close(network.encoder.state_dict()[stem], state[stem].sum(1, keepdim=True))


@pytest.mark.parametrize("other", ["resnet34", "resnet50"])
@pytest.mark.parametrize(("own", "message"), [("resnet18", r"no place \(such as"), ("resnet101", "not filled")])
def test_another_encoder_is_refused(tmp_path, own, other, message):
    torch.save(Unet(encoder_name=other).encoder.state_dict(), tmp_path / "other.pth")
    network = Unet(encoder_name=own)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=rf"other\.pth .* {message}|no checkpoint that Unet can use"):
        load(network, tmp_path / "other.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(ValueError, match="no checkpoint that TransUnet can use"):
        load(transunet(), tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["convnext_atto", "vgg11_bn", "densenet121", "inception_v4", "resnet18"])
def test_our_classifiers_go_into_encoders_of_timm(tmp_path, name):
    """Where timm gives features, it calls "features.0" "features_0", and "stages.0" "stages_0"."""
    torch.manual_seed(0)
    trained = Classifier(encoder_name=name)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    network = Unet(encoder_name=f"tu-{name}")
    report = load(network, tmp_path / "model.pt")
    assert not [key for key in report.left if key.startswith("encoder.") and not key.endswith("num_batches_tracked")]


def test_efficientnet_pytorch_files_do_not_go_where_padding_differs(tmp_path):
    """The features would be others without a word."""
    torch.save(get_encoder("efficientnet-b0", weights=None).state_dict(), tmp_path / "b0.pth")
    network = Unet(3, 2, encoder_name="tu-efficientnet_b0")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match="choose tu-tf_efficientnet_b0 instead"):
        load(network, tmp_path / "b0.pth")
    assert all((tensor == before[name]).all() for name, tensor in network.state_dict().items())
    with pytest.raises(UserError, match="choose tf_efficientnet_b0 instead"):
        timm_features("efficientnet_b0", str(tmp_path / "b0.pth"), 64, "cpu")


def test_efficientnet_pytorch_files_go_into_timms_efficientnets(tmp_path):
    """smp's own EfficientNets have the names of efficientnet-pytorch and compute what timm's "tf_" ones do."""
    theirs = get_encoder("efficientnet-b0", weights=None).eval()
    for norm in [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight)
        nn.init.constant_(norm.running_var, 0.1)
    classifier = {"_fc.weight": torch.ones(2, 1280), "_fc.bias": torch.ones(2)}
    torch.save(theirs.state_dict() | classifier, tmp_path / "b0.pth")
    network = Unet(3, 2, encoder_name="tu-tf_efficientnet_b0").eval()
    report = load(network, tmp_path / "b0.pth")
    assert not [name for name in report.left if name.startswith("encoder.")]
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, same = network.encoder(x), theirs(x)
    for i in (2, 3, 5):  # the fourth is taken from another block
        torch.testing.assert_close(features[i], same[i], rtol=1e-4, atol=1e-5 * same[i].abs().max().item())
