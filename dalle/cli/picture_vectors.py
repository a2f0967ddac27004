"""The CLIP whose vectors are conditions, and pictures as its vectors."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.checkpoint.manifest import write_json
from dalle.cli.picture_codes import CodeSettings, bar, cache_folder, process_device
from dalle.cli.training_data import Parts, say
from dalle.data.picture_vectors import Embedding, embed_source
from dalle.data.sources import numbered
from dalle.data.split import is_marked
from dalle.data.token_cache import cached_codes
from dalle.errors import ConfigError
from dalle.protocols import JointEmbedder, Source
from dalle.sampling.joint_prompts import CONDITION_CLIP
from dalle.sampling.prompts import read_prompts
from dalle.sampling.rerank import load_embedder, reranker_folder
from dalle.training.image_tokens import view_of

MADE = "made.json"
"""Beside the files of vectors in the cache: what made them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionClip:
    """A frozen CLIP, for its vectors."""

    embedder: JointEmbedder
    fingerprint: str
    folder: Path
    """Where it was read."""
    name: str
    """As it was asked for."""


def load_condition_clip(name: str | None, *, begun: Path | None, device: str) -> ConditionClip:
    """The CLIP that the run began with, or the one that was asked for.

    Raises:
        ConfigError: none was.
    """
    if begun is not None:
        folder, name = begun / CONDITION_CLIP, str(begun / CONDITION_CLIP)
    elif name is None:
        raise ConfigError(
            "--condition-clip is missing: give a CLIP (of `dalle train clip`, or of transformers) "
            "whose vectors of pictures are to be the condition"
        )
    else:
        folder = reranker_folder(name)
    embedder = load_embedder(folder, process_device(device))
    return ConditionClip(
        embedder=embedder, fingerprint=embedder.fingerprint(), folder=folder, name=name
    )


def embed_once(
    parts: Parts, clip: ConditionClip, *, size: tuple[int, int], settings: CodeSettings
) -> Parts:
    """Both parts of a data set as vectors, in the place of codes.

    They are those of the very crops whose codes `encode_once` makes, and come from the cache, into
    which goes what is missing; pictures that are drawn on the fly are embedded into memory.

    Args:
        size: (height, width) of the crops, which the CLIP resizes as it does.
        settings: as for the codes.
    """

    def embedded(source: Source, *, train: bool) -> Source:
        augment = settings.augment and train
        embedding = Embedding(
            embedder=clip.embedder,
            fingerprint=clip.fingerprint,
            view=partial(view_of, size=size, augment=augment),
            view_name=f"{size} augmented={augment}",
            views=settings.views if train else 1,
        )
        with bar(len(source), "pictures to vectors") as progress:
            if not is_marked(source):
                return embed_source(source, embedding, progress=progress.update)
            folder = vector_folder(settings.cache)
            made = cached_codes(
                source,
                embedding,
                folder,
                part=settings.part,
                parts=settings.parts,
                say=say,
                progress=progress.update,
            )
            if settings.part == 0:
                _note_what_made_them(folder / embedding.name(), clip, embedding)
            return made

    held_out = None if parts.held_out is None else embedded(parts.held_out, train=False)
    train = numbered(parts.train, "the data set")
    return Parts(train=embedded(train, train=True), held_out=held_out)


def vector_folder(cache: str | None) -> Path:
    """The cache of vectors: the folder of the token cache that was asked for, or beside the
    user's."""
    return cache_folder(cache) if cache is not None else cache_folder(None).with_name("vectors")


def text_vectors(clip: ConditionClip, captions: Path) -> Float[Tensor, "n e"]:
    """Unit vectors of the captions in a file, one a line."""
    texts = [line.prompt for line in read_prompts(captions)]
    at_once = [texts[i : i + 256] for i in range(0, len(texts), 256)]
    with torch.no_grad():
        return torch.cat([clip.embedder.encode_texts(some).float().cpu() for some in at_once])


def _note_what_made_them(place: Path, clip: ConditionClip, embedding: Embedding) -> None:
    fields = {
        "clip": clip.name,
        "fingerprint": clip.fingerprint,
        "numbers": embedding.embedder.vector_size,
        "crops": embedding.views,
        "transform": embedding.view_name,
        "normalised": True,
    }
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / MADE, fields)
