"""A run from its folder to its result: for every model, on one process or many."""

import contextlib
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle.checkpoint.links import refuse_links_in_run
from dalle.checkpoint.steps import best_step, list_steps, step_folder, sweep
from dalle.errors import NonFiniteError
from dalle.launched import stop_with_launcher
from dalle.protocols import Source, Stream, Task
from dalle.training.launch import close_world, open_world
from dalle.training.lock import FolderLock
from dalle.training.plain_words import plain_words
from dalle.training.settings import TrainConfig
from dalle.training.signals import INTERRUPTED, StopRequest
from dalle.training.state import Run
from dalle.training.steps import Training
from dalle.training.watch import Watch, forget_processes

__all__ = ["TrainConfig", "TrainResult", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a run ended with."""

    out: Path
    checkpoint: Path
    """The folder of its last step, a model folder."""
    best: Path
    """That of the step with the lowest held-out loss; the last one's where none was measured."""
    step: int
    metrics: Mapping[str, float]
    """The last line of training numbers of this process's life."""
    held_out: Mapping[str, float] | None
    seconds: float
    """Of this process's life."""


def train(
    task: Task,
    config: TrainConfig,
    *,
    train_source: Source | Stream,
    held_out_source: Source | None,
    out: str | Path,
    run_config: Mapping[str, Any] | None = None,
    allow_change: tuple[str, ...] = (),
    start_from: Path | None = None,
) -> TrainResult:
    """Train a model; the same call again goes on where it stopped.

    Args:
        task: what is trained.
        config: how.
        train_source: samples to train on.
        held_out_source: samples for validation and previews; None for none.
        out: the run's folder.
        run_config: the whole command's resolved configuration, as JSON values; it is kept with
            every checkpoint, and a run goes on only under an equal one (but for cadences).
        allow_change: names or dotted paths of settings that may differ nevertheless.
        start_from: a safetensors file of the task's model, with which a new run begins.

    Raises:
        ConfigError: settings that cannot work, or other ones than the run began with.
        FolderInUseError: another run writes to `out`.
        NoWholeCheckpoint: `out` has checkpoints, none of them whole.
        NonFiniteError: updates were skipped too often, again after going back to a checkpoint.
        OutOfMemoryError, SaveError, DataError, RankError: see each.
        Interrupted: a signal came; everything is saved.
    """
    stop_with_launcher()
    run = Run(
        out=Path(out).expanduser(),
        task=task,
        config=config,
        settings=run_config or {},
        start_from=start_from,
    )
    failed_at = -1
    with StopRequest() as stop:
        while True:
            try:
                return _train_on(
                    run,
                    stop,
                    train_source,
                    held_out_source,
                    allow_change=allow_change,
                    failed_at=failed_at,
                )
            except _GoBack as back:
                failed_at = back.step
            gc.collect()  # the model and its gradients, before they are made anew


class _GoBack(Exception):
    """Too much was not finite after `step` updates, and there is a checkpoint to go on from."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def _train_on(
    run: Run,
    stop: StopRequest,
    train_source: Source | Stream,
    held_out_source: Source | None,
    *,
    allow_change: tuple[str, ...],
    failed_at: int,
) -> TrainResult:
    """From the last checkpoint on, or from the start."""
    config = run.config
    world = open_world(config)
    with contextlib.ExitStack() as stack:
        stack.callback(close_world, world)
        world.on_main(lambda: _take_folder(run.out, stack))
        watch = stack.enter_context(Watch(run.out, rank=world.rank, size=world.size))
        stack.enter_context(plain_words(config, world))
        training = Training(run, world, stop, watch, allow_change=allow_change)
        stack.callback(training.tracking.close)
        stack.callback(training.saver.close)
        began = time.monotonic()
        try:
            training.go(train_source, held_out_source)
        except NonFiniteError as error:
            if not _may_go_back(training, failed_at):
                raise
            training.tracking.say(f"{error}\ngoing back to the last checkpoint, once")
            raise _GoBack(training.done) from None
        return _result(training, seconds=time.monotonic() - began)


def _take_folder(out: Path, stack: contextlib.ExitStack) -> None:
    refuse_links_in_run(out)
    stack.enter_context(FolderLock(out))
    sweep(out)
    forget_processes(out)
    (out / INTERRUPTED).unlink(missing_ok=True)


def _result(training: Training, *, seconds: float) -> TrainResult:
    out = training.run.out
    checkpoint = step_folder(out, training.done)
    return TrainResult(
        out=out,
        checkpoint=checkpoint,
        best=best_step(out) or checkpoint,
        step=training.done,
        metrics=training.metrics,
        held_out=training.held_out,
        seconds=seconds,
    )


def _may_go_back(training: Training, failed_at: int) -> bool:
    """Whether what was not finite too often is worth another try from the last checkpoint.

    What an accident of the machine did is gone then. What comes back by step `failed_at`, from
    which the run was sent back before, is the run's own, and ends it.
    """
    with contextlib.suppress(NonFiniteError):
        training.saver.finish()
    saved = training.world.on_main(lambda: bool(list_steps(training.run.out)))
    return saved and training.done > failed_at
