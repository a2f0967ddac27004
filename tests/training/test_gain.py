"""A run ends when held-out data gains no more, and its best step stands for it."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dalle.checkpoint import resolve
from dalle.checkpoint.steps import list_steps
from dalle.errors import ConfigError
from dalle.protocols import Batch
from dalle.training.loop import TrainConfig, TrainResult, train
from tests.toys import ToySource, ToyTask

LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: float("nan"), 10: 2.0, 12: 1.0}


class Scripted(ToyTask):
    """Whose held-out losses are known."""

    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        return {"loss": LOSSES[step]}


HELD_OUT = ToySource(size=4)


def run(out: Path, *, held_out: ToySource | None = HELD_OUT, **changes: Any) -> TrainResult:
    fields: dict[str, Any] = {
        "steps": 12,
        "batch_size": 4,
        "validate_every": 2,
        "stop_after_no_gain": 3,
        "preview_every": 0,
        "keep_last": 1,
        "device": "cpu",
    }
    config = TrainConfig(**{**fields, **changes})
    return train(Scripted(), config, train_source=ToySource(), held_out_source=held_out, out=out)


def names(out: Path) -> list[str]:
    return [step.name for step in list_steps(out)]


def test_it_ends_after_so_many_looks_and_keeps_the_best(tmp_path: Path) -> None:
    result = run(tmp_path / "run")
    assert result.step == 10
    assert names(tmp_path / "run") == ["step-00000004", "step-00000010"]
    assert result.best == resolve(tmp_path / "run") == tmp_path / "run" / "step-00000004"
    assert result.checkpoint == tmp_path / "run" / "step-00000010"
    again = run(tmp_path / "run")
    assert (again.step, again.metrics) == (10, {})


def test_looks_are_counted_on_after_a_stop(tmp_path: Path) -> None:
    run(tmp_path / "run", save_every=2, keep_last=9)
    for later in ("step-00000008", "step-00000010"):
        shutil.rmtree(tmp_path / "run" / later)
    assert run(tmp_path / "run", save_every=100).step == 10


def test_a_run_without_it_goes_to_its_end_which_stands_for_it(tmp_path: Path) -> None:
    assert run(tmp_path / "run", stop_after_no_gain=0).step == 12
    assert names(tmp_path / "run") == ["step-00000012"]
    assert resolve(tmp_path / "run") == tmp_path / "run" / "step-00000012"
    assert run(tmp_path / "longer", stop_after_no_gain=4).step == 12
    assert names(tmp_path / "longer") == ["step-00000012"]


def test_without_looks_there_is_no_such_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs held-out data"):
        run(tmp_path / "run", held_out=None)
    with pytest.raises(ConfigError, match="set validate_every and validate_samples"):
        run(tmp_path / "run", validate_every=0)
