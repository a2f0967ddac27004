"""A loss or gradient that is not finite: skipped, counted, gone back from, or the end."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dalle.checkpoint import steps
from dalle.errors import NonFiniteError
from dalle.protocols import Loss
from dalle.training import finite
from dalle.training.finite import FiniteCheck
from dalle.training.loop import TrainConfig, train
from tests.toys import ToySource, ToyTask
from tests.training.compare import assert_close, assert_same, weights_of
from tests.training.toy_group import ToyGroup, finish_together
from tests.training.toy_process import ToyProcess, curve
from tests.training.toy_process import finish as finish_alone


def run(out: Path, task: ToyTask | None = None, **changes: Any) -> None:
    config = {"steps": 12, "batch_size": 4, "ema_decay": 0.9, "log_every": 1, "save_every": 4}
    train(
        task or ToyTask(),
        TrainConfig(**{**config, "device": "cpu", **changes}),
        train_source=ToySource(),
        held_out_source=None,
        out=out,
    )


def skipped(out: Path) -> float:
    return max(line.get("skipped", 0.0) for line in curve(out))


class Infinite(ToyTask):
    """At some step its loss is infinite, but the gradient of it is as ever."""

    def loss(self, *args: Any, step: int, **options: Any) -> Loss:
        loss = super().loss(*args, step=step, **options)
        return Loss(total=loss.total + torch.inf, metrics=loss.metrics) if step == 6 else loss


class Steep(ToyTask):
    """At some step its loss is as ever, but the gradient of it is infinite."""

    def loss(self, *args: Any, step: int, **options: Any) -> Loss:
        loss = super().loss(*args, step=step, **options)
        if step == 6:
            loss.total.register_hook(lambda gradient: gradient * torch.inf)
        return loss


@pytest.mark.parametrize("task", [ToyTask(poison_at=(6,)), Infinite(), Steep()])
def test_a_skipped_update_changes_nothing_and_is_counted(
    tmp_path: Path, task: ToyTask, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, task, save_every=1, keep_last=20, ema_decay=None)
    before, after, later = (weights_of(steps.step_folder(tmp_path, n)) for n in (6, 7, 8))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not all(torch.equal(later[name], tensor) for name, tensor in before.items())
    said = "is infinite or not a number; the update was skipped (1 of 7 so far)"
    assert f"step 7: the loss or its gradient {said}" in capsys.readouterr().err
    counts = {line["step"]: line.get("skipped") for line in curve(tmp_path)}
    assert counts == {n: None if n < 7 else 1.0 for n in range(1, 13)}


def test_too_many_in_a_row_end_a_run_that_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    process = ToyProcess(tmp_path / "run", task={"poison_at": tuple(range(2, 30))}, save_every=50)
    assert process.wait() == 4
    assert "in 5 updates in a row, the last of them number 7; none of these" in process.said
    assert "going back" not in process.said
    assert steps.list_steps(tmp_path / "run") == []


def test_what_comes_back_ends_the_run_and_what_was_saved_stays(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = ToyProcess(out, task={"poison_at": tuple(range(12, 30))})
    assert process.wait() == 4
    assert process.said.count("going back to the last checkpoint, once") == 1
    assert process.said.count("going on from step 15 of 30") == 1
    assert [path.name for path in steps.list_steps(out)] == ["step-00000010", "step-00000015"]
    finish_alone(tmp_path / "unhurt", keep_last=9)
    found, expected = (weights_of(steps.step_folder(o, 10)) for o in (out, tmp_path / "unhurt"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


class Fragile(ToyTask):
    """Its weights turn to nonsense before the loss of one step, once."""

    hurt_at: int = 6
    hurt: bool = False

    def loss(self, model: torch.nn.Module, *args: Any, step: int, **options: Any) -> Loss:
        if step == self.hurt_at and not self.hurt:
            self.hurt = True
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)
        return super().loss(model, *args, step=step, **options)


@pytest.mark.parametrize(
    ("steps_in_all", "save_every", "reason"),
    [
        (15, 6, "in 5 updates in a row, the last of them number 11"),
        (8, 4, "although no update did"),
    ],
)
def test_after_an_accident_the_run_goes_back_and_ends_as_one_without(
    tmp_path: Path,
    steps_in_all: int,
    save_every: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Found by the updates, or by the save that was the first to look."""
    options = {"steps": steps_in_all, "save_every": save_every}
    run(tmp_path / "run", Fragile(), **options)
    said = capsys.readouterr().err
    assert reason in said and "going back to the last checkpoint, once" in said
    assert f"going on from step {save_every} of {steps_in_all}" in said
    run(tmp_path / "unhurt", **options)
    assert_same(tmp_path / "run", tmp_path / "unhurt")


def test_a_run_that_is_cut_remembers_what_it_skipped(tmp_path: Path) -> None:
    task = {"poison_at": (7, 8, 9, 10, 14)}
    finish_alone(tmp_path / "unbroken", task=task)
    out = tmp_path / "run"
    assert ToyProcess(out, task=task, die_at=20).wait() < 0
    finish_alone(out, task=task)
    assert_same(out, tmp_path / "unbroken")
    assert skipped(out) == 5


def test_the_row_goes_on_over_a_save(tmp_path: Path) -> None:
    """Four skipped updates, two on each side of the checkpoint, and one more."""
    task = {"poison_at": (8, 9, 10, 11, 12)}
    process = ToyProcess(tmp_path / "run", task=task, save_every=10)
    assert process.wait() == 4
    assert "in 5 updates in a row, the last of them number 13" in process.said
    assert "going on from step 10 of 30" in process.said  # and there the same again


def test_too_many_among_the_recent_ones_are_too_many() -> None:
    check = FiniteCheck()
    good, bad = torch.tensor(1.0), torch.tensor(torch.inf)
    for step in range(1, 5000):
        if step % 101 == 0:  # nine or ten of a thousand
            check.watch(step, bad)
        else:
            check.watch(step, good)
    assert check.count == 49
    again = FiniteCheck(check.state())
    for one in (check, again):
        with pytest.raises(NonFiniteError, match=f"in 11 of the last {finite.RECENT_STEPS} up"):
            for step in range(5000, 6000):
                one.watch(step, bad if step % 2 else good)
    assert check.state() == again.state()


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_all_processes_skip_what_was_not_finite_on_one(tmp_path: Path, strategy: str) -> None:
    options = {"steps": 14, "save_every": 5, "validate_every": 0}
    task = {"poison_at": (3, 4, 7), "poison_rank": 1}
    finish_together(
        tmp_path / "alone",
        strategy="single",
        size=1,
        micro_batches=4,
        task={"poison_at": (3, 4, 7)},
        **options,
    )
    together = {**options, "strategy": strategy, "micro_batches": 2}
    finish_together(tmp_path / "run", task=task, **together)
    assert_close(tmp_path / "run", tmp_path / "alone")
    assert skipped(tmp_path / "run") == 3


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp2"])
def test_processes_go_back_together_and_stop_together(tmp_path: Path, strategy: str) -> None:
    options = {"strategy": strategy, "steps": 14, "save_every": 3, "validate_every": 0}
    task = {"poison_at": tuple(range(5, 14)), "poison_rank": 1}
    group = ToyGroup(tmp_path / "run", task=task, **options)
    assert group.wait() == [4, 4], group.said
    assert group.said.count("going back to the last checkpoint, once") == 1
    assert steps.list_steps(tmp_path / "run")
