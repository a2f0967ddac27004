"""Regional compilation: the layers of a transformer by torch.compile, one code for all of them."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dalle.errors import ConfigError
from dalle.training.fsdp import layers


def compile_layers(module: nn.Module, *, device: torch.device, strategy: str) -> None:
    """Let torch compile the methods that the layers of the module's lists name as `compiled`.

    All layers of a kind share what is compiled, so that more of them take no longer. Parameters
    keep their names, and noise is drawn as without. Where no gradient is recorded the methods run
    as they are, since held-out data and previews come in many sizes. In place.

    Args:
        module: before anything is hooked to its layers.
        device: where it is trained.
        strategy: how the processes of the run work together.

    Raises:
        ConfigError: there are no such layers, torch cannot compile here, or the strategy is ZeRO's
            third stage.
    """
    methods = [(layer, name) for layer in layers(module) for name in getattr(layer, "compiled", ())]
    if not methods:
        raise ConfigError(
            f"compile is on, but a {type(module).__name__} has no layers that can be compiled; "
            "leave it out"
        )
    if strategy == "zero3":
        raise ConfigError(
            "compile is on under zero3, which gathers weights inside of what would be compiled; "
            "leave it out, or divide the weights by fsdp2"
        )
    check_compiler(device)
    # Layers are small already; DDP would have them cut where its buckets end.
    torch._dynamo.config.optimize_ddp = False
    for layer, name in methods:
        method = getattr(type(layer), name)
        setattr(layer, name, functools.partial(_in_training, _compiled(method), method, layer))


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    Raises:
        ConfigError: it does not work.
    """
    try:
        torch.compile(torch.Tensor.sin, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # compilers fail in many ways
        raise does_not_compile(error) from error


def does_not_compile(error: Exception) -> ConfigError:
    """What a user is told when torch.compile fails."""
    cause = getattr(error, "inner_exception", error)
    reason = str(cause).split("\n", 1)[0] or type(cause).__name__
    return ConfigError(
        f"compile is on, but torch.compile does not work here ({reason}); install a C++ compiler "
        "(g++ or clang) if there is none, or leave compile out"
    )


@functools.cache
def _compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    # The compiler's own generator would draw other noise.
    return torch.compile(method, fullgraph=True, options={"fallback_random": True})


def _in_training(
    compiled: Callable[..., Any], method: Callable[..., Any], layer: nn.Module, *inputs: Any
) -> Any:
    return (compiled if torch.is_grad_enabled() else method)(layer, *inputs)
