"""State dicts: reading files of weights, checking what they hold, renaming other people's tensors, filling a network.

Whatever fills a network comes through here, so that a file means the same to training, evaluation, inference, export
and packing. Nothing in a file is executed.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from networks.errors import UserError

WRAPPERS = ("network", "model", "state_dict")  # keys of ours, of Microsoft and Meta, of Lightning and NASA
CONSTANTS = ("relative_position_index", "attn_mask", "attention_bias_idxs")  # follow from a network's sizes
# Regular expressions of whole names and what makes our name of their groups, None for a tensor that is left out; the
# first match counts.
Names = Sequence[tuple[str, Callable[..., str] | None]]


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a file of `torch.save`, a .safetensors file or the arrays of an .npz file, onto the CPU.

    Raises:
        UserError: there is no such file, it is truncated or of another kind, or it holds more than tensors and plain
            values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist; train first or give another file.")
    kind = path.suffix if path.suffix in READERS else ".pt"
    try:
        content = READERS[kind](path)
    except Exception as error:
        raise UserError(
            f"{path} is not a readable {'checkpoint' if kind == '.pt' else f'{kind} file'} of tensors and plain values "
            f"({type(error).__name__}); it may be truncated or written by another program."
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a dictionary of named tensors.")
    return {str(name): value for name, value in content.items()}


def _read_arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


READERS: dict[str, Callable[[Path], Any]] = {
    ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".safetensors": load_file,
    ".npz": _read_arrays,
}


def unwrap_state(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A file's state dict, which may be the whole content or one entry of it."""
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside wrappers for several devices and of `torch.compile`."""
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while isinstance(network, parallel) or hasattr(network, "_orig_mod"):
        inner: Any = getattr(network, "_orig_mod", None) or network.module
        network = inner
    return network


def fill(network: nn.Module, state: Mapping[str, Any], source: str | Path) -> None:
    """Load a state dict that has exactly the network's names and shapes; a network that this refuses is as it was.

    Raises:
        UserError: the state is another network's, and then the message says whether the class count, the channels or
            the architecture differs; or as `check_tensor`.
    """
    own = network.state_dict()
    problem = _mismatch(own, state)
    if problem:
        raise UserError(f"The checkpoint {source} does not fit {type(network).__name__}: {problem}")
    for name, tensor in own.items():
        check_tensor(name, state[name], tensor, source)
    network.load_state_dict(dict(state))


def check_plain(name: str, tensor: Any, source: str | Path) -> None:
    """Refuse what is not numbers in memory, one after the other.

    Raises:
        UserError: not a tensor, or one that is sparse, nested, quantised, or has no values (meta).
    """
    if not isinstance(tensor, Tensor):
        raise UserError(f"{name!r} in {source} is a {type(tensor).__name__} instead of a tensor; give another file.")
    for kind, found in (
        ("meta", tensor.is_meta),
        ("quantised", tensor.is_quantized),
        ("nested", tensor.is_nested),
        ("sparse", tensor.layout != torch.strided),
    ):
        if found:
            raise UserError(
                f"{name!r} in {source} is a {kind} tensor; save the weights as plain tensors, or give another file."
            )


def check_tensor(name: str, tensor: Any, like: Tensor, source: str | Path) -> None:
    """Refuse values that cannot be those of a network's tensor.

    Args:
        name: the tensor's name in the file, for the message.
        tensor: what fills the network.
        like: the network's own tensor; only its type counts here.
        source: the file, for the message.

    Raises:
        UserError: as `check_plain`, the tensor is of another kind (real floating-point numbers, integers, truth
            values), or it holds NaN or Inf in the network's type.
    """
    check_plain(name, tensor, source)
    if _kind(tensor) != _kind(like):
        raise UserError(
            f"{name!r} in {source} holds {_kind(tensor)} ({tensor.dtype}), but the network needs {_kind(like)} there; "
            "give a file of weights for this network."
        )
    if like.is_floating_point():
        # In the network's type, where a large number may overflow, and which has the operation, unlike 8-bit types.
        count = tensor.numel() - int(tensor.to(like.dtype).isfinite().sum())
        if count:
            raise UserError(
                f"{count} of the {tensor.numel()} values of {name!r} in {source} are NaN or infinite as {like.dtype}, "
                "which would make every result meaningless; train again, or give another file."
            )


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "real floating-point numbers"
    if tensor.is_complex():
        return "complex numbers"
    return "truth values" if tensor.dtype == torch.bool else "integers"


def check_training_state(name: str, value: Any, source: str | Path) -> None:
    """Refuse the state of an optimizer or a schedule from which training cannot go on.

    Infinite plain numbers are allowed: a schedule starts from an infinite best loss.

    Args:
        name: of the state, for the message.
        value: tensors, numbers and texts in dictionaries and lists of any depth.
        source: the file, for the message.

    Raises:
        UserError: a tensor as in `check_plain`, complex, or with NaN or Inf; or a number that is NaN.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_training_state(f"{name}.{key}", part, source)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            check_training_state(f"{name}.{i}", part, source)
    elif isinstance(value, Tensor):
        check_plain(name, value, source)
        if value.is_floating_point() or value.is_complex():
            check_tensor(name, value, value.real, source)
    elif isinstance(value, float) and math.isnan(value):
        raise UserError(f"{name!r} in {source} is NaN, so the training cannot go on from it; start it anew.")


def _mismatch(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    missing, foreign = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or foreign:
        example = min(missing or foreign)
        return (
            f"{len(missing)} of its {len(own)} tensors are not in the file and {len(foreign)} of the file are "
            f"unknown (such as '{example}'), so it is of another architecture; give the checkpoint of this bundle."
        )
    different = [key for key in own if own[key].shape != getattr(state[key], "shape", own[key].shape)]
    if not different:
        return ""
    key = different[-1]
    return (
        f"{len(different)} tensors have another shape (such as '{key}': {tuple(state[key].shape)} in the file, "
        f"{tuple(own[key].shape)} in the network); check that --out_channels, --in_channels and the network's "
        "options are those of the training."
    )


def new_names(names: Iterable[str], table: Names, who: str) -> dict[str, str]:
    """Other people's names of tensors and ours, without those that are left out.

    Names may begin with the "module." of DataParallel. `CONSTANTS` are left out whatever the table says.

    Args:
        names: their names.
        table: what becomes of them.
        who: whose they are, for the message.

    Raises:
        UserError: a name matches nothing.
    """
    found = {}
    for name in names:
        if name.endswith(CONSTANTS):
            continue
        match, target = _match(name, table)
        if match is None:
            raise UserError(f"{name!r} is not a tensor of {who}: check the file.")
        if target is not None:
            found[name] = target(*match.groups())
    return found


def rename(state: Mapping[str, Tensor], table: Names, who: str) -> dict[str, Tensor]:
    """Other people's state dict under our names; arguments and errors as `new_names`."""
    return {target: state[name] for name, target in new_names(state, table, who).items()}


def recognises(table: Names, names: Iterable[str]) -> bool:
    """Whether a file's tensors are those of a table, by most of their names and in any order.

    Most are enough, so that a file with a foreign tensor among them gets the message of `new_names`.
    """
    matches = [_match(name, table) for name in names if not name.endswith(CONSTANTS)]
    known = sum(match is not None for match, _ in matches)
    return 2 * known > len(matches) and any(target is not None for _, target in matches)


def _match(name: str, table: Names) -> tuple[re.Match | None, Callable[..., str] | None]:
    for pattern, target in table:
        match = re.fullmatch(rf"(?:module\.)?(?:{pattern})", name)
        if match:
            return match, target
    return None, None
