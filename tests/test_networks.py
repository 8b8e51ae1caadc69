"""What every network promises, checked alike for all of them.

A network joins by an entry in tests/small.py: the arguments of a small variant.
"""

import copy

import onnxruntime
import pytest
import torch
from torch import nn

import networks
from tests.small import NETWORKS, SIZE, build, image


def test_every_public_network_is_tested():
    assert {network_class.__name__ for network_class, _ in NETWORKS.values()} == set(networks.__all__)


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
