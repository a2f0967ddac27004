"""Judge a DALL·E of both orders on the built-in shapes: as captioner, as scorer, as painter.

    python benchmarks/two_orders.py MODEL [--published MODEL] [--num 100] [--json FILE]

MODEL was trained with --caption-order. Its captions of fresh drawn pictures are read back to
scenes; each picture's own caption is looked for among those of nine others by ln p(picture |
caption); and its pictures of fresh prompts are read, beside those of --published, a model of one
order that was trained alike. Every share stands beside chance and a shuffled control.
"""

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import dalle
from dalle.config import to_json
from dalle.data.shapes.draw import draw
from dalle.demo.judge import paint
from dalle.evaluation.shapes import (
    GROUPS,
    Prompted,
    Rates,
    candidate_rates,
    chance,
    prompt_set,
    rates,
    read_all,
    read_captions,
    shuffled,
)
from dalle.sampling.captions import encode_images
from dalle.sampling.filters import Sampling
from dalle.sampling.likelihood import code_log_probs
from dalle.sampling.pipeline import Pipeline

SAMPLES = 8
"""Captions drawn at temperature 1 for each picture, besides the most likely one by argmax."""
RIVALS = 10
"""Captions among which a picture's own one is looked for."""


def drawn(prompts: list[Prompted], model: Pipeline) -> list[Image.Image]:
    """A fresh picture of each prompt's scene."""
    size = model.image_tokenizer.image_size[0]
    return [
        Image.fromarray(draw(prompted.scene, Random(f"picture {i}"), size=size))
        for i, prompted in enumerate(prompts)
    ]


def as_captioner(model: Pipeline, prompts: list[Prompted]) -> dict[str, Rates]:
    """Shares of captions that say what their picture shows, with their controls."""
    scenes, pictures = [p.scene for p in prompts], drawn(prompts, model)
    best = model.caption_many(pictures, sampling=Sampling(temperature=0.0))
    many = model.caption_many(pictures, num_samples=SAMPLES)
    said, sampled = (read_captions([c for each in some for c in each]) for some in (best, many))
    return {
        "argmax": rates(scenes, said),
        "sampled": candidate_rates(scenes, sampled),
        "shuffled": shuffled(scenes, said, seed=0),
        "chance": chance(scenes),
    }


def as_scorer(model: Pipeline, prompts: list[Prompted]) -> float:
    """Share of pictures whose own caption has the highest ln p(picture | caption) of ten."""
    slots, count = model.model.layout.text, len(prompts)
    streams = [model.text_tokenizer.encode_stream(p.caption, slots=slots).ids for p in prompts]
    texts = torch.from_numpy(np.stack(streams))
    codes = encode_images(drawn(prompts, model), model.image_tokenizer, model.model.device)
    rivals = (torch.arange(count)[:, None] + torch.arange(RIVALS)) % count  # own first

    def score(column: Tensor) -> Tensor:
        return code_log_probs(model.model, texts[column], codes).sum(dim=1)

    scores = torch.stack([score(column) for column in rivals.T], dim=1)
    return float((scores.argmax(dim=1) == 0).double().mean())


def as_painter(model: Pipeline, prompts: list[Prompted]) -> dict[str, Rates]:
    """Shares of pictures that show what their prompt says, one sample each."""
    scenes = [p.scene for p in prompts]
    readings = read_all(paint(model, prompts, samples=1, sampling=model.sampling))
    return {
        "one": rates(scenes, readings),
        "shuffled": shuffled(scenes, readings, seed=0),
        "chance": chance(scenes),
    }


def line(name: str, values: Rates | float) -> None:
    """One line of the table, in per cent."""
    shares = {"right": values} if isinstance(values, float) else values.right
    print(f"  {name:30}" + "".join(f"{k} {100 * v:5.1f}   " for k, v in shares.items()))


def main() -> None:
    """Print a table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--published")
    parser.add_argument("--num", type=int, default=100, help="pictures of each of the four groups")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    model = dalle.load(flags.model, device="cpu")
    published = dalle.load(flags.published, device="cpu") if flags.published else None
    report: dict[str, Any] = {"num": flags.num}
    for number, (name, held_out, num_things) in enumerate(GROUPS):
        seed = 30_000 + number
        prompts = prompt_set(flags.num, held_out=held_out, num_things=num_things, seed=seed)
        found: dict[str, Any] = {
            **{f"captions, {k}": v for k, v in as_captioner(model, prompts).items()},
            f"own caption of {RIVALS}": as_scorer(model, prompts),
            **{f"pictures, {k}": v for k, v in as_painter(model, prompts).items()},
        }
        if published is not None:
            found[f"own caption of {RIVALS}, published"] = as_scorer(published, prompts)
            found["pictures, published"] = as_painter(published, prompts)["one"]
        print(f"\n{name}")
        for key, values in found.items():
            line(key, values)
        report[name] = {k: v if isinstance(v, float) else to_json(v) for k, v in found.items()}
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
