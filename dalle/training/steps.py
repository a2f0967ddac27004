"""One process's part of a run: step after step, and after each what is due."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch

from dalle.config import to_json
from dalle.errors import ConfigError, Interrupted
from dalle.protocols import Source, Stream
from dalle.training import noise
from dalle.training.assembly import assemble
from dalle.training.finite import FiniteCheck
from dalle.training.gain import Gain
from dalle.training.held_out import EvaluatedModel, HeldOut
from dalle.training.reading import open_loader
from dalle.training.saver import Saver
from dalle.training.signals import INTERRUPTED, StopRequest
from dalle.training.start import begin
from dalle.training.state import Run, find_resume
from dalle.training.step import Stepper, StepResult
from dalle.training.tracking import Tracking
from dalle.training.watch import SLOW_SECONDS, STEP_SECONDS, Watch
from dalle.training.world import World

log = logging.getLogger(__name__)


class Training:
    """One process's part of a run, from its start or from a checkpoint on."""

    def __init__(
        self,
        run: Run,
        world: World,
        stop: StopRequest,
        watch: Watch,
        *,
        allow_change: tuple[str, ...],
    ) -> None:
        self.run, self.world, self.stop, self.watch = run, world, stop, watch
        self.config = run.config
        noise.seed_noise(self.config.seed, noise.INIT)
        self.module = run.task.build()
        model = to_json(self.module.config)
        resume = world.on_main(lambda: find_resume(run, world, model, allow_change=allow_change))
        folder = None if resume is None else Path(resume["path"])
        begin(self.module, run, world, folder)
        self.size = sum(p.numel() for p in self.module.parameters())
        known = {} if resume is None else resume["attention"]
        parts = assemble(self.module, world, self.config, folder=folder, attention=known)
        self.ema, self.shards = parts.ema, parts.updater.shards
        self.stepper = Stepper(
            task=run.task,
            config=self.config,
            world=world,
            updater=parts.updater,
            finite=FiniteCheck(resume and resume["finite"]),
        )
        self.saver = Saver(run, world, self.module, parts)
        self.start = self.done = 0 if resume is None else int(resume["step"])
        self.held_out: dict[str, float] | None = resume and resume["held_out"]
        self.gain = Gain.of(self.config.stop_after_no_gain, resume and resume["gain"])
        self.metrics: dict[str, float] = {}
        self.tracking = Tracking(
            run.out,
            self.config,
            name=run.task.kind,
            start=self.start,
            speaks=world.is_main,
            settings=run.settings,
        )
        self._greet(resume)

    def go(self, train_source: Source | Stream, held_out_source: Source | None) -> None:
        """Do the steps that are left, and after each what is due.

        Raises:
            NonFiniteError: updates were skipped too often.
            Interrupted: a signal came; everything is saved.
        """
        held_out = self._held_out(held_out_source)
        steps = range(self.start, self.start if self.gain.over else self.config.steps)
        if not steps:
            return
        batches = iter(
            open_loader(train_source, self.run, self.world, start=self.start, say=self.tracking.say)
        )
        for step in steps:
            slow = step == self.start  # the first one compiles, and starts what reads the data
            self.watch.at(f"step {step + 1}", limit=SLOW_SECONDS if slow else STEP_SECONDS)
            result = self.stepper.run(
                next(batches),
                step=step,
                lr=self.config.optim.lr_at(step, steps=self.config.steps),
                stop=self.stop.signal is not None,
            )
            self.done = step + 1
            self._after(step + 1, result, held_out)
            if self.gain.over:
                break

    def _after(self, done: int, result: StepResult, held_out: HeldOut | None) -> None:
        """Average, log, look at held-out data and save, as it is due after update `done`."""
        if self.ema is not None:
            self.ema.update(step=done)
        self.tracking.advance(done)
        for step in self.stepper.finite.news():
            self.tracking.say(
                f"step {step}: the loss or its gradient is infinite or not a number; the update "
                f"was skipped ({self.stepper.finite.count} of {step} so far)"
            )
        self.saver.advance()
        config, last, best = self.config, done == self.config.steps, False
        if last or done % config.log_every == 0:
            self._log(done, result)
        if held_out is not None:
            if config.validate_samples and (last or _due(done, config.validate_every)):
                self.watch.at(f"held-out data after step {done}", limit=SLOW_SECONDS)
                best = self._validate(done, held_out)
            if config.preview_every and (last or _due(done, config.preview_every)):
                self.watch.at(f"preview after step {done}", limit=SLOW_SECONDS)
                self._preview(done, held_out)
        last = last or self.gain.over
        alone = self.world.size == 1 and self.stop.signal is not None
        stopping = (result.stop or alone) and not last
        if last or stopping or best or _due(done, config.save_every):
            self.watch.at(f"saving step {done}", limit=SLOW_SECONDS)
            finite = self.stepper.finite
            finite.flush()
            self.saver.save(
                done, held_out=self.held_out, skipped=finite.state(), gain=self.gain.state()
            )
            if last or stopping:
                self.saver.finish()
        if stopping:
            said = f"saved at step {done}; run the same command to continue"
            self.world.on_main(lambda: _leave_word(self.run.out, said))
            raise Interrupted(said)

    def _log(self, done: int, result: StepResult) -> None:
        names = list(result.metrics)
        local = torch.stack([result.metrics[name].float() for name in names]).tolist()
        values = dict(zip(names, self.world.sum(local), strict=True))
        values |= {"lr": result.lr, "grad_norm": float(result.grad_norm)}
        if self.stepper.finite.count:
            values["skipped"] = float(self.stepper.finite.count)
        self.metrics = values
        self.tracking.log(done, values)

    def _validate(self, done: int, held_out: HeldOut) -> bool:
        """Look at held-out data; whether the step is to be kept as the best one so far."""
        self.stepper.finite.flush()
        values = held_out.validate(done)
        self.held_out = {"step": float(done), **{k: float(v) for k, v in values.items()}}
        self.tracking.held_out(done, values)
        self.gain.look(self.held_out["loss"])
        if self.gain.over:
            self.tracking.say(f"no lower held-out loss in {self.gain.looks} looks: the run ends")
        return self.gain.patience > 0 and self.gain.looks == 0

    def _preview(self, done: int, held_out: HeldOut) -> None:
        for path in held_out.preview(done):
            self.tracking.say(f"preview, step {done}: {path}")

    def _held_out(self, source: Source | None) -> HeldOut | None:
        if source is None or len(source) == 0:
            if self.gain.patience:
                raise ConfigError("stop_after_no_gain needs held-out data; hold some out")
            return None
        model = EvaluatedModel(
            task=self.run.task,
            world=self.world,
            module=self.module,
            ema=self.ema,
            shards=self.shards,
        )
        return HeldOut(source=source, run=self.run, world=self.world, model=model)

    def _greet(self, resume: dict[str, Any] | None) -> None:
        world = self.world
        where = f"{world.size} x {world.device.type}" if world.size > 1 else world.device.type
        strategy = f"{world.strategy} with CPU offload" if world.offload else world.strategy
        self.tracking.say(
            f"{self.run.task.kind}: {self.size:,} parameters, {where}, {strategy}, "
            f"{world.precision}, {self.config.batch_size} samples a step"
        )
        if resume is None:
            return
        for line in resume["skipped"]:
            log.warning("%s", line)
        self.tracking.say(f"going on from step {self.start} of {self.config.steps}")


def _leave_word(out: Path, said: str) -> None:
    with contextlib.suppress(OSError):  # everything is saved, whoever may know it
        (out / INTERRUPTED).write_text(f"{said}\n", encoding="utf-8")


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
