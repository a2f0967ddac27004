"""Which memory tensors hold: what waits for a backward pass, and the most there is at a time."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dalle.protocols import Batch


@contextlib.contextmanager
def saved_bytes(module: nn.Module, *, block: int = 1) -> Iterator[Callable[[], int]]:
    """Count what autograd keeps of what is computed in the block, each storage once.

    Args:
        module: whose parameters are not counted.
        block: bytes to whose multiple each storage is rounded up.
    """
    own = {key_of(tensor) for tensor in module.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if key_of(tensor) not in own:
            alive.append(tensor.detach())  # else another storage could take its place
            kept[key_of(tensor)] = rounded(tensor, block)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(kept.values())
    alive.clear()


class Live(TorchDispatchMode):
    """Follows which storages live, from one operator to the next."""

    def __init__(self, module: nn.Module, batch: Batch, block: int) -> None:
        super().__init__()
        self._block = block
        held = [*module.parameters(), *module.buffers(), *batch.tensors.values()]
        self._known = {key_of(tensor) for tensor in held}
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._events: list[tuple[int, int]] = []
        self._numbers: dict[int, int] = {}
        self._births = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return result

    def _see(self, tensor: Tensor) -> None:
        if tensor.layout is torch._mkldnn:  # type: ignore[attr-defined]
            return  # weights laid out for oneDNN, which has them in a memory of its own
        key = key_of(tensor)
        if key in self._known or key in self._watched:
            return
        size, self._births = rounded(tensor, self._block), self._births + 1
        number = self._births
        self._events.append((number, size))
        self._numbers[key] = number

        def gone(_: object) -> None:
            self._watched.pop(key, None)
            self._events.append((number, -size))

        self._watched[key] = weakref.ref(tensor.untyped_storage(), gone)

    @property
    def now(self) -> int:
        """Bytes of the storages that live."""
        return sum(change for _, change in self._events)

    def peak(self, *, without: set[int]) -> int:
        """The most bytes at a time, but for storages that still live and are named."""
        left_out = {self._numbers[key] for key in without if key in self._watched}
        now = most = 0
        for number, change in self._events:
            if number not in left_out:
                now += change
                most = max(most, now)
        return most


def key_of(tensor: Tensor) -> int:
    """Which storage a tensor has, as long as that lives."""
    key: int = tensor.untyped_storage()._cdata
    return key


def rounded(tensor: Tensor, block: int) -> int:
    """Bytes of a tensor's storage, as a multiple of `block`."""
    return -(-tensor.untyped_storage().nbytes() // block) * block
