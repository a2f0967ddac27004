"""The steps of a run: which there are, which is the newest whole one, which may go."""

import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle.checkpoint.manifest import TEMPORARY, read_manifest, remove_folder, verify
from dalle.errors import CheckpointError, NoWholeCheckpoint
from dalle.json_files import read_json

RUN = "run.json"
STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A step that is not whole, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The newest whole step of a run."""

    path: Path
    step: int
    skipped: tuple[Skipped, ...]
    """Newer ones that are not whole."""


def step_folder(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of `step`."""
    return run / f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step that a folder's name says; None for a folder that is no step of a run."""
    match = STEP.fullmatch(folder.name)
    return int(match[1]) if match else None


def list_steps(run: Path) -> list[Path]:
    """All step folders, whole or not, oldest first."""
    if not run.is_dir():
        return []
    steps = [path for path in run.iterdir() if step_of(path) is not None and path.is_dir()]
    return sorted(steps, key=lambda path: step_of(path) or 0)


def is_run(folder: Path) -> bool:
    """Whether `folder` holds steps rather than a model."""
    return bool(list_steps(folder)) and not (folder / "config.json").exists()


def find_whole(run: Path, *, training: bool) -> Found:
    """The newest step whose files are what its manifest says.

    Args:
        run: a run's folder with at least one step.
        training: whether it must have what is needed to train on.

    Raises:
        NoWholeCheckpoint: none is whole; the message says of each why.
    """
    skipped = []
    for path in reversed(list_steps(run)):
        try:
            verify(path, training=training)
        except CheckpointError as error:
            skipped.append(Skipped(path=path, reason=str(error)))
        else:
            return Found(path=path, step=step_of(path) or 0, skipped=tuple(skipped))
    reasons = "".join(f"\n  {item.path.name}: {item.reason}" for item in skipped)
    raise NoWholeCheckpoint(
        f"{run} has {len(skipped)} checkpoints, none of them whole; restore one from a copy, or "
        f"start anew in another folder:{reasons}"
    )


def standing_step(run: Path) -> Found:
    """The step that stands for a run: the newest whole one; of a run that ends when held-out data
    gains no more, the one with the lowest held-out loss.

    Raises:
        NoWholeCheckpoint: none is whole.
    """
    newest = find_whole(run, training=False)
    if not (newest.path / RUN).is_file():
        return newest
    settings = read_run(newest.path).get("train")
    if not isinstance(settings, dict) or not settings.get("stop_after_no_gain"):
        return newest
    best = best_step(run, newest=newest.step) or newest.path
    return Found(path=best, step=step_of(best) or 0, skipped=newest.skipped)


def latest_whole(run: Path) -> Path:
    """The newest step of a run that is whole.

    Raises:
        NoWholeCheckpoint: there is none.
    """
    return find_whole(run, training=False).path


def read_run(step: Path) -> dict[str, Any]:
    """What run.json of a step says."""
    path = step / RUN
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not an object")
    return data


def best_step(run: Path, *, newest: int | None = None) -> Path | None:
    """The step with the lowest held-out loss; None where none has one.

    Args:
        run: a run's folder.
        newest: steps after it do not count.
    """
    losses = {}
    for step in _up_to(run, newest):
        try:
            held_out = read_run(step).get("held_out")
        except CheckpointError:
            continue
        loss = held_out.get("loss") if isinstance(held_out, dict) else None
        if isinstance(loss, (int, float)) and math.isfinite(loss):
            losses[step] = float(loss)
    return min(losses, key=losses.__getitem__) if losses else None


def prune_steps(run: Path, *, newest: int, keep_last: int, keep_every: int = 0) -> list[Path]:
    """Delete all steps but the last few, the best one, and those of round numbers.

    Args:
        run: a run's folder.
        newest: the step just written; later ones, which were found damaged, are let be.
        keep_last: how many of the newest stay, at least 1.
        keep_every: steps that are a multiple of it stay too; 0: none for that reason.

    Returns:
        What was deleted.
    """
    steps = _up_to(run, newest)
    read_manifest(steps[-1])  # nothing goes before the newest is whole
    stay = {*steps[-max(keep_last, 1) :], best_step(run, newest=newest)}
    if keep_every:
        stay |= {step for step in steps if (step_of(step) or 0) % keep_every == 0}
    gone = [step for step in steps if step not in stay]
    for step in gone:
        remove_folder(step)
    return gone


def _up_to(run: Path, newest: int | None) -> list[Path]:
    return [step for step in list_steps(run) if newest is None or (step_of(step) or 0) <= newest]


def sweep(run: Path) -> list[Path]:
    """Delete what killed runs left half-written; only by who holds the folder's lock."""
    stray = [path for path in run.glob(f"{TEMPORARY}*") if path.is_dir() and not path.is_symlink()]
    for path in stray:
        shutil.rmtree(path, ignore_errors=True)
    return stray
