"""Models built without memory for their parameters, which are to come from a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook


def skeleton(build: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """A model whose buffers (masks, positions) are real and whose parameters are on "meta"."""
    with _parameters_on_meta():
        return build(config)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    def move(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(move)
    try:
        yield
    finally:
        hook.remove()
