"""Captions as features of a T5 encoder of `transformers`, which LlamaGen reads in its prefix.

Source: FoundationVision/LlamaGen, language/t5.py and autoregressive/sample/sample_t2i.py.
"""

import html
import re
from collections.abc import Iterable
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.slots import StreamText
from dalle.tokenizers.text_file import read_file, write_file

KIND = "t5_features"
PUBLISHED = "google/flan-t5-xl"
"""What LlamaGen's published models were trained with."""

_DASHES = (
    "\u058a\u05be\u1400\u1806\u2010\u2011\u2012\u2013\u2014\u2015\u301c\u3030\ufe58\ufe63\uff0d"
)
_PLAIN = {
    **dict.fromkeys(map(ord, _DASHES), "-"),
    **dict.fromkeys(map(ord, "`\u00b4\u00ab\u00bb\u201c\u201d\u00a8"), '"'),
    **dict.fromkeys(map(ord, "\u2018\u2019"), "'"),
    **dict.fromkeys(map(ord, "#®•©™&@·º½¾¿¡§~()[]{}|\\/*"), " "),
}


class T5Features:
    """A caption as features, at the end of its slots; ahead of them are rows of zeros.

    Nothing is loaded before the first caption.

    Args:
        where: a folder, or a name on the hub, with a T5 and its tokenizer. Weights are read from
            safetensors, and no code from it is run.
        vocab_size: how many features a token has, as the decoder was trained.
    """

    def __init__(self, where: str, *, vocab_size: int) -> None:
        self.where = where
        self.vocab_size = vocab_size
        self._encoder: Any = None
        self._tokenizer: Any = None

    def encode(self, text: str) -> list[int]:
        """The ids of T5's tokenizer, with the end, of a text of any length."""
        self._load()
        return list(self._tokenizer(tidied(text))["input_ids"])

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids of T5's tokenizer."""
        self._load()
        return str(self._tokenizer.decode([index(i) for i in ids], skip_special_tokens=True))

    @torch.no_grad()
    def encode_stream(self, text: str, *, slots: int) -> StreamText:
        """The features of a text; of one that is too long, its beginning and T5's end."""
        tokens = self.encode(text)
        kept = tokens if len(tokens) <= slots else [*tokens[: slots - 1], tokens[-1]]
        ids = torch.tensor([kept], device=self._encoder.device)
        read = self._encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        features = np.zeros((slots, self.vocab_size), dtype=np.float32)
        features[slots - len(kept) :] = read.last_hidden_state[0].float().cpu().numpy()
        return StreamText(ids=features, num_tokens=len(kept), num_cut=len(tokens) - len(kept))

    def empty_stream(self, slots: int) -> Float[np.ndarray, "slots size"]:
        """The features of an empty caption."""
        return self.encode_stream("", slots=slots).ids

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads: it names the T5 and does not hold it.

        Raises:
            SaveError: it cannot be written.
        """
        write_file(path, KIND, {"t5": self.where, "features": self.vocab_size})

    @classmethod
    def load(cls, path: Path) -> "T5Features":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or of a newer format.
        """
        data = read_file(path, KIND, ("t5", "features"))
        if not isinstance(data["t5"], str) or type(data["features"]) is not int:
            raise CheckpointError(f"{str(path)!r}: expected t5 a name, and features a number")
        return cls(data["t5"], vocab_size=data["features"])

    def _load(self) -> None:
        if self._encoder is not None:
            return
        from transformers import AutoTokenizer, T5EncoderModel

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self.where)
            encoder: Any = T5EncoderModel.from_pretrained(self.where, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[:1]
            raise InputError(
                f"captions need the T5 {self.where!r}, which cannot be loaded: {reason}; download "
                f"{PUBLISHED} and name its folder as `t5` in text_tokenizer.json"
            ) from error
        if encoder.config.d_model != self.vocab_size:
            raise InputError(
                f"{self.where} has {encoder.config.d_model} features; the model was trained with "
                f"{self.vocab_size}, as {PUBLISHED} has"
            )
        self._tokenizer, self._encoder = tokenizer, encoder.eval()


def tidied(text: str) -> str:
    """A caption as the models were trained on, where it holds neither addresses nor markup.

    Lower case, plain dashes and quotes, a space for other marks, for many hyphens, and after a
    comma or stop within a word; no quotes around all of it and no stray mark at its ends. The
    original also takes out web addresses, markup, names of files, long numbers and Chinese.
    """
    text = html.unescape(html.unescape(text)).strip().lower().translate(_PLAIN)
    text = re.sub(r"[\"']{2,}", '"', text)
    text = re.sub(r"\.{2,}|\s+\.\s+", " ", text)
    if len(re.findall("[-_]", text)) > 3:
        text = re.sub("[-_]", " ", text)
    text = re.sub(r"(\D[,.])(?=\w)", r"\1 ", text)
    text = " ".join(text.split())
    text = re.sub(r"^[\"'](.+)[\"']$", r"\1", text)
    return re.sub(r"^['_,:;-]|['_,:+-]$", "", text).strip()
