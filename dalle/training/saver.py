"""Writing the steps of a run, beside the training."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dalle.checkpoint.folder import write_config, write_weights
from dalle.checkpoint.load import CONFIG, WEIGHTS
from dalle.checkpoint.manifest import (
    MANIFEST,
    Entry,
    publish,
    read_manifest,
    saving,
    temporary_beside,
    write_json,
)
from dalle.checkpoint.steps import RUN, prune_steps, step_folder
from dalle.config import to_json
from dalle.errors import CheckpointError, DalleError, NonFiniteError, RankError
from dalle.training import lora
from dalle.training.background import Background
from dalle.training.ema import DividedEma, Ema
from dalle.training.shards import shape_of, whole_weights
from dalle.training.state import TRAINING, Run, versions
from dalle.training.update import Updater
from dalle.training.world import World

OWN = frozenset({CONFIG, RUN, MANIFEST, *WEIGHTS.values()})


class Saver:
    """Copies a step's state to the host, and writes it while training goes on.

    Each process writes its share. When all have, the main process hashes the files, gives the
    folder its name, and deletes what need not be kept. There is never more than one step on its
    way; what went wrong on any process is raised by all, by the next `advance` or `finish`.
    """

    def __init__(
        self,
        run: Run,
        world: World,
        module: nn.Module,
        ema: Ema | DividedEma | None,
        updater: Updater,
    ) -> None:
        self._run, self._world = run, world
        self._module, self._ema, self._updater = module, ema, updater
        self._extra: dict[str, Any] = {}
        self._previous: Path | None = None
        state = sum(shape_of(p).numel() * p.element_size() for p in module.parameters())
        self._needed = state * (3 if ema is None else 4)
        self._background = Background()
        self._on_its_way: Path | None = None
        self._neighbours: dict[str, Entry] = {}
        self._publish: Callable[[], None] | None = None

    def save(
        self,
        step: int,
        *,
        held_out: Mapping[str, float] | None,
        skipped: Mapping[str, Any],
        gain: Mapping[str, Any],
    ) -> None:
        """Begin with the checkpoint of `step`; called by every process.

        The state is copied before this returns. What is on its way is waited for first.

        Args:
            step: updates done.
            held_out: the last numbers on held-out data.
            skipped, gain: what `FiniteCheck` and `Gain` remember.

        Raises:
            SaveError: the one before could not be written; what is whole is untouched.
            NonFiniteError: it held weights that are not finite.
        """
        self.finish()
        target = step_folder(self._run.out, step)
        inside = Path(self._world.on_main(lambda: str(self._begin(target, step))))
        self._on_its_way = inside
        weights = self._whole_weights()
        write_share = self._updater.take_state()
        fields = self._run_fields(step, held_out)
        fields |= {"skipped": dict(skipped), "gain": dict(gain)}

        def share() -> None:
            with saving(target, needed=self._needed):
                write_share(inside / TRAINING)
                if self._world.is_main:
                    self._write_model(inside, weights)
                    write_json(inside / RUN, fields)

        def name() -> None:
            with saving(target, needed=self._needed):
                publish(inside, target, known=self._neighbours)
                self._previous = target
                keep = self._run.config
                prune_steps(
                    self._run.out,
                    newest=step,
                    keep_last=keep.keep_last,
                    keep_every=keep.keep_every,
                )

        def both() -> None:
            share()
            name()

        self._publish = name if self._world.size > 1 else None
        self._background.start(share if self._world.size > 1 else both)

    def advance(self) -> None:
        """See how far the step on its way is, and take it further; called by every process.

        Raises:
            SaveError: some process could not write it.
        """
        if self._on_its_way is None:
            return
        busy, error = self._background.busy, self._background.error
        left, failed = self._world.sum([float(busy), float(error is not None)])
        if failed:
            self._give_up()
        elif not left and self._publish is not None:
            publish_it, self._publish = self._publish, None
            if self._world.is_main:
                self._background.start(publish_it)
        elif not left:
            self._on_its_way = None

    def finish(self) -> None:
        """Wait until the step on its way is whole; called by every process.

        Raises:
            SaveError: some process could not write it.
        """
        while self._on_its_way is not None:
            self._background.join()
            self.advance()

    def close(self) -> None:
        """Let this process's thread end, whatever became of the others."""
        self._background.join()

    def _give_up(self) -> None:
        """Delete what is half written, once nobody writes to it any more; all raise the error."""
        self._background.join()
        error = self._background.error
        inside, self._on_its_way, self._publish = self._on_its_way, None, None
        assert inside is not None
        if error is not None and not isinstance(error, DalleError):
            if self._world.size == 1:
                shutil.rmtree(inside, ignore_errors=True)
                raise error
            error = RankError(f"saving failed: {error!r}")
        try:
            self._world.agree(error)
        finally:
            if self._world.is_main:
                shutil.rmtree(inside, ignore_errors=True)

    def _begin(self, target: Path, step: int) -> Path:
        inside = temporary_beside(target, str(step))
        with saving(target, needed=self._needed):
            shutil.rmtree(inside, ignore_errors=True)
            (inside / TRAINING).mkdir(parents=True)
        return inside

    def _whole_weights(self) -> dict[str, dict[str, Tensor]]:
        """Copies of what the main process is to write, by name; called by every process."""
        keep = self._world.is_main
        whole = {"model": whole_weights(self._module, self._updater.shards, keep=keep)}
        if self._ema is not None:
            whole["ema"] = self._ema.weights(keep=keep)
        return whole

    def _write_model(self, inside: Path, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, state in weights.items():
            _check_finite(state)
            if self._run.config.lora_rank is not None:
                lora.write_parts(inside, name, state)
                state = lora.merged(state)
            write_weights(inside, state, name=WEIGHTS[name])
        self._neighbours = self._write_neighbours(inside)
        model = to_json(self._module.config)
        write_config(inside, kind=self._run.task.kind, model=model, extra=self._extra)

    def _write_neighbours(self, inside: Path) -> dict[str, Entry]:
        """Link the tokenizers of the step before; at the first step, write them."""
        if self._previous is not None:
            try:
                return _link_neighbours(self._previous, inside)
            except (OSError, CheckpointError):  # deleted meanwhile, or no links on this disk
                for path in inside.iterdir():
                    if path.name not in OWN and path.name != TRAINING:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._extra = dict(self._run.task.export(inside))
        return {}

    def _run_fields(self, step: int, held_out: Mapping[str, float] | None) -> dict[str, Any]:
        config = self._run.config
        return {
            "step": step,
            "samples_seen": step * config.batch_size,
            "seed": config.seed,
            "global_batch": config.batch_size,
            "world": self._world.size,
            "strategy": self._world.strategy,
            "offload": self._world.offload,
            "precision": self._world.precision,
            "held_out": held_out and {k: v for k, v in held_out.items() if math.isfinite(v)},
            "train": to_json(config),
            "config": to_json(dict(self._run.settings)),
            "versions": versions(),
        }


def _check_finite(weights: Mapping[str, Tensor]) -> None:
    """Updates that are not finite are skipped: where such weights are, a device has failed."""
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise NonFiniteError(
                f"the weights {name} became infinite or not a number between two checkpoints, "
                "although no update did; run the same command again, on another device if it "
                "comes back"
            )


def _link_neighbours(previous: Path, inside: Path) -> dict[str, Entry]:
    known = {
        name: entry
        for name, entry in read_manifest(previous).items()
        if name not in OWN and not name.startswith(f"{TRAINING}/")
    }
    for name in known:
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(previous / name, inside / name)
    return known
