"""Which layers count as plain, and that networks take their fast paths where all layers are."""

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize, prune

from networks.layers import conv, expand, levit, swin, window_attention
from networks.layers.eager import eager_cpu, is_plain
from tests.small import NETWORKS, WIDE, build, image


class Own(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Named(nn.LayerNorm):
    """Another name alone changes nothing."""


def replaced(layer: nn.Module) -> None:
    layer.forward = lambda x: x


CHANGES = {
    "forward hook": lambda layer: layer.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    "forward": replaced,
    "parametrisation": lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
    "weight norm": lambda layer: nn.utils.parametrizations.weight_norm(layer),
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "weight of a subclass": lambda layer: setattr(layer, "weight", nn.Parameter(MetaTensor(layer.weight.data))),
    "bias of a subclass": lambda layer: setattr(layer, "bias", nn.Parameter(MetaTensor(layer.bias.data))),
}


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Conv2d(4, 4, 3), Named(4)], ids=str)
def test_layers_as_built_are_plain(layer):
    assert is_plain(layer)
    assert is_plain(layer.to(torch.bfloat16).requires_grad_(False))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_changed_layers_are_not(kind, change):
    layer = kind(4, 4, *[1] * (kind is nn.Conv2d))
    CHANGES[change](layer)
    assert not is_plain(layer)


def test_another_forward_pass_is_not():
    assert not is_plain(Own(4, 4))
    assert not is_plain(nn.GroupNorm(1, 4))


def test_no_layer_is_plain_while_all_are_hooked():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not is_plain(nn.Linear(4, 4))
    handle.remove()
    assert is_plain(nn.Linear(4, 4))


def test_a_subclass_that_only_carries_more_is_computed_with_as_usual():
    x = torch.zeros(2)
    assert eager_cpu(x) and eager_cpu(MetaTensor(x))
    assert torch.func.vmap(lambda x: x if eager_cpu(x) else x + 1)(x).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["LevitUnet", "TransUnet", "CSUnet", "Unet"])
@pytest.mark.parametrize("kind", [torch.as_tensor, MetaTensor])
def test_wide_convolutions_are_computed_with_fewer_multiplications(monkeypatch, name, kind):
    monkeypatch.setattr(conv, "MIN_TILES_TRAINING", 1)
    seen = []
    apply = conv.apply
    monkeypatch.setattr(conv, "apply", lambda function, *args: seen.append(function) or apply(function, *args))
    build(name, **WIDE.get(name, {}))(kind(image()))
    assert conv._Winograd in seen


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", ["run", "compile", "export"])
def test_expanded_features_are_never_held(monkeypatch, name, how):
    network, x = build(name).eval(), image()
    heads = [layer for layer in network.modules() if isinstance(layer, expand.ExpandHead)]
    if not heads:
        pytest.skip("no head that expands")

    def fail(self, x):
        raise AssertionError("the head calls its layers one after another")

    monkeypatch.setattr(expand.ExpandHead, "expanded_logits", fail)
    with torch.no_grad():
        if how == "run":
            network(x)
        elif how == "compile":
            torch.compile(heads[0], backend="eager", fullgraph=True)(
                torch.randn(1, 4, 4, heads[0].norm.normalized_shape[0])
            )
        else:
            torch.export.export(heads[0], (torch.randn(1, 4, 4, heads[0].norm.normalized_shape[0]),))
    with pytest.raises(AssertionError, match="one after another"):
        heads[0].output.register_forward_hook(lambda *_: None)
        network(x)


def test_a_bias_that_was_put_into_the_head_counts():
    head, x = expand.ExpandHead(8, 3).double(), torch.randn(1, 4, 4, 8, dtype=torch.float64)
    head.output = nn.Conv2d(8, 5, 1).double()
    torch.testing.assert_close(head(x), head.expanded_logits(x))
    torch.testing.assert_close(torch.jit.script(head)(x), head.expanded_logits(x))
    head.expand = nn.Linear(8, 128).double()
    torch.testing.assert_close(head(x), head.expanded_logits(x))
    head(x).sum().backward()
    assert head.expand.bias.grad is not None and head.output.bias.grad is not None


OTHER_OUTPUTS = [
    nn.Identity(),
    nn.Sequential(nn.Dropout(), nn.Conv2d(8, 3, 1)),
    nn.Conv2d(8, 3, 3, padding=1, bias=False),
    nn.Conv2d(8, 3, 1, stride=2, bias=False),
]


@pytest.mark.parametrize("output", OTHER_OUTPUTS, ids=str)
def test_another_layer_in_the_head_is_called(output):
    head, x = expand.ExpandHead(8, 3).eval(), torch.randn(1, 4, 4, 8)
    head.output = output.eval()
    torch.testing.assert_close(head(x), head.expanded_logits(x))


def test_a_norm_without_bias_in_the_head_is_called():
    head, x = expand.ExpandHead(8, 3), torch.randn(1, 4, 4, 8)
    head.norm = nn.LayerNorm(8, bias=False)
    torch.testing.assert_close(head(x), head.expanded_logits(x))


@pytest.mark.parametrize(("kind", "sizes"), [(swin.SwinBlock, (8, 2, 4, True)), (levit.LevitDownsample, (8, 8, 4))])
def test_tables_are_built_on_the_device_of_the_weights(kind, sizes):
    with FakeTensorMode(), torch.device("cuda"):  # tensors without values, so that no GPU is needed
        layer = kind(*sizes, grid=(8, 8), drop_path=0.0)
        assert layer(torch.randn(1, 8, 8, 8)).device.type == "cuda"


def test_hooks_within_a_stage_see_the_whole_batch():
    """Large maps go image by image otherwise, to stay in the cache."""
    stage = swin.SwinStage(96, 3, 7, (56, 56), [0.0]).eval()
    x, seen = torch.randn(2, 56, 56, 96), []
    with torch.no_grad():
        expected = stage(x)
        stage[0].register_forward_hook(lambda _, inputs, output: seen.append(output.shape[0]))
        torch.testing.assert_close(stage(x), expected)
    assert seen == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_has_the_gradients_of_plain_operators(monkeypatch, dtype):
    attention = window_attention.WindowAttention(16, 2, 3)
    index = window_attention.relative_position_index(3, 3, 3, torch.device("cpu"))
    mask = window_attention.window_mask(6, 6, (3, 3), (1, 1), torch.device("cpu"))
    x = torch.randn(2, 4, 9, 16)

    def gradients(own: bool) -> list[torch.Tensor]:
        monkeypatch.setattr(window_attention, "eager_cpu_training", lambda *_, **__: own)
        attention.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = attention(x, index, mask)
        assert y.dtype == dtype
        y.float().square().sum().backward()
        return [p.grad for p in attention.parameters()]

    tolerance = 1e-5 if dtype == torch.float32 else 0.02  # of the largest: eight bits
    for own, plain in zip(gradients(True), gradients(False), strict=True):
        assert (own - plain).abs().max() <= tolerance * plain.abs().max()


@pytest.mark.parametrize("kind", [torch.as_tensor, MetaTensor])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_is_hand_written_under_autocast_too(monkeypatch, dtype, kind):
    seen = []
    apply = window_attention.apply
    monkeypatch.setattr(
        window_attention, "apply", lambda function, qkv, *args: seen.append(qkv.dtype) or apply(function, qkv, *args)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        build("SwinUnet")(kind(image()))
    assert set(seen) == {dtype}
