"""`dalle train vae|clip|dalle`: from a run's settings to a trained model."""

import os
from pathlib import Path
from typing import Any

from dalle.cli.picture_codes import (
    CodeSettings,
    cache_folder,
    encode_once,
    image_tokenizer_folder,
    load_image_tokenizer,
)
from dalle.cli.training_data import (
    Parts,
    count_long_captions,
    newest_step,
    open_parts,
    out_folder,
    preview_prompts,
    reranker_folder,
    say,
    some_captions,
    text_tokenizer,
)
from dalle.config import to_json
from dalle.presets import ClipRun, DalleRun, VaeRun
from dalle.presets.settings import height_and_width
from dalle.protocols import Task
from dalle.training.clip_task import ClipTask
from dalle.training.dalle_task import DalleTask, Neighbours
from dalle.training.dvae_task import DvaeTask
from dalle.training.loop import train

NOT_KEPT = ("preset", "resume", "out", "allow_change")
"""What says where settings come from, and is none itself."""


def train_vae(run: VaeRun) -> None:
    """Train a discrete VAE."""
    out, config = out_folder(run.out), run.model_config()
    # Captions play no part, so pictures without any are welcome.
    size = (config.image_height, config.image_width)
    parts = open_parts(run.data, size, keep_empty=True)
    task = DvaeTask(config, run.objective_config(), total_steps=run.loop.steps)
    _train(task, run, parts, out)


def train_clip(run: ClipRun) -> None:
    """Train a CLIP."""
    out, size = out_folder(run.out), height_and_width(run.model.image_size)
    parts = open_parts(run.data, size, keep_empty=False)
    tokenizer = text_tokenizer(run.text, parts.train, begun=newest_step(out))
    count_long_captions(tokenizer, run.text, parts.train)
    task = ClipTask(
        run.model_config(tokenizer.vocab_size),
        text_tokenizer=tokenizer,
        objective=run.objective_config(),
        captions=some_captions(parts.train),
    )
    _train(task, run, parts, out)


def train_dalle(run: DalleRun) -> None:
    """Train a DALL·E over the codes of a discrete VAE."""
    out = out_folder(run.out)
    begun = newest_step(out)
    vae = image_tokenizer_folder(run.vae, begun=begun)
    image_tokenizer = load_image_tokenizer(vae, device=run.device)
    cache = cache_folder(run.data.cache)
    parts = open_parts(
        run.data,
        image_tokenizer.image_size,
        keep_empty=run.objective.keep_empty,
        cache=cache if run.objective.views else None,
    )
    tokenizer = text_tokenizer(run.text, parts.train, begun=begun)
    count_long_captions(tokenizer, run.text, parts.train)
    task = DalleTask(
        run.model_config(
            text_vocab=tokenizer.vocab_size,
            codes=image_tokenizer.vocab_size,
            grid=image_tokenizer.grid,
        ),
        text_tokenizer=tokenizer,
        image_tokenizer=image_tokenizer,
        objective=run.objective_config(),
        neighbours=Neighbours(image_tokenizer=vae, reranker=reranker_folder(run.clip, begun=begun)),
        preview_prompts=preview_prompts(run.sampling.preview_prompts, parts.held_out),
        sampling=run.sampling_config(),
    )
    if run.objective.views:
        wanted = CodeSettings(
            views=run.objective.views,
            augment=run.objective.augment,
            device=run.device,
            cache=cache,
            text=tokenizer,
            part=int(os.environ.get("RANK", "0")),
            parts=int(os.environ.get("WORLD_SIZE", "1")),
        )
        parts = encode_once(parts, image_tokenizer, wanted)
    _train(task, run, parts, out)


def _train(task: Task, run: VaeRun | ClipRun | DalleRun, parts: Parts, out: Path) -> None:
    result = train(
        task,
        run.train_config(),
        train_source=parts.train,
        held_out_source=parts.held_out,
        out=out,
        run_config=settings_to_keep(run),
        allow_change=run.allow_change,
    )
    say(f"model folder: {result.checkpoint}")
    if result.best != result.checkpoint:
        say(f"lowest held-out loss: {result.best}")


def settings_to_keep(run: VaeRun | ClipRun | DalleRun) -> dict[str, Any]:
    """A run's settings as JSON values, which go into its checkpoints."""
    return {name: value for name, value in to_json(run).items() if name not in NOT_KEPT}
