"""What is on the disk is cut off, changed, of another model, or cannot be written: nothing is lost.

Each time the run goes on from an older step and ends as if nothing had been, or it refuses and
leaves every file as it is.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dalle.checkpoint import manifest, steps
from dalle.errors import CheckpointError, ConfigError, DalleError, NoWholeCheckpoint
from dalle.training.loop import TrainConfig, train
from dalle.training.optim import OptimConfig
from tests.toys import ToyConfig, ToySource, ToyTask
from tests.training.compare import assert_same

FILES = (
    "MANIFEST.json",
    "config.json",
    "model.safetensors",
    "ema.safetensors",
    "run.json",
    "text_tokenizer.json",
    "image_tokenizer/config.json",
    "training/optimizer.safetensors",
)
TOY = ToyConfig(depth=1, dropout=0.2)


def go_on(out: Path, task: ToyTask | None = None, **changes: Any) -> None:
    settings = {"steps": 6, "batch_size": 4, "save_every": 2, "keep_last": 2, "log_every": 1}
    config = TrainConfig(**{**settings, "ema_decay": 0.9, "device": "cpu", **changes})
    task = task or ToyTask(config=TOY)
    train(task, config, train_source=ToySource(), held_out_source=None, out=out)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    go_on(out)
    return out


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut off after step 5, with the steps 2 and 4."""
    out = tmp_path_factory.mktemp("original") / "run"

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on(out, ToyTask(config=TOY, on_step=stop))
    return out


@pytest.fixture
def out(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "run")


def newest(out: Path) -> Path:
    return steps.list_steps(out)[-1]


def hashes(out: Path) -> dict[str, str]:
    """Of every file but the lock, which whoever looks at the folder takes."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


HARMS: dict[str, Callable[[Path], object]] = {
    "cut in half": lambda path: cut(path, 0.5),
    "one bit flipped": lambda path: flip(path, 0.9),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_costs_two_steps(
    out: Path, unbroken: Path, original: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for harm, do in HARMS.items():
        do(newest(out) / name)
        caplog.clear()
        go_on(out)
        assert f"step-00000004 is not whole: {out}" in caplog.text, harm
        assert name in caplog.text
        assert_same(out, unbroken)
        shutil.rmtree(out)
        shutil.copytree(original, out)


def test_damage_is_not_blessed_by_the_steps_that_follow(tmp_path: Path) -> None:
    """What they share by links keeps the hash that it was written with."""
    out = tmp_path / "run"

    def harm(step: int) -> None:
        if step == 3:
            while not steps.list_steps(out):
                time.sleep(0.001)
            flip(newest(out) / "text_tokenizer.json", 0.5)

    go_on(out, ToyTask(config=TOY, on_step=harm))
    assert len(steps.list_steps(out)) == 2
    for step in steps.list_steps(out):
        with pytest.raises(CheckpointError, match=r"text_tokenizer\.json is damaged"):
            manifest.verify(step, training=True)


@pytest.mark.parametrize("name", FILES)
def test_damage_to_every_step_is_refused_and_nothing_touched(out: Path, name: str) -> None:
    for (_, do), step in zip(HARMS.items(), steps.list_steps(out), strict=False):
        do(step / name)
    before = hashes(out)
    with pytest.raises(NoWholeCheckpoint, match="2 checkpoints, none of them whole; restore one"):
        go_on(out)
    assert hashes(out) == before


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def drop(path: Path, word: str) -> None:
    save_file({n: t for n, t in load_file(path).items() if word not in n}, path)


def widen(path: Path) -> None:
    save_file({n: torch.cat([t, t]) if t.ndim else t for n, t in load_file(path).items()}, path)


OPTIMIZER = "training/optimizer.safetensors"


@dataclass(frozen=True, kw_only=True)
class Other:
    """Something that is not this run's, and the sentence that says so."""

    says: str
    error: type[DalleError] = ConfigError
    task: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    edit: Callable[[Path], object] = lambda step: None
    """Of every step, by somebody who brings the manifests up to date."""


OTHERS = {
    "kind": Other(says="kind: 'dvae' then, 'clip' now", task={"kind": "clip"}),
    "width": Other(
        says=r"model\.width: 8 then, 5 now", task={"config": ToyConfig(width=5, depth=1)}
    ),
    "depth": Other(says=r"model\.depth: 1 then, 2 now", task={"config": ToyConfig(depth=2)}),
    "seed": Other(says=r"train\.seed: 0 then, 1 now", changes={"seed": 1}),
    "batch": Other(says=r"train\.batch_size: 4 then, 8 now", changes={"batch_size": 8}),
    "step size": Other(says=r"train\.optim\.lr", changes={"optim": OptimConfig(lr=0.5)}),
    "average": Other(says=r"train\.ema_decay: 0\.9 then, None now", changes={"ema_decay": None}),
    "precision": Other(
        says="precision: 'float32' then, 'bfloat16' now", changes={"precision": "bfloat16"}
    ),
    "format": Other(
        says="has format 2; this version reads up to format 1: update dalle",
        error=CheckpointError,
        edit=lambda step: edit(step / "config.json", format=2),
    ),
    "weights of another size": Other(
        says=r"model\.safetensors: .* has shape .*; the config asks for",
        error=CheckpointError,
        edit=lambda step: widen(step / "model.safetensors"),
    ),
    "weights of another model": Other(
        says=r"model\.safetensors lacks 'deep\.0\.bias'",
        error=CheckpointError,
        edit=lambda step: drop(step / "model.safetensors", "deep"),
    ),
    "averages of another model": Other(
        says=r"ema\.safetensors lacks 'deep\.0\.bias'",
        error=CheckpointError,
        edit=lambda step: drop(step / "ema.safetensors", "deep"),
    ),
    "optimizer of another size": Other(
        says=r"optimizer\.safetensors: '.*' is of another model",
        error=CheckpointError,
        edit=lambda step: widen(step / OPTIMIZER),
    ),
    "optimizer without a moment": Other(
        says=r"training lacks 'exp_avg/deep\.0\.bias', of which it holds the rest",
        error=CheckpointError,
        edit=lambda step: drop(step / OPTIMIZER, "exp_avg/deep"),
    ),
    "optimizer of another program": Other(
        says="holds no optimizer state that this version reads",
        error=CheckpointError,
        edit=lambda step: (step / OPTIMIZER).rename(step / "training" / "optimizer.pt"),
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_this_runs_is_refused_and_nothing_touched(out: Path, what: str) -> None:
    other = OTHERS[what]
    for step in steps.list_steps(out):
        other.edit(step)
        manifest.write_manifest(step)
    before = hashes(out)
    task = ToyTask(**{"config": TOY, **other.task})
    with pytest.raises(other.error, match=other.says):
        go_on(out, task, **other.changes)
    assert hashes(out) == before
