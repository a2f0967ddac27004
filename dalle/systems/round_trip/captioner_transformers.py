"""BLIP and its relatives from `transformers` as captioners."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from dalle.checkpoint.hub import PATTERNS, download
from dalle.errors import InputError
from dalle.models.transformers_folder import load_parts

PREFIXES = {"blip": "a picture of ", "blip-2": "", "git": ""}
"""With which captions of each type of model begin; BLIP was trained so."""
FILES = (*PATTERNS, "*.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionSampling:
    """How captions are drawn.

    Source: the published code of arXiv 2212.12249.
    """

    temperature: float = 1.0
    """Divides the logits; above 0."""
    top_k: int | None = None
    top_p: float | None = 0.9
    """Draw among the fewest most likely tokens whose probabilities reach p."""
    repetition_penalty: float = 1.1
    """What a token that was there before is divided by in its favour; 1 is none."""
    least_tokens: int = 5
    """With those of the prefix, as is the next."""
    most_tokens: int = 20

    def __post_init__(self) -> None:
        for name, value, right in (
            ("temperature", self.temperature, self.temperature > 0),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0),
            ("most_tokens", self.most_tokens, self.most_tokens >= max(1, self.least_tokens)),
        ):
            if not right:
                raise InputError(
                    f"{name} of a captioner is {value}; expected a positive number, top_p at most "
                    "1, and most_tokens at least least_tokens"
                )


class TransformersCaptioner:
    """A `Captioner`: BLIP, BLIP-2 or GIT, with the model's own preprocessing.

    Args:
        where: the folder of a model with its tokenizer and its image processor. Its weights are
            read from safetensors, no code from it is run, nothing is fetched that it names, and
            what it says of how to draw captions is not read.
        prefix: with what each caption begins; it is taken off again. None: as its type was trained.
        sampling: how captions are drawn.
        device: where it works.

    Raises:
        InputError: there is no such model, a part of it is missing, it is of another type, or the
            prefix leaves no room for a caption.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        prefix: str | None = None,
        sampling: CaptionSampling | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        from transformers import GenerationConfig

        parts = load_parts(
            where,
            loader="AutoModelForImageTextToText",
            model_types=tuple(PREFIXES),
            what="a captioner",
            purpose="captions",
            attention="eager",
            device=device,
        )
        self.model, self.tokenizer, self.processor = parts.model, parts.tokenizer, parts.processor
        self.device = torch.device(device)
        self.sampling = sampling or CaptionSampling()
        self.prefix = PREFIXES[parts.config.model_type] if prefix is None else prefix
        self._prompt = self._prompt_of(parts.config)
        """Token ids that begin every caption."""
        if self._written(self.sampling.most_tokens) < 1:
            raise InputError(
                f"the prefix {self.prefix!r} has as many tokens as a caption may have, "
                f"{self.sampling.most_tokens}; take a shorter one"
            )
        own = self._writer.generation_config
        self._writer.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )

    def caption(
        self, images: Sequence[Image.Image], *, num_captions: int, seed: int
    ) -> list[list[str]]:
        """`num_captions` of each picture, without the prefix.

        A picture's captions do not depend on the other pictures.
        """
        return [self._caption(image, num_captions, seed) for image in images]

    @torch.no_grad()
    def _caption(self, image: Image.Image, num_captions: int, seed: int) -> list[str]:
        how = self.sampling
        pixels = self.processor(images=[image.convert("RGB")], return_tensors="pt")
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)  # transformers draws from torch's own generator
            ids: Int[Tensor, "n tokens"] = self.model.generate(
                **pixels.to(self.device),
                **self._beginning(),
                do_sample=True,
                num_beams=1,
                num_return_sequences=num_captions,
                temperature=how.temperature,
                top_k=how.top_k or 0,
                top_p=1.0 if how.top_p is None else how.top_p,
                repetition_penalty=how.repetition_penalty,
                min_new_tokens=max(0, self._written(how.least_tokens)),
                max_new_tokens=self._written(how.most_tokens),
            )
        texts = self.tokenizer.batch_decode(self._after_prompt(ids), skip_special_tokens=True)
        return [" ".join(str(text).split()) for text in texts]

    @property
    def _writer(self) -> Any:
        """The part whose `generate` reads the settings."""
        inner = {"blip": "text_decoder", "blip-2": "language_model"}
        name = inner.get(self.model.config.model_type)
        return self.model if name is None else getattr(self.model, name)

    def _prompt_of(self, config: Any) -> list[int]:
        words = self.tokenizer(self.prefix.strip(), add_special_tokens=False)["input_ids"]
        if config.model_type == "git":
            return [self.tokenizer.cls_token_id, *words]
        return [config.text_config.bos_token_id, *words]

    def _beginning(self) -> dict[str, Tensor]:
        """The prompt as each type of model takes it."""
        prompt, config = self._prompt, self.model.config
        if config.model_type == "blip":
            # It takes off the last token, which its tokenizer puts there to end a text.
            prompt = [*prompt, config.text_config.sep_token_id]
        elif config.model_type == "blip-2":
            prompt = [config.image_token_index] * config.num_query_tokens + prompt
        ids = torch.tensor([prompt], device=self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _written(self, tokens: int) -> int:
        """How many of a caption's tokens are written after the prompt."""
        return tokens - len(self._prompt)

    def _after_prompt(self, ids: Int[Tensor, "n tokens"]) -> Int[Tensor, "n written"]:
        if self._writer.config.is_encoder_decoder:  # it read the prompt, and writes the rest alone
            return ids
        read = self._beginning()["input_ids"].shape[1] - (self.model.config.model_type == "blip")
        return ids[:, read:]


def load_captioner(
    where: str | Path,
    *,
    prefix: str | None = None,
    sampling: CaptionSampling | None = None,
    device: str | torch.device = "cpu",
) -> TransformersCaptioner:
    """The captioner in a folder or on the hub, of which tables and tensors are fetched.

    Raises:
        InputError: as `TransformersCaptioner`, or the hub cannot be reached.
    """
    path = Path(where).expanduser()
    folder = path if path.exists() else download(str(where), patterns=FILES)
    return TransformersCaptioner(folder, prefix=prefix, sampling=sampling, device=device)
