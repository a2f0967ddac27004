"""Sampling a few slots at once, of which all but the first stand on guesses: the same picture.

A token is a function of the tokens before it and of its own noise. So a guess that comes out again
was right, and with it what was sampled after it: each step settles one token and all that stand on
right guesses. Where a step takes hardly longer for eight slots of a picture than for one,
as with few pictures, this is faster in so far as the model is sure of what it draws.

Source: Jacobi decoding, arXiv 2305.10427, section 3; with fixed noise for sampled tokens, in place
of the acceptance of arXiv 2410.01699, which changes the tokens.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dalle.models.image_decoder import ImageDecoder
from dalle.sampling.filters import Sampling, draw_token, guide
from dalle.sampling.launch_prefill import prefill_launch
from dalle.sampling.launches import LaunchShape

WIDTH = 8
MOST_ROWS = 2
"""Pictures, those without a caption counted, up to which eight slots are sampled at once."""
PLAYS, WORTH, REST = 32, 1.2, 128
"""Where so many steps settle fewer tokens each than are worth it, since a step of eight slots takes
so much longer, the next ones sample one slot each, before guessing is tried again."""


def pays(model: ImageDecoder, rows: int) -> bool:
    """Whether guessing is faster, and gives what sampling slot by slot does.

    Args:
        rows: pictures of a launch, those without a caption counted.
    """
    return (
        rows <= MOST_ROWS
        and model.device.type == "cpu"
        # In 16 bits what is drawn depends on how many rows are computed at once.
        and model.transformer.norm.weight.dtype == torch.float32
        and all(pattern.reads_all_text for pattern in model.patterns)
        and model.layout.cols >= WIDTH
        and model.layout.image >= 2 * WIDTH
    )


class AheadSteps:
    """The state of one launch, and the step that moves each of its pictures on by a slot or more.

    As `FixedStep`, which see; pictures of a launch need not be equally far.
    """

    def __init__(
        self, model: ImageDecoder, shape: LaunchShape, sampling: Sampling, *, nulls: int
    ) -> None:
        self.model, self.shape, self.sampling, self.nulls = model, shape, sampling, nulls
        self.cache = model.new_cache_of_all_slots(
            prompts=shape.groups, samples=shape.samples, nulls=nulls
        )
        image, pictures = model.layout.image, shape.size
        self.inputs = torch.zeros(pictures, 1 + image, dtype=torch.long)
        """The start of the image, then the token of each slot: settled, a guess, or of no use."""
        self.known = torch.zeros(pictures, dtype=torch.long)
        self.log_prob = torch.zeros(pictures)
        self.width = WIDTH

    @property
    def codes(self) -> Int[Tensor, "image pictures"]:
        """The tokens, once all are settled."""
        return self.inputs[:, 1:].t()

    def begin(
        self,
        texts: Shaped[Tensor, "groups *slots"],
        *,
        noise: Int[Tensor, "image pictures"],
        given: Int[Tensor, " image"],
        keep: Bool[Tensor, " image"],
    ) -> int:
        """As that of `FixedStep`."""
        known = prefill_launch(
            self.model, self.cache, texts, nulls=self.nulls, given=given, keep=keep
        )
        self.noise, self.keep = noise.t(), keep
        self.inputs[:, 0] = self.model.start_of_image
        self.inputs[:, 1:] = given
        self.log_prob.zero_()
        self.known.fill_(known)
        self.width, self.left, self.known_then = WIDTH, PLAYS, known
        return known

    def play(self) -> int:
        """Sample the next slots of every picture.

        Returns:
            By how many slots the picture that is the farthest behind went on.
        """
        behind = int(self.known.min())
        image = self.model.layout.image
        start = self.known.clamp(max=image - self.width)
        slots = start[:, None] + torch.arange(self.width)
        logits = self._logits(slots)
        old = self.inputs.gather(1, slots + 1)
        settled = slots < self.known[:, None]
        given = self.keep[slots] | settled
        new = torch.where(given, old, self._drawn(logits, slots))
        self.inputs.scatter_(1, slots + 1, new)

        right = (new == old).long().cumprod(1).sum(1)
        known = torch.minimum(start + right + 1, start + self.width)
        counted = (slots < known[:, None]) & ~given
        chosen = torch.log_softmax(logits[: len(slots)], dim=-1).gather(-1, new.unsqueeze(-1))
        self.log_prob += chosen.squeeze(-1).masked_fill(~counted, 0.0).sum(1)
        self.known = known
        self._guess(slots[:, -1] + 1)
        went_on = int(known.min())
        self._consider(went_on)
        return went_on - behind

    def _consider(self, known: int) -> None:
        """Whether the next steps guess, by what those behind settled."""
        self.left -= 1
        if self.left:
            return
        poor = self.width == WIDTH and known - self.known_then < WORTH * PLAYS
        self.width, self.left = (1, REST) if poor else (WIDTH, PLAYS)
        self.known_then = known

    def _logits(self, slots: Int[Tensor, "b w"]) -> Float[Tensor, "rows w image_vocab"]:
        inputs = self.inputs.gather(1, slots)
        if self.nulls:
            inputs, slots = torch.cat([inputs, inputs]), torch.cat([slots, slots])
        return self.model.step_ahead(inputs, slots, self.cache)

    def _drawn(
        self, logits: Float[Tensor, "rows w image_vocab"], slots: Int[Tensor, "b w"]
    ) -> Int[Tensor, "b w"]:
        rows, count = logits.flatten(0, 1), slots.numel()
        steered = rows[:count]
        if self.nulls:
            steered = guide(steered, rows[count:], self.sampling.guidance)
        noise = self.noise.gather(1, slots).flatten()
        return draw_token(steered, noise, self.sampling).view_as(slots)

    def _guess(self, first: Int[Tensor, " b"]) -> None:
        """Guess the tokens of slots that come into sight: what is above them."""
        layout = self.model.layout
        slots = first[:, None] + torch.arange(self.width)
        within = slots.clamp(max=layout.image - 1)
        open_ = (slots < layout.image) & ~self.keep[within]
        above = self.inputs.gather(1, (within + 1 - layout.cols).clamp(min=0))
        before = self.inputs.gather(1, within + 1)
        guessed = torch.where(open_ & (slots >= layout.cols), above, before)
        self.inputs.scatter_(1, within + 1, guessed)
