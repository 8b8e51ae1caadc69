"""Files of weights: every reader, every kind of value that is none, and names in any order."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from safetensors.torch import save_file
from torch import Tensor, nn

import networks
from networks.errors import UserError
from networks.pretrained import load
from networks.state_dicts import check_training_state, read_weights, recognises, rename
from networks.workflow import LastCheckpoint, load_weights
from tests.small import build


def network() -> nn.Module:
    """Convolutions and a batch norm, whose counter is an integer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)


BAD = {
    "NaN": ("0.bias", lambda: torch.tensor([1.0, float("nan")]), r"1 of the 2 values of '0\.bias' .* NaN or infinite"),
    "Inf": ("1.running_var", lambda: torch.full((2,), float("inf")), r"2 of the 2 values of '1\.running_var'"),
    "overflow": ("0.bias", lambda: torch.full((2,), 1e300, dtype=torch.float64), r"infinite as torch\.float32"),
    "integers": ("0.bias", lambda: torch.ones(2, dtype=torch.int64), r"holds integers \(torch\.int64\).* floating"),
    "truth": ("0.bias", lambda: torch.ones(2, dtype=torch.bool), r"holds truth values"),
    "complex": ("0.bias", lambda: torch.ones(2, dtype=torch.complex64), r"holds complex numbers"),
    "counter": ("1.num_batches_tracked", lambda: torch.tensor(1.0), r"real floating-point .* needs integers"),
    "sparse": ("0.bias", lambda: torch.ones(2).to_sparse(), r"'0\.bias' in .* is a sparse tensor"),
    "meta": ("0.bias", lambda: torch.ones(2, device="meta"), r"is a meta tensor"),
    "quantised": ("0.bias", quantised, r"is a quantised tensor"),
    "number": ("0.bias", lambda: 3, r"is a int instead of a tensor"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BAD)
def test_values_that_are_none(kind: str, tmp_path: Path) -> None:
    name, value, message = BAD[kind]
    target = network()
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    torch.save(target.state_dict() | {name: value()}, tmp_path / "model.pt")
    loaders = [load_weights, load] if kind != "number" else [load_weights]  # as other people's files have epochs
    for loader in loaders:
        with pytest.raises(UserError, match=message) as caught:
            loader(target, tmp_path / "model.pt")
        assert "model.pt" in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in target.state_dict().items())


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_other_precisions_are_weights(kind: torch.dtype, tmp_path: Path) -> None:
    state = {key: t.to(kind) if t.is_floating_point() else t for key, t in network().state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    target = network()
    load_weights(target, tmp_path / "model.pt")
    assert torch.equal(target[0].bias.detach(), state["0.bias"].float())


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.npz"])
def test_every_reader_gives_the_same(name: str, tmp_path: Path) -> None:
    state, path = network().state_dict(), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in state.items()})
    else:
        torch.save(state, path)
    found = read_weights(path)
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"{re.escape(name)} is not a readable .*may be truncated"):
        read_weights(path)
    path.unlink()
    with pytest.raises(UserError, match=rf"{re.escape(name)} does not exist"):
        read_weights(path)


def test_states_of_training() -> None:
    good = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(3)}}, "best": float("inf"), "mode": "min"}
    check_training_state("optimizer", good, "last.pt")
    for bad, named in (
        ({"state": {0: {"exp_avg": torch.tensor([float("nan")])}}}, r"optimizer\.state\.0\.exp_avg"),
        ({"param_groups": [{"lr": float("nan")}]}, r"optimizer\.param_groups\.0\.lr"),
        ({"state": {0: {"exp_avg": torch.ones(2).to_sparse()}}}, "sparse"),
    ):
        with pytest.raises(UserError, match=named):
            check_training_state("optimizer", bad, "last.pt")


def test_renaming() -> None:
    table = ((r"a\.dead\..+", None), (r"a\.(.+)", "ours.{}".format))
    state = {"module.a.w": torch.ones(1), "a.dead.w": torch.ones(1), "a.attn_mask": torch.ones(1)}
    assert list(rename(state, table, "the authors' A")) == ["ours.w"]
    with pytest.raises(UserError, match=r"'b\.w' is not a tensor of the authors' A"):
        rename(state | {"b.w": torch.ones(1)}, table, "the authors' A")
    assert recognises(table, ["b.w", "a.dead.w", "a.w"]) and not recognises(table, ["a.w", "b.w"])
    assert not recognises(table, ["a.dead.w", "a.dead.b"]) and not recognises(table, [])


@pytest.mark.parametrize("backwards", [False, True])
def test_authors_files_in_any_order(backwards: bool, tmp_path: Path) -> None:
    """HiFormer's hold tensors twice and some without influence, LeViT-UNet's the blocks twice."""
    names = [f"cnn_b1.0.{name}" for name in ("c.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")]
    own = networks.LevitUnet.convert_authors({name: torch.zeros(1) for name in names})
    shapes = {key: tensor.shape for key, tensor in build("LevitUnet").state_dict().items()}
    state = {name: torch.zeros(shapes[key]) for name, key in zip(names, own, strict=True)}
    items = [("blocks.0.m.qkv.c.weight", torch.zeros(1)), *state.items()]
    torch.save(dict(reversed(items) if backwards else items), tmp_path / "epoch.pth")
    with pytest.raises(UserError, match=r"the authors' checkpoints of this network\) is of another LevitUnet"):
        load(build("LevitUnet"), tmp_path / "epoch.pth")
    aliases = ["ConvUp_s.conv_tower.0.weight", "All2Cross.pyramid.norm_1.weight", "conv_pred.0.weight"]
    assert recognises(networks.HiFormer.authors_names, aliases[::-1] if backwards else aliases)


def test_resume_refuses_an_optimizer_that_went_wrong(tmp_path: Path) -> None:
    trainer, evaluator, target = Engine(lambda *_: None), Engine(lambda *_: None), network()
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.5, 1
    optimizer = torch.optim.AdamW(target.parameters())
    target(torch.ones(2, 3, 2, 2)).sum().backward()
    optimizer.step()
    last = LastCheckpoint(str(tmp_path / "last.pt"), target, evaluator, True, {"optimizer": optimizer})
    trainer.state.max_epochs = 3
    last(trainer)
    last.restore(trainer)
    optimizer.state[target[0].bias]["exp_avg"][0] = torch.nan
    last(trainer)
    before = target[0].bias.detach().clone()
    with torch.no_grad():
        target[0].bias.zero_()
    with pytest.raises(UserError, match=r"exp_avg' in .*last\.pt .* NaN or infinite"):
        last.restore(trainer)
    assert before.any() and not target[0].bias.any()  # nothing was loaded
