"""What a `dalle.pt` says of itself, and what its tensors say: the config of the model.

Sizes are those of `hparams` and of the image tokenizer, and every tensor is held to them. What
kind of layers there are is told by the names, with which `hparams` must agree; a key that it lacks
means what it meant when the file was written, not what later versions took by default.

Source: lucidrains/DALLE-pytorch, train_dalle.py of every version from 0.9 to 1.6.6.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained.dalle_pytorch.config import BLOCK, AttentionKind, DallePytorchConfig
from dalle.pretrained.dalle_pytorch.keys import FAMILY, StoredStack, refuse_old
from dalle.pretrained.family import configured

ROW_POSITIONS = ("image_pos_emb.weights_0", "image_pos_emb.weights.0")
COL_POSITIONS = ("image_pos_emb.weights_1", "image_pos_emb.weights.1")
"""Under either name, by the version of another library that was installed."""
TABLE = "transformer.pos_emb"
"""The rotary angles of every slot."""
BOX_SINCE = (1, 5)
"""The version from which `conv_like` reads a box above and to the left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    """What the image tokenizer of a model gives."""

    vocab: int
    grid: tuple[int, int]


def read_config(
    hparams: Mapping[str, Any],
    version: Any,
    state: Mapping[str, Tensor],
    stack: StoredStack,
    *,
    codes: Codes,
    path: Path,
) -> DallePytorchConfig:
    """The config of the model in a `dalle.pt`.

    Args:
        hparams: as stored.
        version: as stored, from 1.1.6 on; None before.
        state: the tensors, without those of the VAE.
        stack: what the names of its transformer say.
        codes: of its VAE.

    Raises:
        CheckpointError: something cannot be read, is not supported, or is said twice differently.
    """
    learned = any(name.startswith(("text_pos_emb.", "image_pos_emb.")) for name in state)
    rotary = not learned and (TABLE in state or bool(hparams.get("rotary_emb", False)))
    tied = any(name.startswith(("text_emb.linear.", "image_emb.linear.")) for name in state)
    vocab, text_tokens, width, depth = (
        _number(hparams, name, path) for name in ("num_text_tokens", "text_seq_len", "dim", "depth")
    )
    if tuple(state.get("text_emb.weight", torch.empty(0)).shape) == (vocab, width):
        refuse_old(path)
    found = {
        "reversible": stack.reversible,
        "rotary_emb": rotary,
        "shift_tokens": stack.shifted,
        "share_input_output_emb": tied,
    }
    for name, value in found.items():
        if hparams.get(name, value) != value:
            raise CheckpointError(
                f"{path}: hparams[{name!r}] is {hparams[name]!r}, but its tensors are those of "
                f"{value!r}; the file is damaged, or put together from two"
            )
    kinds = _attention_kinds(hparams, version, depth, path)
    blocks = (text_tokens + codes.grid[0] * codes.grid[1]) // BLOCK
    return configured(
        lambda: DallePytorchConfig(
            text_vocab=vocab,
            text_tokens=text_tokens,
            image_vocab=codes.vocab,
            rows=codes.grid[0],
            cols=codes.grid[1],
            width=width,
            heads=_number(hparams, "heads", path, default=8),
            head_width=_number(hparams, "dim_head", path, default=64),
            attention=kinds,
            attention_of=_users(hparams, "shared_attn_ids", depth, path),
            mlp_of=_users(hparams, "shared_ff_ids", depth, path),
            block_tables=tuple(
                _block_table(state, stack.inner(layer, 0) + "attn_fn.master_layout", blocks, path)
                for layer, kind in enumerate(kinds)
                if kind == "sparse"
            ),
            rotary=rotary,
            token_shift=stack.shifted,
            sandwich=stack.sandwich,
            stable=bool(hparams.get("stable", False)),
            reversible=stack.reversible,
            tied=tied,
        ),
        path=path,
        family=FAMILY,
    )


def _number(
    hparams: Mapping[str, Any], name: str, path: Path, *, default: int | None = None
) -> int:
    value = hparams.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path}: hparams[{name!r}] is {value!r}; expected a whole number")
    return value


def _attention_kinds(
    hparams: Mapping[str, Any], version: Any, depth: int, path: Path
) -> tuple[AttentionKind, ...]:
    named = hparams.get("attn_types") or ("full",)
    known = [kind for kind in get_args(AttentionKind) if kind != "conv_like_old"]
    if not isinstance(named, (tuple, list)) or any(kind not in known for kind in named):
        raise CheckpointError(
            f"{path}: hparams['attn_types'] is {named!r}; layers of the kinds "
            f"{', '.join(known)} are read (`mlp`, of versions 1.0.0 to 1.4.0, is not)"
        )
    old = _version(version, path) < BOX_SINCE
    cycled = islice(cycle(named), depth)
    return tuple("conv_like_old" if old and kind == "conv_like" else kind for kind in cycled)


def _version(version: Any, path: Path) -> tuple[int, ...]:
    if version is None:
        return (0,)
    match = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if match is None:
        raise CheckpointError(f"{path}: its version is {version!r}; expected one like '1.6.6'")
    return int(match[1]), int(match[2])


def _users(hparams: Mapping[str, Any], name: str, depth: int, path: Path) -> tuple[int, ...]:
    """For each layer the number of what it uses, numbered as they come."""
    stored = hparams.get(name)
    if stored is None:
        return tuple(range(depth))
    if not isinstance(stored, (tuple, list)) or not stored:
        raise CheckpointError(f"{path}: hparams[{name!r}] is {stored!r}; expected a list")
    keys = list(islice(cycle(stored), depth))
    order = list(dict.fromkeys(map(repr, keys)))
    return tuple(order.index(repr(key)) for key in keys)


def _block_table(
    state: Mapping[str, Tensor], name: str, blocks: int, path: Path
) -> tuple[str, ...]:
    if name not in state:
        raise CheckpointError(
            f"{path} lacks {name!r}: a sparse layer reads blocks that were drawn at random, and "
            "the table of them is gone"
        )
    table = state[name]
    if table.shape[1:] != (blocks, blocks) or not bool((table == table[:1]).all()):
        raise CheckpointError(
            f"{path}: {name!r} has the shape {tuple(table.shape)}; expected a table of {blocks} x "
            f"{blocks} blocks for every head, all alike"
        )
    return tuple("".join("#" if cell else "." for cell in row) for row in table[0].tolist())
