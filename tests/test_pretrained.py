"""Weights of every accepted format: where they go, what they compute there, and what is refused."""

import json
import logging
import pickle
import re
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resize_rel_pos_bias_table
from timm.models import create_model
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from networks import SwinUnet
from networks.errors import UserError
from networks.pretrained import load
from tests.small import NETWORKS, SIZE, build, image

REFERENCE = Path(__file__).parent / "reference" / "swin_unet_tiny.json"
SMALL = {"img_size": 128, "embed_dim": 12, "num_heads": (1, 2, 3, 4), "window_size": 4}
TABLE = "attn.relative_position_bias_table"


def randomise(module: nn.Module) -> None:
    """Values that make every tensor matter, unlike an initialisation with its zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def microsoft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names to Microsoft's, with the constants that those files also hold."""
    state = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name): tensor
        for name, tensor in state.items()
    }
    state = {name.replace("head.fc.", "head."): tensor for name, tensor in state.items()}
    for name in [name for name in state if name.endswith(TABLE)]:
        state[name.replace("bias_table", "index")] = torch.zeros(4, 4, dtype=torch.int64)
    return state | {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}


@pytest.fixture(scope="module")
def swin() -> SwinTransformer:
    model = SwinTransformer(depths=(2, 2, 4, 2), num_classes=5, **SMALL).eval()
    randomise(model)
    return model


@pytest.fixture(params=["microsoft.pth", "timm.pth", "timm.safetensors", "wrapped.pth.tar"])
def swin_file(request, swin, tmp_path) -> Path:
    path = tmp_path / request.param
    state = swin.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.stem == "microsoft":
        torch.save({"model": microsoft(state)}, path)
    elif path.stem == "timm":
        torch.save(state, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    return path


def small(depths=(2, 2, 2, 2), **kwargs) -> SwinUnet:
    torch.manual_seed(1)
    return SwinUnet(depths=depths, **(SMALL | kwargs)).eval()


def test_encoder_computes_what_timm_computes(swin, swin_file):
    network = small(depths=(2, 2, 4, 2))
    load(network, swin_file)
    image = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        features = network.encoder(image)
        x = swin.patch_embed(image)
        torch.testing.assert_close(features[0], x, rtol=0, atol=1e-5)
        for i, layer in enumerate(swin.layers):
            # timm merges at the beginning of a stage, so what enters our stage i has passed its downsample.
            torch.testing.assert_close(features[i], layer.downsample(x), rtol=1e-5, atol=1e-4)
            x = layer(x)
        torch.testing.assert_close(features[-1], swin.norm(x), rtol=1e-5, atol=1e-4)


def test_swin_tensors_and_report(swin, swin_file):
    network = small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = load(network, swin_file)
    after, source = network.state_dict(), microsoft(swin.state_dict())

    expected = {name: name.removeprefix("encoder.") for name in after if name.startswith("encoder.")}
    expected |= {
        name: f"layers.{2 - int(stage[1])}.{stage[2]}"
        for name in after
        if (stage := re.fullmatch(r"decoder\.layers\.(\d)\.(blocks\..+)", name))
    }
    assert len(expected) == 4 + 8 * 13 + 3 * 3 + 2 + 6 * 13
    for name, tensor in after.items():
        assert torch.equal(tensor, source[expected[name]] if name in expected else before[name]), name

    assert set(report.loaded) == expected.keys()
    assert report.resized == {}
    assert report.left == [name for name in after if name not in expected]
    assert {name.split(".")[-2] for name in report.left} == {"expand", "norm", "reduce", "output"}
    reasons = report.skipped
    too_deep = {name for name in source if re.match(r"layers\.2\.blocks\.[23]\.", name)}
    if swin_file.stem == "microsoft":
        constants = {name for name in source if name.endswith(("relative_position_index", "attn_mask"))}
        assert reasons.keys() == too_deep | constants | {"head.weight", "head.bias"}
        assert {reasons[name] for name in constants} == {"follows from the sizes"}
    else:
        too_deep = {name for name in too_deep if not name.endswith("relative_position_index")}
        assert reasons.keys() == too_deep | {"head.fc.weight", "head.fc.bias"}
    assert reasons["layers.2.blocks.3.mlp.fc1.weight"] == "no counterpart in the network"


def test_full_size_swin_t_fills_what_the_authors_code_fills(tmp_path):
    """The authors' loader fills 217 of 238 entries, of which 20 are constants that this network does not store."""
    state = create_model("swin_tiny_patch4_window7_224", pretrained=False).state_dict()
    torch.save({"model": microsoft(state)}, tmp_path / "swin_tiny.pth")
    report = load(SwinUnet(out_channels=9), tmp_path / "swin_tiny.pth")
    assert len(report.loaded) == 217 - 20
    assert len(report.loaded) + len(report.left) == 238 - 20


def test_report_is_a_short_summary_and_is_logged(swin_file, caplog):
    with caplog.at_level(logging.INFO, logger="networks.pretrained"):
        report = load(small(), swin_file)
    text = str(report)
    assert caplog.messages == [text]
    assert str(swin_file) in text
    assert "197 of the network's 218 tensors filled" in text
    assert "197 as they are: encoder.patch_embed 4, encoder.layers 113, encoder.norm 2, decoder.layers 78" in text
    assert "21 left at their initialisation: decoder.layers 15, decoder.norm 2, decoder.head 4" in text
    assert len(text.splitlines()) <= 6


def test_other_window_resizes_the_tables(swin, tmp_path):
    torch.save(swin.state_dict(), tmp_path / "timm.pth")
    network = small(window_size=7, img_size=224)
    report = load(network, tmp_path / "timm.pth")
    tables = {name for name in network.state_dict() if name.endswith(TABLE)}
    assert report.resized.keys() == tables
    assert not tables & set(report.loaded) and not tables & set(report.left)
    assert report.resized[f"encoder.layers.1.blocks.0.{TABLE}"] == "(49, 2) in the file, (169, 2) in the network"
    source = swin.state_dict()[f"layers.1.blocks.0.{TABLE}"]
    expected = resize_rel_pos_bias_table(source, (7, 7), (169, 2))
    table = network.state_dict()[f"decoder.layers.1.blocks.0.{TABLE}"]
    assert torch.equal(table, expected)
    # Offsets of no and of one token keep their meaning: the centre of the table and its neighbours in a row.
    torch.testing.assert_close(table[83:86], source[23:26])


@pytest.mark.parametrize("in_channels", [1, 2, 3, 5])
def test_number_of_channels(swin, tmp_path, in_channels):
    torch.save(swin.state_dict(), tmp_path / "timm.pth")
    network = small(in_channels=in_channels)
    report = load(network, tmp_path / "timm.pth")
    weight, source = network.encoder.patch_embed.proj.weight, swin.patch_embed.proj.weight
    if in_channels in (1, 3):
        assert torch.equal(weight, source) and not report.resized
    else:
        assert report.resized.keys() == {"encoder.patch_embed.proj.weight"}
        # Copies of the colours, scaled so that the sum over channels keeps its size.
        copies = torch.cat([source, source], 1)[:, :in_channels]
        torch.testing.assert_close(weight.detach(), copies.detach() * 3 / in_channels)


def test_grey_stem_on_a_repeated_channel_computes_the_same(tmp_path):
    swin = SwinTransformer(in_chans=1, depths=(2, 2, 2, 2), **SMALL).eval()
    torch.save(swin.state_dict(), tmp_path / "grey.pth")
    network = small(in_channels=1)
    load(network, tmp_path / "grey.pth")
    image = torch.randn(1, 1, 128, 128)
    with torch.no_grad():
        expected = swin.patch_embed(image)
        torch.testing.assert_close(network.encoder(image.expand(-1, 3, -1, -1))[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["model.pt", "last.pt"])
def test_our_own_checkpoints(tmp_path, name):
    trained = small(out_channels=3)
    randomise(trained)
    state = trained.state_dict()
    torch.save(state if name == "model.pt" else {"network": state, "progress": {"epoch": 2}}, tmp_path / name)
    network = small(out_channels=3)
    report = load(network, tmp_path / name)
    assert report.loaded == list(state) and not report.left and not report.skipped
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())

    network = small(out_channels=4)
    before = network.decoder.head.output.weight.detach().clone()
    report = load(network, tmp_path / name)
    assert report.left == ["decoder.head.output.weight"]
    assert report.skipped == {
        "decoder.head.output.weight": "another shape: (3, 12, 1, 1) in the file, (4, 12, 1, 1) in the network"
    }
    assert torch.equal(network.decoder.head.output.weight, before)


@pytest.mark.parametrize("name", NETWORKS)
def test_our_checkpoint_of_other_classes_and_channels(tmp_path, name):
    """The head starts anew, the stem is adapted, and all else is taken."""
    torch.save(build(name, 3, 2).state_dict(), tmp_path / "model.pt")
    network = build(name, 4, 5)
    report = load(network, tmp_path / "model.pt")
    assert report.left and all(f".{network.head_name}." in f".{key}" for key in report.left)
    assert report.resized and len(report.loaded) + len(report.resized) + len(report.left) == len(network.state_dict())
    assert network(image(1, 4)).shape == (1, 5, SIZE, SIZE)


@pytest.mark.parametrize(
    "options", [{"depths": (2, 2, 4, 2)}, {"num_skips": 2}, {"upsample": "bilinear"}, {"mlp_ratio": 2.0}], ids=str
)
def test_our_checkpoint_of_other_options_is_refused(tmp_path, options):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    network = small(**options)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"model\.pt .* is of another SwinUnet"):
        load(network, tmp_path / "model.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["swin_unet.", "module.swin_unet."])
def test_authors_checkpoints(tmp_path, prefix):
    # Names do not depend on sizes, so a small network's tensors can go under the real network's names.
    names = [name for name, _ in json.loads(REFERENCE.read_text())["weights"]]
    theirs = {next(iter(SwinUnet.convert_authors({name: torch.zeros(9, 1)}))): name for name in names}
    trained = small(out_channels=9)
    randomise(trained)
    state = {theirs[name].replace("swin_unet.", prefix): tensor for name, tensor in trained.state_dict().items()}
    index = f"{prefix}layers.0.blocks.0.attn.relative_position_index"
    torch.save({index: torch.zeros(16, 16, dtype=torch.int64)} | state, tmp_path / "epoch_149.pth")

    network = small(out_channels=9)
    report = load(network, tmp_path / "epoch_149.pth")
    assert len(report.loaded) == 218 and not report.left and not report.resized
    # Prefixes of wrappers are gone from the names.
    assert report.skipped == {index.removeprefix("module."): "follows from the sizes"}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name

    report = load(small(out_channels=4), tmp_path / "epoch_149.pth")
    assert len(report.loaded) == 217 and report.left == ["decoder.head.output.weight"]

    torch.save(state | {f"{prefix}mixture.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"mixture\.weight.* is not a tensor of the authors' Swin-Unet"):
        load(network, tmp_path / "odd.pth")


def test_a_network_can_say_where_swin_tensors_go(swin, tmp_path):
    class EncoderOnly(SwinUnet):
        def pretrained_targets(self, name: str) -> list[str]:
            return [f"encoder.{name}"]

    torch.save(swin.state_dict(), tmp_path / "timm.pth")
    network = EncoderOnly(**SMALL)
    report = load(network, tmp_path / "timm.pth")
    assert report.loaded == [name for name in network.state_dict() if name.startswith("encoder.")]


def test_a_wrapped_network_is_unwrapped(swin, tmp_path):
    torch.save(swin.state_dict(), tmp_path / "timm.pth")
    network = small()
    assert load(torch.compile(network), tmp_path / "timm.pth").left
    assert torch.equal(network.encoder.norm.weight, swin.norm.weight)
    assert load(nn.DataParallel(network), tmp_path / "timm.pth").left


class TouchFile:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_code_in_a_file_is_not_executed(tmp_path, write):
    write({"model": {}, "payload": TouchFile(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is not a readable checkpoint"):
        load(small(), tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_truncated_files(swin, tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(swin.state_dict(), path)
    else:
        save_file(swin.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is not a readable .*may be truncated"):
        load(small(), path)


SWIN_V2 = ["attn.logit_scale", "attn.q_bias", "attn.cpb_mlp.0.weight", "attn.qkv.weight", "attn.proj.weight"]
FOREIGN = {
    "resnet": (["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"], "'conv1.weight', 'bn1.weight'"),
    "levit": (["patch_embed.0.c.weight", "blocks.0.m.qkv.c.weight", "head.l.weight"], "'blocks.0.m.qkv.c.weight'"),
    "swin_v2": (["patch_embed.proj.weight", *(f"layers.0.blocks.0.{name}" for name in SWIN_V2)], "attn.logit_scale"),
    "constants": (["layers.0.blocks.0.attn.relative_position_index"], "relative_position_index"),
    "empty": ([], "it holds nothing"),
}


@pytest.mark.parametrize("key", FOREIGN)
@pytest.mark.parametrize("wrapper", ["", "model"])
def test_unknown_formats_are_named(tmp_path, key, wrapper):
    names, found = FOREIGN[key]
    state = {name: torch.zeros(4, 4) for name in names}
    torch.save({wrapper: state} if wrapper else state, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=re.escape(found)) as caught:
        load(small(), tmp_path / "foreign.pth")
    for accepted in ("model.pt or last.pt", "authors", "Microsoft", "timm"):
        assert accepted in str(caught.value)


def test_numbers_without_tensors_are_no_checkpoint(tmp_path):
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "log.pt")
    with pytest.raises(ValueError, match="it holds 'epoch', 'best'"):
        load(small(), tmp_path / "log.pt")


def test_swin_of_another_width_is_refused(swin, tmp_path):
    torch.save({"model": microsoft(swin.state_dict())}, tmp_path / "swin.pth")
    network = small(embed_dim=24)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"only \d+ of the encoder's 119 .*\(12, 3, 4, 4\) in the file, \(24, 3, 4, 4\)"
    ):
        load(network, tmp_path / "swin.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_without_swin_encoder_refuses_swin(swin, tmp_path):
    torch.save(swin.state_dict(), tmp_path / "timm.pth")
    with pytest.raises(ValueError, match="no checkpoint that Conv2d can use"):
        load(nn.Conv2d(3, 3, 1), tmp_path / "timm.pth")


def test_heads_of_another_number_leave_the_tables(swin, tmp_path):
    torch.save(swin.state_dict(), tmp_path / "timm.pth")
    report = load(small(num_heads=(1, 2, 3, 6)), tmp_path / "timm.pth")
    tables = [f"encoder.layers.3.blocks.{i}.{TABLE}" for i in range(2)]
    assert [name for name in report.left if name.startswith("encoder")] == tables
    assert report.skipped[f"layers.3.blocks.0.{TABLE}"] == "another shape: (49, 4) in the file, (49, 6) in the network"


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """An empty Hugging Face cache, and no network: what HF_HUB_OFFLINE=1 sets, which is read on import."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_download_without_network_fails_clearly(hub):
    with pytest.raises(ValueError, match=r"swin_tiny_patch4_window7_224 could not be downloaded .* that file inst"):
        load(small(), "swin_tiny_patch4_window7_224")


def test_a_cached_download_is_used(hub, swin):
    repository = hub / "models--timm--swin_tiny_patch4_window7_224.ms_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(swin.state_dict(), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    network = small()
    report = load(network, "swin_tiny_patch4_window7_224")
    assert report.source == "swin_tiny_patch4_window7_224" and report.format == "timm's Swin models"
    assert torch.equal(network.encoder.norm.weight, swin.norm.weight)


@pytest.mark.parametrize("source", ["nowhere/swin_tiny.pth", "swin_gigantic", "resnet50.pth", "."])
def test_neither_file_nor_timm_model(source):
    with pytest.raises(UserError, match=f"{re.escape(source)} is neither a file nor a timm model"):
        load(small(), source)
