"""What all fast paths ask first: is a layer plain, and is a tensor computed with on a CPU, operator by operator?

A fast path reads a layer's weight instead of calling the layer. That is right only for a layer that is what it was
built as; whatever has been wrapped, hooked, replaced, quantised or adapted takes the ordinary call.
"""

import torch
from torch import Tensor, nn

PLAIN_CALLS = (nn.Linear.forward, nn.Conv2d.forward, nn.LayerNorm.forward)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(layer: nn.Module) -> bool:
    """Whether reading the weight and bias of a linear layer, convolution or layer norm is as good as calling it.

    Not so for a class with a forward pass of its own, such as adapters and quantised layers, with hooks (of which
    pruning and weight normalisation are made, or of all modules), with parametrisations, with another forward pass put
    on the object, or with a weight or bias that computes in its own way, as torchao's and distributed tensors do.

    TorchScript cannot ask this. It takes the fast path, in the `else` of `torch.jit.is_scripting()` where there is a
    question left; of the above, only layers of PyTorch's dynamic quantisation can be scripted.
    """
    if type(layer).forward not in PLAIN_CALLS or "forward" in layer.__dict__ or hasattr(layer, "parametrizations"):
        return False
    if is_hooked(layer):
        return False
    return _is_plain_tensor(layer.weight) and (layer.bias is None or _is_plain_tensor(layer.bias))


def is_hooked(layer: nn.Module) -> bool:
    """Whether a hook, its own or one of all modules, watches or changes what goes through a layer."""
    return any(layer.__dict__[name] for name in HOOKS) or nn.modules.module._has_any_global_hook()


def _is_plain_tensor(x: object) -> bool:
    # What `torch.export` and compilers put in its place, FakeTensor and FunctionalTensor, is as plain.
    return type(x) in (nn.Parameter, Tensor) or type(x).__module__.startswith("torch._subclasses.")


@torch.jit.unused
def transformed() -> bool:
    """Whether a transform of `torch.func`, such as `vmap` or `grad`, is at work.

    They batch and differentiate every operator, but neither those that write into a given tensor, nor sizes that depend
    on data. So this package's hand-written gradients leave the work to plain operators then. There is no public way to
    ask; this is what `torch.autograd.Function` itself asks.
    """
    return torch._C._are_functorch_transforms_active()


def channels_last(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) in PyTorch's channels-last memory; as they are within transforms, which know no such thing."""
    if not torch.jit.is_scripting() and transformed():
        return x
    return x.contiguous(memory_format=torch.channels_last)


@torch.jit.unused
def eager_cpu(x: Tensor) -> bool:
    """Whether a tensor is computed with on a CPU, operator by operator, where blocking for the cache pays."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not transformed()
        # A subclass may compute in its own way; one that only carries more, as MONAI's MetaTensor, doesn't.
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


@torch.jit.unused
def eager_cpu_training(x: Tensor, autocast: bool) -> bool:
    """Whether to use this package's hand-written gradients, which save passes over memory that compilers save too.

    Args:
        x: what it is a function of.
        autocast: whether it may be used under autocast, as one that reads no float32 weights beside ``x``.
    """
    return x.requires_grad and eager_cpu(x) and (autocast or not torch.is_autocast_enabled("cpu"))


def apply(function: type[torch.autograd.Function], x: Tensor, *args: Tensor | float | None) -> Tensor:
    """A hand-written gradient's forward pass on plain memory, whose result is of the class of `x`."""
    if torch.overrides.has_torch_function_unary(x):
        return torch.overrides.handle_torch_function(apply, (x,), function, x, *args)
    return function.apply(x.as_subclass(Tensor), *args)
