"""Measuring one network beside a yardstick, in one process.

Times on different machines, or on a shared one at different hours, cannot be compared; ratios can. So timm's resnet50
is timed before and after every single time of the network, and a matrix product tells what the processor can do
meanwhile.
"""

import contextlib
import math
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from networks.workflow.errors import user_error
from scripts.benchmark.cases import Case

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = {"forward": 2, "forward_backward": 6}  # floating-point operations per multiply-accumulate of a forward pass
MATRIX = 2048  # side of the matrices whose product gives the rate
WARM_UP = 2
SHORTEST = 0.05  # seconds; what takes less is repeated within one measurement


@dataclass(frozen=True)
class Settings:
    """What a measurement depends on beside the network and the machine.

    Attributes:
        device: "cpu" or "cuda".
        dtype: "float32", or "bfloat16" for autocast to it over float32 weights, as in training.
        channels_last: whether weights and images have PyTorch's channels-last memory format.
        compile: whether `torch.compile` is used.
        batch_size: images at once.
        img_size: height and width.
        threads: of one operator on the CPU.
        repeats: measurements, of which the median and the minimum are reported.
    """

    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = False
    compile: bool = False
    batch_size: int = 4
    img_size: int = 224
    threads: int = 1
    repeats: int = 9


class Subject:
    """A network with an image, ready to be run.

    Args:
        network: the network.
        in_channels: channels of the image.
        settings: how to run it.
    """

    def __init__(self, network: nn.Module, in_channels: int, settings: Settings) -> None:
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        size = (settings.batch_size, in_channels, settings.img_size, settings.img_size)
        self.network = network.to(settings.device, memory_format=layout)
        self.image = torch.rand(size).to(settings.device, memory_format=layout)
        self.run = torch.compile(self.network) if settings.compile else self.network
        self.autocast = torch.autocast(settings.device, torch.bfloat16, enabled=settings.dtype == "bfloat16")

    def prepare(self, name: str) -> Callable[[], None]:
        """Set the network's mode for a pass of `PASSES` and give the pass, already run for a while."""
        self.network.train(name == "forward_backward")
        call = getattr(self, name)
        for _ in range(WARM_UP):
            call()
        return call

    def forward(self) -> None:
        """Evaluation without gradients."""
        with torch.inference_mode(), self.autocast:
            self.run(self.image)

    def forward_backward(self) -> None:
        """A training step without the optimizer's part: gradients of all parameters, none of the image."""
        self.network.zero_grad()
        with self.autocast:
            output = self.run(self.image)
        output.float().square().mean().backward()


def measure(case: Case, settings: Settings) -> dict[str, Any]:
    """Parameters, work, memory and times of a network; belongs in a fresh process because of the memory.

    Returns:
        `parameters`; `macs`, multiply-accumulates of a forward pass of one image; `matrix_rate`, FLOP/s of a matrix
        product; and for each of `PASSES`:

        - `seconds` and `yardstick_seconds`: median and minimum;
        - `ratio`: median, minimum and maximum of a time of the network over the mean of the yardstick's before and
          after;
        - `matrix_share`: this network's own `macs` per second as a share of the rate of the matrix product that
          followed, median;
        - `peak_memory`: bytes. On a GPU of all tensors, weights included; on a CPU by how much the process grew since
          before the network was built, None where the system does not tell.
    """
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.allow_tf32 = False  # as for matrix products: float32 means float32
    torch.manual_seed(0)
    before = resident()
    network = case.build(settings.img_size)
    record: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters())}
    subject = Subject(network, case.in_channels, settings)
    memory = {name: peak_memory(subject.prepare(name), settings.device, before) for name in PASSES}
    record["macs"] = count_macs(network, subject.image[:1])

    yardstick = Subject(timm.create_model("resnet50", num_classes=9), 3, settings)
    matrices = torch.rand(2, MATRIX, MATRIX, dtype=DTYPES[settings.dtype], device=settings.device)
    rounds = {}
    for name in PASSES:
        calls = (subject.prepare(name), yardstick.prepare(name), lambda: matrices[0] @ matrices[1])
        rounds[name] = interleaved(calls, settings.repeats, settings.device)
    flop = 2 * MATRIX**3
    record["matrix_rate"] = flop / statistics.median(product for times in rounds.values() for product in times[2])
    for name, (own, others, products) in rounds.items():
        ratios = [2 * x / (a + b) for x, a, b in zip(own, others[:-1], others[1:], strict=True)]
        operations = PASSES[name] * record["macs"] * settings.batch_size
        shares = [operations / x * product / flop for x, product in zip(own, products, strict=True)]
        record[name] = {
            "seconds": {"median": statistics.median(own), "min": min(own)},
            "yardstick_seconds": {"median": statistics.median(others), "min": min(others)},
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            "matrix_share": statistics.median(shares),
            "peak_memory": memory[name],
        }
    return record


def in_fresh_process(function: Callable[..., dict], *arguments: Any) -> dict[str, Any]:
    """Result of a function that runs in a process of its own, or an `error`: it failed, or the process was killed."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, *arguments), daemon=True)
    process.start()
    sender.close()  # the other process then has the only one, and its end is noticed here
    try:
        return receiver.recv()
    except EOFError:
        return {"error": "The process ended without a result: it was killed, perhaps for lack of memory."}
    finally:
        process.join()


def _send(sender: Connection, function: Callable[..., dict], *arguments: Any) -> None:
    try:
        result = function(*arguments)
    except Exception as error:
        mistake = user_error(error)
        if mistake is None or os.environ.get("NETWORKS_TRACEBACK"):
            traceback.print_exc()
        lines = [line for line in str(mistake or error).splitlines() if line.strip()] or [""]
        result = {"error": lines[0] if mistake else f"{type(error).__name__}: {lines[0]}"}
    with contextlib.suppress(BrokenPipeError):  # nobody waits any more
        sender.send(result)


def interleaved(calls: Sequence[Callable[[], Any]], repeats: int, device: str) -> tuple[list[float], ...]:
    """Seconds of three calls in turn: of each `repeats` times, of the second also once before all."""
    numbers = [max(1, math.ceil(SHORTEST / seconds(call, 1, device))) for call in calls]
    times: tuple[list[float], ...] = ([], [seconds(calls[1], numbers[1], device)], [])
    for _ in range(repeats):
        for call, number, measured in zip(calls, numbers, times, strict=True):
            measured.append(seconds(call, number, device))
    return times


def seconds(call: Callable[[], Any], number: int, device: str) -> float:
    """Mean time of so many calls."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(number):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / number


def synchronize(device: str) -> None:
    """Wait for what the device has been given to do."""
    if device == "cuda":
        torch.cuda.synchronize()


class _Counter(TorchDispatchMode):
    """Counts floating-point operations by PyTorch's own formulas.

    PyTorch's `FlopCounterMode` does so as well, but hooks all modules to tell them apart, and with hooks the networks
    leave their fast paths (see `networks.layers.eager.is_plain`), so that it would count what is otherwise not done.
    """

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            # Convolutions and products may be inside, as in `linear` without gradients.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        return result


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products of a forward pass, counted while it runs.

    Fused attention is run as plain products, so that none is missed whatever the version of PyTorch knows to count.
    """
    training = network.training
    network.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        network(image)
    network.train(training)
    return counter.flops // 2


def peak_memory(call: Callable[[], None], device: str, before: int | None) -> int | None:
    """Largest memory of a call in bytes, as of `measure`."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated()
    if before is None:
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
    call()
    return _status("VmHWM") - before


def resident() -> int | None:
    """Bytes of memory that this process holds; None on systems without Linux's /proc, which also tells the peak."""
    return _status("VmRSS") if Path("/proc/self/clear_refs").exists() else None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def machine(device: str) -> dict[str, Any]:
    """What times and memory depend on beside the settings."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        cpu = next(names, cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
