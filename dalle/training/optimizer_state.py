"""An optimizer's state on the disk: whole tensors by name, whatever divided them in training.

Each process writes its share of the tensors to one safetensors file, and reads from all files, so
that a run goes on with any number of processes under any strategy.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dalle.checkpoint.manifest import write_json
from dalle.checkpoint.weights import open_tensors
from dalle.errors import CheckpointError
from dalle.json_files import read_json
from dalle.training.shards import Shards, on_host, shape_of
from dalle.training.world import World

OPTIMIZER = "optimizer"
SCALER = "scaler.json"
STEP = "step"
"""How many updates Adam's moments have seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """One tensor of a saved state."""

    key: str
    """What it is: "exp_avg", "step" ..."""
    name: str
    """Whose."""
    tensor: Tensor


def take_state(
    world: World, wholes: Iterable[tuple[str, Callable[[], Tensor]]], scaler: Any
) -> Callable[[Path], None]:
    """Copy this process's share to the host; called by every process.

    Args:
        world: the run's processes.
        wholes: each tensor's name, <what>/<parameter>, and how to get it whole, which all
            processes do together.
        scaler: float16's loss scale; None is no scaler.

    Returns:
        What writes the share into a folder. It gathers nothing, so that a process whose disk is
        full leaves nobody waiting, and it may run beside further updates.
    """
    share, sizes = {}, [0] * world.size
    # By name: a state that was read has another order than one that has grown.
    for name, gather in sorted(wholes, key=lambda item: item[0]):
        tensor = gather()
        writer = sizes.index(min(sizes))
        sizes[writer] += tensor.numel()
        if writer == world.rank:
            share[name] = on_host(tensor).contiguous()
    scale = None if scaler is None or not world.is_main else dict(scaler.state_dict())

    def write(folder: Path) -> None:
        save_file(share, folder / _file_name(world))
        if scale is not None:
            write_json(folder / SCALER, scale)

    return write


def read_state(folder: Path, module: nn.Module) -> Iterator[Saved]:
    """What `take_state` wrote, one tensor at a time.

    Raises:
        CheckpointError: it is of another model, incomplete, or not there.
    """
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    paths = sorted(folder.glob(f"{OPTIMIZER}*.safetensors"))
    if not paths:
        raise CheckpointError(
            f"{folder} holds no optimizer state that this version reads; go on with the version "
            "that wrote it, or start from its weights in another folder"
        )
    keys: dict[str, set[str]] = {}
    for path in paths:
        with open_tensors(path) as file:
            for full_name in file.keys():  # noqa: SIM118
                key, _, name = full_name.partition("/")
                tensor = file.get_tensor(full_name)
                shape = shape_of(parameters[name]) if name in parameters else None
                wanted = torch.Size([]) if key == STEP else shape
                if shape is None or tensor.shape != wanted:
                    raise CheckpointError(f"{path}: {full_name!r} is of another model")
                keys.setdefault(name, set()).add(key)
                # A copy: what lies in the file's bytes may lie at any address.
                yield Saved(key=key, name=name, tensor=tensor.clone())
    every = set().union(*keys.values())
    for name, some in keys.items():
        if some != every:
            raise CheckpointError(
                f"{folder} lacks '{min(every - some)}/{name}', of which it holds the rest; take "
                "another checkpoint"
            )


def state_of(
    module: nn.Module, optimizer: torch.optim.Optimizer, shards: Shards
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The state of one of torch's optimizers over the module's parameters, for `take_state`."""
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{key}/{name}", _gatherer(parameter, value, key, shards)


def load_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, shards: Shards
) -> None:
    """Put back what `state_of` gave.

    Raises:
        CheckpointError: it is of another model, or not there.
    """
    parameters = dict(module.named_parameters())
    index_of = {
        parameter: index
        for index, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"])
    }
    state: dict[int, dict[str, Tensor]] = {}
    for saved in read_state(folder, module):
        parameter = parameters[saved.name]
        mine = saved.tensor if saved.key == STEP else shards.cut(parameter, saved.tensor)
        state.setdefault(index_of[parameter], {})[saved.key] = mine
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_scaler(folder: Path, scaler: Any) -> None:
    """Put float16's loss scale back, where there is one.

    Raises:
        CheckpointError: the file is not what `take_state` wrote.
    """
    path = folder / SCALER
    if scaler is None or not path.is_file():
        return
    try:
        state = read_json(path)
        if state.keys() != scaler.state_dict().keys():
            raise ValueError(f"it has the fields {sorted(state)}")
        scaler.load_state_dict({name: _number(value) for name, value in state.items()})
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the state of a loss scale: {error}") from None


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value


def _gatherer(
    parameter: nn.Parameter, value: Any, key: str, shards: Shards
) -> Callable[[], Tensor]:
    whole = torch.as_tensor(value)
    return (lambda: whole) if key == STEP else (lambda: shards.join(parameter, whole))


def _file_name(world: World) -> str:
    if world.size == 1:
        return f"{OPTIMIZER}.safetensors"
    return f"{OPTIMIZER}-{world.rank + 1:05}-of-{world.size:05}.safetensors"
