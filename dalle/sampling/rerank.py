"""Which of many pictures show a text best: scores by a CLIP, and the order that they give."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dalle.checkpoint import RERANKERS, TEXT_TOKENIZER, load_folder
from dalle.checkpoint.hub import PATTERNS, download
from dalle.checkpoint.places import resolve
from dalle.config import to_json
from dalle.errors import InputError
from dalle.json_files import read_json
from dalle.models.clip_transformers import TransformersReranker
from dalle.models.fingerprint import digest_of
from dalle.protocols import JointEmbedder, Reranker
from dalle.tokenizers.kinds import PromptTokenizer, load_text_tokenizer

IMAGES_AT_ONCE = 64
CONFIG = "config.json"
FILES = (*PATTERNS, "*.model")
"""Of a model of `transformers`; the last are vocabularies."""


class Encoders(Protocol):
    """A CLIP of ours, or of another project as a module of ours; see `models.clip`."""

    @property
    def config(self) -> Any:
        """With text_vocab, text_slots, image_height and image_width."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def encode_text(self, tokens: Int[Tensor, "n text"]) -> Float[Tensor, "n e"]: ...

    def encode_image(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]: ...


class ClipReranker:
    """A `Reranker` and `JointEmbedder` by one of our CLIPs: vectors, and their cosine.

    Args:
        clip: in evaluation mode, on the device that does the work.
        tokenizer: the one it was trained with.
        images_at_once: how many pictures go through it together.

    Raises:
        InputError: the tokenizer is another one.

    Source: arXiv 2102.12092, section 2.6.
    """

    def __init__(
        self, clip: Encoders, tokenizer: PromptTokenizer, *, images_at_once: int = IMAGES_AT_ONCE
    ) -> None:
        if tokenizer.vocab_size != clip.config.text_vocab:
            raise InputError(
                f"the text tokenizer has {tokenizer.vocab_size} entries, the CLIP was made for "
                f"{clip.config.text_vocab}; take the tokenizer that it was trained with"
            )
        self.clip = clip
        self.tokenizer = tokenizer
        self.images_at_once = images_at_once

    @torch.no_grad()
    def score(
        self, texts: list[str], images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, " n"]:
        """The cosine of each picture, of any size, and the text beside it, -1 to 1.

        Args:
            texts: one for each picture; what is too long is cut. Each different one is encoded
                once.
            images: in [0, 1], on any device.

        Returns:
            Scores where the CLIP is.
        """
        check_pairs(texts, images)
        different = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        features = self.encode_texts(list(different))
        number_of = torch.tensor([different[text] for text in texts], device=features.device)
        scores = [
            (self.encode_images(chunk) * features[numbers]).sum(dim=-1)
            for chunk, numbers in zip(
                images.split(self.images_at_once), number_of.split(self.images_at_once), strict=True
            )
        ]
        return torch.cat(scores)

    @property
    def vector_size(self) -> int:
        """Numbers in a vector."""
        return int(self.clip.config.embed_dim)

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "n e"]:
        """Vectors of unit length; what is too long is cut."""
        streams = [
            torch.from_numpy(self.tokenizer.encode_stream(text, slots=self._slots).ids)
            for text in texts
        ]
        return self.clip.encode_text(torch.stack(streams).to(self._device))

    @property
    def context(self) -> int:
        """Tokens of a text for which there is room."""
        return self._slots - 1

    def num_tokens(self, text: str) -> int:
        """Tokens that a text has, with those for which there is no room."""
        stream = self.tokenizer.encode_stream(text, slots=self._slots)
        return stream.num_tokens + stream.num_cut

    def encode_images(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        """Vectors of unit length, of pictures of any size in [0, 1]; gradients flow through it."""
        config = self.clip.config
        pixels = images.to(self._device, torch.float32)
        fitted = fit(pixels, height=config.image_height, width=config.image_width)
        return self.clip.encode_image(fitted)

    encode_images_smoothly = encode_images

    def fingerprint(self) -> str:
        """What changes when its weights, its shape or its text tokenizer do."""
        assert isinstance(self.clip, nn.Module)
        return digest_of(self.clip, to_json(self.clip.config))

    @property
    def _slots(self) -> int:
        return int(self.clip.config.text_slots)

    @property
    def _device(self) -> torch.device:
        return next(self.clip.parameters()).device


def reranker_folder(where: str | Path) -> Path:
    """The folder of a reranker that a path or a hub name means; see `load_reranker`."""
    path = Path(where).expanduser()
    fields = _read_config(path) if path.exists() else _fetch_config(str(where))
    if "model_type" not in fields:
        return resolve(where)
    return path if path.exists() else download(str(where), patterns=FILES)


def load_reranker(where: str | Path, device: str | torch.device = "cpu") -> Reranker:
    """The reranker in a folder or on the hub.

    Args:
        where: a model folder or run of ours that holds a CLIP; or a CLIP, SigLIP or SigLIP 2 of
            `transformers`, as a folder or a hub name.
        device: where it works.

    Raises:
        InputError: there is no such folder or model, or it is no CLIP.
        CheckpointError: our folder is damaged, of another kind or of a newer format.
    """
    folder = reranker_folder(where)
    if "model_type" in _read_config(folder):
        return TransformersReranker(folder, device=device)
    loaded = load_folder(folder, kind=RERANKERS, device=device)
    clip: Any = loaded.module.requires_grad_(False)  # `Encoders`, as its kind was checked
    return ClipReranker(clip, load_text_tokenizer(loaded.path / TEXT_TOKENIZER))


def load_embedder(where: str | Path, device: str | torch.device = "cpu") -> JointEmbedder:
    """As `load_reranker`, for the vectors themselves."""
    embedder: Any = load_reranker(where, device)  # both kinds are embedders too
    return embedder


def rank(scores: Float[Tensor, " n"], keep: int) -> Int[Tensor, " kept"]:
    """The numbers of the `keep` best, the best first; equal ones stay in their order.

    A score that is not a number counts as the lowest.
    """
    if keep < 1:
        raise InputError(f"keep is {keep}; expected at least 1")
    ordered = torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return ordered.argsort(descending=True, stable=True)[:keep]


def fit(
    images: Float[Tensor, "n 3 from_height from_width"], *, height: int, width: int
) -> Float[Tensor, "n 3 height width"]:
    """The largest central part of the wanted aspect, resized, as pictures are for training."""
    scale = min(images.shape[2] / height, images.shape[3] / width)
    tall, wide = round(height * scale), round(width * scale)
    top, left = (images.shape[2] - tall) // 2, (images.shape[3] - wide) // 2
    part = images[:, :, top : top + tall, left : left + wide]
    if (tall, wide) == (height, width):
        return part
    resized = F.interpolate(part, size=(height, width), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def check_pairs(texts: list[str], images: Float[Tensor, "n 3 height width"]) -> None:
    """Refuse texts and pictures that are not pairs, or none at all."""
    if len(texts) != len(images) or not texts:
        raise InputError(
            f"{len(texts)} texts came with {len(images)} pictures; expected one text for each "
            "picture, and at least one"
        )


def _fetch_config(name: str) -> dict[str, Any]:
    """The fields of config.json of a model on the hub.

    Raises:
        InputError: there is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        path = hf_hub_download(name, CONFIG)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"there is no folder {name!r}, and no model of that name could be had from the hub: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return _read_config(Path(path).parent)


def _read_config(folder: Path) -> dict[str, Any]:
    """The fields of config.json, or none where whoever loads the folder will say what is wrong."""
    try:
        fields = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}
