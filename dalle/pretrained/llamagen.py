"""LlamaGen's files: which model they hold, and their tensors under our names.

A file holds the weights under `model` or `module`, or they are the file (from FSDP). What it was
trained on is in `args`, where that was kept. Source: FoundationVision/LlamaGen (MIT).
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained import llamagen_vq
from dalle.pretrained.beside import image_tokenizer, lacking
from dalle.pretrained.family import (
    Converted,
    Sighting,
    Source,
    Weights,
    agreed,
    configured,
    fit,
    indices,
    lengths,
)
from dalle.pretrained.llamagen_grid import CAPTIONS, CLASSES, side_of
from dalle.pretrained.llamagen_model import Llamagen, LlamagenConfig
from dalle.tokenizers.class_numbers import ClassNumbers
from dalle.tokenizers.t5_features import PUBLISHED, T5Features

FAMILY = "LlamaGen"
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32, 4096: 32}
"""By the width of the original's models; files do not say it."""
IMAGE_TOKENIZERS = {
    "class": ("FoundationVision/LlamaGen", "vq_ds16_c2i.pt"),
    "features": ("peizesun/llamagen_t2i", "vq_ds16_t2i.pt"),
}
SIGNS = ("tok_embeddings.weight", "output.weight", "layers.0.attention.wqkv.weight")
"""With an embedding of a condition, of no other family; one of all these may be what is lacking."""
LAYER = r"layers\.(\d+)\..+"
MLP_WIDTH = tuple(
    (f"layers.0.feed_forward.{name}.weight", axis)
    for name, axis in (("w1", 0), ("w3", 0), ("w2", 1))
)
IGNORABLE = (r"freqs_cis",)
"""Rotations are computed."""

_NAMES = {
    "class_embedding": "cls_embedding.embedding_table",
    "features_in": "cls_embedding.cap_proj.fc1",
    "features_out": "cls_embedding.cap_proj.fc2",
    "image_embedding": "tok_embeddings",
    "image_head": "output",
    "norm": "norm",
    "attention_norm": "attention_norm",
    "qkv": "attention.wqkv",
    "attention_out": "attention.wo",
    "mlp_norm": "ffn_norm",
    "mlp_gate": "feed_forward.w1",
    "mlp_in": "feed_forward.w3",
    "mlp_out": "feed_forward.w2",
}


def recognise(source: Source) -> Sighting | None:
    """What a file is, by its keys and shapes."""
    for weights in source.weights:
        if is_state(weights.state):
            return _sighting(weights, source, side_of(weights, source))
    return None


def convert(source: Source) -> Converted:
    """The decoder of a file, with the image tokenizer that lies beside it; T5 is named only.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known, or the file does not tell for
            which size of picture it is.
    """
    weights = next(w for w in source.weights if is_state(w.state))
    side = side_of(weights, source)
    module = from_state(weights.state, path=weights.path, side=side)
    size, by_class = module.config.condition_size, module.config.condition == "class"
    return Converted(
        module=module,
        sighting=_sighting(weights, source, side),
        text_tokenizer=ClassNumbers(size) if by_class else T5Features(PUBLISHED, vocab_size=size),
        image_tokenizer=image_tokenizer(
            source,
            side=module.config.side,
            is_one=is_vq,
            build=llamagen_vq.from_state,
            on_hub=IMAGE_TOKENIZERS[module.config.condition],
        ),
        sampling={"top_k": 2000, "guidance": 4.0} if by_class else {"top_k": 1000, "guidance": 7.5},
    )


def is_state(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a LlamaGen."""
    has_condition = any(name.startswith("cls_embedding.") for name in state)
    return sum(name in state for name in SIGNS) + has_condition >= len(SIGNS)


def is_vq(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of LlamaGen's image tokenizer."""
    return "encoder.conv_blocks.0.res.0.conv1.weight" in state


def from_state(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    side: int | None,
    heads: int | None = None,
    slots: int | None = None,
) -> Llamagen:
    """The decoder of a state dict.

    Args:
        state: its tensors by their original names.
        path: the file, for messages.
        side: rows and columns of the grid; None where nothing says it.
        heads: of attention, where they do not follow from the width.
        slots: of the condition, where they are fewer than it has learned features for.
    """
    config = _config(state, path=path, side=side, heads=heads, slots=slots)
    if config.condition == "features" and CAPTIONS[0] in state:
        state = {**state, CAPTIONS[0]: state[CAPTIONS[0]][: config.condition_slots]}
    module = fit(
        Llamagen, config, state, path=path, family=FAMILY, theirs=_theirs, ignorable=IGNORABLE
    )
    assert isinstance(module, Llamagen)
    return module


def _config(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    side: int | None,
    heads: int | None,
    slots: int | None,
) -> LlamagenConfig:
    def size(*places: tuple[str, int]) -> int:
        return agreed(state, places, path=path, family=FAMILY)

    width = size((SIGNS[0], 1), (SIGNS[1], 1), (SIGNS[2], 1), ("norm.weight", 0))
    heads = heads or HEADS.get(width)
    if heads is None:
        raise CheckpointError(
            f"{path}: {FAMILY} has a width of {', '.join(map(str, HEADS))}; this one has {width}, "
            "which leaves its number of heads unknown"
        )
    if side is None:
        raise CheckpointError(
            f"{path} does not say for which size of picture it is; put it in a folder with a "
            'config.json that says so, such as {"image_size": 256}, and give the folder; or give '
            "it the name back under which it was published"
        )
    of_captions = any(name in state for name in CAPTIONS)
    if CLASSES not in state and not of_captions:
        raise CheckpointError(
            f"{path} lacks {CLASSES!r} or {CAPTIONS[0]!r}; {FAMILY} has its condition there"
        )
    count = size((CAPTIONS[0], 0)) if of_captions else 1
    return configured(  # type: ignore[no-any-return]
        lambda: LlamagenConfig(
            condition="features" if of_captions else "class",
            condition_size=(
                size(*((name, 1) for name in CAPTIONS)) if of_captions else size((CLASSES, 0)) - 1
            ),
            condition_slots=slots or count,
            image_vocab=size((SIGNS[0], 0), (SIGNS[1], 0)),
            side=side,
            depth=indices(state, LAYER),
            width=width,
            heads=heads,
            mlp_width=size(*MLP_WIDTH),
        ),
        path=path,
        family=FAMILY,
    )


def _theirs(name: str) -> str:
    if name == "no_features":
        return CAPTIONS[0]
    *layer, module, leaf = name.split(".")
    return ".".join([*layer, _NAMES[module], leaf]).replace("blocks.", "layers.")


def _sighting(weights: Weights, source: Source, side: int | None) -> Sighting:
    state = weights.state
    named = (
        ("width", SIGNS[0], 1),
        ("image codes", SIGNS[0], 0),
        ("classes, and none", CLASSES, 0),
        ("caption tokens", CAPTIONS[0], 0),
    )
    by_class = CLASSES in state
    grid = {} if side is None else {"grid": f"{side} x {side}"}
    codec = lacking("the image tokenizer", IMAGE_TOKENIZERS["class" if by_class else "features"])
    has_codec = any(is_vq(other.state) for other in source.weights)
    return Sighting(
        family=FAMILY,
        version="c2i" if by_class else "t2i",
        holds="class to image" if by_class else "text to image",
        sizes={"depth": indices(state, LAYER), **lengths(state, named), **grid},
        licence="none stated with the weights; the code is MIT",
        missing=() if has_codec else (codec,),
    )
