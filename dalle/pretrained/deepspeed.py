"""Folders of DeepSpeed beside a DALLE-pytorch run: put together again, or explained."""

from pathlib import Path
from typing import Any

from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained.torch_file import read_torch_file

AUXILIARY = "auxiliary.pt"
"""Everything of the model's file but its weights, which are a sentence there."""
STATES = "mp_rank_00_model_states.pt"
DIVIDED = "zero_pp_rank_*_mp_rank_*_model_states.pt"
"""What stage 3 writes in its place, a file for each process."""


def consolidated(folder: Path) -> dict[str, Any]:
    """The checkpoint that the folder stands for, with its weights.

    Up to ZeRO stage 2 every process holds all weights, and the first one's file has them. Under
    stage 3 they are divided over the processes, in files that only DeepSpeed's own script joins.

    Raises:
        CheckpointError: the weights are not there, or divided.
    """
    value = read_torch_file(folder / AUXILIARY)
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder / AUXILIARY} is none of DALLE-pytorch's")
    if any(folder.glob(f"*/{DIVIDED}")):
        raise CheckpointError(
            f"{folder} holds weights that ZeRO stage 3 divided over its processes; join them "
            "where DeepSpeed is installed (`python zero_to_fp32.py . weights.pt`, in that folder), "
            "and convert the DALLE-pytorch file made of them"
        )
    states = _newest(folder)
    if states is None:
        raise CheckpointError(
            f"{folder} has {AUXILIARY} but no weights: they are in a folder global_step... with "
            f"{STATES} that DeepSpeed wrote beside it; copy that too"
        )
    saved = read_torch_file(states)
    module = saved.get("module") if isinstance(saved, dict) else None
    if not isinstance(module, dict) or not all(isinstance(t, Tensor) for t in module.values()):
        raise CheckpointError(f"{states} holds no weights under `module`, as DeepSpeed writes them")
    return {**value, "weights": module}


def _newest(folder: Path) -> Path | None:
    """The file of weights in the step that `latest` names, or else in the one of the most steps."""
    latest = folder / "latest"
    if latest.is_file():
        named = latest.read_text(encoding="utf-8", errors="replace").strip()
        if "/" not in named and (folder / named / STATES).is_file():
            return folder / named / STATES
    found = [path for path in folder.glob(f"*/{STATES}") if path.is_file()]
    return max(found, key=lambda path: (_number(path.parent.name), path), default=None)


def _number(name: str) -> int:
    digits = "".join(character for character in name if character.isdecimal())
    return int(digits[:18]) if digits else -1
