"""For which grid a LlamaGen is, which is in none of its weights: rotations are computed.

Source: FoundationVision/LlamaGen (MIT).
"""

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from dalle.errors import CheckpointError
from dalle.pretrained.family import Source, Weights
from dalle.pretrained.records import Record

CLASSES = "cls_embedding.embedding_table.weight"
CAPTIONS = ("cls_embedding.uncond_embedding", "cls_embedding.cap_proj.fc1.weight")
ALWAYS_24 = (1536, 3200)
"""Widths of the class-conditional models that were published for one grid only, 24 x 24."""
NAMES = re.compile(r"(c2i_(B|L|XL|XXL|3B)|t2i_XL_stage[12])_(?P<pixels>256|384|512)\.pt")
"""Of the published files: where nothing in a file says it, they say the size of its pictures."""
CELL = 16
"""Pixels that a code stands for, on a side, unless a file says otherwise."""

log = logging.getLogger(__name__)


def side_of(weights: Weights, source: Source) -> int | None:
    """Rows and columns of the grid, as far as anything says it.

    Looked for in `args`, in a config.json beside the file, in a table of rotations, in what was
    ever published, and, last of all, in the name under which a file was.
    """
    state, told = weights.state, _told(weights, source)
    pixels, cell = told.get("image_size"), told.get("downsample_size", CELL)
    if isinstance(pixels, int) and isinstance(cell, int) and 0 < cell <= pixels:
        return pixels // cell
    if "freqs_cis" in state and state["freqs_cis"].ndim == 3:
        slots = len(state[CAPTIONS[0]]) if CAPTIONS[0] in state else 1
        return math.isqrt(max(0, len(state["freqs_cis"]) - slots))
    table = state.get(CLASSES)
    if table is not None and table.ndim == 2 and table.shape[1] in ALWAYS_24:
        return 24
    named = NAMES.fullmatch(weights.path.name)
    if named is None:
        return None
    log.warning("%s is for %s pixels, by its name alone", weights.path, named["pixels"])
    return int(named["pixels"]) // CELL


def _told(weights: Weights, source: Source) -> Mapping[str, Any]:
    args = weights.value.get("args") if isinstance(weights.value, dict) else None
    told = args.state if isinstance(args, Record) else args
    if isinstance(told, dict):
        return told
    try:
        told = json.loads(source.beside.get("config.json", b"{}"))
    except ValueError as error:
        raise CheckpointError(f"{source.path}: config.json is not JSON: {error}") from None
    return told if isinstance(told, dict) else {}
