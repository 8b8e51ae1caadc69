"""The fastest way that a processor has to compute a network, with hardly any label other than in float32."""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from networks.workflow.training import AutocastInferer, has_fast_bfloat16
from scripts.export.runtimes import FORMATS, RuntimeNetwork, open_openvino

SAME = 0.999  # of the labels of a batch with more than one class
LONG = 240.0  # seconds of computing that have to be left before a network is converted, which takes 5 to 45
FASTER = 1.1  # than the way before, for a change


class DifferentLabelsError(Exception):
    """A batch has other labels than float32 gives it; the case has to be computed anew, and then is in float32."""


class Fastest(nn.Module):
    """A network on a processor in bfloat16 where that is faster, and in OpenVINO where cases are many.

    Both round otherwise than PyTorch in float32. So in every case the labels of the first batch in which there are
    several classes are compared with those of float32; where fewer than 999 of 1000 are the same, that way is not taken
    any more. A case in which it finds one class only is not compared.

    Args:
        network: float32, on the CPU; it is put in evaluation mode.
        say: is told which way is taken, and why.
    """

    def __init__(self, network: nn.Module, say: Callable[[str], None]) -> None:
        super().__init__()
        self.network, self._say = network, say
        self._precise: Callable[[Tensor], Tensor] = network
        self._quick: Callable[[Tensor], Tensor] | None = None
        self._checked = self._converted = False
        self._seconds, self._last = 0.0, None
        if has_fast_bfloat16():
            inferer = AutocastInferer()
            self._quick = lambda x: inferer(x, network)
            say("PyTorch in bfloat16, with which this processor is faster")
        else:
            say("PyTorch in float32, since this processor is not faster with bfloat16")
        self.eval()  # else MONAI would go back to training after a case, and batch norms learn from what is compared

    def start_case(self) -> None:
        """To be called before every case."""
        self._checked, self._seconds = False, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes, H, W) in float32.

        Raises:
            DifferentLabelsError: float32 gives other labels; from now on it is what is computed.
        """
        start = time.perf_counter()
        self._last = x
        logits = self._precise(x) if self._quick is None else self._quick(x)
        self._seconds += time.perf_counter() - start
        if self._quick is not None and not self._checked:
            labels = logits.argmax(dim=1)
            if bool((labels != labels.flatten()[0]).any()):
                self._checked = True
                same = _same(labels, self._precise(x))
                if same < SAME:
                    self._quick = None
                    self._say(f"PyTorch in float32, since only {100 * same:.2f} % of a batch's labels were the same")
                    raise DifferentLabelsError
        return logits

    def look_ahead(self, cases: int) -> None:
        """Convert the network to OpenVINO where so many further cases like the one before make that worth its time."""
        if self._converted or self._last is None or self._seconds * cases < LONG or not _has_openvino():
            return
        self._converted = True
        x = self._last.detach().as_subclass(Tensor).float().contiguous()
        before = self._precise if self._quick is None else self._quick
        with tempfile.TemporaryDirectory(prefix="openvino-") as folder, torch.inference_mode(False):
            try:
                FORMATS["openvino"].write(self.network, torch.rand(2, *x.shape[1:]), Path(folder), len(x))
                precision = "f32" if self._quick is None else "bf16"  # which has been tried by then
                model = RuntimeNetwork(open_openvino(Path(folder) / FORMATS["openvino"].files[0], precision))
            except Exception as error:  # not every network can be converted, and this one can be computed without
                self._say(f"no OpenVINO, since the network cannot be converted ({type(error).__name__})")
                return
        with torch.inference_mode():
            same = _same(model(x).argmax(dim=1), self._precise(x))
            gain = _seconds(before, x) / _seconds(model, x)
        if same >= SAME and gain >= FASTER:
            self._quick = model
            self._say(f"OpenVINO in {precision}, {gain:.2f} times as fast as before")
        else:
            self._say(
                f"no OpenVINO, since it was {gain:.2f} times as fast, with {100 * same:.2f} % of the labels the same"
            )


def _same(labels: Tensor, logits: Tensor) -> float:
    return (labels == logits.argmax(dim=1)).float().mean().item()


def _seconds(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter()
    call(x)
    return time.perf_counter() - start


def _has_openvino() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in FORMATS["openvino"].packages)
