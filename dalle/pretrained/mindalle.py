"""minDALL-E's files: the transformer's tensors under our names, and its text tokenizer.

The published archive holds config.yaml, a folder tokenizer/ and two Lightning files, of which
stage2_last.ckpt is the transformer. Source: kakaobrain/minDALL-E (code Apache-2.0, weights of the
transformer CC-BY-NC-SA 4.0).
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained.beside import image_tokenizer, small_file
from dalle.pretrained.family import (
    Converted,
    Sighting,
    Source,
    agreed,
    configured,
    fit,
    indices,
    lengths,
)
from dalle.pretrained.mindalle_model import Mindalle, MindalleConfig
from dalle.pretrained.vqgan import from_state as vqgan_from_state
from dalle.pretrained.vqgan import has_vqgan
from dalle.tokenizers.char_bpe import CharBpe

FAMILY = "minDALL-E"
HEADS = {1536: 24}
"""By the width of the published model; its file does not say it."""
SIGNS = ("tok_emb_txt.weight", "pos_emb_txt.weight", "head_txt.weight")
"""Names that no other family has; one of them may be what the file lacks."""
TOKENIZER_FILES = ("vocab.json", "merges.txt")
"""How the names of the text tokenizer's files end."""
LAYER = r"blocks\.(\d+)\..+"

_TOP = {
    "text_embedding": "tok_emb_txt",
    "text_position": "pos_emb_txt",
    "image_embedding": "tok_emb_img",
    "image_position": "pos_emb_img",
    "transformer.norm": "ln_f",
    "text_head": "head_txt",
    "image_head": "head_img",
}
_IN_LAYER = {
    "attention_norm": "ln1",
    "qkv": "attn.query, key, value",
    "attention_out": "attn.proj",
    "mlp_norm": "ln2",
    "mlp_in": "mlp.0",
    "mlp_out": "mlp.2",
}


def recognise(source: Source) -> Sighting | None:
    """What a file is, by its keys and shapes."""
    for weights in source.weights:
        if is_state(weights.state):
            return _sighting(weights.state, source)
    return None


def convert(source: Source) -> Converted:
    """The decoder of a file, with the tokenizers that lie beside it.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    weights = next(w for w in source.weights if is_state(w.state))
    vocab, merges = (small_file(source, ending) for ending in TOKENIZER_FILES)
    found = CharBpe.from_files(vocab, merges) if vocab is not None and merges is not None else None
    module = from_state(weights.state, path=weights.path, pad=found.pad if found else 0)
    return Converted(
        module=module,
        sighting=_sighting(weights.state, source),
        text_tokenizer=found,
        image_tokenizer=image_tokenizer(
            source, side=module.config.side, is_one=has_vqgan, build=vqgan_from_state
        ),
        sampling={"top_k": 256},
    )


def is_state(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of minDALL-E's transformer."""
    return sum(name in state for name in SIGNS) >= len(SIGNS) - 1


def from_state(
    state: Mapping[str, Tensor], *, path: Path, heads: int | None = None, pad: int = 0
) -> Mindalle:
    """The decoder of a state dict.

    Args:
        state: its tensors by their original names.
        path: the file, for messages.
        heads: of attention, where they do not follow from the width.
        pad: the text id of its tokenizer that fills slots without a token.
    """

    def size(*places: tuple[str, int]) -> int:
        return agreed(state, places, path=path, family=FAMILY)

    width = size(*((name, 1) for name in (*SIGNS, "tok_emb_img.weight", "pos_emb_img.weight")))
    heads = heads or HEADS.get(width)
    if heads is None:
        raise CheckpointError(
            f"{path}: the published {FAMILY} has a width of 1536; this one has {width}, which "
            "leaves its number of heads unknown"
        )
    config = configured(
        lambda: MindalleConfig(
            text_vocab=size(("tok_emb_txt.weight", 0), ("head_txt.weight", 0)),
            image_vocab=size(("tok_emb_img.weight", 0), ("head_img.weight", 0)),
            text_slots=size(("pos_emb_txt.weight", 0)),
            side=math.isqrt(size(("pos_emb_img.weight", 0))),
            depth=indices(state, LAYER),
            width=width,
            heads=heads,
            pad=pad,
        ),
        path=path,
        family=FAMILY,
    )
    fused = _fuse(state, config, path=path)
    module = fit(Mindalle, config, fused, path=path, family=FAMILY, theirs=_theirs)
    assert isinstance(module, Mindalle)
    return module


def _fuse(state: Mapping[str, Tensor], config: MindalleConfig, *, path: Path) -> dict[str, Tensor]:
    """Queries, keys and values of a layer in one matrix."""
    fused = dict(state)
    for layer in range(config.depth):
        for leaf, shape in (("weight", (config.width,) * 2), ("bias", (config.width,))):
            names = [f"blocks.{layer}.attn.{part}.{leaf}" for part in ("query", "key", "value")]
            for name in names:
                came = tuple(state[name].shape) if name in state else None
                if came != shape:
                    raise CheckpointError(
                        f"{path}: {name!r} has the shape {came}; {FAMILY} of this size has {shape}"
                    )
            parts = [fused.pop(name) for name in names]
            fused[_theirs(f"transformer.blocks.{layer}.qkv.{leaf}")] = torch.cat(parts)
    return fused


def _theirs(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    if module in _TOP:
        return f"{_TOP[module]}.{leaf}"
    _, _, layer, part = module.split(".")
    return f"blocks.{layer}.{_IN_LAYER[part]}.{leaf}"


def _sighting(state: Mapping[str, Tensor], source: Source) -> Sighting:
    named = (
        ("width", "tok_emb_img.weight", 1),
        ("text tokens", "pos_emb_txt.weight", 0),
        ("image tokens", "pos_emb_img.weight", 0),
        ("image codes", "tok_emb_img.weight", 0),
    )
    has_text = all(small_file(source, ending) is not None for ending in TOKENIZER_FILES)
    missing = [] if has_text else ["the text tokenizer: the folder tokenizer/ of the archive"]
    if not any(has_vqgan(weights.state) for weights in source.weights):
        missing.append("the image tokenizer: stage1_last.ckpt of the archive")
    return Sighting(
        family=FAMILY,
        version="",
        holds="text to image",
        sizes={"depth": indices(state, LAYER), **lengths(state, named)},
        licence="CC-BY-NC-SA 4.0: not for commercial use",
        missing=tuple(missing),
    )
