"""ru-DALL·E's files: which of their two layouts they have, and their tensors under our names.

Source: ai-forever/ru-dalle (Apache-2.0); the files are flat state dicts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.nn.masks import dense_mask
from dalle.pretrained.beside import image_tokenizer, lacking, small_file
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
from dalle.pretrained.rudalle_model import Rudalle, RudalleConfig, Version
from dalle.pretrained.vqgan import from_state as vqgan_from_state
from dalle.pretrained.vqgan import has_vqgan
from dalle.tokenizers.rudalle_captions import RudalleCaptions

FAMILY = "ru-DALL·E"
HEADS = {2048: 16, 3840: 60}
"""By the width of the published models; files do not say it."""
KANDINSKY_WIDTH = 3840
SIGNS = ("text_pos_embeddings.weight", "image_row_embeddings.weight", "to_logits.1.weight")
"""Names that no other family has together; one of them may be what the file lacks."""
TABLES = ("image_row_embeddings.weight", "image_col_embeddings.weight")
LAYER = r"transformer\.layers\.(\d+)\..+"
MASK = "transformer.conv_mask"
TEXT_TOKENIZER = ("shonenkov/rudalle-utils", "bpe.model")
IMAGE_TOKENIZER = ("ai-forever/Sber-VQGAN", "vqgan.gumbelf8-sber.model.ckpt")
IGNORABLE = (r"transformer\.(row|col|conv)_mask",)

_TOP = {
    "text_embedding": "text_embeddings",
    "text_position": "text_pos_embeddings",
    "image_embedding": "image_embeddings",
    "row_embedding": "image_row_embeddings",
    "col_embedding": "image_col_embeddings",
    "norm": "transformer.final_layernorm",
    "head_norm": "to_logits.0",
    "head": "to_logits.1",
}
_IN_LAYER = {
    "attention_norm": "input_layernorm",
    "qkv": "attention.query_key_value",
    "attention_out": "attention.dense",
    "attention_out_norm": "before_first_addition_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_in": "mlp.dense_h_to_4h",
    "mlp_out": "mlp.dense_4h_to_h",
    "mlp_out_norm": "before_second_addition_layernorm",
}


def recognise(source: Source) -> Sighting | None:
    """What a file is, by its keys, shapes and masks."""
    for weights in source.weights:
        if is_state(weights.state):
            return _sighting(weights.state, source)
    return None


def convert(source: Source) -> Converted:
    """The decoder of a file, with the tokenizers that lie beside it.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known, or the file does not tell its
            layout.
    """
    weights = next(w for w in source.weights if is_state(w.state))
    module = from_state(weights.state, path=weights.path)
    kandinsky = module.config.width == KANDINSKY_WIDTH
    vocabulary = small_file(source, "bpe.model", on_hub=TEXT_TOKENIZER)
    return Converted(
        module=module,
        sighting=_sighting(weights.state, source),
        text_tokenizer=RudalleCaptions.from_model(vocabulary) if vocabulary is not None else None,
        image_tokenizer=image_tokenizer(
            source,
            side=module.config.side,
            is_one=has_vqgan,
            build=vqgan_from_state,
            on_hub=IMAGE_TOKENIZER,
        ),
        sampling={"top_k": 768, "top_p": 0.99} if kandinsky else {"top_k": 2048, "top_p": 0.995},
    )


def is_state(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a ru-DALL·E."""
    return sum(name in state for name in SIGNS) >= len(SIGNS) - 1


def from_state(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    version: Version | None = None,
    heads: int | None = None,
) -> Rudalle:
    """The decoder of a state dict.

    Args:
        state: its tensors by their original names; masks among them are compared and left out.
        path: the file, for messages.
        version: of the layout, where the masks do not tell it.
        heads: of attention, where they do not follow from the width.
    """
    config = _config(state, path=path, version=version, heads=heads)
    module = fit(
        Rudalle, config, state, path=path, family=FAMILY, theirs=_theirs, ignorable=IGNORABLE
    )
    assert isinstance(module, Rudalle)
    return module


def _config(
    state: Mapping[str, Tensor], *, path: Path, version: Version | None, heads: int | None
) -> RudalleConfig:
    def size(*places: tuple[str, int]) -> int:
        return agreed(state, places, path=path, family=FAMILY)

    text, image = size(("text_embeddings.weight", 0)), size(("image_embeddings.weight", 0))
    entries = size(("to_logits.1.weight", 0))
    if entries != text + image:
        raise CheckpointError(
            f"{path}: to_logits.1.weight has {entries} rows, text_embeddings.weight {text} and "
            f"image_embeddings.weight {image}; in {FAMILY} the first is the sum of the others"
        )
    width = size(*((name, 1) for name in ("text_embeddings.weight", *TABLES, SIGNS[0])))
    heads = heads or HEADS.get(width)
    if heads is None:
        raise CheckpointError(
            f"{path}: the published {FAMILY} have a width of {', '.join(map(str, HEADS))}; this "
            f"one has {width}, which leaves its number of heads unknown"
        )
    text_slots = size((SIGNS[0], 0)) - 1
    version = version or version_of(state)
    if version is None:
        raise CheckpointError(
            f"{path} has no {MASK!r} that would tell the two layouts of {FAMILY} apart; take the "
            "published file, which has it"
        )
    return configured(  # type: ignore[no-any-return]
        lambda: RudalleConfig(
            version=version,
            text_vocab=text - text_slots,
            image_vocab=image,
            text_slots=text_slots,
            side=size(*((name, 0) for name in TABLES)),
            depth=indices(state, LAYER),
            width=width,
            heads=heads,
        ),
        path=path,
        family=FAMILY,
    )


def version_of(state: Mapping[str, Tensor]) -> Version | None:
    """Which layout a file has, by the mask of its last layer; None where that does not say."""
    sides = [len(state[name]) for name in TABLES if name in state and state[name].ndim]
    if MASK not in state or not sides:
        return None
    mask, fits = state[MASK].cpu() > 0.5, []
    text_slots = len(mask) - max(sides) ** 2 if mask.ndim else 0
    if text_slots < 1 or mask.shape != (len(mask), len(mask)):
        return None
    for version in get_args(Version):
        config = RudalleConfig(version=version, text_slots=text_slots, side=max(sides))
        if torch.equal(dense_mask(config.layer_patterns[-1], config.layout), mask):
            fits.append(version)
    return fits[0] if len(fits) == 1 else None


def _theirs(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    if module in _TOP:
        return f"{_TOP[module]}.{leaf}"
    _, layer, part = module.split(".")
    return f"transformer.layers.{layer}.{_IN_LAYER[part]}.{leaf}"


def _sighting(state: Mapping[str, Tensor], source: Source) -> Sighting:
    named = (
        ("width", "text_pos_embeddings.weight", 1),
        ("rows", "image_row_embeddings.weight", 0),
        ("columns", "image_col_embeddings.weight", 0),
        ("image codes", "image_embeddings.weight", 0),
    )
    missing = []
    if small_file(source, "bpe.model") is None:
        missing.append(lacking("the text tokenizer", TEXT_TOKENIZER))
    if not any(has_vqgan(weights.state) for weights in source.weights):
        missing.append(lacking("the image tokenizer", IMAGE_TOKENIZER))
    return Sighting(
        family=FAMILY,
        version=version_of(state) or "",
        holds="text to image",
        sizes={"depth": indices(state, LAYER), **lengths(state, named)},
        licence="none stated with the weights; the code is Apache-2.0",
        missing=tuple(missing),
    )
