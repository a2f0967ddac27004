"""`dalle train vae|clip|dalle`: from a run's settings to a trained model."""

from pathlib import Path
from typing import Any

from dalle.cli.clip_gen import prepare_clip_gen
from dalle.cli.dry_run import dry_run
from dalle.cli.picture_codes import (
    cache_folder,
    code_settings,
    encode_once,
    image_tokenizer_folder,
    load_image_tokenizer,
)
from dalle.cli.plan import PlanClip, PlanDalle, PlanVae
from dalle.cli.start_from import new_decoder, start_of
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
from dalle.device_memory import keep_freed_memory
from dalle.presets import ClipRun, DalleRun, VaeRun
from dalle.presets.settings import height_and_width
from dalle.protocols import Task
from dalle.training.clip_task import ClipTask
from dalle.training.dalle_task import DalleTask
from dalle.training.dvae_task import DvaeTask
from dalle.training.loop import train
from dalle.training.neighbours import Neighbours

NOT_KEPT = ("preset", "resume", "out", "dry_run", "allow_change")
"""What says where settings come from, and is none itself."""


def train_vae(run: VaeRun) -> None:
    """Train a discrete VAE."""
    if run.dry_run:
        return dry_run(PlanVae(run=run))
    out, config = out_folder(run.out), run.model_config()
    # Captions play no part, so pictures without any are welcome.
    size = (config.image_height, config.image_width)
    parts = open_parts(run.data, size, keep_empty=True)
    task = DvaeTask(config, run.objective_config(), total_steps=run.loop.steps)
    _train(task, run, parts, out)


def train_clip(run: ClipRun) -> None:
    """Train a CLIP."""
    if run.dry_run:
        return dry_run(PlanClip(run=run))
    out, size = out_folder(run.out), height_and_width(run.model.image_size)
    parts = open_parts(run.data, size, keep_empty=False)
    tokenizer = text_tokenizer(run.text, parts.train, begun=newest_step(out))
    count_long_captions(tokenizer, run.text, parts.train, slots=run.text.text_slots)
    task = ClipTask(
        run.model_config(tokenizer.vocab_size),
        text_tokenizer=tokenizer,
        objective=run.objective_config(),
        captions=some_captions(parts.train),
    )
    _train(task, run, parts, out)


def train_dalle(run: DalleRun) -> None:
    """Train a DALL·E over the codes of a discrete VAE, or train one on; with `--condition clip`,
    CLIP-GEN's."""
    if run.dry_run:
        return dry_run(PlanDalle(run=run))
    out = out_folder(run.out)
    if run.condition.condition == "clip":
        prepared = prepare_clip_gen(run, out)
        _train(prepared.task, run, prepared.parts, out)
        return
    begun = newest_step(out)
    start = start_of(run, begun=begun)
    vae = start.image_tokenizer if start else image_tokenizer_folder(run.vae, begun=begun)
    image_tokenizer = load_image_tokenizer(vae, device=run.device)
    parts = open_parts(
        run.data,
        image_tokenizer.image_size,
        keep_empty=run.objective.keep_empty,
        cache=cache_folder(run.data.cache) if run.objective.views else None,
    )
    if start is None:
        start = new_decoder(
            run, vae, image_tokenizer, text_tokenizer(run.text, parts.train, begun=begun)
        )
    slots = start.config.layout.text
    count_long_captions(start.text_tokenizer, run.text, parts.train, slots=slots)
    task = DalleTask(
        start.config,
        kind=start.kind,
        text_tokenizer=start.text_tokenizer,
        image_tokenizer=image_tokenizer,
        objective=run.objective_config(),
        neighbours=Neighbours(
            image_tokenizer=vae,
            reranker=reranker_folder(run.clip, begun=begun) or start.reranker,
        ),
        preview_prompts=preview_prompts(run.sampling.preview_prompts, parts.held_out),
        sampling=start.sampling,
        source=start.source,
    )
    if run.objective.views:
        wanted = code_settings(run, text=start.text_tokenizer)
        parts = encode_once(parts, image_tokenizer, wanted)
    _train(task, run, parts, out, start_from=start.weights)


def _train(
    task: Task,
    run: VaeRun | ClipRun | DalleRun,
    parts: Parts,
    out: Path,
    *,
    start_from: Path | None = None,
) -> None:
    keep_freed_memory()
    result = train(
        task,
        run.train_config(),
        train_source=parts.train,
        held_out_source=parts.held_out,
        out=out,
        run_config=settings_to_keep(run),
        allow_change=run.allow_change,
        start_from=start_from,
    )
    say(f"model folder: {result.checkpoint}")
    if result.best != result.checkpoint:
        say(f"lowest held-out loss: {result.best}")


def settings_to_keep(run: VaeRun | ClipRun | DalleRun) -> dict[str, Any]:
    """A run's settings as JSON values, which go into its checkpoints."""
    left_out = {*NOT_KEPT}
    if isinstance(run, DalleRun) and run.condition.condition == "text":
        left_out.add("condition")  # as in runs that began before there was another
    return {name: value for name, value in to_json(run).items() if name not in left_out}
