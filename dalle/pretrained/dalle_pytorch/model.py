"""The decoder of DALLE-pytorch, as a `Decoder` of this project.

Its stream is the start, the text and the image, each slot holding its own token: image slot p
holds token p, and the last text slot predicts token 0. Token p of our stream is therefore fed to
slot p, and what comes out of slot p - 1 are the logits of token p.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/dalle_pytorch.py.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.models.dalle import DalleOutput
from dalle.nn.attention import Attend, WholeStream
from dalle.nn.cache import ImageStep, Prefill, TextStep
from dalle.nn.first_slot import own_slot
from dalle.nn.linear import linear
from dalle.nn.precision import full_precision
from dalle.pretrained.dalle_pytorch.config import DallePytorchConfig
from dalle.pretrained.dalle_pytorch.decoding import Decoding, new_decoding
from dalle.pretrained.dalle_pytorch.ids import their_ids
from dalle.pretrained.dalle_pytorch.layers import EPSILON, Stack
from dalle.pretrained.dalle_pytorch.rotary import Rotation, angles
from dalle.pretrained.dalle_pytorch.shift import (
    ImageStepShift,
    PrefillShift,
    Shift,
    StreamShift,
    TextStepShift,
    no_shift,
)

Kind = Literal["text", "image"]


class DallePytorch(nn.Module):
    """The decoder: text and image tokens in, logits of the next token out.

    Text comes in the stream of this project (see `tokenizers.text`): the start (id V), tokens
    (below V), and from then on slot j's own pad (id V + j).
    """

    def __init__(self, config: DallePytorchConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = config.layout
        self.image_vocab = config.image_vocab
        self.text_vocab = config.text_vocab
        self.patterns = config.patterns
        width, pads = config.width, config.text_tokens
        if not config.tied:
            self.text_embedding = nn.Embedding(config.text_vocab + pads, width)
            self.image_embedding = nn.Embedding(config.image_vocab, width)
        if config.rotary:
            turns = angles(self.layout, config.head_width)
            self.register_buffer("rotary_cos", turns.cos())
            self.register_buffer("rotary_sin", turns.sin())
        else:
            self.text_position = nn.Embedding(self.layout.text, width)
            self.row_position = nn.Parameter(torch.zeros(1, config.rows, 1, width))
            self.col_position = nn.Parameter(torch.zeros(1, 1, config.cols, width))
        self.stack = Stack(
            width=width,
            heads=config.heads,
            head_width=config.head_width,
            attention_of=config.attention_of,
            mlp_of=config.mlp_of,
            sandwich=config.sandwich,
            reversible=config.reversible,
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, config.text_vocab + pads + config.image_vocab)
        self._whole_stream: WholeStream | None = None

    @property
    def start_of_image(self) -> int:
        """Nothing stands before the first token: any code will do."""
        return 0

    @property
    def start_of_text(self) -> int:
        """The id in text slot 0."""
        return self.config.text_vocab

    @property
    def end_of_text(self) -> int:
        """The entry of a step's text logits that ends a text: the pad of the next slot."""
        return self.config.text_vocab

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def no_caption(self, texts: Int[Tensor, "p text"]) -> Int[Tensor, "p text"]:
        """The ids of no caption at all, start and pads, in the shape of `texts`."""
        ids = torch.arange(self.layout.text, device=texts.device) + self.config.text_vocab
        return ids.expand(texts.shape)

    def forward(self, text: Int[Tensor, "b text"], codes: Int[Tensor, "b image"]) -> DalleOutput:
        """Logits of every next token, given all tokens before it.

        Those of the text are over tokens and all pads, as the model was trained.

        Args:
            text: ids of the text slots, 0 <= id < text_vocab + text_slots.
            codes: the picture's codes in raster order, 0 <= code < image_vocab.
        """
        shift = StreamShift(self.layout) if self.config.token_shift else no_shift
        embedded = torch.cat([self._embed_text(text), self._embed_image(codes)], dim=1)
        attend = self._over_everything(text.device)
        hidden = self._run(embedded, attend, shift, self._rotation())
        split = self.layout.text - 1
        return DalleOutput(
            text=self._logits(hidden[:, :split], "text"),
            image=self._logits(hidden[:, split:-1], "image"),
        )

    # Decoding: one prefill for each prompt, then one position at a time.

    def new_cache(self, *, prompts: int, samples: int, nulls: int = 0) -> Decoding:
        """Room for what is kept of `prompts` texts with `samples` pictures each, and
        for as many pictures again without a caption, which share `nulls` ones."""
        return new_decoding(
            self.config, prompts=prompts, samples=samples, nulls=nulls, like=self.head.weight
        )

    def prefill(
        self,
        text: Int[Tensor, "prompts text"],
        codes: Int[Tensor, "prompts known"],
        cache: Decoding,
    ) -> None:
        """Fill the cache with the text and with tokens 0 ... known - 2; the next step is at token
        `known` and brings token known - 1.

        `codes` are the first tokens of the picture, which all samples of a prompt share (there
        may be none).
        """
        embedded = self._embed_text(text)
        if codes.shape[1] > 1:
            embedded = torch.cat([embedded, self._embed_image(codes[:, :-1])], dim=1)
        length = embedded.shape[1]
        attend = Prefill(cache.attention.keys, self.patterns, length=length)
        shift = PrefillShift(cache.shift) if cache.shift else no_shift
        slots = torch.arange(length, device=text.device)
        hidden = self._run(embedded, attend, shift, self._rotation(slots))
        if length >= self.layout.text:
            cache.attention.first.copy_(hidden[:, self.layout.text - 1])

    def step(
        self, codes: Int[Tensor, " b"], slot: Int[Tensor, ""], cache: Decoding
    ) -> Float[Tensor, "b image_vocab"]:
        """Logits of token `slot`, given the token before it.

        Pictures are ordered prompt by prompt. `slot` is a tensor on the device, so that a step
        has one shape and can be captured once; the logits of token 0 are known from the text.
        """
        own = own_slot(slot).reshape(1)
        embedded = F.embedding(codes, self._table("image"))
        if not self.config.rotary:
            embedded = embedded + self._places().index_select(0, own)
        hidden = self._run(
            embedded.unsqueeze(1),
            ImageStep(cache.attention.keys, own[0]),
            ImageStepShift(cache.shift, own) if cache.shift else no_shift,
            self._rotation(own + self.layout.image_start),
        )
        return self._logits(cache.attention.or_first(slot, hidden[:, 0]), "image")

    def text_step(
        self, ids: Int[Tensor, " b"], slot: int, cache: Decoding
    ) -> Float[Tensor, "b text_logits"]:
        """Logits of the text token of slot + 1, given the id in `slot`; the last one is the end.

        Entry 0, which stands for no token and was never a target, is left out.
        """
        place = torch.tensor([slot], device=ids.device)
        hidden = self._run(
            self._embed_text(ids[:, None], first=slot),
            TextStep(cache.attention.keys, slot),
            TextStepShift(cache.shift) if cache.shift else no_shift,
            self._rotation(place),
        )
        logits = self._logits(hidden[:, 0], "text")
        vocab = self.config.text_vocab
        ended = logits[:, vocab + slot]
        logits = torch.cat([logits[:, :vocab], ended[:, None]], dim=1)
        logits[:, 0] = float("-inf")
        return logits

    def _run(
        self,
        embedded: Float[Tensor, "b t d"],
        attend: Attend,
        shift: Shift,
        rotation: Rotation | None,
    ) -> Float[Tensor, "b t d"]:
        hidden = self.stack(embedded.to(self.norm.weight.dtype), attend, shift, rotation)
        if self.config.stable:
            hidden = hidden / hidden.amax(dim=-1, keepdim=True)
        return self.norm(hidden)

    def _embed_text(
        self, text: Int[Tensor, "b text"], *, first: int = 0
    ) -> Float[Tensor, "b text d"]:
        theirs = their_ids(text, vocab=self.config.text_vocab, first=first)
        embedded = F.embedding(theirs, self._table("text"))
        if self.config.rotary:
            return embedded
        return embedded + self.text_position.weight[first : first + text.shape[1]]

    def _embed_image(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        embedded = F.embedding(codes, self._table("image"))
        if self.config.rotary:
            return embedded
        return embedded + self._places()[: codes.shape[1]]

    def _places(self) -> Float[Tensor, "image d"]:
        return (self.row_position + self.col_position).flatten(0, 2)

    def _table(self, kind: Kind) -> Float[Tensor, "vocab d"]:
        if self.config.tied:
            return self.head.weight[self._rows(kind)]
        return (self.text_embedding if kind == "text" else self.image_embedding).weight

    def _rows(self, kind: Kind) -> slice:
        """Where one vocabulary lies in the output matrix: text and pads, then codes."""
        text = self.config.text_vocab + self.config.text_tokens
        return slice(text) if kind == "text" else slice(text, None)

    def _logits(self, hidden: Float[Tensor, "*b d"], kind: Kind) -> Float[Tensor, "*b v"]:
        rows = self._rows(kind)
        weight, bias = self.head.weight[rows], self.head.bias[rows]
        with full_precision(hidden.device):
            return linear(hidden.float(), weight.float(), bias.float())

    def _rotation(self, slots: Int[Tensor, " s"] | None = None) -> Rotation | None:
        if not self.config.rotary:
            return None
        assert isinstance(self.rotary_cos, Tensor) and isinstance(self.rotary_sin, Tensor)
        whole = Rotation(self.rotary_cos, self.rotary_sin)
        return whole if slots is None else whole.at(slots)

    def _over_everything(self, device: torch.device) -> WholeStream:
        if self._whole_stream is None or self._whole_stream.device != device:
            self._whole_stream = WholeStream(self.patterns, self.layout, device)
        return self._whole_stream
