"""What every network promises, checked alike for all of them.

A network joins by its line in the public list; its attribute `small` is the variant that is tested.
"""

import copy
import inspect

import onnxruntime
import pytest
import torch
from monai.data import MetaTensor
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from timm.layers import StdConv2d
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

from networks.base import image_sides
from networks.errors import UserError
from tests.small import NETWORKS, SIZE, WIDE, build, image


def grown(name: str) -> nn.Module:
    """The small variant after its first steps: a residual scaled with zeros starves its branch of gradients."""
    network = build(name)
    for p in network.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return network


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
        network = grown(name).eval()  # stochastic depth could starve a block of its gradient
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
        drops = inspect.signature(NETWORKS[name][0]).parameters.keys() & {
            "drop_rate",
            "drop_path_rate",
            "attn_drop_rate",
        }
        network, x = build(name, **dict.fromkeys(drops, 0.0)), image()
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
        torch.onnx.export(program, (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(x), atol=1e-4, rtol=1e-4)

    @pytest.mark.slow
    def test_compile_without_graph_breaks(self, name):
        torch.compiler.reset()  # all networks share one forward, and the compiler keeps few versions of it
        network, x = build(name).train(), image(1)
        # "aot_eager" traces forward and backward like the default backend but skips minutes of C++ compilation, and
        # "eager" finds graph breaks alone, which is all that an evaluation adds
        logits = torch.compile(network, backend="aot_eager", fullgraph=True)(x)
        logits.mean().backward()
        assert logits.shape == (1, 2, SIZE, SIZE)
        compiled = torch.compile(network.eval(), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), network(x))

    def test_wrong_channels(self, name):
        with pytest.raises(ValueError, match=r"5 channels .* expects 3"):
            build(name)(image(1, 5))


def layers(network: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    """Layers of some kinds by name; by default all that hold parameters of their own."""
    found = network.named_modules()
    return {
        name: layer
        for name, layer in found
        if (isinstance(layer, kinds) if kinds else next(layer.parameters(recurse=False), None) is not None)
    }


def gradients(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradients of all parameters by name."""
    logits = network(x)
    parameters = dict(network.named_parameters())
    found = torch.autograd.grad(logits.square().mean(), list(parameters.values()))
    return logits.detach(), dict(zip(parameters, found, strict=True))


@pytest.fixture(scope="module")
def process_group():
    """This process alone as a group."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", NETWORKS)
class TestAtHomeInPyTorch:
    """What other people's tools do to a network's layers reaches the output: no layer's weights are read past them."""

    def test_hooks_see_every_layer_and_change_nothing(self, name):
        network, x = build(name).double().eval(), image().double()
        expected = gradients(network, x)
        seen = set()
        for key, layer in layers(network).items():
            layer.register_forward_hook(lambda *_, key=key: seen.add(key))
        found = gradients(network, x)
        assert set(layers(network)) - seen == set()
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-6)

    @torch.no_grad()
    @pytest.mark.parametrize("config", [Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig])
    def test_torchao(self, name, config):
        network, x = build(name).eval(), image()
        expected = network(x)
        quantize_(network, config())
        linear = layers(network, nn.Linear)
        assert [key for key, layer in linear.items() if type(layer.weight) is nn.Parameter] == []
        found = network(x)
        assert (found - expected).std() < 0.1 * expected.std()
        assert not linear or not torch.equal(found, expected)

    @torch.no_grad()
    @pytest.mark.filterwarnings("ignore")
    def test_quantize_dynamic(self, name):
        network, x = build(name).eval(), image()
        expected = network(x)
        quantized = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
        assert [key for key, layer in quantized.named_modules() if type(layer) is nn.Linear] == []
        found = quantized(x)
        assert (found - expected).std() < 0.1 * expected.std()
        if network.scriptable:
            torch.testing.assert_close(torch.jit.script(quantized)(x), found)

    def test_prune(self, name):
        network, x = grown(name).eval(), image()
        pruned = layers(network, nn.Linear, nn.Conv2d)
        prune.global_unstructured([(layer, "weight") for layer in pruned.values()], prune.L1Unstructured, amount=0.2)
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        for _ in range(2):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        starved = [key for key, layer in pruned.items() if layer.weight_mask.any() and not layer.weight_orig.grad.any()]
        assert starved == []
        expected = network(x)
        for layer in pruned.values():
            prune.remove(layer, "weight")
        torch.testing.assert_close(network(x), expected)
        zeros = sum((layer.weight == 0).sum().item() for layer in pruned.values())
        assert zeros == pytest.approx(0.2 * sum(layer.weight.numel() for layer in pruned.values()), rel=0.01)

    def test_lora(self, name):
        network, x = grown(name).double().eval(), image().double()
        # peft's convolutions know no dilation, and adding to filters that are standardised means nothing.
        convolutions = layers(network, nn.Conv2d).items()
        simple = (key for key, layer in convolutions if layer.groups == 1 and layer.dilation == (1, 1))
        simple = (key for key in simple if not isinstance(network.get_submodule(key), StdConv2d))
        targets = {*layers(network, nn.Linear), *simple}
        adapted = get_peft_model(network, LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False))
        adapted.eval()
        logits = adapted(x)
        logits.square().mean().backward()
        trained = {key: p.grad is not None and bool(p.grad.any()) for key, p in adapted.named_parameters()}
        assert [key for key, found in trained.items() if found != ("lora_" in key)] == []
        assert sum(trained.values()) == 2 * len(targets)
        merged = adapted.merge_and_unload()
        with torch.no_grad():
            torch.testing.assert_close(merged(x), logits.detach())

    @torch.no_grad()
    @pytest.mark.parametrize("assign", [False, True])
    def test_meta_device(self, name, assign):
        network, x = build(name).eval(), image()
        with torch.device("meta"):
            other = build(name).eval()
        if not assign:
            other = other.to_empty(device="cpu")
        other.load_state_dict(network.state_dict(), assign=assign)
        assert torch.equal(other(x), network(x))

    @torch.no_grad()
    def test_safetensors(self, name, tmp_path):
        network, other, x = build(name).eval(), build(name).eval(), image()
        for p in other.parameters():
            p.zero_()
        save_file(network.state_dict(), tmp_path / "network.safetensors")
        other.load_state_dict(load_file(tmp_path / "network.safetensors"))
        assert torch.equal(other(x), network(x))

    @pytest.mark.parametrize("each_layer", [False, True])
    def test_fully_shard(self, name, each_layer, process_group):
        network, x = build(name).eval(), image()
        logits, expected = gradients(network, x)
        if each_layer:
            for layer in reversed(layers(network).values()):  # the inner ones first
                fully_shard(layer)
        fully_shard(network)
        found = network(x)
        found.square().mean().backward()
        torch.testing.assert_close(found.detach(), logits, atol=1e-5, rtol=1e-4)
        found = {key: p.grad.full_tensor() for key, p in network.named_parameters()}
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)

    def test_gradients_per_sample(self, name):
        network, x = build(name).double().eval(), image().double()
        parameters = {key: p.detach() for key, p in network.named_parameters()}

        def loss(parameters, x):
            return torch.func.functional_call(network, parameters, (x[None],)).square().mean()

        found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
        _, expected = gradients(network, x[1:])
        torch.testing.assert_close({key: value[1] for key, value in found.items()}, expected, atol=1e-11, rtol=1e-6)

    def test_average_of_weights(self, name):
        network, batches = build(name).train(), [image(), -image()]
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        expected = {key: 0.5 * p.detach() for key, p in network.named_parameters()}
        averaged.update_parameters(network)
        with torch.no_grad():
            for p in network.parameters():
                p.zero_()
        averaged.update_parameters(network)
        torch.testing.assert_close({key: p.detach() for key, p in averaged.module.named_parameters()}, expected)
        update_bn(batches, averaged)
        norms = [layer for layer in averaged.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        assert all(layer.num_batches_tracked == len(batches) for layer in norms)
        assert averaged.eval()(image()).isfinite().all()

    def test_frozen_encoder(self, name):
        network = build(name).train()
        network.encoder.requires_grad_(False)
        network(image()).square().mean().backward()
        frozen = {id(p) for p in network.encoder.parameters()}
        assert 0 < len(frozen) < len(list(network.parameters()))
        assert [key for key, p in network.named_parameters() if (p.grad is None) != (id(p) in frozen)] == []

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("training", [False, True])
    def test_meta_tensor(self, name, dtype, training):
        network, x = build(name, **WIDE.get(name, {})).to(dtype).train(training), image(1).to(dtype)
        batch = MetaTensor(x, affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
        state = torch.get_rng_state()
        logits = network(batch)
        logits.float().square().mean().backward()
        torch.set_rng_state(state)
        assert type(logits) is MetaTensor and torch.equal(logits.affine, batch.affine)
        torch.testing.assert_close(logits.as_tensor(), network(x))
        assert all(type(p.grad) is torch.Tensor for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [0, (224,), (224, 224, 3), 224.0, (96, "96"), None], ids=str)
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(UserError, match=r"img_size=.* give a side, or \(height, width\)"):
        image_sides(size)
