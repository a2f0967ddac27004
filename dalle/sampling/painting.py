"""Prompts to ranked pictures, one prompt after another."""

from collections.abc import Iterator

import torch
from torch import nn

from dalle import __version__
from dalle.sampling.drawing import draw
from dalle.sampling.picture import Made, Picture
from dalle.sampling.request import Request, Wanted
from dalle.sampling.rerank import rank
from dalle.sampling.room import sample_in_room
from dalle.sampling.scored import Scored, gathered, together
from dalle.sampling.streams import PromptStream
from dalle.sampling.work import Parts, Plan, Work, score_kind


def paint(parts: Parts, wanted: list[Wanted], plan: Plan) -> Iterator[list[Picture]]:
    """The pictures of each prompt, best first; of several processes, only the main one has any.

    Args:
        wanted: their prompts are without lone surrogates.
    """
    work, processes = Work(parts, wanted, plan), parts.processes
    work.note_idle()
    held = together([], parts.model.layout.grid)
    first = number = 0  # the first picture that is held, and its prompt
    while work.start < len(work.prompt_of):
        fitted = sample_in_room(work.sample, work.shape.size, processes)
        work.go_on(fitted.launch)
        everything = gathered(fitted.sampled, processes)
        if everything is not None:
            held = together([held, everything], parts.model.layout.grid)
        while number < len(wanted) and first + wanted[number].num_samples <= work.start:
            one, end = wanted[number], wanted[number].num_samples
            if everything is None:
                yield []
            else:
                made = _made(parts, plan, one.num_samples, work.launch)
                yield _best(parts, work.stream(number), one, held.part(0, end), plan.request, made)
                held = held.part(end, len(held.scores))
            work.forget(number)
            first, number = first + end, number + 1


def _best(
    parts: Parts,
    stream: PromptStream,
    wanted: Wanted,
    scored: Scored,
    request: Request,
    made: Made,
) -> list[Picture]:
    sampled, scores = scored.sampled, scored.scores
    order = rank(scores, request.keep or wanted.num_samples).tolist()
    images = draw(sampled.codes[order], parts.image_tokenizer, parts.model.device)
    return [
        Picture(
            image=image,
            prompt=stream.prompt,
            seed=wanted.seed + i,
            score=scores[i].item(),
            score_kind=score_kind(parts, wanted.prompt, request),
            log_prob=sampled.log_prob[i].item(),
            # A copy, since a slice would hold the codes of all pictures.
            codes=sampled.codes[i].clone(),
            num_cut=stream.num_cut,
            vector=stream.vector,
            made=made,
        )
        for i, image in zip(order, images, strict=True)
    ]


def _made(parts: Parts, plan: Plan, num_samples: int, launch: int) -> Made:
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
        num_samples=num_samples,
        launch=launch,
        versions=f"dalle {__version__}, torch {torch.__version__}",
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type
