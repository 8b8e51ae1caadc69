"""Weights that do not fit or are none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from networks.workflow import load_weights
from tests.malformed.case import Case, bytes_of, cut


class Tiny(nn.Module):
    """A network to load checkpoints into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)


def spoiled(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    """A checkpoint of ``Tiny`` after a change."""

    def write(path: Path) -> None:
        state = Tiny().state_dict()
        other = change(state)
        torch.save(state if other is None else other, path)

    return write


def assign(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[Path], Any]:
    return spoiled(lambda state: state.update({name: make(state[name])}))


def fill(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return make


def cases() -> Iterator[Case]:
    """Weights that do not fit or are none."""
    contents: dict[str, Callable[[Path], Any]] = {
        "empty": bytes_of(b""),
        "text": bytes_of(b"weights"),
        "half": lambda path: (spoiled(lambda state: None)(path), cut(0.5)(path)),
        "list": spoiled(lambda state: list(state.values())),
        "tensor": spoiled(lambda state: state["conv.weight"]),
        "number": spoiled(lambda state: 3),
        "nothing": spoiled(lambda state: {}),
        "path object": spoiled(lambda state: {"network": Path("a")}),
        "whole module": spoiled(lambda state: Tiny()),
        "lambda's place": spoiled(lambda state: {"conv.weight": "text"}),
        "missing tensor": spoiled(lambda state: {k: v for k, v in state.items() if k != "conv.bias"}),
        "foreign tensor": spoiled(lambda state: {**state, "head.weight": torch.zeros(3)}),
        "other names": spoiled(lambda state: {f"x.{k}": v for k, v in state.items()}),
    }
    for name in ("conv.weight", "conv.bias", "norm.weight", "norm.running_mean", "norm.running_var"):
        contents |= {
            f"{name} nan": assign(name, fill(float("nan"))),
            f"{name} inf": assign(name, fill(float("inf"))),
            f"{name} whole numbers": assign(name, lambda t: t.to(torch.int32)),
            f"{name} bytes": assign(name, lambda t: t.to(torch.uint8)),
            f"{name} complex": assign(name, lambda t: t.to(torch.complex64)),
            f"{name} truth": assign(name, lambda t: t > 0),
            f"{name} shape": assign(name, lambda t: torch.cat([t, t])),
            f"{name} text": assign(name, lambda t: "text"),
        }
    for name, write in contents.items():

        def make(folder: Path, write: Callable[[Path], Any] = write) -> Callable[[], Any]:
            write(folder / "model.pt")
            return lambda: load_weights(Tiny(), folder / "model.pt")

        yield Case(f"checkpoint {name}", make, ("model.pt",))
    yield Case("no checkpoint", lambda folder: lambda: load_weights(Tiny(), folder / "model.pt"), ("model.pt",))
