"""CLIP-GEN on the built-in pictures: noise, mean removal and guidance, with and without a gap.

    python benchmarks/clip_gen.py --vae RUN --clip RUN --out DIR [--json FILE] [--steps N] ...

Trains decoders on vectors of pictures, without captions, one for each xi and with means subtracted
or not; and as many steps of a captioned decoder of the same size. Each draws for prompts that it
never saw, from vectors of texts and of pictures, and a reader tells what the pictures show. Then
the same with a constant added to all vectors of texts. A run that is stopped goes on.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dalle.checkpoint import load_folder
from dalle.checkpoint.load import resolve
from dalle.data.picture_vectors import Embedding, WithVectors, embed_source, mean_vector
from dalle.data.shapes import ShapesSource
from dalle.data.shapes.draw import draw
from dalle.data.tokens import EncodedSource, encode_source
from dalle.demo import recipe
from dalle.evaluation.shapes import Prompted, Rates, chance, prompt_set, rates, read_all, shuffled
from dalle.models.clip_gen import ClipGenConfig
from dalle.models.dvae import Dvae
from dalle.models.joint_condition import JointCondition
from dalle.presets import DalleRun
from dalle.protocols import Decoder, JointEmbedder, Source, Task
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling
from dalle.sampling.joint_prompts import JointPrompts
from dalle.sampling.rerank import load_embedder
from dalle.systems.clip_gen.gap import measure_gap
from dalle.systems.clip_gen.task import ClipGenObjective, ClipGenTask
from dalle.tokenizers.image import DvaeTokenizer
from dalle.tokenizers.text import TextTokenizer
from dalle.training.dalle_task import DalleTask
from dalle.training.image_tokens import view_of
from dalle.training.loop import train

GROUPS = ((1, "one thing"), (2, "two things"))
GUIDANCE = (1.0, 1.5, 3.0)
XI = (0.0, 1.0, 2.0, 3.0)
LAUNCH = 128
UNPAIRED = 1000
"""Captions of other pictures, for the mean of texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What all runs share."""

    tokenizer: DvaeTokenizer
    embedder: JointEmbedder
    clip: Path
    train: Source
    """Codes and vectors; no captions."""
    held_out: Source
    mean_image: Float[Tensor, " e"]
    unpaired: list[str]
    gap: float
    """Length of the constant that is added to vectors of texts."""


class ShiftedTexts:
    """An embedder whose vectors of texts all have the same vector added: an artificial gap."""

    def __init__(self, embedder: JointEmbedder, *, length: float, seed: int = 0) -> None:
        self.embedder = embedder
        size = embedder.vector_size
        direction = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        self.shift = length * F.normalize(direction, dim=0)

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "n e"]:
        """Unit vectors."""
        return F.normalize(self.embedder.encode_texts(texts) + self.shift, dim=-1)


def main() -> None:
    """Print the tables, and write them as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--depth", type=int, default=recipe.DALLE.model.depth)
    parser.add_argument("--width", type=int, default=recipe.DALLE.model.width)
    parser.add_argument("--pictures", type=int, default=recipe.NUM_PICTURES)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--gap", type=float, default=1.0)
    parser.add_argument("--xi", type=float, nargs="+", default=XI)
    parser.add_argument("--centred", nargs="+", choices=("no", "yes"), default=("no", "yes"))
    flags = parser.parse_args()
    run = _settings(flags.depth, flags.width, flags.steps)
    parts = _parts(flags.vae, flags.clip, flags.out, pictures=flags.pictures, gap=flags.gap)
    rows: list[dict[str, object]] = list(_chance_rows(flags.prompts))
    rows += _captioned_rows(run, parts, flags.out, pictures=flags.pictures, prompts=flags.prompts)
    for centred in flags.centred:
        for xi in flags.xi:
            rows += _clip_gen_rows(
                run, parts, flags.out, xi=xi, center=centred == "yes", num=flags.prompts
            )
            if flags.json is not None:
                flags.json.write_text(json.dumps(rows, indent=1) + "\n")


def _settings(depth: int, width: int, steps: int) -> DalleRun:
    """The demo's, of another size and length."""
    run = recipe.DALLE
    loop = replace(
        run.loop, steps=steps, save_every=steps, validate_every=steps // 4, preview_every=0
    )
    return replace(run, model=replace(run.model, depth=depth, width=width), loop=loop)


def _parts(vae: Path, clip: Path, out: Path, *, pictures: int, gap: float) -> Parts:
    dvae = load_folder(vae, kind="dvae").module
    assert isinstance(dvae, Dvae)
    tokenizer, embedder = DvaeTokenizer(dvae), load_embedder(clip)
    view = partial(view_of, size=tokenizer.image_size, augment=False)
    embedding = Embedding(
        embedder=embedder,
        fingerprint=embedder.fingerprint(),
        view=view,
        view_name="centre",
        views=1,
    )
    both = []
    for number, seed in ((pictures, 0), (recipe.NUM_HELD_OUT, 1_000_000)):
        drawn = ShapesSource(number, size=recipe.SIDE, seed=seed, pairs=recipe.PAIRS)
        vectors = _kept(out / f"vectors-{seed}.npz", drawn, partial(embed_source, drawn, embedding))
        codes = _kept(
            out / f"codes-{seed}.npz", drawn, partial(encode_source, drawn, tokenizer, view)
        )
        both.append((codes, vectors))
    others = ShapesSource(UNPAIRED, size=recipe.SIDE, seed=2_000_000, pairs=recipe.PAIRS)
    unpaired = [others[i].captions[0] for i in range(UNPAIRED)]
    (codes, vectors), (held_codes, held_vectors) = both
    shown = ShapesSource(recipe.NUM_HELD_OUT, size=recipe.SIDE, seed=1_000_000, pairs=recipe.PAIRS)
    texts = embedder.encode_texts([shown[i].captions[0] for i in range(len(shown))])
    print(*measure_gap(torch.from_numpy(held_vectors.codes[:, 0]), texts).lines(), sep="\n")
    return Parts(
        tokenizer=tokenizer,
        embedder=embedder,
        clip=resolve(clip),
        train=WithVectors(codes, vectors),
        held_out=WithVectors(held_codes, held_vectors),
        mean_image=mean_vector(vectors),
        unpaired=unpaired,
        gap=gap,
    )


def _kept(path: Path, source: Source, make: Callable[[], EncodedSource]) -> EncodedSource:
    """What was made of a source, from a file where it was made before."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, made=make().codes)
    made = np.load(path)["made"]
    keys = [f"shapes/{i}" for i in range(len(source))]
    return EncodedSource(keys=keys, codes=made, captions=[()] * len(keys), damaged={})


def _trained(task: Task, run: DalleRun, parts: Parts, out: Path, source: Source) -> Decoder:
    result = train(
        task, run.train_config(), train_source=source, held_out_source=parts.held_out, out=out
    )
    model = load_folder(result.checkpoint).module
    return model  # type: ignore[return-value]


def _captioned_rows(
    run: DalleRun, parts: Parts, out: Path, *, pictures: int, prompts: int
) -> Iterator[dict[str, object]]:
    """The same size and steps with captions."""
    drawn = ShapesSource(pictures, size=recipe.SIDE, seed=0, pairs=recipe.PAIRS)
    captions = [ShapesSource.__getitem__(drawn, i).captions for i in range(len(drawn))]
    words = TextTokenizer.train(
        (c for some in captions[::10] for c in some), vocab_size=recipe.TEXT_VOCAB
    )
    codes = parts.train.codes  # type: ignore[attr-defined]
    source = EncodedSource(keys=codes.keys, codes=codes.codes, captions=captions, damaged={})
    task = DalleTask(
        run.model_config(
            text_vocab=words.vocab_size,
            codes=parts.tokenizer.vocab_size,
            grid=parts.tokenizer.grid,
        ),
        text_tokenizer=words,
        image_tokenizer=parts.tokenizer,
        objective=run.objective_config(),
    )
    model = _trained(task, run, parts, out / "captioned", source)
    for guidance in GUIDANCE:
        for num_things, name in GROUPS:
            asked = _asked(prompts, num_things)
            slots = model.layout.text
            ids = [words.encode_stream(p.caption, slots=slots).ids for p in asked]
            conditions = torch.from_numpy(np.stack(ids))
            found = _rates_of(model, parts, conditions, asked, guidance=guidance)
            yield _row("captioned", "text", guidance, name, found)


def _clip_gen_rows(
    run: DalleRun, parts: Parts, out: Path, *, xi: float, center: bool, num: int
) -> Iterator[dict[str, object]]:
    """One run without captions, sampled from texts, from pictures, and across an artificial gap."""
    condition = _condition(parts, parts.embedder.encode_texts(parts.unpaired), xi, center)
    task = ClipGenTask(
        ClipGenConfig(
            vector_size=condition.vector_size,
            **run.model.sizes(codes=parts.tokenizer.vocab_size, grid=parts.tokenizer.grid),
        ),
        prompts=JointPrompts(condition, parts.embedder, folder=parts.clip),
        image_tokenizer=parts.tokenizer,
        objective=ClipGenObjective(augment=False),
    )
    name = f"xi {xi:g}{', centred' if center else ''}"
    model = _trained(task, run, parts, out / name.replace(", ", "-").replace(" ", "-"), parts.train)
    gapped = ShiftedTexts(parts.embedder, length=parts.gap)
    of_gapped = _condition(parts, gapped.encode_texts(parts.unpaired), xi, center)
    for guidance in GUIDANCE:
        for num_things, group in GROUPS:
            asked = _asked(num, num_things)
            said = [p.caption for p in asked]
            for source, conditions in (
                ("text", condition.of_texts(parts.embedder.encode_texts(said))),
                ("text, gap", of_gapped.of_texts(gapped.encode_texts(said))),
                ("picture", condition.of_images(parts.embedder.encode_images(_drawn(asked)))),
            ):
                found = _rates_of(model, parts, conditions, asked, guidance=guidance)
                yield _row(name, source, guidance, group, found)


def _condition(
    parts: Parts, texts: Float[Tensor, "n e"], xi: float, center: bool
) -> JointCondition:
    return JointCondition(
        clip=str(parts.clip),
        fingerprint=parts.embedder.fingerprint(),
        vector_size=parts.embedder.vector_size,
        xi=xi,
        mean_image=tuple(parts.mean_image.tolist()) if center else (),
        mean_text=tuple(texts.mean(dim=0).tolist()) if center else (),
    )


def _asked(num: int, num_things: int) -> list[Prompted]:
    return prompt_set(num, held_out=False, num_things=num_things, seed=10_000)


def _drawn(asked: list[Prompted]) -> Float[Tensor, "n 3 side side"]:
    pictures = [draw(p.scene, Random(i), size=recipe.SIDE) for i, p in enumerate(asked)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def _rates_of(
    model: Decoder,
    parts: Parts,
    conditions: Float[Tensor, "p e"] | Int[Tensor, "p slots"],
    asked: list[Prompted],
    *,
    guidance: float,
) -> tuple[Rates, Rates]:
    """Of one picture for each prompt, and of the same with the prompts shuffled."""
    sampled = sample_codes(
        model,
        conditions,
        prompt_of=list(range(len(asked))),
        seeds=list(range(len(asked))),
        sampling=Sampling(temperature=0.7, guidance=guidance),
        launch=LAUNCH,
    )
    readings = read_all(parts.tokenizer.decode(sampled.codes))
    scenes = [p.scene for p in asked]
    return rates(scenes, readings), shuffled(scenes, readings, seed=0)


def _chance_rows(num: int) -> Iterator[dict[str, object]]:
    for num_things, group in GROUPS:
        level = chance([p.scene for p in _asked(num, num_things)])
        yield _row("chance", "", 1.0, group, (level, level))


def _row(
    name: str, source: str, guidance: float, group: str, found: tuple[Rates, Rates]
) -> dict[str, object]:
    own, other = found
    shares = "  ".join(f"{attribute} {100 * own.right[attribute]:.0f}" for attribute in own.right)
    print(f"{name:16} {source:10} guidance {guidance:g}  {group:10}  {shares}", flush=True)
    return {
        "model": name,
        "from": source,
        "guidance": guidance,
        "group": group,
        **{"own": asdict(own), "shuffled": asdict(other)},
    }


if __name__ == "__main__":
    main()
