"""What is asked of the pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

from PIL import Image

from dalle.errors import InputError
from dalle.sampling.filters import Sampling
from dalle.sampling.joint_prompts import VectorPrompt
from dalle.sampling.prompts import without_surrogates

MAX_SEED = 1 << 63

RankBy = Literal["auto", "clip", "log_prob"]


class Wishes(TypedDict, total=False):
    """The fields of a `Request`, as keywords."""

    num_samples: int
    keep: int | None
    seed: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    guidance: float | None
    image: Image.Image | str | Path | None
    rect: tuple[int, int] | None
    rank_by: RankBy
    launch: int | None
    graph: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """How many pictures of each prompt, and how they are drawn and chosen."""

    num_samples: int = 1
    """Pictures drawn for each prompt."""
    keep: int | None = None
    """How many of them come back, best first; None: all."""
    seed: int = 0
    """Picture i of a prompt has the seed `seed + i`."""
    temperature: float | None = None
    """Divides the logits; 0 takes the most likely code. Here and in the next three, None is the
    model's own setting, which is the published one where the model names none."""
    top_k: int | None = None
    """Draw among the k most likely codes."""
    top_p: float | None = None
    """Draw among the fewest most likely codes whose probabilities reach p."""
    guidance: float | None = None
    """1 is none; above 1 the text counts for more."""
    image: Image.Image | str | Path | None = None
    """A picture of which a part is kept."""
    rect: tuple[int, int] | None = None
    """First row and column, in cells of the grid, of what is drawn anew: all that is below and
    to the right. (k, 0) keeps the top k rows."""
    rank_by: RankBy = "auto"
    """ "auto" takes the reranker where there is one."""
    launch: int | None = None
    """How many pictures are sampled at once, at most; None: as many as pay, and fit into memory.
    With a model in 16 bits a picture depends on it."""
    graph: bool = True
    """On CUDA devices, record a step of sampling as a graph and play it."""

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise InputError(f"num_samples is {self.num_samples}; expected at least 1")
        if self.keep is not None and not 1 <= self.keep <= self.num_samples:
            raise InputError(
                f"keep is {self.keep}; expected 1 to num_samples, which is {self.num_samples}"
            )
        if not 0 <= self.seed <= MAX_SEED - self.num_samples:
            raise InputError(
                f"seed is {self.seed}; expected 0 <= seed and seed + num_samples <= 2^63"
            )
        if self.launch is not None and self.launch < 1:
            raise InputError(f"launch is {self.launch}; expected at least 1 picture at once")
        if self.rank_by not in ("auto", "clip", "log_prob"):
            raise InputError(f"rank_by is {self.rank_by!r}; expected auto, clip or log_prob")
        if (self.image is None) != (self.rect is None):
            raise InputError(
                "an image prompt needs both the picture (image) and where drawing begins (rect: "
                "row and column of the grid)"
            )

    def sampling(self, default: Sampling) -> Sampling:
        """How codes are drawn, with the model's own settings where nothing was asked."""
        asked = {
            name: getattr(default, name) if getattr(self, name) is None else getattr(self, name)
            for name in ("temperature", "top_k", "top_p", "guidance")
        }
        return Sampling(**asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A prompt, and which pictures of it are to be drawn."""

    prompt: str | VectorPrompt
    num_samples: int
    seed: int
    """Of the first picture; picture i has the seed `seed + i`."""


def wanted_of(
    prompts: Sequence[str | VectorPrompt],
    request: Request,
    *,
    seeds: Sequence[int] | None = None,
    num_samples: Sequence[int] | None = None,
) -> list[Wanted]:
    """What is to be drawn of each prompt: as many as the request says, or as said of each.

    Raises:
        InputError: `prompts` is one string, there are more or fewer seeds or numbers than prompts,
            or one of them is out of its range.
    """
    if isinstance(prompts, str):
        raise InputError("prompts is one string; expected a list of prompts")
    if seeds is None:
        seeds = [request.seed] * len(prompts)
    if num_samples is None:
        num_samples = [request.num_samples] * len(prompts)
    for name, several in (("seeds", seeds), ("numbers of samples", num_samples)):
        if len(several) != len(prompts):
            raise InputError(f"{len(several)} {name} came for {len(prompts)} prompts")
    for seed, number in zip(seeds, num_samples, strict=True):
        replace(request, seed=seed, num_samples=number, keep=None)  # checks their ranges
    cleaned = [p if isinstance(p, VectorPrompt) else without_surrogates(p) for p in prompts]
    return [
        Wanted(prompt=prompt, num_samples=number, seed=seed)
        for prompt, number, seed in zip(cleaned, num_samples, seeds, strict=True)
    ]
