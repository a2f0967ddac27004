"""Pictures drawn for many captions, kept in a folder that a stopped evaluation goes on from.

    samples/000000-003.png    caption 0, its candidate 3: the best of the first 4, say
    samples/samples.jsonl     of each caption one line: all scores, and who is best of 1, 2, 4, ...

A picture is kept if it is the best of the first 1, 2, 4, ... candidates, so that curves over the
number of candidates need no other ones. A caption is done when its line is whole.
"""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dalle.checkpoint.manifest import saving
from dalle.config import from_json, to_json
from dalle.errors import ConfigError, InputError
from dalle.sampling.picture import Picture, create, png_bytes
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.request import Request
from dalle.sampling.rerank import rank
from dalle.sampling.streams import PromptCutWarning

FOLDER = "samples"
LINES = "samples.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What was drawn for one caption."""

    scores: tuple[float | None, ...]
    """Of each candidate, in the order of their seeds; None where it is not a number."""
    score_kind: str
    """ "clip" or "log_prob"."""
    best: tuple[int, ...]
    """The candidate that is best of the first 1, 2, 4, ..."""
    num_cut: int
    """Tokens of the caption for which the model has no room."""


def draw_samples(
    pipeline: Pipeline,
    captions: Sequence[str],
    request: Request,
    *,
    best_of: tuple[int, ...],
    out: Path,
    progress: Callable[[int], None] = lambda n: None,
) -> None:
    """Draw what is not there yet; of several processes the main one writes.

    Args:
        request: its seed is the first caption's, and each further caption has the next ones.
        best_of: as in `Protocol`.
        out: the folder of the evaluation.
        progress: called with the number of captions just done.

    Raises:
        SaveError: something cannot be written.
        InputError: what is there already is damaged.
    """
    folder, num = out / FOLDER, request.num_samples
    done = pipeline.processes.on_main(lambda: _begin(folder))
    progress(done)
    if done == len(captions):
        return
    seeds = [request.seed + i * num for i in range(done, len(captions))]
    with warnings.catch_warnings():
        # Of each one the number is kept; a line for each of thousands would say less.
        warnings.simplefilter("ignore", PromptCutWarning)
        results = pipeline.generate_each(captions[done:], request, seeds=seeds)
        for number, pictures in enumerate(results, start=done):
            if pictures:
                _keep(folder, number, pictures, best_of, first_seed=seeds[number - done])
            progress(1)


def read_drawn(out: Path) -> list[Drawn]:
    """What has been drawn, caption by caption.

    Raises:
        InputError: a line is damaged.
    """
    path = out / FOLDER / LINES
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    try:
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return [from_json(Drawn, value, path=str(path)) for value in whole]
    except (ValueError, ConfigError) as error:
        raise InputError(f"{path} is damaged: {error}; give another --out") from None


def read_picture(out: Path, caption: int, candidate: int) -> Image.Image:
    """One that was kept, RGB.

    Raises:
        InputError: it is gone or damaged.
    """
    path = _place(out / FOLDER, caption, candidate)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read: {error}; give another --out") from None


def _begin(folder: Path) -> int:
    """How many captions are done; a line that was interrupted is taken away."""
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        done = read_drawn(folder.parent)
        path = folder / LINES
        if path.exists():
            kept = "".join(path.read_text("utf-8").splitlines(keepends=True)[: len(done)])
            scratch = path.with_suffix(".tmp")
            scratch.write_text(kept, encoding="utf-8")
            scratch.replace(path)
    return len(done)


def _keep(
    folder: Path,
    number: int,
    pictures: list[Picture],
    best_of: tuple[int, ...],
    *,
    first_seed: int,
) -> None:
    candidates = {picture.seed - first_seed: picture for picture in pictures}
    scores = torch.tensor([candidates[i].score for i in range(len(pictures))])
    best = tuple(int(rank(scores[:n], 1)) for n in best_of)
    for candidate in sorted(set(best)):
        picture = candidates[candidate]
        try:
            create(_place(folder, number, candidate), png_bytes(picture.image, picture.record()))
        except FileExistsError:  # stopped between the pictures and their line
            continue
    drawn = Drawn(
        scores=tuple(s if math.isfinite(s) else None for s in scores.tolist()),
        score_kind=pictures[0].score_kind,
        best=best,
        num_cut=pictures[0].num_cut,
    )
    line: Any = to_json(drawn)
    with saving(folder / LINES), open(folder / LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _place(folder: Path, caption: int, candidate: int) -> Path:
    return folder / f"{caption:06d}-{candidate:03d}.png"
