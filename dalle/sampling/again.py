"""A picture once more, from what its file says of how it was made."""

from dataclasses import replace
from typing import Literal

import torch

from dalle.errors import InputError
from dalle.processes import ALONE
from dalle.sampling.image_prompt import Given, kept_cells
from dalle.sampling.joint_prompts import VectorPrompt
from dalle.sampling.painting import paint
from dalle.sampling.picture import Picture, PictureRecord
from dalle.sampling.request import Request, Wanted
from dalle.sampling.work import Parts, Plan


def paint_again(parts: Parts, record: PictureRecord) -> Picture:
    """The same picture, by the model that made it.

    Raises:
        InputError: its codes are not those of this model.
    """
    made, layout = record.made, parts.model.layout
    rows, cols = layout.grid
    fits = len(record.codes) == rows and all(len(row) == cols for row in record.codes)
    if not fits or not all(0 <= c < parts.model.image_vocab for r in record.codes for c in r):
        raise InputError("the picture's codes do not fit the model; load the one it names")
    given = None
    if made.rect is not None:
        codes = torch.tensor(record.codes, dtype=torch.long)
        given = Given(codes=codes, keep=kept_cells(made.rect, grid=layout.grid), rect=made.rect)
    rank_by: Literal["auto", "log_prob"] = "auto" if record.score_kind == "clip" else "log_prob"
    request = Request(seed=record.seed, launch=made.launch, rank_by=rank_by)
    plan = Plan(request=request, sampling=made.sampling, given=given)
    prompt: str | VectorPrompt = record.prompt
    if record.vector is not None:
        prompt = VectorPrompt(said=record.prompt, vector=record.vector)
    wanted = Wanted(prompt=prompt, num_samples=1, seed=record.seed)
    # One picture is nothing to share.
    [[picture]] = paint(replace(parts, processes=ALONE), [wanted], plan)
    return picture
