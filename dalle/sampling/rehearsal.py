"""A launch of the largest size, for a few slots: its memory and its speed, without a picture."""

import time
from contextlib import suppress
from dataclasses import dataclass

import torch

from dalle.device_memory import PeakMemory, free_bytes
from dalle.sampling.decode import rounds, sample_codes
from dalle.sampling.drawing import draw
from dalle.sampling.launch_memory import SHARE, launch_in_room, launch_memory
from dalle.sampling.launches import LaunchShape, launch_shape
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.request import Request

WARM_UP, TIMED = 4, 12
"""Slots: all of them take as long, as a step has one shape."""
DRAWN = 8
"""Pictures that are decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What sampling would take on this process."""

    launch: int
    """Pictures at once."""
    per_picture: int
    """Bytes of a picture's keys and values."""
    per_prompt: int
    """Bytes of those of its text, which its samples share."""
    free: int
    peak: int
    """Bytes; on the CPU beyond what was in use before."""
    largest: int
    """Pictures at once for which there is memory, of one prompt."""
    pictures_a_second: float
    """Codes, and pixels from them; without a reranker."""


class _Enough(Exception):
    """Raised to leave the sampling."""


def rehearse(pipeline: Pipeline, request: Request, num_prompts: int) -> Rehearsal:
    """Sample a few slots of a launch for captions that fill their slots.

    Args:
        pipeline: with the models on their device.
        request: how many pictures of each prompt, and how they are drawn.
        num_prompts: how many there are.
    """
    model, sampling = pipeline.model, request.sampling(pipeline.sampling)
    device, guided = model.device, sampling.guidance != 1.0
    free, memory = free_bytes(device), launch_memory(model)
    counts = [request.num_samples] * num_prompts
    launch = request.launch or launch_in_room(
        model, counts, guided=guided, free=free, processes=pipeline.processes
    )
    shape = launch_shape(counts, launch, full=rounds(model))
    ids = torch.from_numpy(pipeline.text_tokenizer.empty_stream(model.layout.image_start))
    texts = ids.to(device).expand(shape.groups, *ids.shape)
    times: list[float] = []

    def stop_after_a_few(_: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        if len(times) > WARM_UP + TIMED:
            raise _Enough

    peak = PeakMemory(device)
    with suppress(_Enough):
        sample_codes(
            model,
            texts,
            prompt_of=[i for i in range(shape.groups) for _ in range(shape.samples)],
            seeds=list(range(shape.size)),
            sampling=sampling,
            launch=shape,
            progress=stop_after_a_few,
        )
    first = min(WARM_UP, len(times) // 2)
    slot = (times[-1] - times[first]) / (len(times) - 1 - first)
    each = model.layout.image * slot / shape.size + _seconds_of_drawing(pipeline, shape.size)
    one, two = (memory.of(LaunchShape(1, n), nulls=int(guided)) for n in (1, 2))
    return Rehearsal(
        launch=shape.size,
        per_picture=memory.per_picture,
        per_prompt=memory.per_prompt,
        free=free,
        peak=peak.used,
        largest=max(0, 1 + int((SHARE * free - one) / (two - one))),
        pictures_a_second=1 / each,
    )


def _seconds_of_drawing(pipeline: Pipeline, pictures: int) -> float:
    """Of one picture, from codes to pixels."""
    codes = torch.zeros(min(DRAWN, pictures), *pipeline.model.layout.grid, dtype=torch.long)
    began = time.perf_counter()
    drawn = list(draw(codes, pipeline.image_tokenizer, pipeline.model.device))
    return (time.perf_counter() - began) / len(drawn)
