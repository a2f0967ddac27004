"""A run: what makes it this one, and going on from what it saved."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dalle.checkpoint.load import read_config
from dalle.checkpoint.steps import find_whole, list_steps, read_run
from dalle.config import to_json
from dalle.errors import ConfigError
from dalle.protocols import Task
from dalle.training.settings import TrainConfig, differences
from dalle.training.world import World

TRAINING = "training"
PACKAGES = ("torch", "accelerate", "safetensors", "dalle")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What makes a run this one: where it lies, what it trains, how."""

    out: Path
    task: Task
    config: TrainConfig
    settings: Mapping[str, Any]
    """The resolved configuration of the whole command, as JSON values."""
    start_from: Path | None = None
    """A file of weights that a new run begins with."""


def find_resume(
    run: Run, world: World, model: Any, *, allow_change: tuple[str, ...]
) -> dict[str, Any] | None:
    """Where to go on, as JSON values; None for a new run.

    They are `path`, `step`, `held_out`, `gain` and `finite` (what `Gain` and `FiniteCheck`
    remembered), and `skipped` (which steps are not whole).

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
        "gain": saved.get("gain"),
        "finite": saved.get("skipped"),
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


def versions() -> dict[str, str]:
    """Of Python and the packages that training rests on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return found
