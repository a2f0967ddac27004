"""The demo, from drawing pictures to the table of results."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from dalle.checkpoint import load_folder
from dalle.data.parts import stack
from dalle.data.shapes import ShapesSource
from dalle.data.tokens import encode_source
from dalle.demo import recipe
from dalle.demo.judge import Judged, judge_model
from dalle.demo.precision import settled_precision
from dalle.errors import DalleError
from dalle.evaluation.shapes import verify_reader
from dalle.models.dvae import Dvae
from dalle.presets import ClipRun, DalleRun, VaeRun
from dalle.protocols import Source, Task
from dalle.sampling.load import load
from dalle.tokenizers.image import DvaeTokenizer
from dalle.tokenizers.text import TextTokenizer
from dalle.training.clip_task import ClipTask
from dalle.training.dalle_task import DalleTask
from dalle.training.dvae_task import DvaeTask
from dalle.training.loop import TrainResult, train
from dalle.training.neighbours import Neighbours
from dalle.training.settings import Precision, TrainConfig

Stage = VaeRun | ClipRun | DalleRun
NUM_READ = 2000
"""Pictures on which the reader proves itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Demo:
    out: Path
    seed: int
    precision: Precision
    say: Callable[[str], None]


def run_demo(
    out: Path, *, seed: int, prompts: int | None = None, say: Callable[[str], None] = print
) -> Judged:
    """Train a discrete VAE, a CLIP and a DALL·E on drawn shapes, generate, and judge.

    The same call again goes on where it stopped.

    Args:
        out: a folder for the three runs, pictures and results.
        seed: of the pictures, the weights and the order; the prompts it is judged on are others.
        prompts: of each group; None takes the recipe's.
        say: takes lines for the terminal.

    Raises:
        DalleError: the reader fails its proof, so that nothing could be judged.
    """
    started = time.monotonic()
    demo = _Demo(out=out, seed=seed, precision=settled_precision(out), say=say)
    judging = recipe.JUDGING if prompts is None else replace(recipe.JUDGING, prompts=prompts)
    pictures = _draw_pictures(demo)
    tokenizer = _learn_words(demo, pictures.train)
    clip_task = ClipTask(
        recipe.CLIP.model_config(tokenizer.vocab_size),
        text_tokenizer=tokenizer,
        objective=recipe.CLIP.objective_config(),
        captions=_captions(pictures.train),
    )
    dvae_task = DvaeTask(
        recipe.VAE.model_config(),
        recipe.VAE.objective_config(),
        total_steps=recipe.VAE.loop.steps,
    )
    _estimate(demo, dvae_task, clip_task, tokenizer, pictures.train)

    dvae = _train(demo, "vae", dvae_task, recipe.VAE, pictures)
    image_tokenizer = _load_tokenizer(dvae.checkpoint)
    _prove_reader(demo, image_tokenizer)
    clip = _train(demo, "clip", clip_task, recipe.CLIP, pictures)
    task = _dalle_task(
        tokenizer,
        image_tokenizer,
        Neighbours(image_tokenizer=dvae.checkpoint, reranker=clip.checkpoint),
    )
    decoder = _train(demo, "dalle", task, recipe.DALLE, _encode(demo, task, pictures))

    trained = time.monotonic() - started
    say(f"\ntrained in {trained / 60:.1f} minutes; generating and judging")
    judged = judge_model(load(decoder.checkpoint, device="cpu"), judging, folder=out, say=say)
    say(judged.table)
    say(f"\n{(time.monotonic() - started) / 60:.1f} minutes in all")
    say(f"contact sheet: {judged.contact_sheet}")
    return judged


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pictures:
    train: Source
    held_out: Source


def _draw_pictures(demo: _Demo) -> _Pictures:
    """Training pictures show no held-out combination; neither do those for validation."""
    began = time.monotonic()
    drawn = [
        ShapesSource(number, size=recipe.SIDE, seed=seed, pairs=recipe.PAIRS)
        for number, seed in (
            (recipe.NUM_PICTURES, demo.seed),
            (recipe.NUM_HELD_OUT, demo.seed + 1_000_000),
        )
    ]
    # Held in memory: drawn once, read many times.
    train_source, held_out = ([source[i] for i in range(len(source))] for source in drawn)
    demo.say(f"drew {len(train_source):,} pictures in {time.monotonic() - began:.0f} s")
    return _Pictures(train=train_source, held_out=held_out)


def _learn_words(demo: _Demo, source: Source) -> TextTokenizer:
    """The tokenizer of the captions: a function of the pictures, so it is the same on resume."""
    return TextTokenizer.train(_captions(source), vocab_size=recipe.TEXT_VOCAB)


def _captions(source: Source) -> Iterator[str]:
    """Of every tenth picture: enough to know all words and what stands beside them."""
    return (caption for i in range(0, len(source), 10) for caption in source[i].captions)


def _train_config(demo: _Demo, stage: Stage) -> TrainConfig:
    steps = stage.loop.steps
    return replace(
        stage.train_config(),
        seed=demo.seed,
        precision=demo.precision,
        log_every=100,
        validate_every=max(1, steps // 10),
        validate_samples=recipe.NUM_HELD_OUT,
        preview_every=max(1, steps // 4),
        save_every=max(1, steps // 4),
        device="cpu",
    )


def _train(demo: _Demo, name: str, task: Task, stage: Stage, pictures: _Pictures) -> TrainResult:
    demo.say(f"\n{name}: {stage.loop.steps} steps")
    return train(
        task,
        _train_config(demo, stage),
        train_source=pictures.train,
        held_out_source=pictures.held_out,
        out=demo.out / name,
    )


def _load_tokenizer(folder: Path) -> DvaeTokenizer:
    dvae = load_folder(folder, kind="dvae").module
    assert isinstance(dvae, Dvae)  # its kind was checked
    return DvaeTokenizer(dvae)


def _prove_reader(demo: _Demo, tokenizer: DvaeTokenizer) -> None:
    report = verify_reader(
        recipe.SIDE,
        NUM_READ,
        reconstruct=lambda images: tokenizer.decode(tokenizer.encode(images)),
        seed=demo.seed,
    )
    demo.say(f"\n{report.text()}")
    if not report.passed:
        raise DalleError(
            "the reader of shapes does not pass its proof above, so generated pictures cannot be "
            "judged; train the discrete VAE for longer"
        )


def _dalle_task(
    tokenizer: TextTokenizer, image_tokenizer: DvaeTokenizer, neighbours: Neighbours | None
) -> DalleTask:
    config = recipe.DALLE.model_config(
        text_vocab=tokenizer.vocab_size,
        codes=image_tokenizer.vocab_size,
        grid=image_tokenizer.grid,
    )
    return DalleTask(
        config,
        text_tokenizer=tokenizer,
        image_tokenizer=image_tokenizer,
        objective=recipe.DALLE.objective_config(),
        neighbours=neighbours,
        preview_prompts=recipe.PREVIEW_PROMPTS,
        sampling=recipe.JUDGING.one,
    )


def _encode(demo: _Demo, task: DalleTask, pictures: _Pictures) -> _Pictures:
    began = time.monotonic()
    encoded = [
        encode_source(
            source,
            task.image_tokenizer,
            lambda sample, random: task.view(sample, random, train=False),
        )
        for source in (pictures.train, pictures.held_out)
    ]
    demo.say(f"\nencoded {len(encoded[0]):,} pictures in {time.monotonic() - began:.0f} s")
    return _Pictures(train=encoded[0], held_out=encoded[1])


def _estimate(
    demo: _Demo, dvae_task: Task, clip_task: Task, tokenizer: TextTokenizer, source: Source
) -> None:
    """Say how long training will take, from a few steps of each model."""
    untrained = DvaeTokenizer(Dvae(recipe.VAE.model_config()))
    dalle_task = _dalle_task(tokenizer, untrained, None)
    seconds = {
        "vae": _seconds(demo, dvae_task, recipe.VAE, source),
        "clip": _seconds(demo, clip_task, recipe.CLIP, source),
        "dalle": _seconds(demo, dalle_task, recipe.DALLE, source),
    }
    parts = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items())
    total = sum(seconds.values()) / 60
    demo.say(
        f"{torch.get_num_threads()} threads, {demo.precision}; "
        f"training will take about {total:.0f} minutes ({parts})"
    )


def _seconds(demo: _Demo, task: Task, stage: Stage, source: Source) -> float:
    """The time of a stage, from the fastest of three steps without its reading and logging."""
    model = task.build()
    rows = [task.read(source[i], Random(i), train=True) for i in range(stage.loop.batch_size)]
    kept = [row for row in rows if row is not None]
    batch = task.prepare(stack(kept))
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=demo.precision == "bfloat16"):
            loss = task.loss(model, batch, step=0, counts=batch.counts)
        loss.total.backward()
        best = min(best, time.perf_counter() - began)
    return best * stage.loop.steps
