"""LoRA through `peft`: pairs of thin matrices are trained beside layers that stay as they are.

A layer W becomes W + B A, where A starts at random and B at 0. What is generated from is the sum,
under the names of plain layers; what training goes on from are the parts.

Source: arXiv 2106.09685.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from dalle.checkpoint.folder import write_weights
from dalle.checkpoint.weights import check_shapes, read_tensors
from dalle.errors import ConfigError
from dalle.training.fsdp import layers

PARTS = {"model": "training/lora.safetensors", "ema": "training/lora-ema.safetensors"}
"""Files in a step's folder: all weights, unmerged; and the averaged thin matrices."""
ADAPTER = "default"
"""What peft calls the only pair of a layer."""
_BASE, _A, _B = ".base_layer.", f".lora_A.{ADAPTER}.", f".lora_B.{ADAPTER}."


def add_lora(module: nn.Module, *, rank: int, strategy: str) -> None:
    """Put thin matrices beside all linear layers of the module's lists, and freeze all else; in
    place.

    Args:
        module: whole, with the weights that are to stay.
        rank: columns of B, and rows of A.
        strategy: how the processes of the run work together.

    Raises:
        ConfigError: peft is not installed, there are no such layers, or the strategy divides what
            need not be divided.
    """
    if strategy not in ("single", "ddp"):
        raise ConfigError(
            f"lora_rank is {rank} under {strategy}; LoRA leaves little to be divided, and is "
            "trained by one process, or by several under ddp"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError(
            "lora_rank needs the package peft: pip install 'dalle[lora]'; or leave it out, and all "
            "weights are trained"
        ) from None
    inside = {part for layer in layers(module) for part in layer.modules()}
    names = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part in inside
    ]
    if not names:
        raise ConfigError(
            f"lora_rank is {rank}, but a {type(module).__name__} has no layers of linear maps; "
            "leave it out"
        )
    # With alpha = rank, W + B A is what it says, without a factor.
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    inject_adapter_in_model(settings, module, adapter_name=ADAPTER)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of a module without thin matrices, their products added."""
    weights, thin = {}, adapters(state)
    for name, tensor in state.items():
        if name in thin:
            continue
        layer, base, leaf = name.partition(_BASE)
        if base and leaf == "weight":
            tensor = tensor + thin[f"{layer}{_B}weight"] @ thin[f"{layer}{_A}weight"]
        weights[f"{layer}.{leaf}" if base else name] = tensor
    return weights


def adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The thin matrices alone."""
    return {name: tensor for name, tensor in state.items() if _A in name or _B in name}


def write_parts(folder: Path, name: str, state: Mapping[str, Tensor]) -> None:
    """Write the parts of the unmerged weights "model" or "ema" that training goes on from."""
    write_weights(folder, state if name == "model" else adapters(state), name=PARTS[name])


def load_adapters(module: nn.Module, path: Path) -> None:
    """Put saved thin matrices into a module that has such.

    Raises:
        CheckpointError: they are of another model.
    """
    mine = adapters(module.state_dict())
    check_shapes(mine, path)
    for name, tensor in read_tensors(path, "cpu").items():
        mine[name].copy_(tensor)
