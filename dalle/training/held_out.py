"""Looking at held-out data in training: numbers, and pictures."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dalle.checkpoint.manifest import saving
from dalle.data.loader import fixed_batches
from dalle.protocols import Batch, Source, Task
from dalle.training import noise
from dalle.training.ema import DividedEma, Ema
from dalle.training.shards import Shards, whole_weights
from dalle.training.state import Run
from dalle.training.step import to_device
from dalle.training.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedModel:
    """The averaged model where there is one, else the trained one."""

    task: Task
    world: World
    module: nn.Module
    """The unwrapped trained model."""
    ema: Ema | DividedEma | None
    shards: Shards
    """How the processes divide the parameters."""

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in evaluation mode; entered by every process.

        Where the weights are divided, the main process has a whole copy and the others have none
        to look at.
        """
        if self.world.divides_weights:
            yield self._whole_copy()
            return
        if isinstance(self.ema, Ema):
            yield self.ema.module
            return
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.train()

    def _whole_copy(self) -> nn.Module:
        keep = self.world.is_main
        if self.ema is not None:
            weights = self.ema.weights(keep=keep)
        else:
            weights = whole_weights(self.module, self.shards, keep=keep)

        def build() -> nn.Module:
            if not keep:
                return self.module
            copy = self.task.build()
            copy.load_state_dict(weights, assign=True)
            return copy.to(self.world.device).eval()

        return self.world.together(build)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Held-out samples, the same ones every time."""

    source: Source
    run: Run
    world: World
    model: EvaluatedModel

    def validate(self, done: int) -> dict[str, float]:
        """Numbers after update `done`, the same on all processes; called by every process."""
        with self.model.evaluating() as model, torch.no_grad():

            def validate() -> dict[str, float]:
                noise.seed_noise(self.run.config.seed, noise.HELD_OUT)
                return self.run.task.validate(model, self._batches(), step=done)

            # By one process: another's part of the weights is no model.
            if self.world.divides_weights:
                return self.world.on_main(validate)
            return self.world.together(validate)

    def preview(self, done: int) -> list[Path]:
        """Pictures after update `done`, by the main process, for which the others wait; called by
        every process."""
        folder = self.run.out / "previews" / f"step-{done:08d}"
        with self.model.evaluating() as model, torch.no_grad():

            def preview() -> list[str]:
                batch = next(self._batches(), None)
                if batch is None:  # every held-out sample is damaged or left out
                    return []
                noise.seed_noise(self.run.config.seed, noise.PREVIEW)
                with saving(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    return [str(path) for path in self.run.task.preview(model, batch, folder)]

            return [Path(path) for path in self.world.on_main(preview)]

    def _batches(self) -> Iterator[Batch]:
        config = self.run.config
        size = config.batch_size // (self.world.size * config.micro_batches)
        read = functools.partial(self.run.task.read, train=False)
        count = max(config.validate_samples, 1)
        for arrays in fixed_batches(self.source, read, count=count, batch_size=size):
            yield self.run.task.prepare(to_device(arrays, self.world.device))
