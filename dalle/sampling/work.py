"""What is to be sampled, and how far it is: some launches at a time, each scored while the next one
is sampled."""

import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch

from dalle.device_memory import free_bytes
from dalle.processes import Processes
from dalle.protocols import Decoder, ImageTokenizer, Reranker
from dalle.sampling.behind import Behind
from dalle.sampling.decode import Sampled, rounds, sample_codes
from dalle.sampling.drawing import score
from dalle.sampling.filters import Sampling
from dalle.sampling.fixed_step import FixedSteps
from dalle.sampling.image_prompt import Given
from dalle.sampling.joint_prompts import VectorPrompt
from dalle.sampling.launch_memory import launch_in_room
from dalle.sampling.launches import LaunchShape, launch_shape, launches
from dalle.sampling.picture import Origin, ScoreKind
from dalle.sampling.request import Request, Wanted
from dalle.sampling.scored import Scored, together
from dalle.sampling.streams import PromptStream, is_blank, prompt_stream
from dalle.tokenizers.kinds import PromptTokenizer

LAUNCHES_AT_ONCE = 16
"""Of each process, before codes and scores go to the main one."""


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
class Plan:
    """A request for which everything is settled."""

    request: Request
    sampling: Sampling
    given: Given | None
    progress: Callable[[int], None] | None = None


class Work:
    """What is to be sampled, and how far it is: the same on all processes."""

    def __init__(self, parts: Parts, wanted: list[Wanted], plan: Plan) -> None:
        self.parts = parts
        self.wanted = wanted
        self.plan = plan
        self.prompt_of = [n for n, one in enumerate(wanted) for _ in range(one.num_samples)]
        self.seeds = [one.seed + i for one in wanted for i in range(one.num_samples)]
        self.start = 0
        """The first picture that is not sampled yet."""
        self.launch = plan.request.launch or self._launch_in_room()
        """Pictures at once, at most."""
        self.shape = self._shape(self.launch)
        """One for all that is left, so that any number of processes samples a picture beside the
        same ones."""
        self.steps = FixedSteps(record=plan.request.graph)
        self._streams: dict[int, PromptStream] = {}

    def sample(self, size: int) -> Scored:
        """This process's share of the next launches, each of `size` pictures."""
        parts, plan, start = self.parts, self.plan, self.start
        shape = self._shape_of(size)
        end = self._end(shape)
        prompts = range(self.prompt_of[start], self.prompt_of[end - 1] + 1)
        texts = np.stack([self.stream(number).ids for number in prompts])
        with Behind[Scored](parts.model.device) as scores:
            sample_codes(
                parts.model,
                torch.from_numpy(texts).to(parts.model.device),
                prompt_of=[number - prompts[0] for number in self.prompt_of[start:end]],
                seeds=self.seeds[start:end],
                sampling=plan.sampling,
                given=plan.given.codes if plan.given else None,
                keep=plan.given.keep if plan.given else None,
                launch=shape,
                steps=self.steps,
                share=(parts.processes.rank, parts.processes.size),
                progress=plan.progress,
                sampled=lambda some: scores.add(partial(self._score, some, start)),
            )
            return together(scores.results(), parts.model.layout.grid)

    def go_on(self, size: int) -> None:
        """What launches of this size were sampled of is done."""
        if size != self.shape.size:
            self.launch, self.shape = size, self._shape_of(size)
        self.start = self._end(self.shape)

    def stream(self, number: int) -> PromptStream:
        """A prompt as the decoder reads it."""
        if number not in self._streams:
            slots = self.parts.model.layout.image_start
            self._streams[number] = prompt_stream(
                self.wanted[number].prompt, self.parts.text_tokenizer, slots=slots
            )
        return self._streams[number]

    def forget(self, number: int) -> None:
        """Hold a prompt no longer."""
        self._streams.pop(number, None)

    def note_idle(self) -> None:
        """Say so where there is less to do than there are processes."""
        processes = self.parts.processes.size
        number = self.shape.count(one.num_samples for one in self.wanted)
        if number < processes and self.launch > 1:
            warnings.warn(
                f"a launch is not divided, and there are {number} of {self.launch} pictures for "
                f"{processes} processes: the others have nothing to do; lower launch to give them "
                "some",
                stacklevel=3,
            )

    def _launch_in_room(self) -> int:
        model, sharing = self.parts.model, self.parts.processes
        here = int(os.environ.get("LOCAL_WORLD_SIZE", sharing.size))
        return launch_in_room(
            model,
            [one.num_samples for one in self.wanted],
            guided=self.plan.sampling.guidance != 1.0,
            free=free_bytes(model.device) // (here if model.device.type == "cpu" else 1),
            processes=sharing,
        )

    def _shape_of(self, size: int) -> LaunchShape:
        return self.shape if size == self.shape.size else self._shape(size)

    def _shape(self, most: int) -> LaunchShape:
        counts = Counter(self.prompt_of[self.start :]).values()
        return launch_shape(counts, most, full=rounds(self.parts.model))

    def _end(self, shape: LaunchShape) -> int:
        """Where the next launches end: whole ones, as many for each process."""
        some = islice(
            launches(self.prompt_of[self.start :], shape),
            LAUNCHES_AT_ONCE * self.parts.processes.size,
        )
        return self.start + 1 + max(launch.pictures[-1] for launch in some)

    def _score(self, sampled: Sampled, start: int) -> Scored:
        """The pictures of a launch, by their numbers among all, with their scores."""
        parts, scores = self.parts, sampled.log_prob.clone()
        pictures = sampled.pictures + start
        prompts = [self.wanted[self.prompt_of[i]].prompt for i in pictures.tolist()]
        texts = [prompt if isinstance(prompt, str) else prompt.said for prompt in prompts]
        by_clip = [score_kind(parts, p, self.plan.request) == "clip" for p in prompts]
        if any(by_clip):
            assert parts.reranker is not None
            scores[torch.tensor(by_clip)] = score(
                [text for text, clip in zip(texts, by_clip, strict=True) if clip],
                sampled.codes[torch.tensor(by_clip)],
                parts.reranker,
                parts.image_tokenizer,
                parts.model.device,
            )
        numbered = Sampled(pictures, sampled.codes, sampled.log_prob)
        return Scored(sampled=numbered, scores=scores)


def score_kind(parts: Parts, prompt: str | VectorPrompt, request: Request) -> ScoreKind:
    """What pictures of a prompt are ranked by."""
    # There is nothing in a blank prompt that a picture could be compared with, nor in a vector.
    wordless = isinstance(prompt, VectorPrompt) or is_blank(prompt)
    by_model = parts.reranker is None or request.rank_by == "log_prob" or wordless
    return "log_prob" if by_model else "clip"
