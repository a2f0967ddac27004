"""What one part of the project may know of another."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from PIL import Image
from torch import Tensor, nn

from dalle.layout import StreamLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One picture of a data set with its captions."""

    key: str
    """Where it came from: a path or an index, for messages."""
    image: Image.Image
    """RGB."""
    captions: tuple[str, ...]
    """As written; may be empty."""


class Source(Protocol):
    """A data set: numbered samples. Reading one that is damaged raises DataError."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> "Sample | EncodedSample": ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamRow:
    """One picture of a stream, not yet decoded."""

    number: int
    """Its own among all samples, the same in every epoch."""
    key: str
    value: Any
    """What `Stream.sample` opens."""
    captions: tuple[str, ...]


@runtime_checkable
class Stream(Protocol):
    """A data set that is read from beginning to end, of unknown length."""

    def rows(self, *, seed: int, epoch: int) -> Iterator[StreamRow]:
        """All rows in the order of an epoch, a function of the two numbers alone."""
        ...

    def sample(self, row: StreamRow) -> Sample:
        """A row, decoded. A damaged one raises DataError."""
        ...

    def key(self, number: int) -> str:
        """The key of the row of that number."""
        ...


class ImageTokenizer(Protocol):
    """Images in [0, 1] to grids of codes and back."""

    vocab_size: int
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    grid: tuple[int, int]
    """(rows, cols)."""

    def encode(self, images: Float[Tensor, "b 3 height width"]) -> Int[Tensor, "b rows cols"]: ...

    def decode(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 3 height width"]: ...


class Decoder(Protocol):
    """What sampling may know of a model; see `models.dalle` for the meaning of each call.

    What stands before the image comes as one tensor with a row for each prompt: ids, or, for a
    decoder with a prefix of features, floats of `p slots width`.
    """

    layout: StreamLayout
    image_vocab: int

    @property
    def text_vocab(self) -> int:
        """The `vocab_size` of the text tokenizer that it was trained with."""
        ...

    @property
    def start_of_image(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def no_caption(self, texts: Shaped[Tensor, "p *slots"]) -> Shaped[Tensor, "p *slots"]: ...

    def new_cache(self, *, prompts: int, samples: int, nulls: int = 0) -> Any: ...

    def prefill(
        self, text: Shaped[Tensor, "p *slots"], codes: Int[Tensor, "p known"], cache: Any
    ) -> None: ...

    def step(
        self, codes: Int[Tensor, " b"], slot: Int[Tensor, ""], cache: Any
    ) -> Float[Tensor, "b v"]: ...


@runtime_checkable
class TextDecoder(Decoder, Protocol):
    """A decoder that also writes texts."""

    @property
    def start_of_text(self) -> int: ...

    @property
    def end_of_text(self) -> int: ...

    def text_step(
        self, ids: Int[Tensor, " b"], slot: int, cache: Any
    ) -> Float[Tensor, "b text_logits"]: ...


class Reranker(Protocol):
    """How well each picture shows the text beside it; higher is better."""

    def score(
        self, texts: list[str], images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, " n"]: ...


class JointEmbedder(Protocol):
    """Pictures and texts as vectors of one space, of unit length: a CLIP or its like."""

    @property
    def vector_size(self) -> int: ...

    @property
    def context(self) -> int:
        """Tokens of a text for which there is room."""
        ...

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "n e"]: ...

    def num_tokens(self, text: str) -> int:
        """Tokens that a text has, with those for which there is no room."""
        ...

    def encode_images(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        """Of pictures of any size in [0, 1], after the model's own resizing and normalisation."""
        ...

    def encode_images_smoothly(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, "n e"]:
        """The same through tensors alone, so that gradients flow from the vectors to the pixels."""
        ...

    def fingerprint(self) -> str:
        """What changes when its weights or what it does to pictures do."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """One picture of a data set as the codes of an image tokenizer."""

    key: str
    codes: np.ndarray
    """Integers, views x rows x cols: several crops of the same picture."""
    captions: tuple[str, ...]
    token_ids: tuple[np.ndarray, ...] | None = None
    """Of each caption, by the run's text tokenizer and of any length, where they are kept."""
    vectors: np.ndarray | None = None
    """Of the same crops, views x numbers, where a CLIP's vector is the condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one step of training reads."""

    tensors: Mapping[str, Tensor]
    counts: Mapping[str, float]
    """How many targets of each kind are in it, for means over the global batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What one micro-batch gave."""

    total: Float[Tensor, ""]
    """Sum over this micro-batch divided by the given global counts: gradients of all
    micro-batches and ranks are added up."""
    metrics: Mapping[str, Float[Tensor, ""]]
    """Detached, each scaled as `total` is, so that they add up over micro-batches and ranks."""


class Task(Protocol):
    """What is trained: model, data it reads, objective, and what there is to look at."""

    kind: str
    """The kind of model folder: "dvae", "clip" or "dalle"."""

    def build(self) -> nn.Module:
        """The model that is optimised, freshly initialised, and nothing else."""
        ...

    def read(
        self, sample: "Sample | EncodedSample", random: Random, *, train: bool
    ) -> dict[str, np.ndarray] | None:
        """One sample as arrays of fixed shapes, in a loader worker; None leaves it out."""
        ...

    def prepare(self, arrays: dict[str, Tensor]) -> Batch:
        """Stacked arrays, on the device, as a batch; frozen parts run here, without gradients."""
        ...

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        """The objective of one micro-batch; `counts` are the global batch's."""
        ...

    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        """Numbers on held-out data."""
        ...

    def preview(self, model: nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Pictures to look at during training, written to `folder`; their paths."""
        ...

    def export(self, folder: Path) -> dict[str, Any]:
        """Write the neighbours of the model (tokenizers) to `folder`; the config's fields."""
        ...
