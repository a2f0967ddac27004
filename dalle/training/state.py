"""A run on the disk: what a step's folder holds beside the model, and going on from one."""

import math
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dalle.checkpoint.folder import write_config, write_weights
from dalle.checkpoint.load import CONFIG, WEIGHTS, read_config
from dalle.checkpoint.manifest import (
    MANIFEST,
    Entry,
    publish,
    read_manifest,
    saving,
    temporary_beside,
    write_json,
)
from dalle.checkpoint.steps import RUN, find_whole, list_steps, prune_steps, read_run, step_folder
from dalle.config import to_json
from dalle.errors import CheckpointError, ConfigError, SaveError
from dalle.protocols import Task
from dalle.training.ema import DividedEma, Ema
from dalle.training.settings import TrainConfig, differences
from dalle.training.shards import shape_of, whole_weights
from dalle.training.update import Updater
from dalle.training.world import World

TRAINING = "training"
OWN = frozenset({CONFIG, RUN, MANIFEST, *WEIGHTS.values()})
PACKAGES = ("torch", "accelerate", "safetensors", "dalle")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What makes a run this one: where it lies, what it trains, how."""

    out: Path
    task: Task
    config: TrainConfig
    settings: Mapping[str, Any]
    """The resolved configuration of the whole command, as JSON values."""


def find_resume(
    run: Run, world: World, model: Any, *, allow_change: tuple[str, ...]
) -> dict[str, Any] | None:
    """Where to go on, as JSON values: `path`, `step`, `held_out`, `skipped`; None for a new run.

    Args:
        run: this command's.
        world: its processes.
        model: this command's model config, as JSON values.
        allow_change: settings that may differ from the run's beginning, by name or dotted path.

    Raises:
        ConfigError: the folder holds a run with other settings; the message lists them.
        NoWholeCheckpoint: there are checkpoints, but none is whole.
    """
    if not list_steps(run.out):
        return None
    found = find_whole(run.out, training=True)
    saved = read_run(found.path)
    _check_same_run(run, world, found.path, saved, model, allow_change)
    return {
        "path": str(found.path),
        "step": found.step,
        "held_out": saved.get("held_out"),
        "skipped": [f"{item.path.name} is not whole: {item.reason}" for item in found.skipped],
    }


def _check_same_run(
    run: Run, world: World, step: Path, saved: dict[str, Any], model: Any, allow: tuple[str, ...]
) -> None:
    fields = read_config(step)
    # What the user wrote comes first: what the loop made of it is the same again.
    then = {
        "config": saved.get("config"),
        "kind": fields["kind"],
        "model": fields["model"],
        "train": saved.get("train"),
    }
    now = {
        "config": to_json(dict(run.settings)),
        "kind": run.task.kind,
        "model": model,
        "train": to_json(run.config),
    }
    lines = differences(then, now, allowed=allow)
    if saved.get("precision") != world.precision and "precision" not in allow:
        lines.append(f"precision: {saved.get('precision')!r} then, {world.precision!r} now")
    if lines:
        listed = "\n  ".join(lines)
        raise ConfigError(
            f"{run.out} holds a run with other settings:\n  {listed}\n"
            "give the settings it was started with, or another folder; to go on nevertheless, name "
            "what may change (allow_change, on the command line --allow-change NAME)"
        )


class Saver:
    """Writes the steps of a run."""

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

    def save(self, step: int, *, held_out: Mapping[str, float] | None) -> Path:
        """Write the checkpoint of `step`; called by every process.

        Raises:
            SaveError: it could not be written; what was there before is untouched.
        """
        target = step_folder(self._run.out, step)
        inside = Path(self._world.on_main(lambda: str(self._begin(target, step))))
        weights = self._whole_weights()
        error: SaveError | None = None
        try:
            with saving(target, needed=self._needed):
                self._updater.save(inside / TRAINING)
        except SaveError as raised:
            error = raised
        try:
            self._world.agree(error)
            self._world.on_main(lambda: self._finish(inside, target, step, held_out, weights))
        except BaseException:
            if self._world.is_main:
                shutil.rmtree(inside, ignore_errors=True)
            raise
        return target

    def _begin(self, target: Path, step: int) -> Path:
        inside = temporary_beside(target, str(step))
        with saving(target, needed=self._needed):
            shutil.rmtree(inside, ignore_errors=True)
            (inside / TRAINING).mkdir(parents=True)
        return inside

    def _whole_weights(self) -> dict[str, dict[str, Tensor]]:
        """What the main process is to write, by file name; called by every process."""
        keep = self._world.is_main
        whole = {"model": whole_weights(self._module, self._updater.shards, keep=keep)}
        if self._ema is not None:
            whole["ema"] = self._ema.weights(keep=keep)
        return {WEIGHTS[name]: weights for name, weights in whole.items()}

    def _finish(
        self,
        inside: Path,
        target: Path,
        step: int,
        held_out: Mapping[str, float] | None,
        weights: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        with saving(target, needed=self._needed):
            for name, state in weights.items():
                write_weights(inside, state, name=name)
            known = self._write_neighbours(inside)
            model = to_json(self._module.config)
            write_config(inside, kind=self._run.task.kind, model=model, extra=self._extra)
            write_json(inside / RUN, self._run_fields(step, held_out))
            publish(inside, target, known=known)
            self._previous = target
            prune_steps(self._run.out, newest=step, keep_last=self._run.config.keep_last)

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
            "versions": _versions(),
        }


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


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return found
