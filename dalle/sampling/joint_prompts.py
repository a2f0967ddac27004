"""Prompts for decoders behind the vector of a CLIP: texts, pictures, and ways between two texts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from dalle.checkpoint import TEXT_TOKENIZER, write_neighbour
from dalle.config import from_json, to_json
from dalle.errors import CheckpointError, ConfigError, InputError
from dalle.models.joint_condition import JointCondition, slerp
from dalle.protocols import JointEmbedder
from dalle.sampling.image_prompt import image_prompt
from dalle.sampling.prompts import without_surrogates
from dalle.sampling.rerank import load_embedder
from dalle.tokenizers.kinds import PromptTokenizer
from dalle.tokenizers.slots import StreamText
from dalle.tokenizers.text_file import read_file, write_file

KIND = "joint_condition"
CONDITION_CLIP = "condition_clip"
"""The folder of the CLIP within a model's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorPrompt:
    """A condition that stands in place of a prompt."""

    said: str
    """What it is, in words."""
    vector: tuple[float, ...]
    """Of unit length."""


class JointPrompts:
    """A `PromptTokenizer` whose stream is one vector: that of the prompt, by the model's own CLIP.

    Args:
        condition: what training did to vectors of pictures, and which CLIP made them.
        embedder: that CLIP.
        folder: where it was read, to be copied along; None where it cannot be saved.

    Raises:
        CheckpointError: it is another CLIP.
    """

    def __init__(
        self, condition: JointCondition, embedder: JointEmbedder, *, folder: Path | None = None
    ) -> None:
        found = embedder.fingerprint()
        if found != condition.fingerprint:
            raise CheckpointError(
                f"the model was trained on vectors of the CLIP {condition.clip} with fingerprint "
                f"{condition.fingerprint}, and this one has {found}; give the CLIP it was trained "
                "with"
            )
        if embedder.vector_size != condition.vector_size:
            raise CheckpointError(
                f"the model's condition has vectors of {condition.vector_size} numbers, its CLIP "
                f"of {embedder.vector_size}; the folder is damaged"
            )
        self.condition = condition
        self.embedder = embedder
        self.folder = folder
        self.vocab_size = condition.vector_size

    def encode(self, text: str) -> list[int]:
        """Nothing: a vector has no tokens."""
        raise InputError("this model reads a prompt as one vector, which has no tokens")

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Likewise."""
        raise InputError("this model writes no texts")

    @torch.no_grad()
    def encode_stream(self, text: str, *, slots: int) -> StreamText:
        """The condition that a text gives, of unit length: `vocab_size` numbers in float32."""
        vector = self.condition.of_texts(self.embedder.encode_texts([text]))[0]
        tokens, room = self.embedder.num_tokens(text), self.embedder.context
        return StreamText(
            ids=vector.float().cpu().numpy(),
            num_tokens=min(tokens, room),
            num_cut=max(0, tokens - room),
        )

    def empty_stream(self, slots: int) -> Float[np.ndarray, " e"]:
        """Zeros, which stand for no condition."""
        return np.zeros(self.vocab_size, dtype=np.float32)

    @torch.no_grad()
    def of_image(
        self, image: Image.Image | str | Path, *, image_size: tuple[int, int]
    ) -> VectorPrompt:
        """The condition that a picture gives, cropped to (height, width) as in training.

        Raises:
            InputError: it cannot be read.
        """
        pixels = image_prompt(image, image_size=image_size)
        vector = self.condition.of_images(self.embedder.encode_images(pixels))[0]
        name = "a picture" if isinstance(image, Image.Image) else Path(image).name
        said = f"variations of {without_surrogates(name)}"
        return VectorPrompt(said=said, vector=tuple(vector.tolist()))

    @torch.no_grad()
    def between(self, first: str, second: str, *, steps: int) -> list[VectorPrompt]:
        """Conditions from one prompt to another along the great circle, both ends included.

        Raises:
            InputError: steps is below 2.
        """
        if steps < 2:
            raise InputError(f"steps is {steps}; expected at least 2: the two prompts themselves")
        start, end = self.condition.of_texts(self.embedder.encode_texts([first, second]))
        shares = torch.linspace(0, 1, steps, device=start.device)
        return [
            VectorPrompt(
                said=f"{share:.0%} of the way from {first!r} to {second!r}",
                vector=tuple(vector.tolist()),
            )
            for share, vector in zip(shares.tolist(), slerp(start, end, shares), strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write the JSON file that `load_joint_prompts` reads, and the CLIP's folder beside it.

        Raises:
            SaveError: they cannot be written.
            InputError: the CLIP came from no folder.
        """
        if self.folder is None:
            raise InputError("the CLIP of this model came from no folder, so it cannot be saved")
        write_file(path, KIND, to_json(self.condition))
        write_neighbour(path.parent / CONDITION_CLIP, self.folder)


def joint_prompts(tokenizer: PromptTokenizer) -> JointPrompts:
    """What a model reads prompts with, where that gives vectors.

    Raises:
        InputError: the model reads texts.
    """
    if not isinstance(tokenizer, JointPrompts):
        raise InputError(
            "the model reads texts, not vectors; take a model trained with --condition clip"
        )
    return tokenizer


def read_condition(folder: Path) -> JointCondition:
    """What a model's folder says of its condition.

    Raises:
        CheckpointError: it is missing, damaged, of another kind or of a newer format.
    """
    path = folder / TEXT_TOKENIZER
    names = tuple(JointCondition.__dataclass_fields__)
    fields = read_file(path, KIND, names)
    try:
        values = {name: fields[name] for name in names}
        return from_json(JointCondition, values, path=str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def load_joint_prompts(folder: Path, device: str | torch.device = "cpu") -> JointPrompts:
    """Of a model's folder, with the CLIP that lies in it.

    Raises:
        CheckpointError: a part is missing or damaged, or the CLIP is another one.
        InputError: the CLIP cannot be used.
    """
    clip = folder / CONDITION_CLIP
    return JointPrompts(read_condition(folder), load_embedder(clip, device), folder=clip)
