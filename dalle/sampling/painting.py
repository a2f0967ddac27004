"""Prompts to ranked pictures, a group of prompts at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from dalle import __version__
from dalle.protocols import Decoder, ImageTokenizer, Reranker
from dalle.sampling.decode import Sampled, sample_codes
from dalle.sampling.drawing import draw, score
from dalle.sampling.filters import Sampling
from dalle.sampling.picture import Made, Origin, Picture, ScoreKind
from dalle.sampling.request import Request
from dalle.sampling.rerank import rank
from dalle.sampling.room import sample_in_room
from dalle.sampling.streams import PromptStream, is_blank, prompt_stream
from dalle.tokenizers.kinds import PromptTokenizer

LAUNCHES_AT_ONCE = 16
"""Prompts are taken in groups of about so many launches, whose codes are held together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What pictures are made with."""

    model: Decoder
    text_tokenizer: PromptTokenizer
    image_tokenizer: ImageTokenizer
    reranker: Reranker | None
    origin: Origin


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


def paint(
    parts: Parts, prompts: list[str], seeds: list[int], plan: Plan
) -> Iterator[list[Picture]]:
    """The pictures of each prompt, best first.

    Args:
        prompts: without lone surrogates.
        seeds: of the first picture of each prompt.
    """
    num_samples, launch = plan.request.num_samples, plan.request.launch
    at_once = max(1, LAUNCHES_AT_ONCE * launch // num_samples)
    for start in range(0, len(prompts), at_once):
        streams = [
            prompt_stream(prompt, parts.text_tokenizer, slots=parts.model.layout.image_start)
            for prompt in prompts[start : start + at_once]
        ]
        starts = seeds[start : start + at_once]
        all_seeds = [seed + i for seed in starts for i in range(num_samples)]
        fitted = sample_in_room(partial(_sample, parts.model, streams, all_seeds, plan), launch)
        launch = fitted.launch
        made = _made(parts, plan, launch)
        for i, stream in enumerate(streams):
            own = slice(i * num_samples, (i + 1) * num_samples)
            sampled = Sampled(fitted.sampled.codes[own], fitted.sampled.log_prob[own])
            yield _best(parts, stream, all_seeds[own], sampled, plan.request, made)


def _sample(
    model: Decoder, streams: list[PromptStream], seeds: list[int], plan: Plan, launch: int
) -> Sampled:
    num_samples, given = plan.request.num_samples, plan.given
    return sample_codes(
        model,
        torch.from_numpy(np.stack([stream.ids for stream in streams])).to(model.device),
        prompt_of=[i for i in range(len(streams)) for _ in range(num_samples)],
        seeds=seeds,
        sampling=plan.sampling,
        given=given.codes if given else None,
        keep=given.keep if given else None,
        launch=launch,
        progress=plan.progress,
    )


def _best(
    parts: Parts,
    stream: PromptStream,
    seeds: list[int],
    sampled: Sampled,
    request: Request,
    made: Made,
) -> list[Picture]:
    tokenizer, device = parts.image_tokenizer, parts.model.device
    kind: ScoreKind = "log_prob"
    scores = sampled.log_prob
    # There is nothing in a blank prompt that a picture could be compared with.
    if parts.reranker and request.rank_by != "log_prob" and not is_blank(stream.prompt):
        kind = "clip"
        scores = score(stream.prompt, sampled.codes, parts.reranker, tokenizer, device)
    order = rank(scores, request.keep or request.num_samples).tolist()
    images = draw(sampled.codes[order], tokenizer, device)
    return [
        Picture(
            image=image,
            prompt=stream.prompt,
            seed=seeds[i],
            score=scores[i].item(),
            score_kind=kind,
            log_prob=sampled.log_prob[i].item(),
            # A copy, since a slice would hold the codes of all pictures.
            codes=sampled.codes[i].clone(),
            num_cut=stream.num_cut,
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
