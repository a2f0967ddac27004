"""Prompts to ranked pictures, a group of prompts at a time."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dalle import __version__
from dalle.processes import Processes
from dalle.protocols import Decoder, ImageTokenizer, Reranker
from dalle.sampling.decode import LaunchShape, Sampled, sample_codes
from dalle.sampling.drawing import draw, score
from dalle.sampling.filters import Sampling
from dalle.sampling.joint_prompts import VectorPrompt
from dalle.sampling.picture import Made, Origin, Picture, ScoreKind
from dalle.sampling.request import Request
from dalle.sampling.rerank import rank
from dalle.sampling.room import sample_in_room
from dalle.sampling.streams import PromptStream, is_blank, prompt_stream
from dalle.tokenizers.kinds import PromptTokenizer

LAUNCHES_AT_ONCE = 16
"""Prompts are taken in groups of about so many launches for each process, whose codes are held
together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What pictures are made with."""

    model: Decoder
    text_tokenizer: PromptTokenizer
    image_tokenizer: ImageTokenizer
    reranker: Reranker | None
    origin: Origin
    processes: Processes
    """Who shares the launches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """An image prompt, encoded."""

    codes: Int[Tensor, "rows cols"]
    keep: Bool[Tensor, "rows cols"]
    rect: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A request for which everything is settled."""

    request: Request
    sampling: Sampling
    given: Given | None
    progress: Callable[[int], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    """Pictures as codes, with what they are ranked by."""

    sampled: Sampled
    scores: Float[Tensor, " n"]

    def part(self, which: slice) -> "_Scored":
        """Some of them."""
        all_ = self.sampled
        sampled = Sampled(all_.pictures[which], all_.codes[which], all_.log_prob[which])
        return _Scored(sampled=sampled, scores=self.scores[which])


def paint(
    parts: Parts, prompts: Sequence[str | VectorPrompt], seeds: list[int], plan: Plan
) -> Iterator[list[Picture]]:
    """The pictures of each prompt, best first; of several processes, only the main one has any.

    Args:
        prompts: without lone surrogates; or vectors that stand in place of some.
        seeds: of the first picture of each prompt.
    """
    processes, num_samples, launch = parts.processes, plan.request.num_samples, plan.request.launch
    _note_idle(len(prompts), plan.request, processes)
    start = 0
    while start < len(prompts):
        at_once = _prompts_at_once(num_samples, launch, processes.size)
        streams = [
            prompt_stream(prompt, parts.text_tokenizer, slots=parts.model.layout.image_start)
            for prompt in prompts[start : start + at_once]
        ]
        starts = seeds[start : start + at_once]
        all_seeds = [seed + i for seed in starts for i in range(num_samples)]
        sample = partial(_sample, parts, streams, all_seeds, plan)
        fitted = sample_in_room(sample, launch, processes)
        start, launch = start + at_once, fitted.launch
        scored = processes.together(partial(_score, parts, streams, fitted.sampled, plan.request))
        everything = _gathered(scored, processes)
        made = _made(parts, plan, launch)
        for i, stream in enumerate(streams):
            own = slice(i * num_samples, (i + 1) * num_samples)
            if everything is None:
                yield []
            else:
                yield _best(parts, stream, all_seeds[own], everything.part(own), plan.request, made)


def _note_idle(num_prompts: int, request: Request, processes: Processes) -> None:
    """Say so where there is less to do than there are processes."""
    launches = LaunchShape.of(request.num_samples, request.launch).count(num_prompts)
    if launches < processes.size and request.launch > 1:
        warnings.warn(
            f"a launch is not divided, and there are {launches} of {request.launch} pictures for "
            f"{processes.size} processes: the others have nothing to do; lower launch to give them "
            "some",
            stacklevel=2,
        )


def _prompts_at_once(num_samples: int, launch: int, processes: int) -> int:
    """Whole launches, so that a picture is sampled beside the same ones by any number of
    processes."""
    shape = LaunchShape.of(num_samples, launch)
    return shape.prompts * max(1, LAUNCHES_AT_ONCE * processes // shape.chunks)


def _sample(
    parts: Parts, streams: list[PromptStream], seeds: list[int], plan: Plan, launch: int
) -> Sampled:
    num_samples, given, processes = plan.request.num_samples, plan.given, parts.processes
    return sample_codes(
        parts.model,
        torch.from_numpy(np.stack([stream.ids for stream in streams])).to(parts.model.device),
        prompt_of=[i for i in range(len(streams)) for _ in range(num_samples)],
        seeds=seeds,
        sampling=plan.sampling,
        given=given.codes if given else None,
        keep=given.keep if given else None,
        launch=launch,
        share=(processes.rank, processes.size),
        progress=plan.progress,
    )


def _score(
    parts: Parts, streams: list[PromptStream], sampled: Sampled, request: Request
) -> _Scored:
    scores = sampled.log_prob.clone()
    for i, stream in enumerate(streams):
        own = (sampled.pictures // request.num_samples == i).nonzero().squeeze(1)
        if len(own) and _score_kind(parts, stream, request) == "clip":
            assert parts.reranker is not None
            codes, device = sampled.codes[own], parts.model.device
            scores[own] = score(stream.prompt, codes, parts.reranker, parts.image_tokenizer, device)
    return _Scored(sampled=sampled, scores=scores)


def _score_kind(parts: Parts, stream: PromptStream, request: Request) -> ScoreKind:
    # There is nothing in a blank prompt that a picture could be compared with, nor in a vector.
    wordless = is_blank(stream.prompt) or stream.vector is not None
    by_model = parts.reranker is None or request.rank_by == "log_prob" or wordless
    return "log_prob" if by_model else "clip"


def _gathered(mine: _Scored, processes: Processes) -> _Scored | None:
    """The shares of all processes as one, on the main process."""
    sampled = mine.sampled
    parts = (sampled.pictures, sampled.codes, sampled.log_prob, mine.scores)
    gathered = [processes.gather(part) for part in parts]
    if not processes.is_main:
        return None
    pictures, codes, log_prob, scores = (torch.cat(part) for part in gathered)
    order = pictures.argsort()
    return _Scored(
        sampled=Sampled(pictures[order], codes[order], log_prob[order]), scores=scores[order]
    )


def _best(
    parts: Parts,
    stream: PromptStream,
    seeds: list[int],
    scored: _Scored,
    request: Request,
    made: Made,
) -> list[Picture]:
    sampled, scores = scored.sampled, scored.scores
    order = rank(scores, request.keep or request.num_samples).tolist()
    images = draw(sampled.codes[order], parts.image_tokenizer, parts.model.device)
    return [
        Picture(
            image=image,
            prompt=stream.prompt,
            seed=seeds[i],
            score=scores[i].item(),
            score_kind=_score_kind(parts, stream, request),
            log_prob=sampled.log_prob[i].item(),
            # A copy, since a slice would hold the codes of all pictures.
            codes=sampled.codes[i].clone(),
            num_cut=stream.num_cut,
            vector=stream.vector,
            made=made,
        )
        for i, image in zip(order, images, strict=True)
    ]


def _made(parts: Parts, plan: Plan, launch: int) -> Made:
    weights = next(parts.model.parameters()) if isinstance(parts.model, nn.Module) else None
    return Made(
        model=parts.origin.model,
        model_hash=parts.origin.model_hash,
        weights=parts.origin.weights,
        reranker=parts.origin.reranker,
        dtype=str(weights.dtype).removeprefix("torch.") if weights is not None else "",
        device=_device_name(parts.model.device),
        sampling=plan.sampling,
        rect=plan.given.rect if plan.given else None,
        num_samples=plan.request.num_samples,
        launch=launch,
        versions=f"dalle {__version__}, torch {torch.__version__}",
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type
