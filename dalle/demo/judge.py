"""How well a model paints what it is asked for, attribute by attribute."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dalle.config import to_json
from dalle.demo.recipe import Judging
from dalle.evaluation.shapes import (
    GROUPS,
    GroupResult,
    Prompted,
    evaluate_group,
    prompt_set,
    table,
)
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling
from dalle.sampling.output import save_results
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.streams import prompt_stream

SHEET_PROMPTS = 3
"""Of each group, on the contact sheet."""
LAUNCH = 128
"""Pictures sampled at once: small ones, so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What the demo ends with."""

    groups: tuple[GroupResult, ...]
    table: str
    contact_sheet: Path
    results: Path
    """The same numbers as JSON."""


def judge_model(
    model: Pipeline, judging: Judging, *, folder: Path, say: Callable[[str], None] = print
) -> Judged:
    """Sample for fresh prompts of all four groups, rerank, read the pictures and count.

    Args:
        model: with a reranker.
        judging: how many prompts and candidates, and how they are sampled.
        folder: for the contact sheet and results.json.
    """
    results = []
    for number, (name, held_out, num_things) in enumerate(GROUPS):
        prompts = prompt_set(
            judging.prompts, held_out=held_out, num_things=num_things, seed=10_000 + number
        )
        one = paint(model, prompts, samples=1, sampling=judging.one)
        many = paint(model, prompts, samples=judging.candidates, sampling=judging.many)
        texts = [p.caption for p in prompts for _ in range(judging.candidates)]
        assert model.reranker is not None
        scores = model.reranker.score(texts, many).unflatten(0, (-1, judging.candidates))
        result = evaluate_group(
            prompts, name=name, one=one, candidates=many, scores=scores.float().numpy()
        )
        results.append(result)
        say(f"  {name}: one sample {100 * result.one.right['all']:.1f} % wholly right")
    report = folder / "results.json"
    report.write_text(json.dumps({r.name: to_json(r) for r in results}, indent=1) + "\n")
    return Judged(
        groups=tuple(results),
        table=f"\nper cent right\n{table(results)}",
        contact_sheet=_contact_sheet(model, judging, folder),
        results=report,
    )


def paint(
    model: Pipeline, prompts: Sequence[Prompted], *, samples: int, sampling: Sampling
) -> Float[Tensor, "n 3 side side"]:
    """`samples` pictures of every prompt, prompt by prompt, each with a seed of its own."""
    slots = model.model.layout.text
    streams = [prompt_stream(p.caption, model.text_tokenizer, slots=slots).ids for p in prompts]
    sampled = sample_codes(
        model.model,
        torch.from_numpy(np.stack(streams)),
        prompt_of=[i for i in range(len(prompts)) for _ in range(samples)],
        seeds=list(range(len(prompts) * samples)),
        sampling=sampling,
        launch=LAUNCH,
    )
    return model.image_tokenizer.decode(sampled.codes)


def _contact_sheet(model: Pipeline, judging: Judging, folder: Path) -> Path:
    captions = [
        prompted.caption
        for number, (_, held_out, num_things) in enumerate(GROUPS)
        for prompted in prompt_set(
            SHEET_PROMPTS, held_out=held_out, num_things=num_things, seed=20_000 + number
        )
    ]
    keep = min(8, judging.candidates)
    pictures = model.generate_many(captions, num_samples=judging.candidates, keep=keep)
    return save_results(folder / "pictures", pictures).sheets[0]
