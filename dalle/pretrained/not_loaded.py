"""Families that are named and not loaded: they are no decoders over one stream."""

from dataclasses import dataclass

from dalle.errors import CheckpointError
from dalle.pretrained.family import Converted, Sighting, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class _Other:
    name: str
    keys: tuple[str, ...]
    """Parts of keys that its tensors have, each in some key."""
    holds: str
    licence: str
    because: str


_CRAIYON = "Apache-2.0 on the card of mini"
_ENCODER_DECODER = (
    "it is an encoder and a decoder with attention across, not one stream; min-dalle and its own "
    "package run it"
)
_COGVIEW = "CogView's own package runs it"
_OTHERS = (
    _Other(
        name="dalle-mini or dalle-mega (Flax)",
        keys=("lm_head", "kernel"),
        holds="text to image, encoder and decoder",
        licence=_CRAIYON,
        because=_ENCODER_DECODER,
    ),
    _Other(
        name="dalle-mini or dalle-mega (min-dalle's port)",
        keys=("self_attn_layer_norm", "glu.fc"),
        holds="a half of text to image, encoder and decoder",
        licence=_CRAIYON,
        because=_ENCODER_DECODER,
    ),
    _Other(
        name="CogView",
        keys=("word_embeddings.weight", "third_layernorm"),
        holds="text to image",
        licence="not stated separately",
        because=_COGVIEW,
    ),
    _Other(
        name="CogView's VQ-VAE",
        keys=("enc_b.blocks", "quantize_t.embed"),
        holds="image tokenizer",
        licence="MIT (its code)",
        because=_COGVIEW,
    ),
)


def recognise(source: Source) -> Sighting | None:
    """dalle-mini, dalle-mega, CogView."""
    other = _find(source)
    if other is None:
        return None
    return Sighting(
        family=other.name,
        version="",
        holds=other.holds,
        sizes={},
        licence=other.licence,
        missing=(f"it cannot be loaded here: {other.because}",),
    )


def convert(source: Source) -> Converted:
    """Never possible.

    Raises:
        CheckpointError: always, with the reason.
    """
    other = _find(source)
    assert other is not None  # it was recognised
    raise CheckpointError(
        f"{source.path} is {other.name}, which is not loaded here: {other.because}"
    )


def _find(source: Source) -> _Other | None:
    names = [key for weights in source.weights for key in weights.state]
    # Flax writes msgpack, which is not read: the names of the first layers are in its beginning.
    names += [source.beginning.decode("latin-1")] if source.beginning else []
    for other in _OTHERS:
        if all(any(part in name for name in names) for part in other.keys):
            return other
    return None
