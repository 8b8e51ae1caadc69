"""What every network promises, checked alike for all of them; then what only one network has.

A network joins by its line in the public list; its attribute `small` is the variant that is tested.
"""

import copy

import onnxruntime
import pytest
import torch
from timm.models import levit
from torch import nn

import networks
from networks import LevitUnet
from networks.deeplabv3_plus import PooledBatchNorm2d
from networks.layers import conv
from networks.layers.expand import ExpandHead
from networks.layers.levit import Attention, SubsamplingAttention, bias_index
from networks.layers.swin import SwinBlock, SwinStage
from tests.small import SMALL

SIZE = 64
NETWORKS = {name: (getattr(networks, name), small) for name, small in SMALL.items()}
NETWORKS["HiFormer paper"] = (networks.HiFormer, SMALL["HiFormer"] | {"fusion": "paper"})


def build(name: str, in_channels: int = 3, out_channels: int = 2, **kwargs) -> nn.Module:
    """The small variant, the same at every call."""
    network_class, defaults = NETWORKS[name]
    torch.manual_seed(0)
    return network_class(in_channels, out_channels, SIZE, **(defaults | kwargs))


def image(batch: int = 2, channels: int = 3, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
class TestNetwork:
    @pytest.mark.parametrize("in_channels", [1, 3, 4])
    def test_forward_backward(self, name, in_channels):
        network = build(name, in_channels, 14)
        logits = network(image(2, in_channels))
        assert logits.shape == (2, 14, SIZE, SIZE)
        logits.square().mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())

    def test_gradient_reaches_every_parameter(self, name):
        network = build(name).eval()  # stochastic depth could starve a block of its gradient
        for p in network.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.1)  # a residual scaled with zeros starves its branch until the first step
        network(image()).square().mean().backward()
        assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_single_image_training(self, name):
        logits = build(name).train()(image(1))
        assert logits.shape == (1, 2, SIZE, SIZE) and logits.isfinite().all()

    def test_odd_size(self, name):
        network, x = build(name).eval(), image(1, 3, 97, 130)
        if network.fixed_img_size:
            with pytest.raises(ValueError, match=str(SIZE)):
                network(x)
        else:
            assert network(x).shape == (1, 2, 97, 130)

    @torch.no_grad()
    def test_prepared_size_changes_nothing(self, name):
        network_class, kwargs = NETWORKS[name]
        if network_class.fixed_img_size:
            pytest.skip("fixed size")
        network = build(name).eval()
        other = network_class(3, 2, (97, 130), **kwargs).eval()
        if any(a.shape != b.shape for a, b in zip(network.parameters(), other.parameters(), strict=True)):
            pytest.skip("tables as large as the image")
        other.load_state_dict(network.state_dict())
        for x in (image(), image(1, 3, 97, 130)):
            torch.testing.assert_close(other(x), network(x))

    @torch.no_grad()
    def test_eval_is_deterministic_and_per_image(self, name):
        network, x = build(name).eval(), image(3)
        logits = network(x)
        assert torch.equal(logits, network(x))
        torch.testing.assert_close(network(x[1:2]), logits[1:2])

    def test_training_equals_eval_without_drops(self, name):
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in build(name).modules()):
            pytest.skip("batch normalisation")
        network, x = build(name, drop_path_rate=0.0), image()
        torch.testing.assert_close(network.train()(x), network.eval()(x))

    @torch.no_grad()
    def test_state_dict_round_trip(self, name):
        network, other = build(name).eval(), build(name).eval()
        for p in other.parameters():
            p.zero_()
        other.load_state_dict(copy.deepcopy(network.state_dict()), strict=True)
        assert torch.equal(network(image()), other(image()))

    def test_bfloat16_autocast(self, name):
        network, x = build(name), image()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network.train()(x)
        logits.float().square().mean().backward()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            logits = network.eval()(x)
        expected = network(x)
        assert (logits.float() - expected).std() < 0.1 * expected.std()

    @torch.no_grad()
    def test_channels_last(self, name):
        network, x = build(name).eval(), image()
        torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), network(x))

    @torch.no_grad()
    @pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
    def test_torchscript(self, name):
        network, x = build(name).eval(), image()
        if network.scriptable:
            scripted = torch.jit.script(network)
            if not network.fixed_img_size:
                odd = image(1, 3, 97, 130)
                torch.testing.assert_close(scripted(odd), network(odd))
        else:
            with pytest.raises(RuntimeError):
                torch.jit.script(network)
            scripted = torch.jit.trace(network, x)
        torch.testing.assert_close(scripted(x), network(x))

    @torch.no_grad()
    @pytest.mark.filterwarnings("ignore")
    def test_export_and_onnx(self, name, tmp_path):
        network, x = build(name).eval(), image()
        if not network.exportable:
            with pytest.raises(Exception, match=r".+"):
                torch.export.export(network, (x,))
            return
        program = torch.export.export(network, (x,))
        torch.testing.assert_close(program.module()(x), network(x))
        path = tmp_path / "network.onnx"
        torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(x), atol=1e-4, rtol=1e-4)

    def test_compile_without_graph_breaks(self, name):
        network, x = build(name).train(), image(1)
        # "aot_eager" traces forward and backward like the default backend but skips minutes of C++ compilation.
        logits = torch.compile(network, backend="aot_eager", fullgraph=True)(x)
        logits.mean().backward()
        assert logits.shape == (1, 2, SIZE, SIZE)
        compiled = torch.compile(network.eval(), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), network(x))

    def test_wrong_channels(self, name):
        with pytest.raises(ValueError, match=r"5 channels .* expects 3"):
            build(name)(image(1, 5))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_skips": 7}, r"num_skips=7 .* choose 0 to 3"),
        ({"upsample": "nearest"}, r"'nearest' is unknown: choose one of 'expand', 'bilinear', 'transpose'"),
        ({"upsample": "transpose", "patch_size": 3}, r"patch_size=3 is odd"),
        ({"depths": (2, 2)}, r"depths=\(2, 2\) and num_heads=\(1, 2, 2, 4\)"),
        ({"depths": (2, 0, 2, 2)}, r"depths=\(2, 0, 2, 2\) has a stage without blocks"),
        ({"num_heads": (1, 2, 5, 4)}, r"5 heads do not divide the 96 channels of stage 2"),
        ({"embed_dim": 0}, r"embed_dim=0 .* at least 1"),
        ({"in_channels": 0}, r"in_channels=0 .* at least 1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1.0 .* below 1"),
    ],
)
def test_swin_unet_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build("SwinUnet", **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width": 48}, r"width=48 .* multiple of 32"),
        ({"depths": (3, 4)}, r"depths=\(3, 4\) .* three numbers"),
        ({"decoder_channels": (8, 8)}, r"decoder_channels=\(8, 8\) .* five numbers"),
        ({"num_heads": 5}, r"num_heads=5 does not divide embed_dim=32"),
        ({"mlp_dim": 0}, r"mlp_dim=0 .* at least 1"),
        ({"drop_rate": 1.0}, r"drop_rate=1.0 .* below 1"),
    ],
)
def test_transunet_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build("TransUnet", **kwargs)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("Unet", {"encoder_name": "resnet17"}, r"encoder_name='resnet17' .* is unknown"),
        ("Unet", {"out_channels": 0}, r"out_channels=0 .* at least 1"),
        ("AttentionUnet", {"strides": (2,)}, r"strides=\(2,\) do not fit"),
        ("AttentionUnet", {"channels": (8, 12, 0)}, r"channels=\(8, 12, 0\) .* not possible"),
    ],
)
def test_baseline_arguments(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(name, **kwargs)


def test_single_value_normalisation():
    norm, usual = PooledBatchNorm2d(3), nn.BatchNorm2d(3)
    for x in (torch.randn(4, 3, 1, 1), torch.randn(1, 3, 2, 2)):
        torch.testing.assert_close(norm(x), usual(x))
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), usual.eval()(x))
    for key, tensor in norm.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert torch.equal(tensor, usual.state_dict()[key])


@pytest.mark.parametrize("upsample", ["expand", "bilinear", "transpose"])
@pytest.mark.parametrize("num_skips", range(4))
def test_swin_unet_ablations(upsample, num_skips):
    network = build("SwinUnet", upsample=upsample, num_skips=num_skips).eval()
    logits = network(image(1, 3, 53, 70))
    assert logits.shape == (1, 2, 53, 70)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert sum("reduce.weight" in key for key in network.state_dict()) == num_skips


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"variant": "256"}, r"variant='256' is unknown: choose one of '128s', '192', '384'"),
        ({"depths": (2, 2, 2)}, r"depths=\(2, 2, 2\), num_heads=\(2, 3\) do not describe the same stages"),
        ({"num_heads": (2, 0)}, r"num_heads=\(2, 0\) .* at least 1"),
        ({"embed_dim": (20, 24)}, r"first stage's 20, give that a multiple of 8"),
        ({"key_dim": 12}, r"key_dim=12 does not divide .* choose a divisor"),
        ({"key_dim": 0}, r"key_dim=0 .* at least 1"),
        ({"decoder_channels": (8, 8)}, r"decoder_channels=\(8, 8\) .* three numbers"),
        ({"out_channels": 0}, r"out_channels=0 .* at least 1"),
        ({"drop_path_rate": -0.1}, r"drop_path_rate=-0.1 .* from 0"),
    ],
)
def test_levit_unet_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build("LevitUnet", **kwargs)


def small_levit(img_size: int | tuple[int, int], **kwargs) -> LevitUnet:
    """Three stages, with biases that are all different."""
    torch.manual_seed(0)
    sizes = {"embed_dim": (16, 24, 32), "key_dim": 8, "depths": (1, 1, 1), "num_heads": (2, 3, 4)}
    network = LevitUnet(1, 3, img_size, decoder_channels=(16, 12, 8), **sizes, **kwargs)
    for key, parameter in network.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=3.0 if key.endswith("attention_biases") else 1.0)
    return network


@torch.no_grad()
@pytest.mark.parametrize("img_size", [48, 224, (97, 130), (250, 60)], ids=str)
def test_levit_unet_bias_is_that_of_the_longest_known_distance(img_size):
    network, other = small_levit(96).eval(), small_levit(img_size).eval()
    state = other.state_dict()
    for key, tensor in network.state_dict().items():
        if key.endswith("attention_biases"):
            rows, cols = (torch.arange(side).clamp(max=tensor.shape[1] - 1) for side in state[key].shape[1:])
            tensor = tensor[:, rows][:, :, cols]
        state[key] = tensor
    other.load_state_dict(state)
    x = image(2, 1, *((img_size, img_size) if isinstance(img_size, int) else img_size))
    torch.testing.assert_close(network(x), other(x))


def test_levit_unet_trains_on_a_single_token():
    network = small_levit(48).train()
    logits = network(image(1, 1, 48, 48))
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_levit_unet_uses_weights_loaded_after_eval():
    network = small_levit(64).eval()
    x = image(1, 1)
    before = network(x)
    network.load_state_dict({key: 2 * value for key, value in network.state_dict().items()})
    expected = small_levit(64)
    expected.load_state_dict(network.state_dict())
    assert torch.equal(network(x), expected.eval()(x))
    assert not torch.equal(network(x), before)


def test_levit_attention_equals_timm():
    torch.manual_seed(0)
    grid = (5, 4)
    ours, theirs = Attention(16, 8, 3, grid), levit.Attention(16, 8, 3, 2, grid, act_layer=nn.Hardswish)
    halving = SubsamplingAttention(16, 24, 8, grid)
    timm_halving = levit.AttentionDownsample(16, 24, 8, 2, 4, resolution=grid, act_layer=nn.Hardswish)
    x = torch.randn(2, 20, 16)
    for stride, module, reference in ((1, ours, theirs), (2, halving, timm_halving)):
        state = {key: torch.rand_like(value) for key, value in reference.state_dict().items() if value.ndim}
        reference.load_state_dict(state, strict=False)
        renamed = {key.replace(".ln.", "."): value for key, value in state.items()}
        renamed["attention_biases"] = renamed["attention_biases"].unflatten(1, grid)
        module.load_state_dict(renamed)
        index = bias_index(grid, grid, stride, x.device)
        wanted = [x.requires_grad_(), module.attention_biases]
        out = module(x if stride == 1 else x.view(2, *grid, 16), index)
        expected = reference(x)
        torch.testing.assert_close(out, expected)
        gradients = torch.autograd.grad(out.square().sum(), wanted)
        expected = torch.autograd.grad(expected.square().sum(), [x, reference.attention_biases])
        torch.testing.assert_close(gradients[0], expected[0])
        torch.testing.assert_close(gradients[1].flatten(1), expected[1])


@pytest.mark.parametrize("grid", [(7, 7), (1, 5), (6, 2)])
def test_upsampled_convolution_equals_its_definition(grid):
    torch.manual_seed(0)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, *grid, dtype=torch.float64, requires_grad=True)
    enlarged = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    expected = nn.functional.conv2d(enlarged, weight, padding=1)
    out = conv.upsampled_conv3x3(x, weight)
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad(out.square().sum(), [x, weight])
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), [x, weight]))


@pytest.mark.parametrize("block", [1, 2000, 2**21], ids=["rows", "images", "all"])
@pytest.mark.parametrize("grid", [(8, 8), (5, 9), (1, 1), (7, 2)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_convolution_with_fewer_multiplications_equals_its_definition(monkeypatch, bias, grid, block):
    monkeypatch.setattr(conv, "BLOCK", block)
    layers = nn.Sequential(
        nn.Conv2d(128, 132, 3, padding=1, bias=bias), nn.Conv2d(132, 130, 3, 2, 1), nn.Conv2d(130, 3, 1)
    )
    layers.double().to(memory_format=torch.channels_last)
    x = torch.randn(3, 128, *grid, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layers.parameters()]
    expected = layers(x)
    expected_gradients = torch.autograd.grad(expected.square().sum(), wanted)
    conv.quicken_convs(layers)
    assert [type(layer) for layer in layers] == [conv.Conv3x3, nn.Conv2d, nn.Conv2d]
    out = layers(x)
    assert "_Winograd" in str(layers[0](x).grad_fn.next_functions)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), wanted), expected_gradients)
    layers[0].requires_grad_(False)
    frozen = torch.autograd.grad(layers(x).square().sum(), x)[0]
    torch.testing.assert_close(frozen, expected_gradients[0])


def reference_block(block: SwinBlock, x: torch.Tensor) -> torch.Tensor:
    """A block token by token, from the definition: which tokens share a shifted window, and their relative position."""
    height, width = x.shape[1:3]
    size, heads = block.window_size, block.attn.num_heads
    window = (min(size, height), min(size, width))
    shift = [block.shift_size if side > size else 0 for side in (height, width)]
    padded = [-(-side // w) * w for side, w in zip((height, width), window, strict=True)]
    table = block.attn.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, heads)

    def place(row: int, col: int) -> tuple:
        """Window and position in it after the roll; tokens that were wrapped around form a window of their own."""
        moved = [(p - s) % full for p, s, full in zip((row, col), shift, padded, strict=True)]
        wrapped = [p < s for p, s in zip((row, col), shift, strict=True)]
        return tuple(m // w for m, w in zip(moved, window, strict=True)), tuple(wrapped), moved

    tokens = [(row, col) for row in range(height) for col in range(width)]
    places = [place(*token) for token in tokens]
    flat = x.flatten(1, 2)
    q, k, v = block.attn.qkv(block.norm1(flat)).view(len(x), len(tokens), 3, heads, -1).unbind(2)
    out = torch.zeros_like(flat)
    for i, (cell, wrapped, (row, col)) in enumerate(places):
        keys = [j for j, other in enumerate(places) if other[:2] == (cell, wrapped)]
        bias = torch.stack([table[row - places[j][2][0] + size - 1, col - places[j][2][1] + size - 1] for j in keys])
        scores = torch.einsum("bhd,bkhd->bkh", q[:, i], k[:, keys]) * block.attn.scale + bias
        out[:, i] = torch.einsum("bkh,bkhd->bhd", scores.softmax(1), v[:, keys]).flatten(1)
    flat = flat + block.attn.proj(out)
    return (flat + block.mlp(block.norm2(flat))).view_as(x)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(8, 8), (9, 6), (3, 11), (4, 13), (2, 3)])
def test_swin_block_equals_its_definition(grid, shifted, training):
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, shifted, (8, 8)).double().train(training)
    nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference_block(block, x), atol=1e-10, rtol=0)


def test_expand_head_equals_its_definition():
    torch.manual_seed(0)
    head = ExpandHead(8, 3).double()
    nn.init.normal_(head.norm.weight)
    nn.init.normal_(head.norm.bias)
    x = torch.randn(2, 5, 4, 8, dtype=torch.float64, requires_grad=True)
    features = head.expand(x).view(2, 5, 4, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(2, 20, 16, 8)
    expected = head.output(head.norm(features).permute(0, 3, 1, 2))
    wanted = [x, *head.parameters()]
    gradients = torch.autograd.grad(expected.square().sum(), wanted)
    for training in (True, False):
        logits = head.train(training)(x)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(torch.autograd.grad(logits.square().sum(), wanted), gradients)


def test_dropped_residuals_are_not_computed_but_expectation_holds():
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, True, (8, 8), drop_path=0.5).train()
    nn.init.constant_(block.attn.proj.weight, 0)
    nn.init.constant_(block.attn.proj.bias, 1)
    nn.init.constant_(block.mlp.fc2.weight, 0)
    nn.init.constant_(block.mlp.fc2.bias, 0)
    x = torch.zeros(400, 8, 8, 8)
    out = block(x).mean((1, 2, 3))
    assert set(out.tolist()) == {0.0, 2.0}
    assert abs(out.mean().item() - 1) < 0.2


def test_dropping_every_residual_leaves_zero_gradients():
    block = SwinBlock(8, 2, 4, True, (8, 8), drop_path=1 - 1e-9).train()
    x = torch.randn(2, 8, 8, 8)
    out = block(x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_large_maps_by_image_equal_the_batch(training):
    torch.manual_seed(0)
    stage = SwinStage(96, 3, 7, (56, 56), (0.0, 0.0)).train(training)
    x = torch.randn(2, 56, 56, 96)
    torch.testing.assert_close(stage(x), stage.blocks(x))
