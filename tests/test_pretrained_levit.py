"""LeViT weights of every accepted format: where they go, what they compute there, and what is refused."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models import create_model
from timm.models.levit import Levit
from torch import Tensor, nn

from networks import LevitUnet, SwinUnet
from networks.pretrained import load
from tests.test_pretrained import randomise

REFERENCE = Path(__file__).parent / "reference" / "levit_unet_192.json"
SMALL = {"embed_dim": (16, 24, 32), "key_dim": 8, "num_heads": (2, 3, 4)}


def small(in_channels=3, out_channels=2, img_size=96, depths=(2, 1, 1), **kwargs) -> LevitUnet:
    torch.manual_seed(1)
    sizes = SMALL | {"depths": depths, "decoder_channels": (16, 12, 8)} | kwargs
    return LevitUnet(in_channels, out_channels, img_size, **sizes).eval()


def timm_levit(**kwargs) -> Levit:
    model = Levit(96, depth=(2, 1, 1), num_classes=5, **SMALL, **kwargs).eval()
    randomise(model)
    return model


def meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of the small model to those of LeViT's authors, with the constants that those files also hold."""
    modules = ["stages.0.blocks.0", "stages.0.blocks.1"]
    for i in (1, 2):
        modules += [f"stages.{i}.downsample", f"stages.{i}.blocks.0"]
    flat = [f"{module}.{part}" for module in modules for part in ("attn", "mlp")]
    renamed = {}
    for name, tensor in state.items():
        stem = re.match(r"stem\.conv(\d)\.", name)
        if stem:
            name = f"patch_embed.{2 * int(stem[1]) - 2}.{name[stem.end() :]}"
        name = name.replace("attn_downsample", "attn")
        for i, module in enumerate(flat):
            residual = "" if module.endswith("downsample.attn") else "m."
            name = re.sub(rf"^{re.escape(module)}\.", f"blocks.{i}.{residual}", name)
        name = name.replace(".ln.", ".1.").replace(".ln1.", ".0.").replace(".ln2.", ".2.")
        name = name.replace("head.linear.", "head.l.").replace(".linear.", ".c.")
        renamed[name] = tensor
    return renamed | {"blocks.0.m.attention_bias_idxs": torch.zeros(36, 36, dtype=torch.int64)}


@pytest.fixture(params=["meta.pth", "timm.pth", "timm.safetensors", "conv.pth"])
def levit_file(request, tmp_path) -> tuple[Levit, Path]:
    model = timm_levit(use_conv=request.param == "conv.pth")
    path = tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save({"model": meta(model.state_dict())} if path.stem == "meta" else model.state_dict(), path)
    return model, path


@torch.no_grad()
def test_encoder_computes_what_timm_computes(levit_file):
    model, path = levit_file
    network = small()
    report = load(network, path)
    assert report.loaded == [name for name in network.state_dict() if name.startswith("encoder.")]
    assert not report.resized
    heads = {name for name in report.skipped if name.startswith("head")}
    assert report.skipped.keys() - heads <= {"blocks.0.m.attention_bias_idxs"} and heads
    image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    features = network.encoder(image)
    expected = model.forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(features[3], model.stem(image), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(features[4:], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_full_size_levit_fills_the_encoder(tmp_path):
    torch.save(create_model("levit_128s", pretrained=False).state_dict(), tmp_path / "levit.pth")
    network = LevitUnet(variant="128s")
    report = load(network, tmp_path / "levit.pth")
    assert {name.split(".")[0] for name in report.left} == {"decoder"}
    # The authors leave a grey stem at random; here it gets the sum over colours.
    assert report.resized == {
        "encoder.stem.conv1.linear.weight": "(16, 3, 3, 3) in the file, (16, 1, 3, 3) in the network"
    }
    with pytest.raises(ValueError, match=r"does not fit LevitUnet: only \d+ of the encoder's"):
        load(LevitUnet(variant="384"), tmp_path / "levit.pth")


@torch.no_grad()
@pytest.mark.parametrize("img_size", [64, (130, 97)], ids=str)
def test_other_image_sizes_compute_the_same(tmp_path, img_size):
    trained = small()
    randomise(trained)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    network = small(img_size=img_size)
    report = load(network, tmp_path / "model.pt")
    assert len(report.resized) == 6 and all(name.endswith("attention_biases") for name in report.resized)
    assert not report.left and not report.skipped
    image = torch.randn(1, 3, 130, 97, generator=torch.Generator().manual_seed(2))[..., :64, :64]
    torch.testing.assert_close(network(image), trained(image))


def test_authors_checkpoints(tmp_path):
    # Names do not depend on sizes, so a small network's tensors can go under the real network's names.
    facts = json.loads(REFERENCE.read_text())
    names = [name for name, *_ in facts["weights"] + facts["untouched_buffers"]]
    names = [name for name in names if not name.startswith("blocks.") and not name.endswith("attention_bias_idxs")]
    tensors = {name: torch.full((1, 1) if "attention_biases" in name else (), i) for i, name in enumerate(names)}
    theirs = {name: names[int(value)] for name, value in LevitUnet.convert_authors(tensors).items()}
    trained = small(out_channels=9, depths=(4, 4, 4))
    randomise(trained)
    own = trained.state_dict()
    assert theirs.keys() == own.keys()
    state = {theirs[name]: value.flatten(1) if value.ndim == 3 else value for name, value in own.items()}
    aliases = {
        f"blocks.{re.sub(r'^block_.', '', name)[1:]}": value for name, value in state.items() if "block_" in name
    }
    torch.save(state | aliases, tmp_path / "epoch.pth")

    network = small(out_channels=9, depths=(4, 4, 4))
    report = load(network, tmp_path / "epoch.pth")
    assert report.format.startswith("the authors'") and not report.left and not report.resized
    assert len(aliases) > 304 and not report.skipped
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, own[name]), name

    torch.save(state | {"distillation.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"distillation\.weight.* is not a tensor of the authors' LeViT-UNet"):
        load(network, tmp_path / "odd.pth")


def test_networks_without_levit_and_tables_without_square_refuse_it(tmp_path):
    torch.save(timm_levit().state_dict(), tmp_path / "levit.pth")
    with pytest.raises(ValueError, match="no checkpoint that SwinUnet can use"):
        load(SwinUnet(embed_dim=12, num_heads=(1, 1, 2, 2)), tmp_path / "levit.pth")
    wide = Levit((64, 96), depth=(2, 1, 1), **SMALL)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match="24 entries are not of square images"):
        load(small(), tmp_path / "wide.pth")


def test_the_image_size_of_a_file_need_not_be_that_of_the_network(tmp_path):
    model = timm_levit()
    nn.init.normal_(model.stages[0].blocks[0].attn.attention_biases)
    torch.save(model.state_dict(), tmp_path / "levit.pth")
    network = small(img_size=224)
    load(network, tmp_path / "levit.pth")
    table = model.stages[0].blocks[0].attn.attention_biases.view(2, 6, 6)
    biases = network.encoder.stages[0].blocks[0].attn.attention_biases
    assert torch.equal(biases[:, :6, :6], table)
    assert torch.equal(biases[:, 13, :6], table[:, 5])
