"""The formats that a network is exported to: writing each, and running it in its own runtime.

Every format takes images (batch, channels, height, width) in float32 and gives logits; the batch is free. Height and
width are free in TorchScript where the network can be scripted, and fixed elsewhere: the inferers of the bundles always
hand over crops or slices of ``img_size``.
"""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from networks.errors import UserError

INPUT, OUTPUT = "image", "logits"


class RuntimeNetwork(nn.Module):
    """An exported model in the place of the network: called, put in evaluation mode and moved like one.

    Args:
        run: from a float32 tensor to logits; it copies to and from its own device.
    """

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes, H, W) on the same device."""
        plain = x.detach().as_subclass(Tensor)  # runtimes know nothing of MONAI's MetaTensor
        return self.run(plain.float().contiguous()).to(x.device)


@dataclass(frozen=True)
class Format:
    """One way to store a network.

    Attributes:
        files: names of what is written; the first is what a runtime opens.
        packages: modules that must be installed, from the extra ``extra``.
        write: (network in evaluation mode, example (2, C, H, W), folder, largest batch) to ``files`` in the folder.
        load: (file, device) to a callable.
        extra: extra of this package that installs ``packages``.
    """

    files: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, Path, int], None]
    load: Callable[[Path, torch.device], Callable[[Tensor], Tensor]]
    extra: str = "deploy"


def check_format(name: str) -> Format:
    """The format, if this machine can write and run it.

    Raises:
        UserError: unknown, its packages are not installed, or TensorRT without a GPU.
    """
    if name not in FORMATS:
        raise UserError(f"The format {name} is unknown; choose one of {', '.join(FORMATS)}.")
    found = FORMATS[name]
    if name == "tensorrt" and not torch.cuda.is_available():
        raise UserError(
            "TensorRT needs an NVIDIA GPU, and PyTorch finds none on this machine; an engine only runs on the kind of "
            "GPU that built it, so export on the machine that is to run it, or choose --format onnx."
        )
    missing = [package for package in found.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"The format {name} needs {', '.join(missing)}: python -m pip install "
            f"'segmentation-bundles[{found.extra}]'."
        )
    return found


def has_free_size(name: str, network: nn.Module) -> bool:
    """Whether a model of this format takes other heights and widths than the example's."""
    return name == "torchscript" and network.scriptable and not network.fixed_img_size


def load_model(name: str, path: Path, device: torch.device | str) -> RuntimeNetwork:
    """Open an exported model in its own runtime.

    Raises:
        UserError: as :func:`check_format`, or the runtime cannot open the file.
    """
    runtime = check_format(name)
    try:
        return RuntimeNetwork(runtime.load(path, torch.device(device)))
    except Exception as error:
        raise UserError(f"{path} cannot be opened as {name} ({type(error).__name__}); export it again.") from error


def _write_torchscript(network: nn.Module, example: Tensor, folder: Path, max_batch: int) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated, and still what MONAI Deploy and Triton take
        scripted = torch.jit.script(network) if network.scriptable else torch.jit.trace(network, example)
        torch.jit.save(scripted, folder / "model.ts")


def _load_torchscript(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.load(path, map_location=device).eval()
    return lambda x: model(x.to(device))


def _program(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    # a batch of one would be taken for a constant, so examples hold two
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=shapes)


def _write_torch_export(network: nn.Module, example: Tensor, folder: Path, max_batch: int) -> None:
    torch.export.save(_program(network, example), folder / "model.pt2")


def _load_torch_export(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    program = torch.export.load(path)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    model = program.module()
    return lambda x: model(x.to(device))


def _write_onnx(network: nn.Module, example: Tensor, folder: Path, max_batch: int) -> None:
    # the fused kernel's output is laid out in another way than that of the operator which ONNX has for it
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _program(network, example),
            (example,),
            folder / "model.onnx",
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _load_onnx(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        number = torch.cuda.current_device() if device.index is None else device.index
        wanted.insert(0, ("CUDAExecutionProvider", {"device_id": number}))
    session = onnxruntime.InferenceSession(path, options, providers=wanted)
    return lambda x: torch.from_numpy(session.run([OUTPUT], {INPUT: x.cpu().numpy()})[0])


def _write_openvino(network: nn.Module, example: Tensor, folder: Path, max_batch: int) -> None:
    import openvino

    _write_onnx(network, example, folder, max_batch)
    # reading ONNX and saving it, unlike openvino.convert_model, sends no telemetry
    onnx = folder / "model.onnx"
    openvino.save_model(openvino.Core().read_model(onnx), folder / "model.xml", compress_to_fp16=False)
    onnx.unlink()


def _load_openvino(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    return open_openvino(path, "f32")  # some processors would compute in bfloat16 by default


def open_openvino(path: Path, precision: str) -> Callable[[Tensor], Tensor]:
    """A model in OpenVINO on the processor, computed in "f32", or in "bf16" on processors that have it."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda x: torch.from_numpy(model(x.cpu().numpy())[0])


def _write_tensorrt(network: nn.Module, example: Tensor, folder: Path, max_batch: int) -> None:
    from polygraphy.backend.trt import CreateConfig, Profile, engine_from_network, network_from_onnx_path, save_engine

    _write_onnx(network, example, folder, max_batch)
    onnx, size = folder / "model.onnx", tuple(example.shape[1:])
    profile = Profile().add(INPUT, (1, *size), (max_batch, *size), (max_batch, *size))
    engine = engine_from_network(network_from_onnx_path(str(onnx)), CreateConfig(profiles=[profile], tf32=False))
    save_engine(engine, str(folder / "model.plan"))
    onnx.unlink()


def _load_tensorrt(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    from polygraphy.backend.common import bytes_from_path
    from polygraphy.backend.trt import TrtRunner, engine_from_bytes

    with torch.cuda.device(device):  # an engine computes on the GPU on which it was opened
        engine = engine_from_bytes(bytes_from_path(str(path)))
        largest = engine.get_tensor_profile_shape(INPUT, 0)[2][0]
        runner = TrtRunner(engine)
        runner.activate()  # for as long as the process lives

    def run(x: Tensor) -> Tensor:
        with torch.cuda.device(device):
            parts = [runner.infer({INPUT: part.cpu().numpy()})[OUTPUT].copy() for part in x.split(largest)]
        return torch.cat([torch.from_numpy(part) for part in parts])

    return run


FORMATS = {
    "torchscript": Format(("model.ts",), (), _write_torchscript, _load_torchscript),
    "onnx": Format(("model.onnx",), ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "torch_export": Format(("model.pt2",), (), _write_torch_export, _load_torch_export),
    "openvino": Format(("model.xml", "model.bin"), ("onnx", "onnxscript", "openvino"), _write_openvino, _load_openvino),
    "tensorrt": Format(
        ("model.plan",), ("onnx", "onnxscript", "tensorrt", "polygraphy"), _write_tensorrt, _load_tensorrt, "tensorrt"
    ),
}
