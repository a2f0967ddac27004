"""Sampled pictures with what they are ranked by, from one launch or from many processes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.processes import Processes
from dalle.sampling.decode import Sampled, joined


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Pictures as codes, with what they are ranked by."""

    sampled: Sampled
    scores: Float[Tensor, " n"]

    def part(self, start: int, end: int) -> "Scored":
        """Those from one place to another."""
        all_, which = self.sampled, slice(start, end)
        sampled = Sampled(all_.pictures[which], all_.codes[which], all_.log_prob[which])
        return Scored(sampled=sampled, scores=self.scores[which])


def together(parts: list[Scored], grid: tuple[int, int]) -> Scored:
    """Several, in order, as one."""
    return Scored(
        sampled=joined([part.sampled for part in parts], grid),
        scores=torch.cat([torch.empty(0), *(part.scores for part in parts)]),
    )


def gathered(mine: Scored, processes: Processes) -> Scored | None:
    """The shares of all processes as one, in the order of the pictures, on the main process."""
    sampled = mine.sampled
    parts = (sampled.pictures, sampled.codes, sampled.log_prob, mine.scores)
    everyone = [processes.gather(part) for part in parts]
    if not processes.is_main:
        return None
    pictures, codes, log_prob, scores = (torch.cat(part) for part in everyone)
    order = pictures.argsort()
    return Scored(
        sampled=Sampled(pictures[order], codes[order], log_prob[order]), scores=scores[order]
    )
