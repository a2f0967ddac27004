"""Sampling one image slot of a whole launch, as one call of fixed shape at fixed addresses.

Everything that a step reads or writes stands where it stood at the step before, the number of the
slot too, and no value goes to the host. So one step can be recorded on a GPU and played for all
slots of all launches of its shape; on the CPU the very same function is called.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from dalle.models.image_decoder import ImageDecoder
from dalle.protocols import Decoder
from dalle.sampling.ahead import AheadSteps, pays
from dalle.sampling.filters import Sampling, draw_token, guide
from dalle.sampling.graph import recorded
from dalle.sampling.launch_prefill import prefill_launch
from dalle.sampling.launches import LaunchShape


class FixedStep:
    """The state of one launch, and the step that moves it on by one slot.

    Args:
        nulls: of how many prompts without a caption the pictures are guided away: 0 without
            guidance, 1 where all prompts share it, or one for each group.
        record: whether the step is recorded as a CUDA graph, where the model is on such a device.
    """

    def __init__(
        self,
        model: Decoder,
        shape: LaunchShape,
        sampling: Sampling,
        *,
        nulls: int,
        record: bool,
    ) -> None:
        layout, device, pictures = model.layout, model.device, shape.size
        self.model = model
        self.shape = shape
        self.sampling = sampling
        self.nulls = nulls
        self.cache = model.new_cache(prompts=shape.groups, samples=shape.samples, nulls=nulls)
        self.slot = torch.zeros((), dtype=torch.long, device=device)
        self.last = torch.zeros(pictures, dtype=torch.long, device=device)
        self.codes = torch.zeros(layout.image, pictures, dtype=torch.long, device=device)
        self.log_prob = torch.zeros(pictures, device=device)
        self.noise = torch.zeros(layout.image, pictures, dtype=torch.long, device=device)
        self.keep = torch.zeros(layout.image, dtype=torch.bool, device=device)
        self._record = record and device.type == "cuda"
        self._play: Callable[[], None] | None = None

    def begin(
        self,
        texts: Shaped[Tensor, "groups *slots"],
        *,
        noise: Int[Tensor, "image pictures"],
        given: Int[Tensor, " image"],
        keep: Bool[Tensor, " image"],
    ) -> int:
        """Fill the state for a launch whose groups show `texts`.

        Returns:
            The first slot to sample: those before it are kept as given.
        """
        if self._record and self._play is None:
            self._start(texts, noise, given, keep)
            self._play = recorded(self.advance, before=self.slot.zero_)
        return self._start(texts, noise, given, keep)

    def play(self) -> int:
        """`advance`, by whichever way is fastest here; it goes on by one slot."""
        (self._play or self.advance)()
        return 1

    def advance(self) -> None:
        """Sample one slot of every picture, and go on to the next."""
        pictures, slot = len(self.last), self.slot.reshape(1)
        previous = torch.cat([self.last, self.last]) if self.nulls else self.last
        logits = self.model.step(previous, self.slot, self.cache)
        conditional = logits[:pictures]
        steered = conditional
        if self.nulls:
            steered = guide(conditional, logits[pictures:], self.sampling.guidance)
        drawn = draw_token(steered, self.noise.index_select(0, slot)[0], self.sampling)
        kept = self.keep.index_select(0, slot)
        torch.where(kept, self.codes.index_select(0, slot)[0], drawn, out=self.last)
        self.codes.index_copy_(0, slot, self.last.unsqueeze(0))
        chosen = torch.log_softmax(conditional, dim=-1).gather(1, self.last.unsqueeze(1))
        self.log_prob += chosen.squeeze(1).masked_fill(kept, 0.0)
        self.slot += 1

    def _start(
        self,
        texts: Shaped[Tensor, "groups *slots"],
        noise: Int[Tensor, "image pictures"],
        given: Int[Tensor, " image"],
        keep: Bool[Tensor, " image"],
    ) -> int:
        known = prefill_launch(
            self.model, self.cache, texts, nulls=self.nulls, given=given, keep=keep
        )
        self.noise.copy_(noise)
        self.keep.copy_(keep)
        self.codes.copy_(given.unsqueeze(1).expand_as(self.codes))
        self.log_prob.zero_()
        self.slot.fill_(known)
        self.last.fill_(int(given[known - 1]) if known else self.model.start_of_image)
        return known


class FixedSteps:
    """The step of the launches in hand, kept as long as they are of one kind."""

    def __init__(self, *, record: bool) -> None:
        self._record = record
        self._kind: object = None
        self._step: FixedStep | AheadSteps | None = None

    def get(
        self,
        model: Decoder,
        texts: Shaped[Tensor, "prompts *slots"],
        shape: LaunchShape,
        sampling: Sampling,
    ) -> FixedStep | AheadSteps:
        """The step for launches of these prompts."""
        nulls = 0
        if sampling.guidance != 1.0:
            without = model.no_caption(texts)
            nulls = 1 if bool((without == without[:1]).all()) else shape.groups
        kind = (model, shape, sampling, nulls)
        if self._step is None or self._kind != kind:
            self._step = None  # its memory goes before more is taken
            self._kind = kind
            rows = shape.size * (2 if nulls else 1)
            if isinstance(model, ImageDecoder) and pays(model, rows):
                self._step = AheadSteps(model, shape, sampling, nulls=nulls)
            else:
                self._step = FixedStep(model, shape, sampling, nulls=nulls, record=self._record)
        return self._step
